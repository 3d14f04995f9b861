"""Holds: what is reserved, what became of it, and which are open on an account."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, cast
from uuid import UUID

from django.contrib import admin
from django.db.models import (
    BooleanField,
    Exists,
    ExpressionWrapper,
    OuterRef,
    Q,
    QuerySet,
    Sum,
)
from django.db.models.functions import Least, Now
from django.http import HttpRequest
from django.utils.html import format_html

from ledger.admin.shared import (
    BooksAdmin,
    RecordedAdmin,
    account_link,
    accounts_by_key,
    by_id,
    route,
    stacked,
    sums,
)
from ledger.enums import HoldEventKind, HoldStatus
from ledger.models import Account, Hold, HoldEvent, HoldPosting
from ledger.selectors.holds import IS_OPEN, HoldView, holds_with_postings
from outbox.admin import TASK_COLUMNS, task_row
from outbox.models import OutboxTask
from payflow.admin.bounds import MAX_MATCHES, MAX_TABLE_ROWS
from payflow.admin.cells import (
    EMPTY,
    Table,
    badge,
    can_view,
    instant,
    instant_column,
    json_column,
    link,
    list_url,
    money,
    short,
    short_id,
)
from payflow.admin.filters import FewRowsFilter, LedgerFilter
from payflow.admin.read_only import BELOW_TABLES
from payflow.admin.scope import all_ledger_ids, parse_uuid

_TONES: Mapping[str, str] = {
    HoldStatus.ACTIVE: "good",
    HoldStatus.EXPIRED: "warn",
    HoldEventKind.EXTENDED: "good",
    HoldEventKind.PLACED: "good",
}
# PostgreSQL's clock decides whether a hold has lapsed, whatever its row still says.
_LAPSED = Q(status=HoldStatus.ACTIVE, expires_at__lte=Now())
_ACTIVE = Q(status=HoldStatus.ACTIVE, expires_at__gt=Now())
_NOT_LAPSED = Q(expires_at__gt=Now())


class HoldStatusFilter(FewRowsFilter):
    """By status as the clock has it; active holds are found by an index if few."""

    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The statuses."""
        return [(value, label.capitalize()) for value, label in HoldStatus.choices]

    def narrow(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The holds with the status."""
        value = self.value()
        if value == HoldStatus.ACTIVE:
            return rows.filter(_ACTIVE)
        if value == HoldStatus.EXPIRED:
            return rows.filter(_LAPSED | Q(status=HoldStatus.EXPIRED))
        return rows.filter(status=value)

    def found_ids(self, ledger_id: UUID) -> QuerySet[Any] | None:
        """Of active holds, which are those that the index on ``expires_at`` has."""
        if self.value() != HoldStatus.ACTIVE:
            return None
        holds = Hold.objects.filter(_ACTIVE, ledger_id=ledger_id)
        return holds.order_by("expires_at").values_list("id", flat=True)


class OpenOnAccountFilter(FewRowsFilter):
    """The open holds from and to one account; present when a link asks for it."""

    title = "open on account"
    parameter_name = "account"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The one account, when there is one."""
        value = parse_uuid(self.value())
        return [(str(value), f"…{str(value)[-12:]}")] if value else []

    def narrow(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The holds with an open posting from or to the account."""
        account_id = parse_uuid(self.value())
        if account_id is None:
            return rows
        postings = HoldPosting.objects.filter(
            Q(from_account_id=account_id) | Q(to_account_id=account_id),
            IS_OPEN,
            ledger_id=OuterRef("ledger_id"),
            hold_id=OuterRef("id"),
        )
        return rows.filter(_ACTIVE, Exists(postings))

    def found_ids(self, ledger_id: UUID) -> QuerySet[Any] | None:
        """By the two indexes on open postings."""
        account_id = parse_uuid(self.value())
        if account_id is None:
            return None
        outgoing, incoming = (
            _open_postings(ledger_id, column, account_id).values_list(
                "hold_id", flat=True
            )[: MAX_MATCHES + 1]
            for column in ("from_account_id", "to_account_id")
        )
        return outgoing.union(incoming)


def _open_postings(
    ledger_id: UUID, column: str, account_id: UUID
) -> QuerySet[HoldPosting]:
    """What still holds something for an account, the next to lapse first."""
    return HoldPosting.objects.filter(
        IS_OPEN, _NOT_LAPSED, ledger_id=ledger_id, **{column: account_id}
    ).order_by("expires_at")


class _Amounts:
    """What became of what a hold held, in minor units by currency."""

    def __init__(self) -> None:
        self.amount: dict[str, int] = defaultdict(int)
        self.held: dict[str, int] = defaultdict(int)
        self.captured: dict[str, int] = defaultdict(int)
        self.released: dict[str, int] = defaultdict(int)

    def add(
        self, currency: str, *, amount: int, held: int, captured: int, taken: int
    ) -> None:
        """Adds a posting, or several; ``taken`` is ``captured`` without over-capture.

        What is neither held nor taken any more is released.
        """
        self.amount[currency] += amount
        self.held[currency] += held
        self.captured[currency] += captured
        self.released[currency] += amount - taken - held


@admin.register(Hold)
class HoldAdmin(BooksAdmin, RecordedAdmin):
    """Holds with their postings and what happened to them."""

    index_position = 5
    list_display = (
        "placed",
        "about",
        "accounts",
        "status_until",
        "held",
        "captured",
        "released",
    )
    list_filter = (LedgerFilter, OpenOnAccountFilter, HoldStatusFilter)
    list_defer = ("metadata",)
    search_fields = ("reference",)
    search_help_text = (
        "A full id, or the beginning of a reference (upper and lower case differ)."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "reference",
                    "description",
                    "state",
                    ("amount", "held"),
                    ("captured", "released"),
                    ("created", "expires", "ended"),
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
    created = instant_column("created_at", "placed")
    expires = instant_column("expires_at", "expires")
    ended = instant_column("ended_at", "ended")
    metadata_text = json_column("metadata", "metadata")

    # The list.

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows, with what the clock says of them."""
        lapsed = ExpressionWrapper(_LAPSED, output_field=BooleanField())
        return super().get_queryset(request).annotate(is_lapsed=lapsed)

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """References that begin with the text."""
        return [rows.filter(reference__startswith=text)]

    def find_by_id(
        self, request: HttpRequest, rows: QuerySet[Any], value: UUID
    ) -> list[QuerySet[Any]]:
        """A hold, or that of an event, which outbox tasks name."""
        events = HoldEvent.objects.filter(ledger_id__in=all_ledger_ids(), id=value)
        hold_ids = list(events.order_by().values_list("hold_id", flat=True))
        return [rows.filter(pk__in=[value, *hold_ids])]

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's sums and first posting, in three queries for all rows."""
        keys = {
            "ledger_id__in": {row.ledger_id for row in rows},
            "hold_id__in": [row.id for row in rows],
        }
        by_key = {(row.ledger_id, row.id): row for row in rows}
        for row in rows:
            row.amounts = _Amounts()
            row.first_posting = None
        totals = HoldPosting.objects.filter(**keys).values(
            "ledger_id", "hold_id", "currency"
        )
        for total in totals.annotate(
            total=Sum("amount"),
            moved=Sum("captured"),
            taken=Sum(Least("captured", "amount")),
            freed=Sum("released"),
        ).order_by():
            row = by_key.get((total["ledger_id"], total["hold_id"]))
            if row is not None:
                amount, taken = int(total["total"]), int(total["taken"])
                row.amounts.add(
                    total["currency"],
                    amount=amount,
                    held=0 if row.is_lapsed else amount - taken - int(total["freed"]),
                    captured=int(total["moved"]),
                    taken=taken,
                )
        firsts = list(HoldPosting.objects.filter(**keys, number=1).order_by())
        fetch_posting_accounts(firsts)
        for first in firsts:
            row = by_key.get((first.ledger_id, first.hold_id))
            if row is not None:
                row.first_posting = first

    # The page.

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """The hold as it stands by the clock, with its postings."""
        hold = cast("Any", super().get_object(request, object_id, from_field))
        if hold is None:
            return None
        (hold.view,) = holds_with_postings(
            ledger_id=hold.ledger_id,
            holds=Hold.objects.filter(ledger_id=hold.ledger_id, id=hold.id),
        )
        hold.is_lapsed = hold.view.is_lapsed
        hold.amounts = _Amounts()
        for posting in hold.view.postings:
            hold.amounts.add(
                posting.currency,
                amount=posting.amount,
                held=hold.view.held(posting),
                captured=posting.captured,
                taken=min(posting.captured, posting.amount),
            )
        return hold

    @admin.display(description="status")
    def state(self, hold: Any) -> str:
        """The status by the clock; that no sweep has recorded it yet is said."""
        if hold.is_lapsed:
            return format_html(
                '{} <span class="unit" title="{}">not swept yet</span>',
                badge("Expired", "warn"),
                "It has lapsed: nothing is held any more, and nothing can be captured."
                " The next sweep records it.",
            )
        status = HoldStatus(hold.status)
        return badge(status.label.capitalize(), _TONES.get(status, "plain"))

    @admin.display(description="placed, by")
    def placed(self, hold: Hold) -> str:
        """When, and by whom."""
        return stacked(instant(hold.created_at), short(hold.actor, 30))

    @admin.display(description="status, expires")
    def status_until(self, hold: Any) -> str:
        """The status, and until when the hold lasts or would have lasted."""
        return stacked(self.state(hold), instant(hold.expires_at))

    @admin.display(description="about")
    def about(self, hold: Hold) -> str:
        """The reference, or else the description, cut to a cell."""
        return short(hold.reference or hold.description, 30)

    @admin.display(description="amount")
    def amount(self, hold: Any) -> str:
        """What was held at first."""
        return sums(hold.amounts.amount, hold.ledger_id)

    @admin.display(description="still held")
    def held(self, hold: Any) -> str:
        """What is unavailable now."""
        return sums(hold.amounts.held, hold.ledger_id)

    @admin.display(description="captured")
    def captured(self, hold: Any) -> str:
        """What captures moved."""
        return sums(hold.amounts.captured, hold.ledger_id)

    @admin.display(description="released")
    def released(self, hold: Any) -> str:
        """What is available again without having been moved."""
        return sums(hold.amounts.released, hold.ledger_id)

    @admin.display(description="from → to")
    def accounts(self, hold: Any) -> str:
        """The accounts of the first posting, and how many more postings there are."""
        first = hold.first_posting
        if first is None:
            return EMPTY
        return route(first.from_account, first.to_account, hold.posting_count)

    def tables(self, request: HttpRequest, obj: Any) -> Iterable[Table]:
        """The postings, and what happened to the hold."""
        if can_view(request, "ledger.holdposting"):
            yield _postings_table(obj, obj.view)
        if can_view(request, "ledger.holdevent"):
            events = list(
                HoldEvent.objects.filter(
                    ledger_id=obj.ledger_id, hold_id=obj.id
                ).order_by("-id")[:MAX_TABLE_ROWS]
            )
            yield _events_table(events, set(obj.amounts.amount))
            if can_view(request, "outbox.outboxtask"):
                tasks = OutboxTask.objects.filter(
                    ledger_id=obj.ledger_id,
                    hold_event_id__in=[event.id for event in events],
                ).order_by()
                yield Table(
                    "Outbox tasks",
                    TASK_COLUMNS,
                    [task_row(t) for t in sorted(tasks, key=by_id, reverse=True)],
                )


def _postings_table(hold: Hold, view: HoldView) -> Table:
    shown = cast("list[HoldPosting]", list(view.postings[:MAX_TABLE_ROWS]))
    fetch_posting_accounts(shown)
    title = "Postings"
    if hold.posting_count > len(shown):
        title = f"The first {len(shown)} of {hold.posting_count:,} postings"
    rows = []
    for row in shown:
        held = view.held(row)
        figures = (
            row.amount,
            held,
            row.captured,
            row.amount - min(row.captured, row.amount) - held,
            row.capture_limit,
        )
        rows.append(
            (
                row.number,
                account_link(row.from_account),
                account_link(row.to_account),
                *(money(figure, row.currency, row.ledger_id) for figure in figures),
            )
        )
    return Table(
        title,
        (
            "#Posting",
            "From",
            "To",
            "#Amount",
            "#Still held",
            "#Captured",
            "#Released",
            "#Capture limit",
        ),
        rows,
    )


def _events_table(events: Iterable[HoldEvent], currencies: set[str]) -> Table:
    # An event's amounts are sums over postings: they mean nothing over two currencies.
    currency = next(iter(currencies)) if len(currencies) == 1 else None
    return Table(
        "What happened, the latest first",
        ("When", "What", "#Captured", "#Released", "Transfer", "Expires", "By", "Why"),
        [
            (
                instant(row.created_at),
                badge(
                    HoldEventKind(row.kind).label.capitalize(),
                    _TONES.get(row.kind, "plain"),
                ),
                money(row.captured or None, currency, row.ledger_id),
                money(row.released or None, currency, row.ledger_id),
                link("ledger.transfer", row.transfer_id, row.ledger_id),
                instant(row.expires_at),
                short(row.actor, 40),
                short(row.reason, 60),
            )
            for row in events
        ],
    )


def fetch_posting_accounts(postings: Iterable[HoldPosting]) -> None:
    """Sets both accounts of postings, all fetched by one query."""
    found = list(postings)
    accounts = accounts_by_key(
        (row.ledger_id, account_id)
        for row in found
        for account_id in (row.from_account_id, row.to_account_id)
    )
    for row in found:
        row.from_account = accounts[row.ledger_id, row.from_account_id]
        row.to_account = accounts[row.ledger_id, row.to_account_id]


def open_holds_table(account: Account) -> Table:
    """What explains an account's pending amounts; those next to lapse first."""
    postings = [
        row
        for column in ("from_account_id", "to_account_id")
        for row in _open_postings(account.ledger_id, column, account.id)[
            :MAX_TABLE_ROWS
        ]
    ]
    postings.sort(key=lambda row: (row.expires_at, row.hold_id, row.number))
    shown = postings[:MAX_TABLE_ROWS]
    fetch_posting_accounts(shown)
    references = dict(
        Hold.objects.filter(
            ledger_id=account.ledger_id, id__in={row.hold_id for row in shown}
        ).values_list("id", "reference")
    )
    rows = []
    for row in shown:
        is_from = row.from_account_id == account.id
        held = money(row.held, row.currency, row.ledger_id)
        takes = is_from != account.is_debit_normal
        rows.append(
            (
                link(
                    "ledger.hold",
                    row.hold_id,
                    row.ledger_id,
                    short(references[row.hold_id], 40)
                    if references.get(row.hold_id)
                    else short_id(row.hold_id),
                ),
                instant(row.created_at),
                instant(row.expires_at),
                account_link(row.to_account if is_from else row.from_account),
                "" if takes else held,
                held if takes else "",
            )
        )
    return Table(
        "Open holds, the next to expire first",
        ("Hold", "Placed", "Expires", "Other account", "#Pending in", "#Pending out"),
        rows,
        empty="None: nothing is pending.",
        more_url=list_url("ledger.hold", account.ledger_id, account=account.id),
        more_label="All open holds of this account",
    )
