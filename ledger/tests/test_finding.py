"""Finding: each filter against a look at every row, however the pages are cut."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ledger.enums import (
    AccountKind,
    Direction,
    HoldStatus,
    ReversalReason,
    ScheduledStatus,
    TransferKind,
)
from ledger.models import Account, Entry, Hold, ScheduledTransfer, Transfer
from ledger.selectors import finding
from ledger.selectors.accounts import AccountFilters, account_list
from ledger.selectors.entries import EntryFilters, entry_list
from ledger.selectors.finding import FoundPage
from ledger.selectors.holds import HoldFilters, HoldView, hold_list, holds_with_postings
from ledger.selectors.scheduled import ScheduledFilters, scheduled_list
from ledger.selectors.transfers import (
    TransferFilters,
    transfer_list,
    transfers_with_postings,
)
from ledger.services.operations import operation_run
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.services.scheduled import (
    ScheduleRequest,
    scheduled_cancel,
    scheduled_create,
)
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    post,
    transfer_request,
)
from ledger.tests.holds import capture, lapse, place, void
from ledger.types import (
    HoldRequest,
    PostedTransfer,
    PostingRequest,
    TransferRequest,
)
from payflow.clock import now
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

#: Pages that end everywhere: within a transfer's entries, between rows that match.
SCAN_ROWS = (2, 3, 7, finding.SCAN_ROWS)


class Books:
    """Accounts, holds, and transfers of several postings, with a bit of everything."""

    def __init__(self) -> None:
        self.ledger = LedgerFactory()
        self.accounts = [
            AccountFactory(
                ledger=self.ledger,
                balance=10_000,
                reference=f"acc/{'ab'[n % 2]}/{n}",
                owner_name=["Ada", "Adam", "Bob", "50%_Co", ""][n],
                code=str(n // 2),
                kind=AccountKind.EQUITY if n == 4 else AccountKind.LIABILITY,
                metadata={"tier": n % 2, "vip": n == 3},
            )
            for n in range(5)
        ]
        self.transfers: list[PostedTransfer] = []
        for n in range(24):
            self._post(n)

    def _post(self, n: int) -> None:
        a, b, c = (self.accounts[(n + k) % 4].id for k in range(3))
        pairs = [(a, b), (a, c), (b, a), (c, b)][: 1 + n % 4]
        (outcome,) = post(
            TransferRequest(
                postings=tuple(
                    PostingRequest(source, target, 1 + n % 5 + k)
                    for k, (source, target) in enumerate(pairs)
                ),
                reference=None if n % 3 else f"order-{n % 2}-{n}",
                metadata={"n": n % 6, "text": str(n % 6), "ok": n % 2 == 0}
                if n % 4
                else {},
                effective_at=now() - timedelta(days=n % 5) if n % 2 else None,
            ),
            ledger=self.ledger,
        )
        assert isinstance(outcome, PostedTransfer), outcome
        self.transfers.append(outcome)

    @property
    def every_transfer(self) -> list[PostedTransfer]:
        return transfers_with_postings(
            ledger_id=self.ledger.id,
            rows=Transfer.objects.filter(ledger_id=self.ledger.id).order_by("-id"),
        )

    @property
    def every_hold(self) -> list[HoldView]:
        holds = Hold.objects.filter(ledger_id=self.ledger.id).order_by("-id")
        return holds_with_postings(ledger_id=self.ledger.id, holds=holds)


@pytest.fixture
def books(db: None) -> Books:
    return Books()


@pytest.fixture(params=SCAN_ROWS)
def scan_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(finding, "SCAN_ROWS", request.param)
    return int(request.param)


def walk(list_rows: Callable[..., FoundPage[Any]], filters: Any, **fixed: Any) -> Any:
    """All rows, page by page, each of two rows at most."""
    rows: list[Any] = []
    before = None
    for _ in range(200):
        page = list_rows(limit=2, before=before, filters=filters, **fixed)
        assert len(page) <= 2
        rows += page
        if page.after is None:
            return rows
        assert before is None or page.after < before
        before = page.after
    raise AssertionError("the list does not end")


def ids(rows: Any) -> list[Any]:
    return [row.id for row in rows]


T = TransferFilters


def transfer_cases(books: Books) -> dict[str, tuple[Any, Callable[[Any], bool]]]:
    some, later = books.transfers[6], books.transfers[15]
    moment = books.transfers[7].effective_at
    return {
        "nothing": (T(), lambda t: True),
        "reference": (T(reference="order-0-6"), lambda t: t.id == some.id),
        "no such reference": (T(reference="order"), lambda t: False),
        "prefix": (
            T(reference_prefix="order-1-"),
            lambda t: (t.reference or "").startswith("order-1-"),
        ),
        "wildcards are letters": (T(reference_prefix="order_%"), lambda t: False),
        "kind": (
            T(kind=TransferKind.OPENING_BALANCE),
            lambda t: t.kind == TransferKind.OPENING_BALANCE,
        ),
        "currency": (T(currency="USD"), lambda t: True),
        "other currency": (T(currency="EUR"), lambda t: False),
        "amount": (
            T(amounts=(4, 4)),
            lambda t: any(p.amount == 4 for p in t.postings),
        ),
        "least amount": (
            T(amounts=(7, None)),
            lambda t: any(p.amount >= 7 for p in t.postings),
        ),
        "greatest amount": (
            T(amounts=(None, 2)),
            lambda t: any(p.amount <= 2 for p in t.postings),
        ),
        "created": (
            T(created=(some.created_at, later.created_at)),
            lambda t: some.created_at <= t.created_at < later.created_at,
        ),
        "effective": (
            T(effective=(moment, moment + timedelta(days=1))),
            lambda t: moment <= t.effective_at < moment + timedelta(days=1),
        ),
        "metadata as text and number": (
            T(metadata=(("n", "3"),)),
            lambda t: t.metadata.get("n") == 3,
        ),
        "metadata as text": (
            T(metadata=(("text", "3"),)),
            lambda t: t.metadata.get("text") == "3",
        ),
        "metadata as a word": (
            T(metadata=(("ok", "true"),)),
            lambda t: t.metadata.get("ok") is True,
        ),
        "several metadata": (
            T(metadata=(("n", "5"), ("ok", "false"), ("text", "5"))),
            lambda t: t.metadata.get("n") == 5 and t.metadata["ok"] is False,
        ),
        "other metadata": (T(metadata=(("n", "77"),)), lambda t: False),
        "all together": (
            T(
                kind=TransferKind.TRANSFER,
                amounts=(3, 6),
                currency="USD",
                created=(some.created_at, None),
                metadata=(("ok", "false"),),
            ),
            lambda t: (
                t.kind == TransferKind.TRANSFER
                and any(3 <= p.amount <= 6 for p in t.postings)
                and t.created_at >= some.created_at
                and t.metadata.get("ok") is False
            ),
        ),
    }


@pytest.mark.usefixtures("scan_rows")
@pytest.mark.parametrize("of_account", [False, True])
def test_transfers_are_found_by_every_filter(books, of_account):
    everything = books.every_transfer
    assert len(everything) == 29
    account_id = books.accounts[1].id

    def touches(posting: Any) -> bool:
        return account_id in (posting.from_account_id, posting.to_account_id)

    for name, (filters, test) in transfer_cases(books).items():
        expected = [t for t in everything if test(t)]
        if of_account:
            amounts = [a or d for a, d in zip(filters.amounts, (1, 10**9), strict=True)]
            expected = [
                t
                for t in expected
                if any(
                    touches(p) and amounts[0] <= p.amount <= amounts[1]
                    for p in t.postings
                )
            ]
        wanted = replace(filters, account_id=account_id) if of_account else filters

        found = walk(transfer_list, wanted, ledger_id=books.ledger.id)

        assert ids(found) == ids(expected), name


@pytest.mark.usefixtures("scan_rows")
def test_what_reverses_a_transfer_or_captures_a_hold_is_found(books):
    source, target = books.accounts[:2]
    hold = place(source, target, 30)
    captures = [capture(hold, 5).id for _ in range(3)]
    reversals = [
        transfer_reverse(
            ledger_id=books.ledger.id,
            request=ReversalRequest(
                books.transfers[4].id, ReversalReason.ERROR, parts=1
            ),
            actor=ACTOR,
            now=now(),
        ).id
        for _ in range(2)
    ]

    for filters, expected in (
        (T(hold_id=hold.id), captures[::-1]),
        (T(hold_id=hold.id, account_id=target.id), captures[::-1]),
        (T(hold_id=hold.id, account_id=books.accounts[2].id), []),
        (T(reverses_transfer_id=books.transfers[4].id), reversals[::-1]),
        (T(hold_id=new_id()), []),
    ):
        found = walk(transfer_list, filters, ledger_id=books.ledger.id)
        assert ids(found) == expected


@pytest.mark.usefixtures("scan_rows")
def test_entries_of_an_account_are_found_by_every_filter(books):
    account = books.accounts[2]
    everything = list(
        Entry.objects.filter(account_id=account.id).order_by("-account_version")
    )
    some, later = everything[-4], everything[5]
    of_transfer = everything[6].transfer_id
    E = EntryFilters
    cases: list[tuple[EntryFilters, Callable[[Entry], bool]]] = [
        (E(), lambda e: True),
        (E(direction="debit"), lambda e: e.direction == Direction.DEBIT),
        (E(amounts=(3, 4)), lambda e: 3 <= e.amount <= 4),
        (E(transfer_id=of_transfer), lambda e: e.transfer_id == of_transfer),
        (E(transfer_id=new_id()), lambda e: False),
        (E(created=(some.created_at, None)), lambda e: e.created_at >= some.created_at),
        (
            E(created=(None, later.created_at)),
            lambda e: e.created_at < later.created_at,
        ),
        (
            E(effective=(some.effective_at, later.effective_at)),
            lambda e: some.effective_at <= e.effective_at < later.effective_at,
        ),
        (
            E(direction="credit", amounts=(None, 3), created=(some.created_at, None)),
            lambda e: (
                e.direction == Direction.CREDIT
                and e.amount <= 3
                and e.created_at >= some.created_at
            ),
        ),
    ]

    for filters, test in cases:
        found = walk(
            entry_list, filters, ledger_id=books.ledger.id, account_id=account.id
        )
        assert ids(found) == ids([e for e in everything if test(e)]), filters


@pytest.mark.usefixtures("scan_rows")
def test_accounts_are_found_by_every_filter(books):
    everything = list(Account.objects.filter(ledger_id=books.ledger.id).order_by("-id"))
    middle = books.accounts[2]
    A = AccountFilters
    cases: list[tuple[AccountFilters, Callable[[Account], bool]]] = [
        (A(), lambda a: True),
        (A(reference="acc/a/2"), lambda a: a.id == middle.id),
        (
            A(reference_prefix="acc/b"),
            lambda a: str(a.reference).startswith("acc/b"),
        ),
        (A(owner_name_prefix="Ada"), lambda a: a.owner_name in ("Ada", "Adam")),
        (A(owner_name_prefix="50%_"), lambda a: a.owner_name == "50%_Co"),
        (A(owner_name_prefix="%"), lambda a: False),
        (A(kind="equity"), lambda a: a.kind == AccountKind.EQUITY),
        (A(currency="EUR"), lambda a: False),
        (A(status="open"), lambda a: True),
        (A(status="frozen"), lambda a: False),
        (A(code="1"), lambda a: a.code == "1"),
        (A(code=""), lambda a: a.code == ""),
        (
            A(created=(middle.created_at, None)),
            lambda a: a.created_at >= middle.created_at,
        ),
        (
            A(created=(None, middle.created_at)),
            lambda a: a.created_at < middle.created_at,
        ),
        (
            A(metadata=(("tier", "1"), ("vip", "false"))),
            lambda a: a.metadata == {"tier": 1, "vip": False},
        ),
    ]

    for filters, test in cases:
        found = walk(account_list, filters, ledger_id=books.ledger.id)
        assert ids(found) == ids([a for a in everything if test(a)]), filters


@pytest.mark.usefixtures("scan_rows")
def test_holds_are_found_by_every_filter(books):
    a, b, c = books.accounts[:3]
    for n in range(4):
        place(a, b, 10 + n, reference=f"h-{n}", metadata={"n": n % 2})
        place(b, c, 10 + n)
    views = books.every_hold
    capture(views[0], views[0].postings[0].amount)
    lapse(views[1])
    views = books.every_hold
    H = HoldFilters
    middle = views[4].row
    cases: list[tuple[HoldFilters, Callable[[HoldView], bool]]] = [
        (H(), lambda h: True),
        (H(reference="h-1"), lambda h: h.row.reference == "h-1"),
        (H(reference_prefix="h-"), lambda h: h.row.reference is not None),
        *[
            (H(status=status), lambda h, status=status: h.status == status)
            for status in HoldStatus.values
        ],
        (H(account_id=c.id), lambda h: h.postings[0].to_account_id == c.id),
        (
            H(account_id=b.id, status="active"),
            lambda h: h.status == HoldStatus.ACTIVE,
        ),
        (
            H(account_id=a.id, status="active"),
            lambda h: (
                h.status == HoldStatus.ACTIVE and h.postings[0].from_account_id == a.id
            ),
        ),
        (H(account_id=new_id()), lambda h: False),
        (
            H(created=(middle.created_at, None)),
            lambda h: h.row.created_at >= middle.created_at,
        ),
        (
            H(expires=(None, middle.expires_at)),
            lambda h: h.row.expires_at < middle.expires_at,
        ),
        (H(metadata=(("n", "1"),)), lambda h: h.row.metadata.get("n") == 1),
        (H(amounts=(12, 12)), lambda h: h.postings[0].amount == 12),
        (H(amounts=(None, 11)), lambda h: h.postings[0].amount <= 11),
        (H(currency="USD", amounts=(13, None)), lambda h: h.postings[0].amount >= 13),
        (H(currency="EUR"), lambda h: False),
    ]

    for filters, test in cases:
        found = walk(hold_list, filters, ledger_id=books.ledger.id)
        assert ids(found) == ids([h for h in views if test(h)]), filters
    assert len(views) == 8


@pytest.mark.usefixtures("scan_rows")
def test_holds_of_an_account_are_found_whatever_became_of_its_posting(books):
    a, b, c, d = books.accounts[:4]
    for _ in range(3):
        for first, second in (((a, b), (c, d)), ((c, d), (b, a)), ((c, a), (a, d))):
            placed = operation_run(
                ledger_id=books.ledger.id,
                request=HoldRequest(
                    tuple(PostingRequest(x.id, y.id, 10) for x, y in (first, second))
                ),
                actor=ACTOR,
                now=now(),
            )
            assert isinstance(placed, HoldView)
    views = books.every_hold
    capture(views[0], {1: 10})
    capture(views[1], {2: 10})
    capture(views[2], {1: 10})
    capture(views[3], {1: 4})
    capture(views[4], {1: 10}, is_final=True)
    void(views[5])
    lapse(views[6])
    views = books.every_hold

    for account in books.accounts:
        for status in (None, *HoldStatus.values):
            wanted = [
                view.id
                for view in views
                if status in (None, view.status)
                and any(
                    account.id in (p.from_account_id, p.to_account_id)
                    for p in view.postings
                )
            ]
            filters = HoldFilters(account_id=account.id, status=status)
            found = walk(hold_list, filters, ledger_id=books.ledger.id)
            assert ids(found) == wanted, (account.reference, status)


def test_one_posting_of_a_hold_meets_the_account_and_the_amount(books):
    a, b, c = books.accounts[:3]
    placed = operation_run(
        ledger_id=books.ledger.id,
        request=HoldRequest(
            (PostingRequest(a.id, b.id, 10), PostingRequest(b.id, c.id, 20))
        ),
        actor=ACTOR,
        now=now(),
    )
    assert isinstance(placed, HoldView)
    schedule(books, 1)

    for account, amount, count in ((a, 10, 1), (c, 20, 1), (a, 20, 0), (c, 10, 0)):
        filters = HoldFilters(account_id=account.id, amounts=(amount, amount))
        found = walk(hold_list, filters, ledger_id=books.ledger.id)
        assert len(found) == count, (account.reference, amount)
    for account, amount, count in ((b, 1, 1), (c, 2, 1), (b, 2, 0)):
        wanted = ScheduledFilters(account_id=account.id, amounts=(amount, amount))
        found = walk(scheduled_list, wanted, ledger_id=books.ledger.id)
        assert len(found) == count, (account.reference, amount)


def schedule(books: Books, n: int) -> ScheduledTransfer:
    a, b, c = ((books.accounts[(n + k) % 4]).id for k in range(3))
    row = scheduled_create(
        ledger_id=books.ledger.id,
        request=ScheduleRequest(
            postings=(PostingRequest(a, b, 1), PostingRequest(b, c, 2))[: 1 + n % 2],
            due_at=now() + timedelta(days=1 + n % 3, seconds=n),
            reference=None if n % 3 else f"s-{n % 2}",
            metadata={"n": n % 2} if n % 4 else {},
        ),
        actor=ACTOR,
        now=now(),
    )
    assert isinstance(row, ScheduledTransfer), row
    return row


@pytest.mark.usefixtures("scan_rows")
def test_scheduled_transfers_are_found_by_every_filter(books):
    rows = [schedule(books, n) for n in range(10)]
    for row in rows[2:5]:
        scheduled_cancel(
            ledger_id=books.ledger.id, scheduled_id=row.id, reason="", actor=ACTOR
        )
    everything = list(
        ScheduledTransfer.objects.filter(ledger_id=books.ledger.id).order_by("-id")
    )
    S = ScheduledFilters
    some, account = rows[4], books.accounts[2].id
    cases: list[tuple[ScheduledFilters, Callable[[ScheduledTransfer], bool]]] = [
        (S(), lambda s: True),
        (S(reference="s-0"), lambda s: s.reference == "s-0"),
        (S(reference_prefix="s-"), lambda s: s.reference is not None),
        *[
            (S(status=status), lambda s, status=status: s.status == status)
            for status in ScheduledStatus.values
        ],
        (S(account_id=account), lambda s: str(account) in str(s.postings)),
        (
            S(account_id=account, status="scheduled"),
            lambda s: str(account) in str(s.postings) and s.status == "scheduled",
        ),
        (S(account_id=new_id()), lambda s: False),
        (S(amounts=(2, 2)), lambda s: any(p["amount"] == 2 for p in s.postings)),
        (S(amounts=(None, 1)), lambda s: True),
        (S(amounts=(3, None)), lambda s: False),
        (S(due=(some.due_at, None)), lambda s: s.due_at >= some.due_at),
        (S(due=(None, some.due_at)), lambda s: s.due_at < some.due_at),
        (
            S(created=(some.created_at, None)),
            lambda s: s.created_at >= some.created_at,
        ),
        (S(metadata=(("n", "1"),)), lambda s: s.metadata.get("n") == 1),
        (
            S(metadata=(("n", "1"),), status="cancelled"),
            lambda s: s.metadata.get("n") == 1 and s.status == "cancelled",
        ),
    ]

    for filters, test in cases:
        found = walk(scheduled_list, filters, ledger_id=books.ledger.id)
        assert ids(found) == ids([s for s in everything if test(s)]), filters
        other = walk(scheduled_list, filters, ledger_id=LedgerFactory().id)
        assert other == []
    assert len(everything) == 10


@pytest.mark.usefixtures("scan_rows")
def test_nothing_of_another_ledger_is_found(books):
    other = Books()

    for list_rows, filters in (
        (transfer_list, T(metadata=(("n", "3"),))),
        (transfer_list, T(reference_prefix="order-")),
        (transfer_list, T(account_id=other.accounts[0].id)),
        (transfer_list, T(reverses_transfer_id=other.transfers[0].id)),
        (account_list, AccountFilters(metadata=(("tier", "1"),))),
        (account_list, AccountFilters(owner_name_prefix="A")),
        (account_list, AccountFilters(reference="acc/a/0")),
    ):
        found = walk(list_rows, filters, ledger_id=books.ledger.id)
        theirs = walk(list_rows, filters, ledger_id=other.ledger.id)
        assert not set(ids(found)) & set(ids(theirs))
        models = {*ids(books.every_transfer), *ids(books.accounts)}
        assert set(ids(found)) <= models


def test_a_metadata_value_is_looked_for_in_one_ledger_only(books):
    Books()

    with finding.connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM ledger_ids_by_metadata('ledger_transfer', %s,"
            """ ARRAY['{"n": 3}', '{"n": "5", "ok": false}']::jsonb[], 100) id""",
            [books.ledger.id],
        )
        found = {row[0] for row in cursor.fetchall()}

    expected = {t.id for t in books.transfers if t.metadata.get("n") == 3}
    assert found == expected
    assert len(expected) == 4


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_range_of_time_is_reached_by_ids_and_not_from_the_newest(
    books, monkeypatch, hours
):
    monkeypatch.setattr(finding, "SCAN_ROWS", 2)
    instant = now() + timedelta(hours=hours)
    filters = T(created=(instant, None) if hours > 0 else (None, instant))

    page = transfer_list(
        ledger_id=books.ledger.id, limit=1, before=None, filters=filters
    )

    assert (list(page), page.after) == ([], None)


@pytest.mark.parametrize("minutes", [-9, 9])
def test_an_id_that_was_made_minutes_off_the_recording_is_found(books, minutes):
    a, b = books.accounts[:2]
    milliseconds = int((now() + timedelta(minutes=minutes)).timestamp() * 1_000)
    (made,) = post(
        transfer_request(a, b, 1, id=UUID(int=(milliseconds << 80) | 7 << 76)),
        ledger=books.ledger,
    )
    tick = timedelta(microseconds=1)

    found = walk(
        transfer_list,
        T(created=(made.created_at, made.created_at + tick)),
        ledger_id=books.ledger.id,
    )

    assert ids(found) == [made.id]
