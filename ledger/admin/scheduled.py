"""Scheduled transfers: when they are due, and what became of them."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import F, Func, IntegerField, QuerySet
from django.db.models.fields.json import KeyTransform
from django.http import HttpRequest
from django.utils.html import format_html

from ledger.admin.changes import value_text
from ledger.admin.shared import (
    BooksAdmin,
    RecordedAdmin,
    account_link,
    accounts_by_key,
    route,
)
from ledger.enums import ScheduledStatus
from ledger.models import Account, ScheduledTransfer
from payflow.admin.bounds import MAX_TABLE_ROWS
from payflow.admin.cells import (
    EMPTY,
    Table,
    badge,
    instant,
    instant_column,
    json_column,
    link,
    money,
    short,
)
from payflow.admin.filters import FewRowsFilter, LedgerFilter
from payflow.admin.read_only import BELOW_TABLES
from payflow.admin.scope import parse_uuid
from payflow.api.problems import PROBLEMS

_TONES: Mapping[str, str] = {
    ScheduledStatus.POSTED: "good",
    ScheduledStatus.REFUSED: "bad",
}
#: The facts of a refusal that are minor units of the account's currency.
_AMOUNTS = {"available", "headroom", "limit", "min_balance", "required", "used"}


class ScheduledStatusFilter(FewRowsFilter):
    """By status; what is still to be posted is found by an index if it is little."""

    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The statuses."""
        return [(value, label.capitalize()) for value, label in ScheduledStatus.choices]

    def narrow(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The rows with the status."""
        return rows.filter(status=self.value())

    def found_ids(self, ledger_id: UUID) -> QuerySet[Any] | None:
        """Of what is to be posted, by the index that the worker uses."""
        if self.value() != ScheduledStatus.SCHEDULED:
            return None
        rows = ScheduledTransfer.objects.filter(
            ledger_id=ledger_id, status=ScheduledStatus.SCHEDULED
        )
        return rows.order_by("next_attempt_at").values_list("id", flat=True)


@admin.register(ScheduledTransfer)
class ScheduledTransferAdmin(BooksAdmin, RecordedAdmin):
    """Scheduled transfers with what they will post and why they were refused."""

    index_position = 6
    list_display = (
        "due",
        "state",
        "amount",
        "accounts",
        "about",
        "attempt_count",
        "problem",
        "of_transfer",
    )
    list_filter = (LedgerFilter, ScheduledStatusFilter)
    list_defer = ("postings", "metadata")
    search_fields = ("reference",)
    search_help_text = (
        "A full id of a scheduled transfer, or of the transfer it posted, or the"
        " beginning of a reference (upper and lower case differ)."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "reference",
                    "description",
                    "state",
                    "due",
                    "of_transfer",
                )
            },
        ),
        (
            "Attempts",
            {
                "fields": (
                    "attempt_count",
                    "last_problem_text",
                    ("next_attempt", "retries_end"),
                    ("ended", "end_reason"),
                )
            },
        ),
        (
            "Record",
            {
                "classes": (BELOW_TABLES,),
                "fields": (
                    "id",
                    "in_books",
                    "created",
                    "actor",
                    "client",
                    "key_id",
                    "request_id",
                    "key",
                    "metadata_text",
                ),
            },
        ),
    )
    due = instant_column("due_at", "due")
    retries_end = instant_column("retry_until", "tried again until")
    ended = instant_column("ended_at", "ended")
    metadata_text = json_column("metadata", "metadata")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows with their first posting, and without all others."""
        return (
            super()
            .get_queryset(request)
            .annotate(
                first=KeyTransform("0", "postings"),
                posting_count=Func(
                    F("postings"),
                    function="jsonb_array_length",
                    output_field=IntegerField(),
                ),
            )
        )

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """References that begin with the text."""
        return [rows.filter(reference__startswith=text)]

    def find_by_id(
        self, request: HttpRequest, rows: QuerySet[Any], value: UUID
    ) -> list[QuerySet[Any]]:
        """A scheduled transfer, or the one that posted a transfer."""
        return [rows.filter(pk=value), rows.filter(transfer_id=value)]

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """The accounts of each row's first posting, in one query for all rows."""
        accounts = accounts_by_key(
            (row.ledger_id, account_id)
            for row in rows
            for account_id in _account_ids(row.first)
        )
        for row in rows:
            row.pair = [
                accounts[row.ledger_id, account_id]
                for account_id in _account_ids(row.first)
            ]

    @admin.display(description="status")
    def state(self, row: ScheduledTransfer) -> str:
        """The status, in colour."""
        status = ScheduledStatus(row.status)
        return badge(status.label.capitalize(), _TONES.get(status, "plain"))

    @admin.display(description="amount")
    def amount(self, row: Any) -> str:
        """The first posting's amount."""
        return money(row.first["amount"], row.pair[0].currency, row.ledger_id)

    @admin.display(description="from → to")
    def accounts(self, row: Any) -> str:
        """The accounts of the first posting, and how many more postings there are."""
        source, target = row.pair
        return route(source, target, row.posting_count)

    @admin.display(description="about")
    def about(self, row: ScheduledTransfer) -> str:
        """The reference, or else the description, cut to a cell."""
        return short(row.reference or row.description, 30)

    @admin.display(description="last refusal")
    def problem(self, row: ScheduledTransfer) -> str:
        """What the latest refusal is called."""
        return short(_title(row.last_problem["code"]) if row.last_problem else None, 40)

    @admin.display(description="last refusal")
    def last_problem_text(self, row: ScheduledTransfer) -> str:
        """What the latest refusal is called, and its code in the documentation."""
        if not row.last_problem:
            return EMPTY
        code = row.last_problem["code"]
        return format_html(
            '{} <code class="muted">{}</code>', badge(_title(code), "warn"), code
        )

    @admin.display(description="next attempt")
    def next_attempt(self, row: ScheduledTransfer) -> str:
        """When the worker takes it up; never again once it has ended."""
        if row.status != ScheduledStatus.SCHEDULED:
            return EMPTY
        return instant(row.next_attempt_at)

    @admin.display(description="transfer")
    def of_transfer(self, row: ScheduledTransfer) -> str:
        """The transfer that it posted."""
        return link("ledger.transfer", row.transfer_id, row.ledger_id)

    def tables(self, request: HttpRequest, obj: ScheduledTransfer) -> Iterable[Table]:
        """What it posts, and why it was refused."""
        shown = obj.postings[:MAX_TABLE_ROWS]
        problem = obj.last_problem or {"fields": {}}
        refused_for = parse_uuid(problem["fields"].get("account_id"))
        ids = {account_id for posting in shown for account_id in _account_ids(posting)}
        if refused_for is not None:
            ids.add(refused_for)
        accounts = accounts_by_key((obj.ledger_id, account_id) for account_id in ids)
        title = "Postings"
        if len(obj.postings) > len(shown):
            title = f"The first {len(shown)} of {len(obj.postings):,} postings"
        rows = []
        for number, posting in enumerate(shown, start=1):
            source, target = (
                accounts[obj.ledger_id, account_id]
                for account_id in _account_ids(posting)
            )
            rows.append((number, *_posting_cells(source, target, posting["amount"])))
        yield Table(title, ("#Posting", "From", "To", "#Amount"), rows)
        if obj.last_problem:
            account = accounts.get((obj.ledger_id, refused_for))
            yield _refusal_table(problem, account)


def _refusal_table(problem: Mapping[str, Any], account: Account | None) -> Table:
    """The facts of the latest refusal; amounts in the account's currency."""
    fields = problem["fields"]
    is_count = fields.get("measure") == "count"
    rows = []
    for name, value in fields.items():
        if account is not None and name == "account_id":
            shown = account_link(account)
        elif account is not None and name in _AMOUNTS and not is_count:
            shown = money(value, account.currency, account.ledger_id)
        else:
            shown = value_text(value)
        rows.append((name.removesuffix("_id").replace("_", " "), shown))
    return Table(
        "Why it was refused last",
        ("What", "Value"),
        rows or [("detail", problem["detail"])],
    )


def _posting_cells(source: Account, target: Account, amount: int) -> tuple[str, ...]:
    return (
        account_link(source),
        account_link(target),
        money(amount, source.currency, source.ledger_id),
    )


def _account_ids(posting: Mapping[str, Any]) -> tuple[UUID, UUID]:
    return UUID(posting["from_account_id"]), UUID(posting["to_account_id"])


def _title(code: str) -> str:
    kind = PROBLEMS.get(code)
    return kind.title if kind else code
