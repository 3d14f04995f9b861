"""Transfers."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet, Sum
from django.http import HttpRequest
from django.utils.html import format_html

from idempotency.keys import SCHEDULED_PREFIX
from ledger.admin.shared import (
    BooksAdmin,
    RecordedAdmin,
    account_link,
    balance_after,
    by_id,
    fetch_accounts,
    sums,
)
from ledger.enums import REVERSIBLE_KINDS, Direction
from ledger.models import Entry, ReversalTotal, Transfer
from outbox.admin import TASK_COLUMNS, task_row
from outbox.models import OutboxTask
from payflow.admin.bounds import MAX_TABLE_ROWS
from payflow.admin.cells import (
    EMPTY,
    Table,
    badge,
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
from payflow.admin.scope import parse_uuid
from payflow.money import format_rate


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
    detail_select_related = ("reverses_transfer", "hold")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "kind",
                    "reference",
                    "description",
                    "reverses",
                    "reason_shown",
                    "of_hold",
                    "rate",
                    "permission_used",
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

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """The fields, without those that only other kinds of transfer have."""
        absent = {
            name
            for name, value in (
                ("reverses", obj.reverses_transfer_id),
                ("reason_shown", obj.reason),
                ("of_hold", obj.hold_id),
                ("rate", obj.exchange_rate),
                ("permission_used", obj.permission),
            )
            if value is None
        }
        (title, first), *others = self.fieldsets
        fields = [name for name in first["fields"] if name not in absent]
        return [(title, {**first, "fields": fields}), *others]

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
    def reverses(self, transfer: Any) -> str:
        """The transfer that this one undoes, or undoes a part of."""
        original = transfer.reverses_transfer
        return link(
            "ledger.transfer",
            original.id,
            original.ledger_id,
            format_html(
                "{} of {}",
                original.get_kind_display().capitalize(),
                instant(original.created_at),
            ),
        )

    @admin.display(description="reason")
    def reason_shown(self, transfer: Transfer) -> str:
        """Why it reverses the other one."""
        return transfer.get_reason_display().capitalize()

    @admin.display(description="captures hold")
    def of_hold(self, transfer: Any) -> str:
        """The hold that this transfer takes from."""
        hold = transfer.hold
        return link("ledger.hold", hold.id, hold.ledger_id, hold.reference)

    @admin.display(description="exchange rate")
    def rate(self, transfer: Transfer) -> str:
        """Units of the bought currency for one of the sold."""
        rate = transfer.exchange_rate
        return EMPTY if rate is None else format_rate(rate)

    @admin.display(description="permission used")
    def permission_used(self, transfer: Transfer) -> str:
        """The permission without which it would have been refused."""
        return badge(transfer.get_permission_display().capitalize(), "warn")

    @admin.display(description="idempotency key")
    def key(self, transfer: Transfer) -> str:
        """The way to the stored outcome, or to what was scheduled."""
        scheduled_id = parse_uuid(
            (transfer.idempotency_key or "").removeprefix(SCHEDULED_PREFIX)
        )
        if scheduled_id is None or transfer.idempotency_key == str(scheduled_id):
            return super().key(transfer)
        return link(
            "ledger.scheduledtransfer",
            scheduled_id,
            transfer.ledger_id,
            transfer.idempotency_key,
        )

    def tables(self, request: HttpRequest, obj: Transfer) -> Iterable[Table]:
        """The postings, the entries, the outbox tasks and the reversals."""
        if can_view(request, "ledger.entry"):
            entries = fetch_accounts(
                Entry.objects.filter(
                    ledger_id=obj.ledger_id, transfer_id=obj.id
                ).order_by("posting_number", "-direction")[:MAX_TABLE_ROWS]
            )
            yield _postings_table(obj, entries)
            yield _entries_table(obj, entries)
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
        reversals = _reversals_table(obj)
        if reversals.rows:
            yield reversals


def _postings_table(transfer: Transfer, entries: Sequence[Entry]) -> Table:
    """From where to where, and what of it has been and can be reversed."""
    is_reversible = transfer.kind in REVERSIBLE_KINDS
    sources = transfer.source_postings
    columns = ["#Posting", "From", "To", "#Amount"]
    if sources is not None:
        columns.append("#Of posting" if transfer.hold_id is None else "#Of the hold's")
    totals: dict[int, int] = {}
    if is_reversible:
        columns += ["#Reversed", "#Reversible"]
        numbers = {entry.posting_number for entry in entries}
        totals = dict(
            ReversalTotal.objects.filter(
                ledger_id=transfer.ledger_id,
                transfer_id=transfer.id,
                posting_number__in=numbers,
            ).values_list("posting_number", "reversed")
        )
    rows = []
    for debit, credit in zip(entries[::2], entries[1::2], strict=True):
        number, amount = debit.posting_number, debit.amount
        cells: list[Any] = [
            number,
            account_link(debit.account),
            account_link(credit.account),
            money(amount, debit.currency, debit.ledger_id),
        ]
        if sources is not None:
            cells.append(sources[number - 1])
        if is_reversible:
            gone = totals.get(number, 0)
            cells += [
                money(figure, debit.currency, debit.ledger_id)
                for figure in (gone, amount - gone)
            ]
        rows.append(cells)
    title = "Postings"
    if transfer.posting_count > len(rows):
        title = f"The first {len(rows)} of {transfer.posting_count:,} postings"
    return Table(title, columns, rows)


def _entries_table(transfer: Transfer, entries: Sequence[Entry]) -> Table:
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
            for row in entries
        ],
        more_url=list_url("ledger.entry", transfer.ledger_id, transfer=transfer.id),
        more_label=f"All {2 * transfer.posting_count:,} entries",
    )


def _reversals_table(transfer: Transfer) -> Table:
    rows = sorted(
        Transfer.objects.filter(
            ledger_id=transfer.ledger_id, reverses_transfer_id=transfer.id
        )
        .defer("metadata")
        .order_by()[:MAX_TABLE_ROWS],
        key=by_id,
    )
    amounts: dict[UUID, dict[str, int]] = {row.id: {} for row in rows}
    if rows:
        debits = Entry.objects.filter(
            ledger_id=transfer.ledger_id,
            transfer_id__in=list(amounts),
            direction=Direction.DEBIT,
        )
        for total in (
            debits.values("transfer_id", "currency")
            .annotate(total=Sum("amount"))
            .order_by()
        ):
            amounts[total["transfer_id"]][total["currency"]] = int(total["total"])
    return Table(
        "Reversed by",
        ("When", "Kind", "#Amount", "Reason", "Permission used", "Description", "By"),
        [
            (
                link("ledger.transfer", row.id, row.ledger_id, instant(row.created_at)),
                row.get_kind_display(),
                sums(amounts[row.id], row.ledger_id),
                row.get_reason_display().capitalize() if row.reason else EMPTY,
                badge(row.get_permission_display().capitalize(), "warn")
                if row.permission
                else EMPTY,
                short(row.description),
                short(row.actor, 40),
            )
            for row in rows
        ],
    )
