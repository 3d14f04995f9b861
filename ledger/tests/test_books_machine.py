"""Everything the ledger can do, in any order, against a model of a few lines.

Whatever moves or reserves money is tried first, as a dry run, and then done. After
every step the balances, the reserved amounts and the holds are the model's, and the
audit finds the books sound; statements, balances of the past and lists are the model's
whenever somebody asks for them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from ledger.audit import audit_run
from ledger.enums import Direction, HoldStatus, Permission, ReversalReason
from ledger.models import Account, Ledger
from ledger.selectors.accounts import account_get
from ledger.selectors.as_of import balance_as_of, clock_read
from ledger.selectors.holds import HoldFilters, HoldView, hold_get, hold_list
from ledger.selectors.scheduled import scheduled_get
from ledger.selectors.statements import statement_all_lines, statement_get
from ledger.selectors.transfers import transfer_get
from ledger.services.account_status import (
    account_close,
    account_freeze,
    account_unfreeze,
)
from ledger.services.batches import batch_post
from ledger.services.holds import holds_expire
from ledger.services.operations import operation_run
from ledger.services.periods import period_close, period_reopen
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.services.scheduled import (
    ScheduleRequest,
    scheduled_cancel,
    scheduled_create,
    scheduled_post,
)
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, post
from ledger.tests.holds import capture, extend, lapse, void
from ledger.types import HoldRequest, PostedTransfer, PostingRequest, TransferRequest
from payflow.actors import Actor
from payflow.clock import now
from payflow.errors import Problem
from payflow.execution import Rendered, execute

pytestmark = pytest.mark.django_db

#: Balance at the start, floor and kind of each account.
STARTS: list[tuple[int, int | None, str]] = [
    (1_000, 0, "liability"),
    (0, -300, "liability"),
    (500, None, "liability"),
    (700, 100, "asset"),
    (0, 0, "liability"),
]
OVER_CAPTURE_BASIS_POINTS = 1_000
#: What is closed ended so many days ago.
DAYS_OPEN = 30
BOSS = Actor("boss", permissions=frozenset(Permission.values))

Move = tuple[int, int, int]
T = TypeVar("T")


class Line(NamedTuple):
    """One side of a move, as its account's statement shows it."""

    direction: str
    amount: int
    balance: int
    days_ago: int = 0


@dataclass
class HeldPosting:
    source: int
    target: int
    amount: int
    captured: int = 0
    released: int = 0

    @property
    def held(self) -> int:
        return self.amount - min(self.captured, self.amount) - self.released

    @property
    def limit(self) -> int:
        return self.amount + self.amount * OVER_CAPTURE_BASIS_POINTS // 10_000


@dataclass
class ModelHold:
    postings: list[HeldPosting]
    status: str = "active"
    id: UUID | None = None


@dataclass
class ModelTransfer:
    postings: list[Move]
    is_reversible: bool = True
    reversed: dict[int, int] = field(default_factory=dict)

    def left(self, index: int) -> int:
        return self.postings[index][2] - self.reversed.get(index, 0)


@dataclass
class ModelSchedule:
    moves: list[Move]
    status: str = "scheduled"


