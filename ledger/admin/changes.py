"""The history of accounts and ledgers."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.http import HttpRequest

from ledger.admin.shared import (
    AccountScope,
    BooksAdmin,
    RecordedAdmin,
    account_link,
    fetch_accounts,
)
from ledger.models import Change
from payflow.admin.cells import (
    Table,
    instant,
    instant_column,
    link,
    list_url,
    pretty_json,
    short,
)
from payflow.admin.filters import LedgerFilter
from payflow.admin.read_only import BELOW_TABLES

#: Changes that an account's or a ledger's page shows.
MAX_CHANGES = 10


@admin.register(Change)
class ChangeAdmin(BooksAdmin, RecordedAdmin):
    """The history of accounts and of the ledger itself."""

    index_position = 5
    list_display = ("created", "subject", "changed", "who", "short_id")
    list_filter = (LedgerFilter, AccountScope)
    list_defer = ("old", "new")
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
        return short(", ".join(change.fields))

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
                (name, value_text(old.get(name)), value_text(new.get(name)))
                for name in (obj.fields if obj.erased_at is None else [])
            ],
            empty="The values have been erased.",
        )


def value_text(value: Any) -> str:
    if isinstance(value, dict | list):
        return pretty_json(value)
    return short(value, 200)


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
        ("When", "Fields", "Actor"),
        [
            (
                link("ledger.change", row.id, ledger_id, instant(row.created_at)),
                short(", ".join(row.fields)),
                short(row.actor),
            )
            for row in rows.defer("old", "new")[:MAX_CHANGES]
        ],
        empty="Nothing was ever changed.",
        more_url=list_url("ledger.change", ledger_id, **scope),
        more_label="All changes" if account_id else "All changes in this ledger",
    )
