"""Whatever happens in whatever order, the windows count what a small model counts."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.models import Account, Ledger
from ledger.selectors.holds import HoldView
from ledger.services.operations import operation_run
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, post
from ledger.tests.holds import capture, lapse, void
from ledger.tests.limits import LimitRow, age, limit, used
from ledger.types import HoldRequest, PostedTransfer, PostingRequest, TransferRequest
from payflow.clock import now
from payflow.errors import Problem

pytestmark = pytest.mark.django_db

ZONE = "Europe/Berlin"
KINDS = ("liability", "asset", "liability")
WINDOWS = [(d, p) for d in ("in", "out") for p in ("day", "month", "rolling_day")]
#: Neither one of these nor a few of them together are a whole day.
HOURS = (7, 20, 75, 1_000)
OVER_CAPTURE_BASIS_POINTS = 5_000
HUGE = 10**12

Moves = list[tuple[int, int, int]]
PAIRS = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 100)).filter(
    lambda move: move[0] != move[1]
)
MOVES = st.lists(PAIRS, min_size=1, max_size=3)
#: How many percent of each posting are captured, and whether that ends the hold.
CAPTURES = st.tuples(
    st.lists(st.sampled_from([0, 40, 100, 130, 150]), min_size=3, max_size=3),
    st.booleans(),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("transfer"), MOVES),
        st.tuples(st.just("batch"), st.lists(MOVES, min_size=2, max_size=3)),
        st.tuples(st.just("hold"), MOVES, st.lists(CAPTURES, max_size=2)),
        st.tuples(st.just("capture"), st.integers(0, 9), CAPTURES),
        st.tuples(st.just("void"), st.integers(0, 9)),
        st.tuples(st.just("lapse"), st.integers(0, 9)),
        st.tuples(st.just("reverse"), st.integers(0, 9)),
        st.tuples(st.just("age"), st.sampled_from(HOURS)),
    ),
    min_size=1,
    max_size=12,
)
LIMITS = st.lists(
    st.dictionaries(
        st.sampled_from(WINDOWS),
        st.one_of(
            st.tuples(st.integers(0, 300), st.none()),
            st.tuples(st.none(), st.integers(0, 4)),
            st.tuples(st.integers(0, 300), st.integers(0, 4)),
        ),
        max_size=3,
    ),
    min_size=3,
    max_size=3,
)
SETTINGS = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Books:
    """Three accounts without floors, of which the second is an asset."""

    def __init__(self) -> None:
        self.ledger: Ledger = LedgerFactory(time_zone=ZONE)
        Ledger.objects.filter(id=self.ledger.id).update(
            settings={"hold_over_capture_basis_points": OVER_CAPTURE_BASIS_POINTS}
        )
        self.accounts: list[Account] = [
            AccountFactory(ledger=self.ledger, kind=kind, min_balance=None)
            for kind in KINDS
        ]
        self.holds: list[tuple[HoldView, Moves]] = []
        self.transfers: list[PostedTransfer] = []

    def postings(self, moves: Moves) -> tuple[PostingRequest, ...]:
        ids = [account.id for account in self.accounts]
        return tuple(PostingRequest(ids[s], ids[t], amount) for s, t, amount in moves)

    def transfer(self, batch: list[Moves]) -> list[Any]:
        outcomes = post(
            *[TransferRequest(self.postings(moves)) for moves in batch],
            ledger=self.ledger,
        )
        self.transfers += [o for o in outcomes if isinstance(o, PostedTransfer)]
        return outcomes

    def hold(self, moves: Moves) -> HoldView | Problem:
        outcome = operation_run(
            ledger_id=self.ledger.id,
            request=HoldRequest(self.postings(moves)),
            actor=ACTOR,
            now=now(),
        )
        if isinstance(outcome, HoldView):
            self.holds.append((outcome, moves))
        return outcome

    def reverse(self, number: int) -> object:
        if not self.transfers:
            return None
        return transfer_reverse(
            ledger_id=self.ledger.id,
            request=ReversalRequest(
                self.transfers[number % len(self.transfers)].id, reason="error"
            ),
            actor=ACTOR,
            now=now(),
        )


# --- Against a model --------------------------------------------------------------


@dataclass
class Event:
    """Something that counts; what it gives back later is taken off it."""

    at: datetime
    account: int
    direction: str
    amount: int
    count: int


@dataclass
class HeldMoves:
    """A hold: for each posting what is held, captured and beyond it."""

    moves: Moves
    events: list[Event]
    captured: list[int]
    is_active: bool = True

    def held(self, number: int) -> int:
        amount = self.moves[number][2]
        return amount - min(self.captured[number], amount)

    def end(self) -> None:
        """What was not captured is given back, and a count of which nothing was."""
        self.is_active = False
        for event in self.events:
            taken = [
                min(captured, amount)
                for captured, (s, t, amount) in zip(
                    self.captured, self.moves, strict=True
                )
                if side(s, t, event.account) == event.direction
            ]
            event.amount = sum(taken)
            event.count = 1 if any(taken) else 0


def side(source: int, target: int, account: int) -> str | None:
    """The direction of a posting for an account."""
    if account not in (source, target):
        return None
    falls = (account == source) != (KINDS[account] == "asset")
    return "out" if falls else "in"


def counted(moves: Moves, count: int) -> dict[tuple[int, str], tuple[int, int]]:
    """What an operation counts, by account and direction."""
    found: dict[tuple[int, str], tuple[int, int]] = {}
    for source, target, amount in moves:
        for account in (source, target):
            key = (account, str(side(source, target, account)))
            found[key] = (found.get(key, (0, 0))[0] + amount, count)
    return found


@dataclass
class Model:
    """What happened, as a list; windows are sums over it."""

    limits: list[dict[tuple[str, str], tuple[int | None, int | None]]]
    events: list[Event] = field(default_factory=list)
    holds: list[HeldMoves] = field(default_factory=list)

    def used(self, account: int, direction: str, period: str) -> tuple[int, int]:
        local = now().astimezone(ZoneInfo(ZONE))
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        start = {
            "rolling_day": now() - timedelta(hours=24),
            "day": midnight,
            "month": midnight.replace(day=1),
        }[period]
        inside = [
            e
            for e in self.events
            if (e.account, e.direction) == (account, direction) and e.at >= start
        ]
        return sum(e.amount for e in inside), sum(e.count for e in inside)

    def allows(self, moves: Moves, count: int) -> bool:
        for (account, direction), wanted in counted(moves, count).items():
            for (limited, period), maxima in self.limits[account].items():
                if limited != direction:
                    continue
                used = self.used(account, direction, period)
                for have, more, maximum in zip(used, wanted, maxima, strict=True):
                    if maximum is not None and more and have + more > maximum:
                        return False
        return True

    def add(self, moves: Moves, count: int, at: datetime) -> list[Event]:
        events = [
            Event(at, account, direction, amount, n)
            for (account, direction), (amount, n) in counted(moves, count).items()
        ]
        self.events += events
        return events


def run(books: Books, model: Model, step: tuple[Any, ...]) -> None:
    """Does a step in both, and holds the outcomes against each other."""
    name, *arguments = step
    if name in ("transfer", "batch"):
        batch = arguments[0] if name == "batch" else [arguments[0]]
        for moves, outcome in zip(batch, books.transfer(batch), strict=True):
            assert is_allowed(outcome) == model.allows(moves, 1)
            if is_allowed(outcome):
                model.add(moves, 1, outcome.created_at)
    elif name == "hold":
        run_hold(books, model, *arguments)
    elif name == "capture":
        number = pick(model, arguments[0])
        if number is not None:
            run_capture(books, model, number, arguments[1])
    elif name in ("void", "lapse"):
        number = pick(model, arguments[0])
        if number is not None:
            (void if name == "void" else lapse)(books.holds[number][0])
            model.holds[number].end()
    elif name == "reverse":
        books.reverse(arguments[0])
    else:
        by = timedelta(hours=arguments[0])
        age(books.ledger.id, by)
        for event in model.events:
            event.at -= by


def pick(model: Model, number: int) -> int | None:
    """One of the active holds."""
    active = [i for i, hold in enumerate(model.holds) if hold.is_active]
    return active[number % len(active)] if active else None


def run_hold(
    books: Books, model: Model, moves: Moves, captures: list[tuple[list[int], bool]]
) -> None:
    allowed = model.allows(moves, 1)

    outcome = books.hold(moves)

    assert is_allowed(outcome) == allowed
    if isinstance(outcome, HoldView):
        events = model.add(moves, 1, outcome.row.created_at)
        model.holds.append(HeldMoves(moves, events, [0] * len(moves)))
        for wanted in captures:
            run_capture(books, model, len(model.holds) - 1, wanted)


def run_capture(
    books: Books, model: Model, number: int, wanted: tuple[list[int], bool]
) -> None:
    hold, (percents, is_final) = model.holds[number], wanted
    amounts = captured_amounts(hold, percents)
    if not hold.is_active or not amounts:
        return
    beyond = [
        (*hold.moves[i][:2], amount - hold.held(i))
        for i, amount in amounts.items()
        if amount > hold.held(i)
    ]
    allowed = model.allows(beyond, 0)

    outcome = capture(
        books.holds[number][0],
        {i + 1: amount for i, amount in amounts.items()},
        is_final=is_final,
    )

    assert is_allowed(outcome) == allowed
    if isinstance(outcome, PostedTransfer):
        books.transfers.append(outcome)
        model.add(beyond, 0, outcome.created_at)
        for i, amount in amounts.items():
            hold.captured[i] += amount
        if is_final or not any(hold.held(i) for i in range(len(hold.moves))):
            hold.end()


def captured_amounts(hold: HeldMoves, percents: list[int]) -> dict[int, int]:
    """Some of what the hold holds of each posting, or up to its allowance more."""
    amounts = {}
    for i, ((_, _, amount), percent) in enumerate(
        zip(hold.moves, percents, strict=False)
    ):
        most = amount + amount * OVER_CAPTURE_BASIS_POINTS // 10_000 - hold.captured[i]
        wanted = min(amount * percent // 100, most)
        if hold.held(i) and wanted:
            amounts[i] = wanted
    return amounts


def is_allowed(outcome: object) -> bool:
    if isinstance(outcome, Problem):
        assert outcome.code == "limit_exceeded", outcome
        return False
    return True


@SETTINGS
@given(limits=LIMITS, steps=STEPS)
def test_that_windows_and_model_agree(limits, steps):
    books = Books()
    model = Model(limits)
    for account, rows in zip(books.accounts, limits, strict=True):
        limit(account, *[(*window, *maxima) for window, maxima in rows.items()])

    for step in steps:
        run(books, model, step)

        for number, account in enumerate(books.accounts):
            assert used(account) == {
                window: model.used(number, *window) for window in limits[number]
            }


# --- Limits that come late --------------------------------------------------------


def everything(account: Account) -> None:
    rows: list[LimitRow] = [(*window, HUGE, HUGE) for window in WINDOWS]
    limit(account, *rows)


@SETTINGS
@given(steps=STEPS, has_limits=st.lists(st.booleans(), min_size=12, max_size=12))
def test_that_limits_that_come_late_have_seen_everything(steps, has_limits):
    always, late = Books(), Books()
    for account in always.accounts:
        everything(account)
    model, shadow = Model([{}] * 3), Model([{}] * 3)

    for step, is_limited in zip(steps, has_limits, strict=False):
        for account in late.accounts:
            (everything if is_limited else limit)(account)
        run(always, model, step)
        run(late, shadow, step)
    for account in late.accounts:
        everything(account)

    assert [used(a) for a in late.accounts] == [used(a) for a in always.accounts]
