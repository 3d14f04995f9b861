"""Transfers."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from ledger.admin.shared import (
    BooksAdmin,
    RecordedAdmin,
    account_link,
    balance_after,
    by_id,
    fetch_accounts,
)
from ledger.enums import Direction
from ledger.models import Entry, Transfer
from outbox.admin import TASK_COLUMNS, task_row
from outbox.models import OutboxTask
from payflow.admin.bounds import MAX_TABLE_ROWS
from payflow.admin.cells import (
    Table,
    can_view,
    instant,
    instant_column,
    json_column,
    link,
    list_link,
    list_url,
    money,
    short,
)
from payflow.admin.filters import LedgerFilter, choice_filter
from payflow.admin.read_only import BELOW_TABLES


class _FirstPosting:
    """The first posting of a transfer, for its row in a list."""

    def __init__(self) -> None:
        self.debit: Entry | None = None
        self.credit: Entry | None = None


@admin.register(Transfer)
class TransferAdmin(BooksAdmin, RecordedAdmin):
    """Transfers with their entries and what they set off."""

    index_position = 3
    list_display = (
        "created",
        "kind",
        "amount",
        "source",
        "target",
        "about",
    )
    list_filter = (LedgerFilter, choice_filter("kind"))
    list_defer = ("metadata",)
    search_fields = ("reference",)
    search_help_text = (
        "A full id, or the beginning of a reference (upper and lower case differ)."
    )
    detail_select_related = ("reverses_transfer",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "kind",
                    "reference",
                    "description",
                    "reverses",
                    ("created", "effective"),
                    "posting_count",
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
    created = instant_column("created_at", "recorded")
    effective = instant_column("effective_at", "effective")
    metadata_text = json_column("metadata", "metadata")

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """References that begin with the text."""
        return [rows.filter(reference__startswith=text)]

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's first posting with its accounts, in one query for all rows."""
        postings = {(row.ledger_id, row.id): _FirstPosting() for row in rows}
        entries = Entry.objects.filter(
            ledger_id__in={row.ledger_id for row in rows},
            transfer_id__in=[row.id for row in rows],
            posting_number=1,
        ).order_by()
        for entry in fetch_accounts(entries):
            posting = postings.get((entry.ledger_id, entry.transfer_id))
            if posting is not None:
                setattr(posting, entry.direction, entry)
        for row in rows:
            row.first_posting = postings[row.ledger_id, row.id]

    @admin.display(description="amount")
    def amount(self, transfer: Any) -> str:
        """The first posting's amount."""
        entry = transfer.first_posting.debit
        return (
            money(entry.amount, entry.currency, entry.ledger_id)
            if entry
            else money(None, None)
        )

    @admin.display(description="from")
    def source(self, transfer: Any) -> str:
        """The account that the first posting debits."""
        entry = transfer.first_posting.debit
        return account_link(entry.account) if entry else short(None)

    @admin.display(description="to")
    def target(self, transfer: Any) -> Any:
        """The account that the first posting credits, and how many more there are."""
        entry = transfer.first_posting.credit
        if entry is None:
            return short(None)
        account = account_link(entry.account)
        more = transfer.posting_count - 1
        if not more:
            return account
        url = list_link(
            "ledger.entry",
            transfer.ledger_id,
            f"and {more:,} more",
            transfer=transfer.id,
        )
        return format_html("{} {}", account, url)

    @admin.display(description="reference or description")
    def about(self, transfer: Transfer) -> str:
        """The reference, or else the description, cut to a cell."""
        return short(transfer.reference or transfer.description, 40)

    @admin.display(description="reverses")
    def reverses(self, transfer: Transfer) -> str:
        """The transfer that this one undoes."""
        return link(
            "ledger.transfer",
            transfer.reverses_transfer_id,
            transfer.ledger_id,
            transfer.reverses_transfer_id,
        )

    @admin.display(description="idempotency key")
    def key(self, transfer: Transfer) -> str:
        """The key of the request, and the way to its stored outcome."""
        if transfer.idempotency_key is None:
            return short(None)
        return list_link(
            "idempotency.idempotencykey",
            transfer.ledger_id,
            transfer.idempotency_key,
            q=transfer.idempotency_key,
        )

    def tables(self, request: HttpRequest, obj: Transfer) -> Iterable[Table]:
        """The entries, the outbox tasks and the reversals."""
        if can_view(request, "ledger.entry"):
            yield self._entries(obj)
        if can_view(request, "outbox.outboxtask"):
            tasks = OutboxTask.objects.filter(
                ledger_id=obj.ledger_id, transfer_id=obj.id
            ).order_by("kind", "posting_number")[:MAX_TABLE_ROWS]
            yield Table(
                "Outbox tasks",
                TASK_COLUMNS,
                [task_row(task) for task in tasks],
                more_url=list_url("outbox.outboxtask", obj.ledger_id, transfer=obj.id),
                more_label="All tasks of this transfer",
            )
        reversals = Transfer.objects.filter(
            ledger_id=obj.ledger_id, reverses_transfer_id=obj.id
        ).order_by()[:MAX_TABLE_ROWS]
        rows = [
            (
                link("ledger.transfer", row.id, row.ledger_id, instant(row.created_at)),
                row.get_kind_display(),
                short(row.description),
            )
            for row in sorted(reversals, key=by_id)
        ]
        if rows:
            yield Table("Reversed by", ("When", "Kind", "Description"), rows)

    def _entries(self, transfer: Transfer) -> Table:
        entries = Entry.objects.filter(
            ledger_id=transfer.ledger_id, transfer_id=transfer.id
        ).order_by("posting_number", "-direction")[:MAX_TABLE_ROWS]
        return Table(
            "Entries",
            (
                "#Posting",
                "Account",
                "Owner",
                "#Debit",
                "#Credit",
                "#Balance after",
                "#Entry of account",
            ),
            [
                (
                    row.posting_number,
                    account_link(row.account),
                    short(row.account.owner_name, 40),
                    money(row.amount, row.currency, row.ledger_id)
                    if row.direction == Direction.DEBIT
                    else "",
                    money(row.amount, row.currency, row.ledger_id)
                    if row.direction == Direction.CREDIT
                    else "",
                    balance_after(row),
                    link("ledger.entry", row.id, row.ledger_id, row.account_version),
                )
                for row in fetch_accounts(entries)
            ],
            more_url=list_url("ledger.entry", transfer.ledger_id, transfer=transfer.id),
            more_label=f"All {2 * transfer.posting_count:,} entries",
        )
