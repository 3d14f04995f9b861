"""Operations that share a transaction come out as each would have come out alone."""

from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from ledger.api.holds import hold_json
from ledger.api.resources import transfer_json
from ledger.audit import audit_run
from ledger.engine.batch import Batch
from ledger.enums import HoldStatus, Permission
from ledger.models import (
    Account,
    Entry,
    Hold,
    HoldEvent,
    HoldPosting,
    Ledger,
    Transfer,
)
from ledger.selectors.holds import HoldView, hold_get
from ledger.selectors.ledgers import OVER_CAPTURE
from ledger.services.holds import CaptureRequest, VoidRequest, hold_capture
from ledger.services.operations import Operation, Outcome, operation_run, operations_run
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    transfer_request,
)
from ledger.tests.holds import extend, lapse, place
from ledger.tests.limits import limit, used
from ledger.types import HoldRequest, PostedTransfer, PostingRequest, TransferRequest
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import now
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

BOSS = Actor("boss", new_id(), new_id(), "request-2", frozenset(Permission.values))


def run(ledger: Ledger, *requests: Operation, actor: Actor = ACTOR) -> list[Outcome]:
    return operations_run(
        ledger_id=ledger.id,
        requests=[(request, actor) for request in requests],
        now=now(),
    )


def hold_request(
    source: Account, target: Account, amount: int, **fields: Any
) -> HoldRequest:
    return HoldRequest((PostingRequest(source.id, target.id, amount),), **fields)


def code(outcome: object) -> str:
    """The code of a refusal; ``done`` if it is none."""
    if isinstance(outcome, ProblemError):
        outcome = outcome.problem
    return outcome.code if isinstance(outcome, Problem) else "done"


def codes(outcomes: list[Outcome]) -> list[str]:
    return [code(outcome) for outcome in outcomes]


# --- In any order -----------------------------------------------------------------

#: Balance at the start, floor and kind of each account.
STARTS = [
    (400, 0, "liability"),
    (400, -50, "liability"),
    (0, None, "asset"),
    (0, 0, "liability"),
]
#: The second account's limits.
LIMITS = [("out", "day", 400, 9), ("in", "month", 500, None)]
NOWHERE = UUID(int=1)

ROUNDS, MOST_TOGETHER, MOST_HOLDS = 6, 12, 6


