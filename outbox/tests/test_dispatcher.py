"""The dispatcher: claim, call, finish, and everything that can happen between."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from outbox import dispatcher as dispatcher_module
from outbox import retry
from outbox.dispatcher import LEASE_SECONDS, PAYOUT_BATCH, Dispatcher
from outbox.enums import TaskKind, TaskState
from outbox.handlers import CompensationRefused, NoEndpointHandler
from outbox.models import OutboxTask
from outbox.providers.base import ProviderAnswer, ProviderResult
from outbox.providers.http import HttpPayoutProvider
from outbox.services import task_cancel_unsent, task_retry
from outbox.tests.bank import SimulatedBank
from outbox.tests.factories import (
    complete,
    history,
    make_due,
    make_task,
    make_tasks,
    reload,
    set_columns,
)
from outbox.tests.fakes import RecordingHandler, ScriptedProvider, make_dispatcher
from payflow.ids import new_id

pytestmark = pytest.mark.usefixtures("committed_db")


def seconds_until_due(task: OutboxTask) -> float:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM due_at - now())::float8 FROM outbox_task"
            " WHERE ledger_id = %s AND id = %s",
            [task.ledger_id, task.id],
        )
        (seconds,) = cursor.fetchone()
    return float(seconds)


@pytest.fixture
def no_settle_delay(settings: Any) -> None:
    settings.PAYOUT_SETTLE_DELAY_SECONDS = 0.0


# --- with the real bank -----------------------------------------------------------


def test_a_payout_is_sent_and_settled(ledger_id: UUID, bank: SimulatedBank) -> None:
    handler = RecordingHandler()
    task = make_task(ledger_id=ledger_id)

    make_dispatcher(HttpPayoutProvider(bank.url), handler).drain(ledger_id=ledger_id)

    done = reload(task)
    assert (done.state, done.delivery) == ("done", "settled")
    assert done.completion_transfer_id is not None
    assert done.finished_at is not None
    assert done.provider_reference.startswith("bank-")
    assert handler.settled == [task.id]
    assert history(task) == [("send", "settled")]
    assert bank.payments(task.id) == (1, task.amount)


def test_a_rejected_payout_is_reversed(ledger_id: UUID, bank: SimulatedBank) -> None:
    handler = RecordingHandler()
    task = make_task(ledger_id=ledger_id, destination=bank.destination("reject"))

    make_dispatcher(HttpPayoutProvider(bank.url), handler).drain(ledger_id=ledger_id)

    done = reload(task)
    assert (done.state, done.delivery) == ("done", "rejected")
    assert handler.rejected == [(task.id, "account closed")]
    assert handler.settled == []
    assert bank.payments(task.id) == (0, 0)


@pytest.mark.parametrize(
    ("behaviour", "end"), [("settle_later", "settled"), ("reject_later", "rejected")]
)
def test_a_later_decision_is_learnt_by_inquiry(
    ledger_id: UUID, bank: SimulatedBank, behaviour: str, end: str
) -> None:
    dispatcher = make_dispatcher(HttpPayoutProvider(bank.url))
    destination = bank.destination(behaviour, delay_seconds=0)
    task = make_task(ledger_id=ledger_id, destination=destination)

    dispatcher.drain(ledger_id=ledger_id)
    waiting = reload(task)
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)

    done = reload(task)
    assert (waiting.state, waiting.delivery) == ("pending", "accepted")
    assert (done.state, done.delivery) == ("done", end)
    assert history(task) == [("send", "accepted"), ("inquire", end)]


@pytest.mark.parametrize("behaviour", ["cut", "fail_after_accept"])
def test_a_payout_cut_after_it_was_accepted_is_paid_once(
    ledger_id: UUID, bank: SimulatedBank, behaviour: str
) -> None:
    dispatcher = make_dispatcher(HttpPayoutProvider(bank.url))
    task = make_task(ledger_id=ledger_id, destination=bank.destination(behaviour))

    dispatcher.drain(ledger_id=ledger_id)
    waiting = reload(task)
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)

    assert (waiting.state, waiting.delivery) == ("pending", "unknown")
    assert reload(task).delivery == "settled"
    assert history(task) == [("send", "unknown"), ("inquire", "settled")]
    assert bank.payments(task.id) == (1, task.amount)


@pytest.mark.usefixtures("no_settle_delay")
def test_a_payout_that_the_bank_failed_to_record_is_sent_again(
    ledger_id: UUID, bank: SimulatedBank
) -> None:
    dispatcher = make_dispatcher(HttpPayoutProvider(bank.url))
    destination = bank.destination("fail", times=1)
    task = make_task(ledger_id=ledger_id, destination=destination)

    dispatcher.drain(ledger_id=ledger_id)
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)

    assert reload(task).delivery == "settled"
    assert history(task) == [
        ("send", "unknown"),
        ("inquire", "not_found"),
        ("send", "settled"),
    ]
    assert bank.payments(task.id) == (1, task.amount)


def test_a_dead_bank_leaves_the_payout_unsent_and_later_it_is_paid(
    ledger_id: UUID, own_bank: SimulatedBank
) -> None:
    task = make_task(ledger_id=ledger_id)
    own_bank.kill()
    make_dispatcher(HttpPayoutProvider(own_bank.url)).drain(ledger_id=ledger_id)
    waiting = reload(task)
    own_bank.start()

    make_due(task)
    make_dispatcher(HttpPayoutProvider(own_bank.url)).drain(ledger_id=ledger_id)

    assert (waiting.state, waiting.delivery) == ("pending", "unsent")
    assert waiting.failure_count == 1
    assert history(task) == [("send", "not_sent"), ("send", "settled")]
    assert own_bank.payments(task.id) == (1, task.amount)


# --- what follows each answer -----------------------------------------------------


def test_not_found_right_after_a_send_is_not_believed(
    ledger_id: UUID, settings: Any
) -> None:
    provider = ScriptedProvider(["unknown", "not_found"])
    dispatcher = make_dispatcher(provider)
    task = make_task(ledger_id=ledger_id)

    dispatcher.drain(ledger_id=ledger_id)
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)

    waiting = reload(task)
    assert provider.actions == ["send", "inquire"]
    assert (waiting.state, waiting.delivery) == ("pending", "unknown")
    delay = settings.PAYOUT_SETTLE_DELAY_SECONDS
    assert delay - 5 < seconds_until_due(task) <= delay + 1


def test_every_send_carries_the_same_key(
    ledger_id: UUID, no_settle_delay: None
) -> None:
    provider = ScriptedProvider(["unknown", "not_found", "unknown", "settled"])
    dispatcher = make_dispatcher(provider)
    task = make_task(ledger_id=ledger_id)

    for _ in range(3):
        make_due(task)
        dispatcher.drain(ledger_id=ledger_id)
        if reload(task).state == "done":
            break

    assert provider.calls == [
        ("send", task.id),
        ("inquire", task.id),
        ("send", task.id),
        ("inquire", task.id),
    ]


def test_an_accepted_payout_is_never_sent_again(
    ledger_id: UUID, no_settle_delay: None
) -> None:
    provider = ScriptedProvider(["accepted", "not_found", "not_sent", "settled"])
    dispatcher = make_dispatcher(provider)
    task = make_task(ledger_id=ledger_id)

    deliveries = []
    for _ in range(4):
        make_due(task)
        dispatcher.drain(ledger_id=ledger_id)
        deliveries.append(reload(task).delivery)

    assert deliveries == ["accepted", "accepted", "accepted", "settled"]
    assert provider.actions == ["send", "inquire", "inquire", "inquire"]


def test_a_send_that_was_not_made_after_one_that_may_have_been_stays_unknown(
    ledger_id: UUID, no_settle_delay: None
) -> None:
    provider = ScriptedProvider(["unknown", "not_found", "not_sent", "settled"])
    dispatcher = make_dispatcher(provider)
    task = make_task(ledger_id=ledger_id)

    dispatcher.drain(ledger_id=ledger_id)
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)
    waiting = reload(task)
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)

    assert waiting.delivery == "unknown"
    assert provider.actions == ["send", "inquire", "send", "inquire"]


def test_retry_after_decides_when_it_is_due(ledger_id: UUID) -> None:
    answer = ProviderAnswer(
        result=ProviderResult.RETRY_LATER, detail="HTTP 429", retry_after_seconds=120
    )
    task = make_task(ledger_id=ledger_id)

    make_dispatcher(ScriptedProvider([answer])).drain(ledger_id=ledger_id)

    waiting = reload(task)
    assert 115 < seconds_until_due(task) <= 121
    assert (waiting.state, waiting.delivery) == ("pending", "unknown")


def test_a_provider_that_raises_is_taken_for_unknown(ledger_id: UUID) -> None:
    def bug() -> None:
        raise KeyError("a bug")

    task = make_task(ledger_id=ledger_id)

    make_dispatcher(ScriptedProvider([bug])).drain(ledger_id=ledger_id)

    assert (reload(task).state, reload(task).delivery) == ("pending", "unknown")
    assert history(task) == [("send", "unknown")]


def test_the_provider_is_called_with_no_transaction_open(ledger_id: UUID) -> None:
    seen = []

    def look() -> str:
        seen.append(connection.in_atomic_block)
        return "settled"

    make_task(ledger_id=ledger_id)
    make_dispatcher(ScriptedProvider([look])).drain(ledger_id=ledger_id)

    assert seen == [False]


def test_an_attempt_is_on_record_before_the_call(ledger_id: UUID) -> None:
    seen: list[Any] = []

    def look() -> str:
        seen.append((history(task), reload(task).delivery))
        return "settled"

    task = make_task(ledger_id=ledger_id)
    make_dispatcher(ScriptedProvider([look])).drain(ledger_id=ledger_id)

    assert seen == [([("send", None)], "unknown")]


# --- giving up --------------------------------------------------------------------


def test_a_payout_dies_of_too_many_failures(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id, failure_count=retry.MAX_FAILURES - 1)

    make_dispatcher(ScriptedProvider(["unknown"])).drain(ledger_id=ledger_id)

    dead = reload(task)
    assert (dead.state, dead.delivery) == ("dead", "unknown")
    assert dead.finished_at is not None
    assert dead.last_error.startswith("gave up after")
    assert dead.completion_transfer_id is None


@pytest.mark.parametrize(
    ("answer", "delivery", "age_seconds", "state"),
    [
        ("unknown", "unknown", retry.MAX_AGE_SECONDS + 60, "dead"),
        ("unknown", "unknown", retry.MAX_AGE_SECONDS - 60, "pending"),
        ("not_sent", "unsent", retry.MAX_AGE_SECONDS + 60, "dead"),
        ("accepted", "accepted", retry.MAX_AGE_SECONDS + 60, "pending"),
        ("unknown", "accepted", retry.MAX_AGE_SECONDS + 60, "pending"),
        ("accepted", "accepted", retry.MAX_ACCEPTED_AGE_SECONDS + 60, "dead"),
        ("unknown", "accepted", retry.MAX_ACCEPTED_AGE_SECONDS + 60, "dead"),
        ("settled", "accepted", retry.MAX_ACCEPTED_AGE_SECONDS + 60, "done"),
    ],
)
def test_a_payout_dies_of_age(
    ledger_id: UUID, answer: str, delivery: str, age_seconds: float, state: str
) -> None:
    task = make_task(
        ledger_id=ledger_id,
        delivery=delivery,
        retried_at=Now() - timedelta(seconds=age_seconds),
    )

    make_dispatcher(ScriptedProvider([answer])).drain(ledger_id=ledger_id)

    assert reload(task).state == state
    if answer != "settled":
        assert reload(task).delivery == delivery


def test_polling_an_accepted_payout_is_no_failure(ledger_id: UUID) -> None:
    task = make_task(
        ledger_id=ledger_id, delivery="accepted", failure_count=retry.MAX_FAILURES - 1
    )

    make_dispatcher(ScriptedProvider(["accepted"])).drain(ledger_id=ledger_id)

    assert (reload(task).state, reload(task).failure_count) == ("pending", 0)


def test_a_dead_payout_is_taken_up_again_by_inquiry(ledger_id: UUID) -> None:
    provider = ScriptedProvider(["unknown", "settled"])
    dispatcher = make_dispatcher(provider)
    task = make_task(ledger_id=ledger_id, failure_count=retry.MAX_FAILURES - 1)
    dispatcher.drain(ledger_id=ledger_id)

    with transaction.atomic():
        taken_up = task_retry(ledger_id=ledger_id, task_id=task.id)
    dispatcher.drain(ledger_id=ledger_id)

    assert taken_up
    assert provider.actions == ["send", "inquire"]
    assert reload(task).state == "done"


def test_the_age_of_a_payout_taken_up_again_starts_anew(ledger_id: UUID) -> None:
    task = make_task(
        ledger_id=ledger_id,
        retried_at=Now() - timedelta(days=30),
        state="dead",
        finished_at=Now(),
    )

    with transaction.atomic():
        task_retry(ledger_id=ledger_id, task_id=task.id)
    make_dispatcher(ScriptedProvider(["not_sent"])).drain(ledger_id=ledger_id)

    assert reload(task).state == "pending"


# --- decisions that cannot be booked ----------------------------------------------


@pytest.mark.parametrize("decision", ["settled", "rejected"])
def test_a_refused_compensation_needs_attention_and_then_is_only_booked(
    ledger_id: UUID, decision: str
) -> None:
    refusals = [CompensationRefused("account_closed", "the account is closed")]

    def refuse_once(task: OutboxTask) -> None:
        set_columns(task, "last_error = 'written by the handler'")
        if refusals:
            raise refusals.pop()

    provider, handler = ScriptedProvider([decision]), RecordingHandler(refuse_once)
    dispatcher = make_dispatcher(provider, handler)
    task = make_task(ledger_id=ledger_id)

    dispatcher.drain(ledger_id=ledger_id)
    stuck = reload(task)
    with transaction.atomic():
        task_retry(ledger_id=ledger_id, task_id=task.id)
    dispatcher.drain(ledger_id=ledger_id)

    assert (stuck.state, stuck.delivery) == ("needs_attention", decision)
    assert stuck.last_error == "account_closed: the account is closed"
    assert reload(task).state == "done"
    assert reload(task).delivery == decision
    assert history(task) == [("send", decision)]
    assert provider.actions == ["send"]
    if decision == "rejected":
        assert handler.rejected == [(task.id, "it said rejected")]


def test_a_deadlock_while_booking_is_tried_again_at_once(ledger_id: UUID) -> None:
    failures = ["first", "second"]

    def conflict(_task: OutboxTask) -> None:
        if failures:
            failures.pop()
            with connection.cursor() as cursor:
                cursor.execute(
                    "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$"
                )

    handler = RecordingHandler(conflict)
    task = make_task(ledger_id=ledger_id)

    make_dispatcher(ScriptedProvider(["settled"]), handler).drain(ledger_id=ledger_id)

    assert reload(task).state == "done"
    assert handler.settled == [task.id]


@pytest.mark.parametrize("sqlstate", ["40P01", "55P03", "57014"])
def test_a_decision_outlives_a_busy_ledger_and_is_booked_later(
    ledger_id: UUID, sqlstate: str
) -> None:
    busy = True

    def conflict(_task: OutboxTask) -> None:
        if busy:
            with connection.cursor() as cursor:
                cursor.execute(
                    "DO $$ BEGIN RAISE EXCEPTION 'x'"
                    f" USING ERRCODE = '{sqlstate}'; END $$"
                )

    provider, handler = ScriptedProvider(["settled"]), RecordingHandler(conflict)
    dispatcher = make_dispatcher(provider, handler)
    task = make_task(ledger_id=ledger_id)

    dispatcher.drain(ledger_id=ledger_id)
    waiting = reload(task)
    busy = False
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)

    assert (waiting.state, waiting.delivery) == ("pending", "settled")
    assert reload(task).state == "done"
    assert handler.settled == [task.id]
    assert provider.actions == ["send"]


def test_a_bug_while_booking_keeps_the_decision(ledger_id: UUID) -> None:
    def bug(_task: OutboxTask) -> None:
        raise ZeroDivisionError

    task = make_task(ledger_id=ledger_id)

    dispatcher = make_dispatcher(ScriptedProvider(["settled"]), RecordingHandler(bug))
    dispatcher.drain(ledger_id=ledger_id)

    waiting = reload(task)
    assert (waiting.state, waiting.delivery) == ("pending", "settled")
    assert waiting.last_error == "booking failed: ZeroDivisionError"


def test_a_booking_that_fails_too_often_needs_attention(ledger_id: UUID) -> None:
    def bug(_task: OutboxTask) -> None:
        raise ZeroDivisionError

    task = make_task(
        ledger_id=ledger_id, delivery="settled", failure_count=retry.MAX_FAILURES - 1
    )

    make_dispatcher(ScriptedProvider([]), RecordingHandler(bug)).drain(
        ledger_id=ledger_id
    )

    assert reload(task).state == "needs_attention"


def test_a_lost_database_leaves_the_task_to_its_lease(ledger_id: UUID) -> None:
    def lose(_task: OutboxTask) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    provider = ScriptedProvider(["settled", "settled"])
    task = make_task(ledger_id=ledger_id)

    with pytest.raises(OperationalError):
        make_dispatcher(provider, RecordingHandler(lose)).drain(ledger_id=ledger_id)
    left = reload(task)
    make_due(task)
    make_dispatcher(provider).drain(ledger_id=ledger_id)

    assert (left.state, left.delivery) == ("leased", "unknown")
    assert history(task) == [("send", None), ("inquire", "settled")]
    assert reload(task).state == "done"


# --- what nobody expected ---------------------------------------------------------


def refuse_unwritably(*_: object) -> None:
    """A refusal whose words PostgreSQL refuses too, so that nothing records it."""
    raise CompensationRefused("account_closed", "no \0 in texts")


def test_a_reason_with_half_a_character_is_booked(ledger_id: UUID) -> None:
    answer = ProviderAnswer(
        result=ProviderResult.REJECTED,
        detail="bad \ud800 \0reason",
        provider_reference="ref \udc00",
    )
    task, handler = make_task(ledger_id=ledger_id), RecordingHandler()

    make_dispatcher(ScriptedProvider([answer]), handler).drain(ledger_id=ledger_id)

    assert (reload(task).state, reload(task).delivery) == ("done", "rejected")
    assert reload(task).provider_reference == "ref \ufffd"
    assert handler.rejected == [(task.id, "bad \ufffd reason")]
    assert history(task) == [("send", "rejected")]


def test_a_task_that_breaks_the_dispatcher_delays_no_other(ledger_id: UUID) -> None:
    first, second = make_tasks(ledger_id=ledger_id, count=2)

    def break_first(task: OutboxTask) -> None:
        if task.id == first.id:
            refuse_unwritably()

    report = make_dispatcher(
        ScriptedProvider(["settled", "settled"]), RecordingHandler(break_first)
    ).drain(ledger_id=ledger_id)

    waiting = reload(first)
    assert (waiting.state, waiting.delivery) == ("pending", "unknown")
    assert waiting.failure_count == 1
    assert waiting.last_error == "the dispatcher failed: DataError"
    assert seconds_until_due(first) > 0
    assert reload(second).state == "done"
    assert report.called == 2


@pytest.mark.parametrize(
    ("delivery", "state"), [("unknown", "dead"), ("settled", "needs_attention")]
)
def test_a_task_that_breaks_the_dispatcher_too_often_waits_for_a_person(
    ledger_id: UUID, delivery: str, state: str
) -> None:
    task = make_task(
        ledger_id=ledger_id, delivery=delivery, failure_count=retry.MAX_FAILURES - 1
    )

    handler = RecordingHandler(refuse_unwritably)

    make_dispatcher(ScriptedProvider(["settled"]), handler).drain(ledger_id=ledger_id)

    ended = reload(task)
    assert (ended.state, ended.delivery) == (state, delivery)
    assert ended.lease_token is None


def test_a_statement_that_fails_for_one_task_is_its_failure(ledger_id: UUID) -> None:
    def exceed(_task: OutboxTask) -> None:
        set_columns(task, "last_error = 'by the handler'")
        with connection.cursor() as cursor:
            # out of program limits, such as an index row that is too long
            cursor.execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE='54000'; END $$")

    task = make_task(ledger_id=ledger_id)

    make_dispatcher(ScriptedProvider(["settled"]), RecordingHandler(exceed)).drain(
        ledger_id=ledger_id
    )

    waiting = reload(task)
    assert (waiting.state, waiting.delivery) == ("pending", "settled")
    assert waiting.failure_count == 1


def test_a_queue_that_fails_delays_no_other(ledger_id: UUID) -> None:
    class Broken(NoEndpointHandler):
        def finish_due(self, *, ledger_id: UUID, kind: str, limit: int) -> int:
            raise ZeroDivisionError

    posted = make_task(ledger_id=ledger_id, kind=TaskKind.TRANSFER_POSTED)
    payout = make_task(ledger_id=ledger_id)
    dispatcher = Dispatcher(
        provider=ScriptedProvider(["settled"]),
        handlers={"payout": RecordingHandler(), "transfer.posted": Broken()},
    )

    dispatcher.drain(ledger_id=ledger_id)

    assert (reload(posted).state, reload(payout).state) == ("pending", "done")


# --- leases -----------------------------------------------------------------------


def test_a_lease_that_ran_out_is_taken_over_and_the_stale_finisher_refused(
    ledger_id: UUID,
) -> None:
    second_handler = RecordingHandler()
    second_provider = ScriptedProvider(["settled"])

    def overtaken() -> str:
        # In the middle of the first dispatcher's call its lease runs out, and a
        # second one takes the task over and finishes it.
        make_due(task)
        make_dispatcher(second_provider, second_handler).drain(ledger_id=ledger_id)
        return "settled"

    task = make_task(ledger_id=ledger_id)
    first_handler = RecordingHandler()

    make_dispatcher(ScriptedProvider([overtaken]), first_handler).drain(
        ledger_id=ledger_id
    )

    done = reload(task)
    assert (done.state, done.delivery) == ("done", "settled")
    assert second_provider.actions == ["inquire"]
    assert second_handler.settled == [task.id]
    # The first one booked and was rolled back: its attempt has no outcome.
    assert first_handler.settled == [task.id]
    assert history(task) == [("send", None), ("inquire", "settled")]


def test_a_stale_finishers_writes_are_rolled_back(ledger_id: UUID) -> None:
    witness = make_task(ledger_id=ledger_id, kind="transfer.posted")

    def overtaken() -> str:
        make_due(task)
        make_dispatcher(ScriptedProvider(["accepted"])).drain(ledger_id=ledger_id)
        return "settled"

    task = make_task(ledger_id=ledger_id)
    set_columns(witness, "due_at = now() + interval '1 hour'")
    handler = RecordingHandler(
        lambda _task: set_columns(witness, "last_error = 'stale write'")
    )

    make_dispatcher(ScriptedProvider([overtaken]), handler).drain(ledger_id=ledger_id)

    assert reload(witness).last_error == ""
    assert (reload(task).state, reload(task).delivery) == ("pending", "accepted")


def test_a_stale_batch_does_not_begin_a_task_that_others_took(ledger_id: UUID) -> None:
    stale = make_dispatcher(provider := ScriptedProvider([]))
    task = make_task(ledger_id=ledger_id)
    (leased,) = stale.claim(ledger_id=ledger_id, kind="payout")
    make_due(task)
    make_dispatcher(ScriptedProvider(["settled"])).drain(ledger_id=ledger_id)

    stale.work(leased, RecordingHandler())

    assert provider.calls == []
    assert history(task) == [("send", "settled")]


def test_beginning_a_call_renews_the_lease(ledger_id: UUID) -> None:
    seen = []

    def look() -> str:
        seen.append(seconds_until_due(task))
        return "settled"

    dispatcher = make_dispatcher(ScriptedProvider([look]))
    task = make_task(ledger_id=ledger_id)
    (leased,) = dispatcher.claim(ledger_id=ledger_id, kind="payout")
    set_columns(task, "due_at = now() + interval '2 seconds'")

    dispatcher.work(leased, RecordingHandler())

    assert LEASE_SECONDS - 5 < seen[0] <= LEASE_SECONDS


def test_a_running_lease_is_not_taken(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id)
    first = make_dispatcher(ScriptedProvider([]))
    second = make_dispatcher(provider := ScriptedProvider([]))
    first.claim(ledger_id=ledger_id, kind="payout")

    second.drain(ledger_id=ledger_id)

    assert provider.calls == []
    assert reload(task).state == "leased"


def test_two_dispatchers_never_take_one_task(ledger_id: UUID) -> None:
    tasks = make_tasks(ledger_id=ledger_id, count=60)
    start = threading.Barrier(4)
    taken: list[UUID] = []

    def claim_all() -> None:
        dispatcher = make_dispatcher(ScriptedProvider([]))
        start.wait()
        while batch := dispatcher.claim(ledger_id=ledger_id, kind="payout", limit=7):
            taken.extend(leased.task.id for leased in batch)
        connections.close_all()

    threads = [threading.Thread(target=claim_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == [task.id for task in tasks]


def test_a_claim_does_not_wait_for_a_task_that_is_locked(ledger_id: UUID) -> None:
    locked, free = make_tasks(ledger_id=ledger_id, count=2)
    dispatcher = make_dispatcher(ScriptedProvider([]))
    is_locked, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            set_columns(locked, "last_error = 'locked'")
            is_locked.set()
            may_end.wait()
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    is_locked.wait()

    claimed = dispatcher.claim(ledger_id=ledger_id, kind="payout")

    may_end.set()
    holder.join()
    assert [leased.task.id for leased in claimed] == [free.id]


def test_a_ledgers_claim_takes_no_other_ledgers_tasks(ledger_id: UUID) -> None:
    other = make_task(ledger_id=new_id())
    own = make_task(ledger_id=ledger_id)

    claimed = make_dispatcher(ScriptedProvider([])).claim(
        ledger_id=ledger_id, kind="payout"
    )

    assert [leased.task.id for leased in claimed] == [own.id]
    assert reload(other).state == "pending"


# --- crashes ----------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here, as far as the code under test can tell."""


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("outbox_claimed", [("send", "settled")]),
        (
            "outbox_begun",
            [("send", None), ("inquire", "not_found"), ("send", "settled")],
        ),
        ("outbox_called", [("send", None), ("inquire", "settled")]),
    ],
)
@pytest.mark.usefixtures("no_settle_delay")
def test_a_crash_anywhere_pays_exactly_once(
    ledger_id: UUID,
    bank: SimulatedBank,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    expected: list[Any],
) -> None:
    def crash(name: str) -> None:
        if name == point:
            raise Crash

    dispatcher = make_dispatcher(
        HttpPayoutProvider(bank.url), handler := RecordingHandler()
    )
    task = make_task(ledger_id=ledger_id)

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher_module.failpoints, "reach", crash)
        with pytest.raises(Crash):
            dispatcher.drain(ledger_id=ledger_id)
    left = reload(task)
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)

    assert left.state == "leased"
    assert reload(task).state == "done"
    assert handler.settled == [task.id]
    assert history(task) == expected
    assert bank.payments(task.id) == (1, task.amount)


