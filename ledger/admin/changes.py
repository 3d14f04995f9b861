"""The history of accounts and ledgers."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.fields.json import KT
from django.http import HttpRequest

from ledger.admin.shared import (
    AccountScope,
    BooksAdmin,
    RecordedAdmin,
    account_link,
    account_status_badge,
    fetch_accounts,
    stacked,
)
from ledger.models import Change
from payflow.admin.cells import (
    EMPTY,
    Table,
    instant,
    instant_column,
    link,
    list_url,
    money,
    pretty_json,
    short,
)
from payflow.admin.filters import LedgerFilter
from payflow.admin.read_only import BELOW_TABLES
from payflow.durations import format_duration

#: Changes that an account's or a ledger's page shows.
MAX_CHANGES = 10


@admin.register(Change)
class ChangeAdmin(BooksAdmin, RecordedAdmin):
    """The history of accounts and of the ledger itself."""

    index_position = 7
    list_display = ("created", "subject", "changed", "why", "who")
    list_filter = (LedgerFilter, AccountScope)
    search_fields = ("id",)
    search_help_text = (
        "A full id of a change. For an account's changes, follow the link on the"
        " account's page."
    )
    detail_select_related = ("account",)
    fieldsets = (
        (None, {"fields": ("created", "subject", "changed", "erased")}),
        (
            "Record",
            {
                "classes": (BELOW_TABLES,),
                "fields": ("id", "in_books", "actor", "client", "key_id", "request_id"),
            },
        ),
    )
    created = instant_column("created_at", "when")
    erased = instant_column("erased_at", "values erased")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows, with what most people look for among their values."""
        return with_status(super().get_queryset(request))

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's account, in one query for all rows."""
        fetch_accounts(rows)

    @admin.display(description="what")
    def subject(self, change: Change) -> str:
        """The account, or the ledger itself."""
        return account_link(change.account) if change.account else "the ledger"

    @admin.display(description="fields")
    def changed(self, change: Change) -> str:
        """The names of the changed fields."""
        return changed_text(change)

    @admin.display(description="status, reason")
    def why(self, change: Any) -> str:
        """The status that an account got, and why; other changes have no reason."""
        if not change.status:
            return short(change.reason, 80)
        return stacked(status_text(change), short(change.reason, 80))

    @admin.display(description="actor")
    def who(self, change: Change) -> str:
        """Who changed it."""
        return short(change.actor)

    def tables(self, request: HttpRequest, obj: Change) -> Iterable[Table]:
        """Each field's old and new value."""
        old, new = obj.old or {}, obj.new or {}
        yield Table(
            "Values",
            ("Field", "Before", "After"),
            [
                (
                    field_label(name),
                    _field_text(obj, name, old.get(name)),
                    _field_text(obj, name, new.get(name)),
                )
                for name in (obj.fields if obj.erased_at is None else [])
            ],
            empty="The values have been erased.",
        )


def with_status(changes: QuerySet[Change]) -> QuerySet[Any]:
    """The changes without their values, but for the new status and the reason."""
    return changes.defer("old", "new").annotate(
        status=KT("new__status"), reason=KT("new__reason")
    )


def changed_text(change: Change) -> str:
    """The names of what changed, in words; a reason is none of them."""
    names = [field_label(name) for name in change.fields if name != "reason"]
    return short(", ".join(names))


def status_text(change: Any) -> str:
    """The status that an account got, in colour, of a change :func:`with_status`."""
    return account_status_badge(change.status) if change.status else EMPTY


def field_label(name: str) -> str:
    """A field's name in words, without its unit."""
    name = name.removesuffix("_seconds").removesuffix("_basis_points")
    return name.replace("_", " ")


def _field_text(change: Change, name: str, value: Any) -> str:
    """A value as its field means it."""
    if isinstance(value, int) and not isinstance(value, bool):
        if name == "min_balance" and change.account is not None:
            return money(value, change.account.currency, change.ledger_id)
        if name.endswith("_seconds"):
            return format_duration(timedelta(seconds=value))
        if name.endswith("_basis_points"):
            return f"{value / Decimal(100):f}%"
    return value_text(value)


def value_text(value: Any) -> str:
    """Any value, cut to a cell."""
    if value is None or value == "":
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return pretty_json(value)
    return short(str(value), 200)


def change_table(ledger_id: UUID, account_id: UUID | None) -> Table:
    """The latest changes of an account, or of the ledger itself."""
    rows = Change.objects.filter(ledger_id=ledger_id).order_by("-id")
    rows = (
        rows.filter(account_id__isnull=True)
        if account_id is None
        else rows.filter(account_id=account_id)
    )
    scope = {"account": account_id} if account_id else {}
    return Table(
        "Latest changes",
        ("When", "Changed", *(["Status"] if account_id else []), "Reason", "By"),
        [
            (
                link("ledger.change", row.id, ledger_id, instant(row.created_at)),
                changed_text(row),
                *([status_text(row)] if account_id else []),
                short(row.reason, 80),
                short(row.actor, 40),
            )
            for row in with_status(rows)[:MAX_CHANGES]
        ],
        empty="Nothing was ever changed.",
        more_url=list_url("ledger.change", ledger_id, **scope),
        more_label="All changes" if account_id else "All changes in this ledger",
    )