class Model:
    """The books as lists of numbers. Index ``len(STARTS)`` stands for receivables."""

    def __init__(self) -> None:
        self.posted = [start for start, _, _ in STARTS] + [0]
        self.lines: list[list[Line]] = [[] for _ in self.posted]
        self.floors = [floor for _, floor, _ in STARTS] + [0]
        self.is_asset = [kind == "asset" for _, _, kind in STARTS] + [True]
        self.status = ["open"] * len(self.posted)
        self.holds: list[ModelHold] = []
        self.is_closed = False

    def held(self) -> tuple[list[int], list[int]]:
        """What active holds would debit and credit, by account."""
        debits, credits = [0] * len(self.posted), [0] * len(self.posted)
        for hold in self.holds:
            for posting in hold.postings:
                debits[posting.source] += posting.held
                credits[posting.target] += posting.held
        return debits, credits

    def available(self) -> list[int]:
        debits, credits = self.held()
        return [
            posted - (credits[i] if self.is_asset[i] else debits[i])
            for i, posted in enumerate(self.posted)
        ]

    def frozen(self, moves: Iterable[Move]) -> bool:
        for source, target, _ in moves:
            for index, is_debit in ((source, True), (target, False)):
                falls = is_debit != self.is_asset[index]
                if self.status[index] == "frozen" or (
                    self.status[index] == "frozen_out" and falls
                ):
                    return True
        return False

    def forbidden(self, moves: Iterable[Move], *, even_frozen: bool = False) -> str:
        """Why the accounts' status forbids the moves; empty if it does not."""
        touched = {index for source, target, _ in moves for index in (source, target)}
        if any(self.status[index] == "closed" for index in touched):
            return "account_closed"
        return "account_frozen" if self.frozen(moves) and not even_frozen else ""

    def close(self, index: int) -> str:
        if self.status[index] == "closed":
            return "done"
        if self.posted[index] != 0:
            return "account_not_empty"
        debits, credits = self.held()
        if debits[index] or credits[index]:
            return "account_has_holds"
        self.status[index] = "closed"
        return "done"

    def move(self, moves: Iterable[Move], *, days_ago: int = 0) -> None:
        for source, target, amount in moves:
            self.posted[source] += amount if self.is_asset[source] else -amount
            self.posted[target] += -amount if self.is_asset[target] else amount
            for index, direction in ((source, "debit"), (target, "credit")):
                line = Line(direction, amount, self.posted[index], days_ago)
                self.lines[index].append(line)

    def moved(self) -> tuple[list[int], list[list[Line]]]:
        """What has moved so far; put it back to undo what moves from here on."""
        return list(self.posted), [list(lines) for lines in self.lines]

    def balance(self, index: int, *, days_ago: int) -> int:
        """What an account had then, by what is known now."""
        total = 0
        for line in self.lines[index]:
            if line.days_ago > days_ago:
                raises = (line.direction == "debit") == self.is_asset[index]
                total += line.amount if raises else -line.amount
        return total

    def attempt(self, change: Any) -> bool:
        """Makes the change unless an account that falls ends below its floor."""
        before, kept = self.available(), self.moved()
        undo = change()
        after = self.available()
        for index, floor in enumerate(self.floors):
            if floor is not None and after[index] < min(before[index], floor):
                self.posted, self.lines = kept
                undo()
                return False
        return True

    def transfer(self, moves: list[Move], *, days_ago: int = 0) -> str:
        if refused := self.forbidden(moves):
            return refused
        if days_ago > DAYS_OPEN and self.is_closed:
            return "period_closed"

        def change() -> Any:
            self.move(moves, days_ago=days_ago)
            return lambda: None

        return "done" if self.attempt(change) else "insufficient_funds"

    def place(self, moves: list[Move]) -> str:
        if refused := self.forbidden(moves):
            return refused

        def change() -> Any:
            self.holds.append(ModelHold([HeldPosting(*move) for move in moves]))
            return self.holds.pop

        return "done" if self.attempt(change) else "insufficient_funds"

    def capture(
        self,
        hold: ModelHold,
        amounts: dict[int, int] | None,
        *,
        is_final: bool,
        may_capture_frozen: bool,
    ) -> tuple[str, list[Move]]:
        if hold.status == "expired":
            return "hold_expired", []
        if hold.status != "active":
            return "hold_not_active", []
        if amounts is None:
            amounts = {i: p.held for i, p in enumerate(hold.postings) if p.held}
        for index, amount in sorted(amounts.items()):
            posting = hold.postings[index]
            if amount > (posting.limit - posting.captured if posting.held else 0):
                return "capture_exceeds_hold", []
        moves = [
            (p.source, p.target, amounts[i])
            for i, p in enumerate(hold.postings)
            if amounts.get(i)
        ]
        if refused := self.forbidden(moves, even_frozen=may_capture_frozen):
            return refused, []

        def change() -> Any:
            before = [(p.captured, p.released) for p in hold.postings]
            self.move(moves)
            for index, posting in enumerate(hold.postings):
                posting.captured += amounts.get(index, 0)
                if is_final:
                    posting.released += posting.held

            def undo() -> None:
                for posting, (captured, released) in zip(
                    hold.postings, before, strict=True
                ):
                    posting.captured, posting.released = captured, released

            return undo

        if not self.attempt(change):
            return "insufficient_funds", []
        if not any(posting.held for posting in hold.postings):
            hold.status = "captured"
        return "done", moves

    def end(self, hold: ModelHold, status: str) -> str:
        if hold.status == "expired":
            return "hold_expired"
        if hold.status != "active":
            return "hold_not_active"
        hold.status = status
        for posting in hold.postings:
            posting.released += posting.held
        return "done"

    def reverse(
        self, transfer: ModelTransfer, part: tuple[int, int] | None, *, is_forced: bool
    ) -> str:
        if not transfer.is_reversible:
            return "transfer_not_reversible"
        if part is None:
            amounts = {
                i: transfer.left(i)
                for i in range(len(transfer.postings))
                if transfer.left(i)
            }
        else:
            amounts = {part[0]: part[1]}
            if part[1] > transfer.left(part[0]):
                return "reversal_exceeds_transfer"
        if not amounts:
            return "reversal_exceeds_transfer"
        moves = self.moves_back(transfer, amounts, is_forced=is_forced)
        result = self.transfer(moves)
        if result == "done":
            for index, amount in amounts.items():
                transfer.reversed[index] = transfer.reversed.get(index, 0) + amount
        return result

    def moves_back(
        self, transfer: ModelTransfer, amounts: dict[int, int], *, is_forced: bool
    ) -> list[Move]:
        """What a reversal moves; forced, receivables give what is not there."""
        moves: list[Move] = []
        room = [
            max(0, available - (floor or 0))
            for available, floor in zip(self.available(), self.floors, strict=True)
        ]
        for index, amount in amounts.items():
            room[transfer.postings[index][0]] += amount
        for index, amount in sorted(amounts.items()):
            source, target, _ = transfer.postings[index]
            given = amount
            floor = self.floors[target]
            if is_forced and self.status[target] == "closed":
                given = 0
            elif is_forced and not self.is_asset[target] and floor is not None:
                given = min(amount, room[target])
                room[target] -= given
            if given:
                moves.append((target, source, given))
            if amount > given:
                moves.append((len(STARTS), source, amount - given))
        return moves