def test_a_crash_while_booking_rolls_the_booking_back(
    ledger_id: UUID, bank: SimulatedBank
) -> None:
    crashes = [Crash]

    def crash_once(task: OutboxTask) -> None:
        set_columns(task, "last_error = 'half booked'")
        if crashes:
            raise crashes.pop()

    dispatcher = make_dispatcher(
        HttpPayoutProvider(bank.url), RecordingHandler(crash_once)
    )
    task = make_task(ledger_id=ledger_id)

    with pytest.raises(Crash):
        dispatcher.drain(ledger_id=ledger_id)
    left = reload(task)
    make_due(task)
    dispatcher.drain(ledger_id=ledger_id)

    assert (left.state, left.last_error) == ("leased", "")
    assert reload(task).state == "done"
    assert bank.payments(task.id) == (1, task.amount)


# --- cancelling -------------------------------------------------------------------


def test_a_payout_cancelled_after_the_claim_is_not_sent(ledger_id: UUID) -> None:
    dispatcher = make_dispatcher(provider := ScriptedProvider([]))
    task = make_task(ledger_id=ledger_id)
    (leased,) = dispatcher.claim(ledger_id=ledger_id, kind="payout")

    with transaction.atomic():
        cancelled = task_cancel_unsent(
            ledger_id=ledger_id,
            task_id=task.id,
            completion_transfer_id=complete(task),
        )
    dispatcher.work(leased, RecordingHandler())

    assert cancelled
    assert provider.calls == []
    assert reload(task).state == "cancelled"


