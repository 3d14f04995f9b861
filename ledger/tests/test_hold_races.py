"""Captures, voids, expiries and reversals that meet: exactly one of each pair wins."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection

from ledger.audit import audit_run
from ledger.enums import ReversalReason
from ledger.models import Account, Hold, Ledger, Transfer
from ledger.selectors.holds import HoldView
from ledger.services.holds import holds_expire
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    move,
    post,
    transfer_request,
)
from ledger.tests.holds import capture, extend, place, void
from ledger.tests.test_races import at_once
from ledger.types import PostedTransfer
from outbox.enums import TaskKind
from outbox.models import OutboxTask
from outbox.providers.base import ProviderResult
from outbox.tests.fakes import ScriptedProvider, make_dispatcher
from payflow.clock import now
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import Problem
from payflow.tests.processes import wait_until

pytestmark = pytest.mark.usefixtures("committed_db")


def name_of(work: Callable[[], object]) -> Callable[[], str]:
    """Runs work as a request does; says what came of it."""

    def once() -> object:
        with transaction_owner():
            return work()

    def run() -> str:
        outcome = retry_on_conflict(once)
        return outcome.code if isinstance(outcome, Problem) else "done"

    return run


def pair(balance: int) -> tuple[Ledger, Account, Account]:
    with transaction_owner():
        ledger = LedgerFactory()
        source = AccountFactory(ledger=ledger, balance=balance)
        return ledger, source, AccountFactory(ledger=ledger)


def placed(source: Account, target: Account, amount: int, **fields: object) -> HoldView:
    with transaction_owner():
        hold = place(source, target, amount, **fields)
    assert isinstance(hold, HoldView), hold
    return hold


def has_lapsed(hold: HoldView) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp() >= %s", [hold.row.expires_at])
        (lapsed,) = cursor.fetchone()
    return bool(lapsed)


@pytest.mark.parametrize("round_number", range(5))
def test_of_captures_and_voids_that_meet_one_wins(round_number):
    ledger, source, target = pair(1_000)
    hold = placed(source, target, 300)

    outcomes = at_once(
        [
            name_of(lambda: capture(hold)),
            name_of(lambda: void(hold)),
            name_of(lambda: capture(hold)),
            name_of(lambda: void(hold)),
        ]
    )

    assert sorted(outcomes) == ["done", *["hold_not_active"] * 3]
    status = Hold.objects.get(ledger_id=ledger.id, id=hold.id).status
    moved = 300 if status == "captured" else 0
    assert (fresh(source).posted, fresh(target).posted) == (1_000 - moved, moved)
    assert fresh(source).debits_pending == fresh(target).credits_pending == 0
    assert audit_run(ledger_slug=ledger.slug).is_sound


@pytest.mark.parametrize("round_number", range(3))
def test_of_a_capture_a_void_and_an_expiry_that_meet_the_expiry_wins(round_number):
    ledger, source, target = pair(1_000)
    hold = placed(source, target, 300, lifetime=timedelta(milliseconds=30))
    wait_until(lambda: has_lapsed(hold), seconds=10)

    def sweep() -> object:
        with transaction_owner():
            return holds_expire(ledger_id=ledger.id, now=now())

    outcomes = at_once(
        [
            name_of(lambda: capture(hold)),
            name_of(lambda: void(hold)),
            name_of(lambda: extend(hold, now() + timedelta(days=1))),
            sweep,
            sweep,
        ]
    )

    assert outcomes[:3] == ["hold_expired"] * 3
    assert sorted(outcomes[3:]) == [0, 1]
    assert fresh(source).posted == fresh(source).available == 1_000
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_a_capture_that_meets_the_moment_of_expiry_is_before_it_or_refused():
    """Around the very instant: whoever wins, the books say one thing."""
    ledger, source, target = pair(10_000)
    holds = [
        placed(source, target, 10, lifetime=timedelta(milliseconds=60 + 15 * n))
        for n in range(8)
    ]

    def take(hold: HoldView) -> Callable[[], object]:
        def run() -> str:
            # No pause and no luck: some are in time, some are not, all are judged.
            outcome = name_of(lambda: capture(hold, 1))
            results = [outcome()]
            while results[-1] == "done" and len(results) < 10:
                results.append(outcome())
            return results[-1]

        return run

    outcomes = at_once([take(hold) for hold in holds])

    # Nine parts of ten fit in; the tenth ends the hold, so none can go on for ever.
    assert set(outcomes) <= {"done", "hold_expired", "hold_not_active"}
    captures = [
        (transfer.created_at, hold.row.expires_at)
        for hold in holds
        for transfer in Transfer.objects.filter(ledger_id=ledger.id, hold_id=hold.id)
    ]
    assert all(recorded < expires for recorded, expires in captures)
    assert fresh(target).posted == len(captures)


def test_parts_that_are_captured_at_once_never_exceed_the_hold():
    _, source, target = pair(1_000)
    hold = placed(source, target, 500)

    outcomes = at_once([name_of(lambda: capture(hold, 100)) for _ in range(8)])

    assert outcomes.count("done") == 5
    assert set(outcomes) == {"done", "hold_not_active"}
    assert (fresh(source).posted, fresh(target).posted) == (500, 500)


def test_holds_at_once_reserve_no_more_than_there_is():
    ledger, source, target = pair(500)

    outcomes = at_once([name_of(lambda: place(source, target, 100)) for _ in range(9)])

    assert sorted(outcomes) == ["done"] * 5 + ["insufficient_funds"] * 4
    assert fresh(source).available == 0
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_reversals_at_once_never_give_back_more_than_was_moved():
    ledger, source, target = pair(1_000)
    with transaction_owner():
        sent = move(source, target, 300)
        move(source, target, 700)
    assert isinstance(sent, PostedTransfer)

    def back() -> object:
        return transfer_reverse(
            ledger_id=ledger.id,
            request=ReversalRequest(sent.id, ReversalReason.ERROR, parts=100),
            actor=ACTOR,
            now=now(),
        )

    outcomes = at_once([name_of(back) for _ in range(7)])

    assert sorted(outcomes) == ["done"] * 3 + ["reversal_exceeds_transfer"] * 4
    assert fresh(source).posted == 300
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_lapsed_holds_on_shared_accounts_are_ended_by_transfers_that_meet():
    """Each needs the other's accounts too: a deadlock is tried again, not answered."""
    with transaction_owner():
        ledger = LedgerFactory()
        accounts = [AccountFactory(ledger=ledger, balance=100) for _ in range(4)]
        sink = AccountFactory(ledger=ledger)
    holds = [
        placed(source, target, 100, lifetime=timedelta(milliseconds=30))
        for source, target in zip(accounts, accounts[1:] + accounts[:1], strict=True)
    ]
    wait_until(lambda: all(has_lapsed(hold) for hold in holds), seconds=10)

    outcomes = at_once(
        [name_of(lambda a=account: move(a, sink, 100)) for account in accounts]
    )

    assert outcomes == ["done"] * 4
    assert fresh(sink).posted == 400
    assert all(fresh(account).debits_pending == 0 for account in accounts)
    assert audit_run(ledger_slug=ledger.slug).is_sound