class Chance:
    """Operations and events by chance, so few and narrow that they meet."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - no secret

    def events(self) -> list[tuple[Any, ...]]:
        return [self._event() for _ in range(self._random.randrange(3))]

    def operations(self) -> list[Any]:
        count = self._random.randint(2, MOST_TOGETHER)
        return [(self._random.random() < 0.3, self._operation()) for _ in range(count)]

    def _event(self) -> tuple[Any, ...]:
        if self._random.random() < 0.3:
            return "lapse", self._hold()
        statuses = ["open", "open", "open", "frozen", "frozen_out"]
        return "status", self._account(), self._random.choice(statuses)

    def _operation(self) -> tuple[Any, ...]:
        kinds, weights = ["transfer", "hold", "capture", "void"], [4, 5, 6, 1]
        (kind,) = self._random.choices(kinds, weights)
        if kind == "void":
            return kind, self._hold()
        if kind == "capture":
            is_final = self._random.random() < 0.3
            return kind, self._hold(), self._parts(), is_final, self._reference()
        moves = [self._move() for _ in range(self._random.choice([1, 1, 2]))]
        return kind, moves, self._reference()

    def _move(self) -> tuple[int, int, int]:
        source, target = self._random.sample(range(len(STARTS)), k=2)
        return source, self._chosen(target, source, rarely=0.03), self._amount()

    def _chosen(self, usual: Any, other: Any, *, rarely: float) -> Any:
        return other if self._random.random() < rarely else usual

    def _parts(self) -> dict[int, int] | int | None:
        numbers = self._random.sample([1, 1, 1, 2, 3], k=self._random.choice([1, 2]))
        return self._random.choice(
            [
                None,
                self._part(),
                self._part(),
                {number: self._part() for number in numbers},
            ]
        )

    def _amount(self) -> int:
        return self._random.randint(20, 90)

    def _part(self) -> int:
        return self._random.randint(1, 40)

    def _account(self) -> int:
        return self._random.randrange(len(STARTS))

    def _hold(self) -> int:
        """One of the last holds, or none at all."""
        number = self._random.randrange(MOST_HOLDS)
        return self._chosen(number, MOST_HOLDS, rarely=0.05)

    def _reference(self) -> str | None:
        return self._chosen(None, f"{self._random.randrange(6)}", rarely=0.2)


class Books:
    """Four accounts, and the holds that were placed in earlier rounds."""

    def __init__(self) -> None:
        self.ledger: Ledger = LedgerFactory()
        Ledger.objects.filter(id=self.ledger.id).update(settings={OVER_CAPTURE: 2_000})
        self.accounts: list[Account] = [
            AccountFactory(
                ledger=self.ledger, balance=balance, min_balance=floor, kind=kind
            )
            for balance, floor, kind in STARTS
        ]
        limit(self.accounts[1], *LIMITS)
        self.holds: list[HoldView] = []
        #: What stands for each id, so that two books can be held against each other.
        self.names = {str(a.id): f"account {i}" for i, a in enumerate(self.accounts)}

    def happen(self, event: tuple[Any, ...]) -> None:
        if event[0] == "status":
            Account.objects.filter(
                ledger_id=self.ledger.id, id=self.accounts[event[1]].id
            ).update(status=event[2])
        elif (hold_id := self.hold_id(event[1])) != NOWHERE:
            lapse(next(hold for hold in self.holds if hold.id == hold_id))

    def hold_id(self, number: int) -> UUID:
        """Of the last holds, the one with this number."""
        if number == MOST_HOLDS or not self.holds:
            return NOWHERE
        holds = self.holds[-MOST_HOLDS:]
        return holds[number % len(holds)].id

    def request(self, name: str, *arguments: Any) -> Operation:
        if name in ("transfer", "hold"):
            moves, reference = arguments
            ids = [account.id for account in self.accounts]
            postings = tuple(PostingRequest(ids[s], ids[t], n) for s, t, n in moves)
            kind = TransferRequest if name == "transfer" else HoldRequest
            return kind(postings, reference=reference)
        number, *rest = arguments
        hold_id = self.hold_id(number)
        if name == "void":
            return VoidRequest(hold_id, "no more")
        parts, is_final, reference = rest
        return CaptureRequest(hold_id, parts, is_final, reference)

    def do(self, operations: list[Any], *, together: bool) -> list[Any]:
        requests = [
            (self.request(*operation), BOSS if is_boss else ACTOR)
            for is_boss, operation in operations
        ]
        outcomes: list[Outcome] = []
        if not together:
            outcomes = [self.alone(request, actor) for request, actor in requests]
        elif requests:
            outcomes = operations_run(
                ledger_id=self.ledger.id, requests=requests, now=now()
            )
        for (request, _), outcome in zip(requests, outcomes, strict=True):
            if isinstance(request, HoldRequest) and isinstance(outcome, HoldView):
                assert hold_json(outcome) == hold_json(self.stored(outcome))
                self.holds.append(outcome)
        return [self.plain(answer_json(outcome)) for outcome in outcomes]

    def alone(self, request: Operation, actor: Actor) -> Outcome:
        try:
            return operation_run(
                ledger_id=self.ledger.id, request=request, actor=actor, now=now()
            )
        except ProblemError as error:
            return error

    def stored(self, hold: HoldView) -> HoldView:
        return hold_get(ledger_id=self.ledger.id, hold_id=hold.id)

    def plain(self, value: Any) -> Any:
        """The value without times, and with names for ids."""
        if isinstance(value, dict):
            return {
                key: self.plain(item)
                for key, item in value.items()
                if not key.endswith("_at")
            }
        if isinstance(value, list | tuple):
            return [self.plain(item) for item in value]
        if isinstance(value, UUID) or (isinstance(value, str) and len(value) == 36):
            return self.names.setdefault(str(value), f"new {len(self.names)}")
        return value

    def state(self) -> list[Any]:
        """Everything that is in the books."""
        of = {"ledger_id": self.ledger.id}
        tables = [
            Account.objects.filter(**of, id__in=[a.id for a in self.accounts])
            .order_by("id")
            .values_list(
                *("id", "status", "version", "debits_posted", "credits_posted"),
                *("debits_pending", "credits_pending"),
            ),
            Entry.objects.filter(**of)
            .order_by("account_id", "account_version")
            .values_list(
                *("account_id", "account_version", "posting_number", "direction"),
                *("amount", "debits_after", "credits_after"),
            ),
            Transfer.objects.filter(**of, kind__in=["transfer", "capture"])
            .order_by("id")
            .values_list(
                *("kind", "hold_id", "source_postings", "reference", "permission"),
                *("actor", "request_id"),
            ),
            Hold.objects.filter(**of)
            .order_by("id")
            .values_list("id", "status", "reference", "actor", "key_id"),
            HoldPosting.objects.filter(**of)
            .order_by("hold_id", "number")
            .values_list(
                *("hold_id", "number", "amount", "capture_limit", "captured"),
                "released",
            ),
            HoldEvent.objects.filter(**of)
            .order_by("id")
            .values_list(
                *("hold_id", "kind", "captured", "released", "reason", "actor"),
            ),
            OutboxTask.objects.filter(**of)
            .order_by("id")
            .values_list("kind", "state", "request_id"),
        ]
        rows = [
            [[self.plain(value) for value in row] for row in table] for table in tables
        ]
        return [*(sorted(table, key=repr) for table in rows), used(self.accounts[1])]


def answer_json(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, PostedTransfer):
        return transfer_json(outcome)
    if isinstance(outcome, HoldView):
        return hold_json(outcome)
    problem = outcome.problem if isinstance(outcome, ProblemError) else outcome
    return {"code": problem.code, **problem.fields}


@pytest.mark.parametrize("seed", range(20))
def test_that_together_they_come_out_as_one_after_the_other(seed):
    chance = Chance(seed)
    apart, joint = Books(), Books()
    for _ in range(ROUNDS):
        for event in chance.events():
            apart.happen(event)
            joint.happen(event)
        operations = chance.operations()

        answers = joint.do(operations, together=True)

        assert answers == apart.do(operations, together=False)
        assert joint.state() == apart.state()
    for books in (apart, joint):
        report = audit_run(ledger_slug=books.ledger.slug)
        assert report.is_sound, report.findings


# --- One by one -------------------------------------------------------------------


def test_that_of_captures_and_voids_of_one_hold_the_first_wins():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    target = AccountFactory(ledger=ledger)
    taken, given_up = place(source, target, 300), place(source, target, 300)

    outcomes = run(
        ledger,
        CaptureRequest(taken.id),
        VoidRequest(taken.id),
        CaptureRequest(taken.id),
        VoidRequest(given_up.id),
        CaptureRequest(given_up.id),
    )

    assert codes(outcomes) == [
        *("done", "hold_not_active", "hold_not_active"),
        *("done", "hold_not_active"),
    ]
    assert (fresh(source).posted, fresh(target).posted) == (700, 300)
    assert fresh(source).debits_pending == fresh(target).credits_pending == 0
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_that_parts_of_one_hold_are_captured_up_to_what_it_holds():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    target = AccountFactory(ledger=ledger)
    hold = place(source, target, 250)

    outcomes = run(ledger, *[CaptureRequest(hold.id, 100) for _ in range(3)])

    assert codes(outcomes) == ["done", "done", "capture_exceeds_hold"]
    assert [o.balances[1].posted for o in outcomes[:2]] == [100, 200]
    assert fresh(source).debits_pending == 50


def test_that_a_capture_and_a_transfer_see_what_the_other_left():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=300)
    target = AccountFactory(ledger=ledger)
    hold = place(source, target, 200)

    outcomes = run(
        ledger,
        transfer_request(source, target, 101),
        CaptureRequest(hold.id, 150, is_final=True),
        transfer_request(target, source, 150),
        hold_request(source, target, 301),
        hold_request(source, target, 300),
        transfer_request(source, target, 1),
    )

    assert codes(outcomes) == [
        *("insufficient_funds", "done", "done"),
        *("insufficient_funds", "done", "insufficient_funds"),
    ]
    assert fresh(source).posted == fresh(source).debits_pending == 300


def test_that_what_a_hold_releases_makes_room_for_the_next_at_once():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    target = AccountFactory(ledger=ledger)
    limit(source, ("out", "day", 300, 3))
    voided, partly = place(source, target, 200), place(source, target, 100)

    outcomes = run(
        ledger,
        transfer_request(source, target, 1),
        VoidRequest(voided.id),
        transfer_request(source, target, 201),
        # Of its count nothing is given back, for a part was captured.
        CaptureRequest(partly.id, 40, is_final=True),
        transfer_request(source, target, 200),
        transfer_request(source, target, 50),
        transfer_request(source, target, 1),
    )

    assert codes(outcomes) == [
        *("limit_exceeded", "done", "limit_exceeded"),
        *("done", "done", "done", "limit_exceeded"),
    ]
    assert used(source) == {("out", "day"): (290, 3)}


def test_that_a_lapsed_hold_which_others_name_is_ended_once():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=300)
    target = AccountFactory(ledger=ledger)
    limit(source, ("out", "day", 700, None))
    hold = place(source, target, 300)
    lapse(hold)

    outcomes = run(
        ledger,
        CaptureRequest(hold.id),
        transfer_request(source, target, 300),
        VoidRequest(hold.id),
        CaptureRequest(hold.id),
        transfer_request(target, source, 300),
        transfer_request(source, target, 300),
        transfer_request(target, source, 300),
        transfer_request(source, target, 101),
    )

    assert codes(outcomes) == [
        *("hold_expired", "done", "hold_expired", "hold_expired"),
        *("done", "done", "done", "limit_exceeded"),
    ]
    assert Hold.objects.get(ledger_id=ledger.id, id=hold.id).status == "expired"
    assert fresh(source).debits_pending == 0


def test_that_a_hold_which_lapses_under_its_lock_is_ended_for_all():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=300)
    target = AccountFactory(ledger=ledger)
    hold = place(source, target, 300)
    lapse(hold)
    batch = Batch(ledger_id=ledger.id, actor=ACTOR, now=now())
    batch.lock([source.id, target.id], hold_ids=[hold.id])
    # When it was locked, its time had not come.
    batch.holds[hold.id].is_lapsed = False

    assert batch.post(transfer_request(source, target, 300)) is None
    late = hold_capture(batch, request=CaptureRequest(hold.id), actor=ACTOR)
    batch.write()

    assert code(late) == "hold_expired"
    assert (fresh(source).posted, fresh(source).debits_pending) == (0, 0)
    assert hold_get(ledger_id=ledger.id, hold_id=hold.id).row.status == "expired"


def test_that_a_capture_whose_own_hold_lapses_while_it_is_judged_is_refused():
    ledger = LedgerFactory()
    Ledger.objects.filter(id=ledger.id).update(settings={OVER_CAPTURE: 1_000})
    source = AccountFactory(ledger=ledger, balance=100)
    target = AccountFactory(ledger=ledger)
    hold = place(source, target, 100)
    lapse(hold)
    batch = Batch(ledger_id=ledger.id, actor=ACTOR, now=now())
    batch.lock(hold_ids=[hold.id])
    # When it was locked, its time had not come.
    batch.holds[hold.id].is_lapsed = False

    # Ten are lacking, and what frees them is the end of this hold.
    late = hold_capture(batch, request=CaptureRequest(hold.id, 110), actor=ACTOR)
    batch.write()

    assert code(late) == "hold_expired"
    assert (fresh(source).posted, fresh(source).debits_pending) == (100, 0)
    assert hold_get(ledger_id=ledger.id, hold_id=hold.id).row.status == "expired"


def test_that_a_reference_is_taken_once_by_a_transfer_and_once_by_a_hold():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=300)
    target = AccountFactory(ledger=ledger)
    hold = place(source, target, 20)
    place(source, target, 1, reference="old")

    outcomes = run(
        ledger,
        hold_request(source, target, 1, reference="new"),
        hold_request(source, target, 1, reference="new"),
        hold_request(source, target, 1, reference="old"),
        transfer_request(source, target, 1, reference="old"),
        CaptureRequest(hold.id, 5, reference="new"),
        CaptureRequest(hold.id, 5, reference="old"),
        transfer_request(source, target, 1, reference="new"),
    )

    assert codes(outcomes) == [
        *("done", "reference_taken", "reference_taken", "done"),
        *("done", "reference_taken", "reference_taken"),
    ]


def test_that_each_acts_with_its_own_permissions_and_is_recorded_as_its_own():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=300)
    target = AccountFactory(ledger=ledger)
    hold, other = place(source, target, 100), place(source, target, 100)
    Account.objects.filter(ledger_id=ledger.id, id=source.id).update(status="frozen")
    rich = AccountFactory(ledger=ledger, balance=10)
    wanted = hold_request(rich, target, 10, idempotency_key="key-1")

    requests: list[tuple[Operation, Actor]] = [
        (CaptureRequest(hold.id), ACTOR),
        (CaptureRequest(hold.id, idempotency_key="key-2"), BOSS),
        (CaptureRequest(other.id), ACTOR),
        (VoidRequest(other.id, "fraud"), BOSS),
        (wanted, BOSS),
    ]
    outcomes = operations_run(ledger_id=ledger.id, requests=requests, now=now())

    assert codes(outcomes) == [
        *("account_frozen", "done", "account_frozen"),
        *("done", "done"),
    ]
    captured = Transfer.objects.get(ledger_id=ledger.id, hold_id=hold.id)
    placed = Hold.objects.get(ledger_id=ledger.id, id=wanted.id)
    ended = HoldEvent.objects.get(hold_id=other.id, kind="voided")
    assert captured.permission == "capture_frozen"
    assert (captured.idempotency_key, placed.idempotency_key) == ("key-2", "key-1")
    assert ended.reason == "fraud"
    for row in (captured, placed, ended):
        assert (row.actor, row.client_id, row.key_id, row.request_id) == (
            *("boss", BOSS.client_id, BOSS.key_id),
            "request-2",
        )


def test_that_what_cannot_be_judged_leaves_the_others_alone():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=300)
    target = AccountFactory(ledger=ledger)
    hold = place(source, target, 100)
    elsewhere = LedgerFactory()
    stranger = AccountFactory(ledger=elsewhere, balance=5)
    foreign = place(stranger, AccountFactory(ledger=elsewhere), 5)

    outcomes = run(
        ledger,
        CaptureRequest(new_id()),
        CaptureRequest(hold.id, {2: 1}),
        VoidRequest(new_id()),
        CaptureRequest(foreign.id),
        CaptureRequest(hold.id),
    )

    assert codes(outcomes) == [
        *("hold_not_found", "invalid_request", "hold_not_found"),
        *("hold_not_found", "done"),
    ]
    assert [isinstance(o, ProblemError) for o in outcomes] == [True] * 4 + [False]


def test_that_answers_say_what_is_stored():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=300)
    target = AccountFactory(ledger=ledger)
    fields = {"reference": "r-1", "description": "words", "metadata": {"a": [1, None]}}
    held = place(source, target, 100, lifetime=timedelta(hours=1), **fields)
    dated = place(source, target, 100, expires_at=now() + timedelta(days=2))
    later = extend(dated, now() + timedelta(days=3))

    def stored(hold: HoldView) -> dict[str, Any]:
        return hold_json(hold_get(ledger_id=ledger.id, hold_id=hold.id))

    assert hold_json(held) == stored(held)
    assert hold_json(later) == stored(dated)
    (voided,) = run(ledger, VoidRequest(held.id))
    assert isinstance(voided, HoldView)
    assert hold_json(voided) == stored(held)
    assert voided.row.ended_at is not None
    assert voided.status == HoldStatus.VOIDED


def test_that_any_number_takes_the_same_statements(django_assert_num_queries):
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=3_000)
    targets = [AccountFactory(ledger=ledger) for _ in range(5)]
    holds = [place(source, target, 10) for target in targets]

    # The accounts' locks, the holds' locks, the settings, and the one that writes.
    with django_assert_num_queries(4):
        outcomes = run(
            ledger,
            *[hold_request(source, target, 1) for target in targets],
            *[CaptureRequest(hold.id, 1) for hold in holds],
            *[transfer_request(source, target, 1) for target in targets],
            *[VoidRequest(hold.id) for hold in holds],
        )

    assert codes(outcomes) == ["done"] * 20