def test_a_payout_is_cancelled_or_begun_and_never_both(ledger_id: UUID) -> None:
    dispatcher = make_dispatcher(ScriptedProvider(["settled"]))
    task = make_task(ledger_id=ledger_id)
    (leased,) = dispatcher.claim(ledger_id=ledger_id, kind="payout")

    worker = threading.Thread(
        target=lambda: (
            dispatcher.work(leased, RecordingHandler()),
            connections.close_all(),
        )
    )
    with transaction.atomic():
        cancelled = task_cancel_unsent(
            ledger_id=ledger_id,
            task_id=task.id,
            completion_transfer_id=complete(task),
        )
        # The dispatcher now waits for this row, or comes later; both end the same.
        worker.start()
    worker.join()

    assert cancelled
    assert history(task) == []
    assert reload(task).state == "cancelled"


def test_a_payout_that_is_being_sent_is_not_cancelled(ledger_id: UUID) -> None:
    cancelled = []

    def cancel() -> str:
        with transaction.atomic():
            cancelled.append(
                task_cancel_unsent(
                    ledger_id=ledger_id,
                    task_id=task.id,
                    completion_transfer_id=task.transfer_id,
                )
            )
        return "settled"

    task = make_task(ledger_id=ledger_id)

    make_dispatcher(ScriptedProvider([cancel])).drain(ledger_id=ledger_id)

    assert cancelled == [False]
    assert reload(task).state == "done"