ACCOUNTS = st.integers(0, len(STARTS) - 1)
MOVES = st.lists(
    st.tuples(ACCOUNTS, ACCOUNTS, st.integers(1, 600)).filter(lambda m: m[0] != m[1]),
    min_size=1,
    max_size=3,
)


def code(outcome: object) -> str:
    return outcome.code if isinstance(outcome, Problem) else "done"


class BooksMachine(RuleBasedStateMachine):
    """Drives the services and the model side by side."""

    transfers: Bundle[Any] = Bundle("transfers")
    holds: Bundle[Any] = Bundle("holds")
    schedules: Bundle[Any] = Bundle("schedules")

    @initialize()
    def make_books(self) -> None:
        self.ledger = LedgerFactory()
        Ledger.objects.filter(id=self.ledger.id).update(
            settings={"hold_over_capture_basis_points": OVER_CAPTURE_BASIS_POINTS}
        )
        self.accounts: list[Account] = [
            AccountFactory(
                ledger=self.ledger, balance=start, min_balance=floor, kind=kind
            )
            for start, floor, kind in STARTS
        ]
        self.model = Model()
        self.started_at = clock_read()

    def done(self, command: Callable[[], T]) -> T:
        """The outcome of a command that was tried before, with the same outcome."""
        tried: list[T] = []

        def attempt() -> None:
            tried.append(command())

        execute(attempt, lambda _: Rendered(200, b""), dry_run=True)
        outcome = command()
        assert code(tried[0]) == code(outcome)
        if isinstance(outcome, PostedTransfer):
            assert isinstance(tried[0], PostedTransfer)
            # Receivables that the trial made have another id when they are made again.
            assert [(b.posted, b.version) for b in tried[0].balances] == [
                (b.posted, b.version) for b in outcome.balances
            ]
        return outcome

    def postings(self, moves: list[Move]) -> tuple[PostingRequest, ...]:
        return tuple(
            PostingRequest(self.accounts[s].id, self.accounts[t].id, amount)
            for s, t, amount in moves
        )

    @rule(target=transfers, moves=MOVES, days_ago=st.sampled_from([0, 0, 0, 2, 40]))
    def transfer(self, moves: list[Move], days_ago: int) -> Any:
        expected = self.model.transfer(moves, days_ago=days_ago)
        effective_at = now() - timedelta(days=days_ago) if days_ago else None
        request = TransferRequest(self.postings(moves), effective_at=effective_at)
        outcome = self.done(lambda: post(request, ledger=self.ledger)[0])
        assert code(outcome) == expected
        return self.kept(outcome, moves)

    def kept(self, outcome: object, moves: list[Move]) -> Any:
        if isinstance(outcome, PostedTransfer):
            return (outcome, ModelTransfer(moves))
        return multiple()

    @rule(
        target=transfers,
        items=st.lists(MOVES, min_size=1, max_size=4),
        is_atomic=st.booleans(),
    )
    def batch(self, items: list[list[Move]], is_atomic: bool) -> Any:
        before = self.model.moved()
        expected = [self.model.transfer(moves) for moves in items]
        if is_atomic and set(expected) != {"done"}:
            self.model.posted, self.model.lines = before
        outcome = self.done(
            lambda: batch_post(
                ledger_id=self.ledger.id,
                requests=[TransferRequest(self.postings(moves)) for moves in items],
                is_atomic=is_atomic,
                decided={},
                actor=ACTOR,
                now=now(),
            )
        )
        if isinstance(outcome, list):
            assert [code(one) for one in outcome] == expected
            return multiple(
                *(
                    (one, ModelTransfer(moves))
                    for one, moves in zip(outcome, items, strict=True)
                    if isinstance(one, PostedTransfer)
                )
            )
        first = next(i for i, name in enumerate(expected) if name != "done")
        assert (outcome.index, code(outcome.problem)) == (first, expected[first])
        return multiple()

    @rule(target=holds, moves=MOVES)
    def place(self, moves: list[Move]) -> Any:
        expected = self.model.place(moves)
        outcome = self.done(
            lambda: operation_run(
                ledger_id=self.ledger.id,
                request=HoldRequest(self.postings(moves)),
                actor=ACTOR,
                now=now(),
            )
        )
        assert code(outcome) == expected
        if isinstance(outcome, HoldView):
            self.model.holds[-1].id = outcome.id
            return (outcome, self.model.holds[-1])
        return multiple()

    @rule(
        target=transfers,
        pair=holds,
        number=st.integers(0, 2),
        amount=st.none() | st.integers(1, 700),
        is_final=st.booleans(),
        actor=st.sampled_from([ACTOR, BOSS]),
    )
    def capture(
        self, pair: Any, number: int, amount: int | None, is_final: bool, actor: Actor
    ) -> Any:
        hold, model = pair
        index = number % len(model.postings)
        amounts = None if amount is None else {index: amount}
        expected, moves = self.model.capture(
            model, amounts, is_final=is_final, may_capture_frozen=actor is BOSS
        )
        parts = None if amount is None else {index + 1: amount}
        outcome = self.done(
            lambda: capture(hold, parts, is_final=is_final, actor=actor)
        )
        assert code(outcome) == expected
        return self.kept(outcome, moves)

    @rule(pair=holds)
    def void(self, pair: Any) -> None:
        assert code(void(pair[0])) == self.model.end(pair[1], "voided")

    @rule(pair=holds)
    def lapse(self, pair: Any) -> None:
        hold, model = pair
        if model.status == "active":
            lapse(hold)
        self.model.end(model, "expired")

    @rule(pair=holds)
    def extend(self, pair: Any) -> None:
        hold, model = pair
        expected = {"active": "done", "expired": "hold_expired"}
        later = hold_get(ledger_id=self.ledger.id, hold_id=hold.id).row.expires_at
        outcome = extend(hold, later + timedelta(seconds=1))
        assert code(outcome) == expected.get(model.status, "hold_not_active")

    @rule()
    def sweep(self) -> None:
        holds_expire(ledger_id=self.ledger.id, now=now())

    @rule(
        pair=transfers,
        number=st.integers(0, 2),
        amount=st.none() | st.integers(1, 700),
        is_forced=st.booleans(),
    )
    def reverse(
        self, pair: Any, number: int, amount: int | None, is_forced: bool
    ) -> None:
        transfer, model = pair
        index = number % len(model.postings)
        part = None if amount is None else (index, amount)
        expected = self.model.reverse(model, part, is_forced=is_forced)
        request = ReversalRequest(
            transfer.id,
            ReversalReason.OTHER,
            parts=None if amount is None else {index + 1: amount},
            is_forced=is_forced,
        )
        outcome = self.done(
            lambda: transfer_reverse(
                ledger_id=self.ledger.id, request=request, actor=BOSS, now=now()
            )
        )
        assert code(outcome) == expected
        found = transfer_get(ledger_id=self.ledger.id, transfer_id=transfer.id)
        assert [p.amount_reversible for p in found.postings] == [
            model.left(i) for i in range(len(model.postings))
        ]

    @rule(target=schedules, moves=MOVES)
    def schedule(self, moves: list[Move]) -> Any:
        """An hour ago, for half an hour ago."""
        long_ago = now() - timedelta(hours=1)
        request = ScheduleRequest(
            self.postings(moves), due_at=long_ago + timedelta(minutes=30)
        )
        row = scheduled_create(
            ledger_id=self.ledger.id, request=request, actor=ACTOR, now=long_ago
        )
        assert code(row) == "done"
        return (request.id, ModelSchedule(moves))

    @rule(target=transfers, pair=schedules)
    def post_scheduled(self, pair: Any) -> Any:
        scheduled_id, model = pair
        expected = None
        if is_waiting := model.status == "scheduled":
            expected = self.model.transfer(model.moves)
            model.status = "posted" if expected == "done" else "refused"
        status = scheduled_post(ledger_id=self.ledger.id, scheduled_id=scheduled_id)
        assert status == (model.status if is_waiting else None)
        row = scheduled_get(ledger_id=self.ledger.id, scheduled_id=scheduled_id)
        assert row.status == model.status
        if is_waiting and row.transfer_id is not None:
            found = transfer_get(ledger_id=self.ledger.id, transfer_id=row.transfer_id)
            return self.kept(found, model.moves)
        if is_waiting:
            assert row.last_problem["code"] == expected
        return multiple()

    @rule(pair=schedules)
    def cancel_scheduled(self, pair: Any) -> None:
        scheduled_id, model = pair
        outcome = scheduled_cancel(
            ledger_id=self.ledger.id, scheduled_id=scheduled_id, reason="", actor=ACTOR
        )
        if model.status == "scheduled":
            model.status = "cancelled"
            assert code(outcome) == "done"
        else:
            assert code(outcome) == "scheduled_not_pending"

    @rule(index=ACCOUNTS, status=st.sampled_from(["open", "frozen_out", "frozen"]))
    def freeze(self, index: int, status: str) -> None:
        who = {
            "ledger_id": self.ledger.id,
            "account_id": self.accounts[index].id,
            "reason": "the machine says so",
            "actor": BOSS,
        }
        outcome = (
            account_unfreeze(**who)
            if status == "open"
            else account_freeze(**who, outgoing_only=status == "frozen_out")
        )
        if self.model.status[index] == "closed":
            assert code(outcome) == "account_status_final"
            return
        assert code(outcome) == "done"
        self.model.status[index] = status

    @rule(index=ACCOUNTS)
    def close(self, index: int) -> None:
        expected = self.model.close(index)
        outcome = account_close(
            ledger_id=self.ledger.id,
            account_id=self.accounts[index].id,
            reason="no longer needed",
            actor=BOSS,
            now=now(),
        )
        assert code(outcome) == expected

    @rule(is_closed=st.booleans())
    def close_period(self, is_closed: bool) -> None:
        self.model.is_closed = is_closed
        outcome = (
            period_close(
                ledger_id=self.ledger.id,
                end=now() - timedelta(days=DAYS_OPEN),
                actor=BOSS,
            )
            if is_closed
            else period_reopen(
                ledger_id=self.ledger.id, end=None, reason="a correction", actor=BOSS
            )
        )
        assert code(outcome) == "done"

    @rule(index=ACCOUNTS)
    def read_statement(self, index: int) -> None:
        found = statement_get(
            ledger_id=self.ledger.id,
            account_id=self.accounts[index].id,
            start=self.started_at,
        )
        lines = [
            (Direction(line.direction), line.amount, line.balance)
            for line in statement_all_lines(statement=found)
        ]
        assert lines == [line[:3] for line in self.model.lines[index]]
        assert found.opening_balance == STARTS[index][0]
        assert found.closing_balance == self.model.posted[index]

    @rule(index=ACCOUNTS, days_ago=st.sampled_from([1, 10]))
    def read_past_balance(self, index: int, days_ago: int) -> None:
        found = balance_as_of(
            ledger_id=self.ledger.id,
            account_id=self.accounts[index].id,
            at=now() - timedelta(days=days_ago),
        )
        assert found.posted == self.model.balance(index, days_ago=days_ago)

    @rule(index=ACCOUNTS, status=st.none() | st.sampled_from(HoldStatus.values))
    def find_holds(self, index: int, status: str | None) -> None:
        found = hold_list(
            ledger_id=self.ledger.id,
            limit=200,
            before=None,
            filters=HoldFilters(account_id=self.accounts[index].id, status=status),
        )
        assert [hold.id for hold in found] == [
            hold.id
            for hold in reversed(self.model.holds)
            if status in (None, hold.status)
            and any(index in (p.source, p.target) for p in hold.postings)
        ]

    @invariant()
    def the_books_are_the_models(self) -> None:
        if not hasattr(self, "model"):
            return
        debits, credits = self.model.held()
        for index, account in enumerate(self.accounts):
            found = account_get(ledger_id=self.ledger.id, account_id=account.id)
            assert found.posted == self.model.posted[index]
            assert found.available == self.model.available()[index]
            assert (found.debits_pending, found.credits_pending) == (
                debits[index],
                credits[index],
            )
        report = audit_run(ledger_slug=self.ledger.slug)
        assert report.is_sound, report.findings


def test_that_the_ledger_and_the_model_agree_whatever_happens():
    run_state_machine_as_test(
        BooksMachine,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