def payout(ledger: Ledger) -> tuple[Account, OutboxTask]:
    with transaction_owner():
        source = AccountFactory(ledger=ledger, balance=100)
        bank = AccountFactory(ledger=ledger, payout_destination="DE00")
        (sent,) = post(transfer_request(source, bank, 60), ledger=ledger)
    assert isinstance(sent, PostedTransfer)
    return source, OutboxTask.objects.get(
        ledger_id=ledger.id, transfer_id=sent.id, kind=TaskKind.PAYOUT
    )


def call_back(ledger: Ledger, task: OutboxTask) -> object:
    return transfer_reverse(
        ledger_id=ledger.id,
        request=ReversalRequest(task.transfer_id, ReversalReason.FRAUD),
        actor=ACTOR,
        now=now(),
    )


def test_a_payout_that_the_bank_is_asked_for_cannot_be_called_back():
    """The dispatcher first: while the bank has not answered, a reversal is refused."""
    with transaction_owner():
        ledger = LedgerFactory()
    source, task = payout(ledger)
    asked, answer = threading.Event(), threading.Event()

    def answer_late() -> ProviderResult:
        asked.set()
        assert answer.wait(30)
        return ProviderResult.SETTLED

    dispatcher = make_dispatcher(ScriptedProvider([answer_late]))

    def dispatch() -> object:
        return dispatcher.drain(ledger_id=ledger.id)

    def reverse() -> object:
        assert asked.wait(30)
        try:
            return name_of(lambda: call_back(ledger, task))()
        finally:
            answer.set()

    outcomes = at_once([dispatch, reverse])

    assert outcomes[1] == "payout_in_progress"
    assert fresh(source).posted == 40


def test_a_payout_that_is_called_back_first_is_never_sent():
    """The reversal first: a dispatcher that meets its lock finds nothing to send."""
    with transaction_owner():
        ledger = LedgerFactory()
    source, task = payout(ledger)
    bank = ScriptedProvider([])
    locked, dispatched = threading.Event(), threading.Event()

    def reverse() -> object:
        with transaction_owner():
            outcome = call_back(ledger, task)
            locked.set()
            assert dispatched.wait(30)
        return isinstance(outcome, PostedTransfer)

    def dispatch() -> object:
        assert locked.wait(30)
        try:
            return make_dispatcher(bank).drain(ledger_id=ledger.id)
        finally:
            dispatched.set()

    outcomes = at_once([reverse, dispatch])

    assert outcomes[0] is True
    assert bank.calls == []
    assert fresh(source).posted == 100
    assert audit_run(ledger_slug=ledger.slug).is_sound