# --- draining ---------------------------------------------------------------------


def test_a_drain_that_is_told_to_stop_returns_what_it_has_not_begun(
    ledger_id: UUID,
) -> None:
    provider = ScriptedProvider(["settled"] * 3)
    tasks = make_tasks(ledger_id=ledger_id, count=3)
    dispatcher = make_dispatcher(provider, should_stop=lambda: len(provider.calls) > 0)

    report = dispatcher.drain(ledger_id=ledger_id)

    states = [(reload(task).state, history(task)) for task in tasks]
    assert states == [("done", [("send", "settled")]), ("pending", []), ("pending", [])]
    assert (report.called, report.released) == (1, 2)


def test_a_drain_begins_nothing_after_its_time(
    ledger_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(dispatcher_module.time, "monotonic", lambda: clock[0])

    def slow() -> str:
        clock[0] += 0.75 * dispatcher_module.DRAIN_SECONDS
        return "settled"

    tasks = make_tasks(ledger_id=ledger_id, count=4)

    report = make_dispatcher(ScriptedProvider([slow] * 4)).drain(ledger_id=ledger_id)

    assert report.called == 2
    assert [reload(task).state for task in tasks] == [
        *["done"] * 2,
        *["pending"] * 2,
    ]


def test_more_payouts_than_a_batch_are_drained(ledger_id: UUID) -> None:
    count = PAYOUT_BATCH * 2 + 1
    tasks = make_tasks(ledger_id=ledger_id, count=count)
    provider = ScriptedProvider(["settled"] * count)

    report = make_dispatcher(provider).drain(ledger_id=ledger_id)

    assert report.called == count
    assert sorted(key for _, key in provider.calls) == [task.id for task in tasks]


def test_two_thousand_posted_transfers_are_done_in_a_few_statements(
    ledger_id: UUID,
) -> None:
    make_tasks(
        ledger_id=ledger_id,
        count=2_000,
        kind=TaskKind.TRANSFER_POSTED,
    )
    dispatcher = make_dispatcher(ScriptedProvider([]))

    with CaptureQueriesContext(connection) as queries:
        report = dispatcher.drain(ledger_id=ledger_id)

    assert report.finished_set_wise == 2_000
    assert len(queries) <= 5
    assert not OutboxTask.objects.filter(ledger_id=ledger_id).exclude(
        state=TaskState.DONE, finished_at__isnull=False
    )


def test_posted_transfers_go_before_payouts_so_that_no_bank_delays_them(
    ledger_id: UUID,
) -> None:
    states = []

    def look() -> str:
        states.append(reload(posted).state)
        return "settled"

    make_task(ledger_id=ledger_id)
    posted = make_task(ledger_id=ledger_id, kind=TaskKind.TRANSFER_POSTED)

    make_dispatcher(ScriptedProvider([look])).drain(ledger_id=ledger_id)

    assert states == ["done"]


def test_a_kind_without_a_handler_is_left_alone(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id)

    Dispatcher(provider=ScriptedProvider([]), handlers={}).drain(ledger_id=ledger_id)

    assert reload(task).state == "pending"


def test_what_is_not_due_is_left_alone(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id)
    set_columns(task, "due_at = now() + interval '1 hour'")

    report = make_dispatcher(ScriptedProvider([])).drain(ledger_id=ledger_id)

    assert report.called == 0


def test_every_statement_that_locks_or_joins_names_the_ledger(
    ledger_id: UUID, no_settle_delay: None
) -> None:
    refuse = [CompensationRefused("account_closed")]

    def refuse_once(_task: OutboxTask) -> None:
        if refuse:
            raise refuse.pop()

    make_task(ledger_id=ledger_id, kind=TaskKind.TRANSFER_POSTED)
    task = make_task(ledger_id=ledger_id)
    provider = ScriptedProvider(["unknown", "not_found", "accepted", "rejected"])
    dispatcher = make_dispatcher(provider, RecordingHandler(refuse_once))

    with CaptureQueriesContext(connection) as queries:
        for _ in range(3):
            dispatcher.drain(ledger_id=ledger_id)
            make_due(task)
        with transaction.atomic():
            task_retry(ledger_id=ledger_id, task_id=task.id)
        dispatcher.drain(ledger_id=ledger_id)

    assert reload(task).state == "done"
    touching = [
        query["sql"]
        for query in queries
        if any(word in query["sql"] for word in ("UPDATE", "DELETE", "JOIN"))
    ]
    assert len(touching) > 10
    # psycopg writes a UUID without hyphens; the engine hands the ledger over as $1.
    named = (ledger_id.hex, '"ledger_id" = $1 ', "SELECT ($1::uuid), r.id")
    assert [sql for sql in touching if not any(name in sql for name in named)] == []
    joins = [sql for sql in touching if "JOIN" in sql]
    assert [sql for sql in joins if sql.count('"ledger_id"') < 3] == []
