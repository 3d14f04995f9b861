"""Scheduled transfers: once, at their time, under its rules; and the sweep of holds."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from structlog.testing import capture_logs

from idempotency.services import responses_purge
from ledger import tasks
from ledger.api.scheduled import scheduled_json
from ledger.audit import audit_run
from ledger.enums import AccountStatus, ScheduledStatus
from ledger.locks import lock_accounts
from ledger.models import Account, Change, Hold, Ledger, ScheduledTransfer, Transfer
from ledger.selectors.scheduled import scheduled_get
from ledger.services.scheduled import (
    BUSY_PAUSE,
    ERROR_PATIENCE,
    ERROR_PAUSE,
    MAX_AHEAD,
    MAX_RETRYING,
    MIN_ERROR_ATTEMPTS,
    RETRY_PAUSES,
    ScheduleRequest,
    scheduled_cancel,
    scheduled_create,
    scheduled_post,
)
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    move,
)
from ledger.tests.holds import place
from ledger.tests.steps import ask, steps
from ledger.tests.test_api import Api, api, field_codes, problem
from ledger.tests.test_invariants import refusal
from ledger.tests.test_ledger_keys import violations
from ledger.tests.test_races import at_once
from ledger.types import PostingRequest
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import format_instant, now
from payflow.db import transaction_owner
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id
from payflow.tests.processes import Process, wait_until

__all__ = ["api"]

HOUR = timedelta(hours=1)
CLIENT = Actor(
    "client:shop", client_id=new_id(), key_id=new_id(), request_id="request-7"
)


def request(
    source: Account, target: Account, amount: int, **fields: Any
) -> ScheduleRequest:
    postings = (PostingRequest(source.id, target.id, amount),)
    return ScheduleRequest(postings=postings, **{"due_at": now() + HOUR, **fields})


def create(
    source: Account,
    target: Account,
    amount: int,
    *,
    at: datetime | None = None,
    **fields: Any,
) -> ScheduledTransfer | Problem:
    return scheduled_create(
        ledger_id=source.ledger_id,
        request=request(source, target, amount, **fields),
        actor=CLIENT,
        now=at or now(),
        idempotency_key="order-7",
    )


def scheduled(*args: Any, **fields: Any) -> ScheduledTransfer:
    row = create(*args, **fields)
    assert isinstance(row, ScheduledTransfer), row
    return row


def due(*args: Any, **fields: Any) -> ScheduledTransfer:
    """A scheduled transfer whose time has come."""
    row = scheduled(*args, **fields)
    make_due(row)
    return row


def make_due(row: ScheduledTransfer) -> None:
    ScheduledTransfer.objects.filter(ledger_id=row.ledger_id, id=row.id).update(
        next_attempt_at=Now() - timedelta(seconds=1)
    )


def reload(row: ScheduledTransfer) -> ScheduledTransfer:
    return scheduled_get(ledger_id=row.ledger_id, scheduled_id=row.id)


def post(row: ScheduledTransfer) -> str | None:
    return scheduled_post(ledger_id=row.ledger_id, scheduled_id=row.id)


def post_one(row: ScheduledTransfer) -> str | None:
    return tasks.post_one(ledger_id=row.ledger_id, scheduled_id=row.id)


def cancel(row: ScheduledTransfer, reason: str = "") -> ScheduledTransfer | Problem:
    return scheduled_cancel(
        ledger_id=row.ledger_id, scheduled_id=row.id, reason=reason, actor=ACTOR
    )


def pair(balance: int = 1_000) -> tuple[Account, Account]:
    ledger = LedgerFactory()
    return AccountFactory(ledger=ledger, balance=balance), AccountFactory(ledger=ledger)


def transfers_of(row: ScheduledTransfer) -> list[Transfer]:
    return list(
        Transfer.objects.filter(
            ledger_id=row.ledger_id, idempotency_key=f"scheduled:{row.id}"
        )
    )


# --- Scheduling ----------------------------------------------------------------------


@pytest.mark.django_db
def test_a_scheduled_transfer_moves_and_reserves_nothing_until_it_is_due():
    source, target = pair()

    row = scheduled(source, target, 400)

    assert row.status == ScheduledStatus.SCHEDULED
    assert row.next_attempt_at == row.due_at
    assert (row.attempt_count, row.transfer_id, row.ended_at) == (0, None, None)
    assert (row.actor, row.client_id, row.key_id) == (
        CLIENT.label,
        CLIENT.client_id,
        CLIENT.key_id,
    )
    assert (row.request_id, row.idempotency_key) == ("request-7", "order-7")
    assert fresh(source).available == 1_000
    assert post(row) is None
    assert reload(row).attempt_count == 0


@pytest.mark.django_db
def test_only_what_never_changes_is_judged_when_it_is_scheduled():
    source, target = pair(balance=0)
    Account.objects.filter(id=source.id).update(status=AccountStatus.FROZEN)

    assert isinstance(create(source, target, 10**9), ScheduledTransfer)


@pytest.mark.django_db
def test_refusals_of_scheduling_come_in_their_documented_order():
    source, target = pair()
    euros = AccountFactory(ledger=source.ledger, currency="EUR")
    stranger = AccountFactory()
    late: dict[str, Any] = {"due_at": now(), "retry_until": now() - HOUR}

    def code(*args: Any, **fields: Any) -> str:
        outcome = create(*args, **fields)
        return outcome.code if isinstance(outcome, Problem) else "scheduled"

    assert code(source, stranger, 1, **late) == "account_not_found"
    assert code(source, source, 1, **late) == "same_account"
    assert code(source, euros, 1, **late) == "currency_mismatch"
    assert code(source, target, 1, **late) == "due_at_out_of_range"
    late["due_at"] = now() + HOUR
    assert code(source, target, 1, **late) == "retry_until_out_of_range"
    late["retry_until"] = now() + 2 * HOUR
    assert code(source, target, 1, **late) == "scheduled"


@pytest.mark.django_db
def test_the_bounds_of_its_times_are_exact():
    source, target = pair()
    at, tick = now(), timedelta(microseconds=1)

    def code(due_at: datetime, retry_until: datetime | None = None) -> str:
        outcome = create(
            source, target, 1, at=at, due_at=due_at, retry_until=retry_until
        )
        return outcome.code if isinstance(outcome, Problem) else "scheduled"

    assert code(at) == code(at + MAX_AHEAD + tick) == "due_at_out_of_range"
    assert code(at + tick) == code(at + MAX_AHEAD) == "scheduled"
    day = at + timedelta(days=1)
    assert code(day, day) == "retry_until_out_of_range"
    assert code(day, day + MAX_RETRYING + tick) == "retry_until_out_of_range"
    assert code(day, day + tick) == code(day, day + MAX_RETRYING) == "scheduled"


# --- Posting -------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_is_due_is_posted_in_the_name_of_who_scheduled_it():
    source, target = pair()
    row = due(
        source, target, 400, reference="rent", description="Rent", metadata={"m": 11}
    )

    assert post(row) == "posted"

    ended = reload(row)
    (transfer,) = transfers_of(row)
    assert ended.transfer_id == transfer.id
    assert (ended.status, ended.attempt_count) == ("posted", 1)
    assert ended.last_problem is None
    assert ended.ended_at is not None
    assert (transfer.kind, transfer.reference) == ("transfer", "rent")
    assert (transfer.description, transfer.metadata) == ("Rent", {"m": 11})
    assert transfer.actor == "scheduled:client:shop"
    assert (transfer.client_id, transfer.key_id) == (CLIENT.client_id, CLIENT.key_id)
    assert transfer.request_id == "request-7"
    assert transfer.effective_at == transfer.created_at
    assert (fresh(source).posted, fresh(target).posted) == (600, 400)
    kinds = OutboxTask.objects.filter(transfer_id=transfer.id).values_list("kind")
    assert list(kinds) == [("transfer.posted",)]
    assert post(row) is None


@pytest.mark.django_db
def test_several_postings_are_posted_as_they_were_scheduled():
    source, target = pair()
    third = AccountFactory(ledger=source.ledger)
    row = scheduled_create(
        ledger_id=source.ledger_id,
        request=ScheduleRequest(
            postings=(
                PostingRequest(source.id, target.id, 300),
                PostingRequest(target.id, third.id, 100),
            ),
            due_at=now() + HOUR,
        ),
        actor=CLIENT,
        now=now(),
    )
    make_due(row)

    assert post(row) == "posted"

    assert [fresh(a).posted for a in (source, target, third)] == [700, 200, 100]


@pytest.mark.django_db
def test_the_rules_are_those_of_the_time_at_which_it_is_due():
    source, target = pair(balance=0)
    funded, unfunded, frozen = (scheduled(source, target, 100) for _ in range(3))
    giver = AccountFactory(ledger=source.ledger, balance=100)
    move(giver, source, 100)

    make_due(funded)
    make_due(unfunded)
    assert (post(funded), post(unfunded)) == ("posted", "refused")
    Account.objects.filter(id=source.id).update(status=AccountStatus.FROZEN)
    make_due(frozen)
    assert post(frozen) == "refused"

    refused = reload(unfunded)
    assert refused.last_problem["code"] == "insufficient_funds"
    assert refused.last_problem["fields"]["required"] == 100
    assert refused.ended_at is not None
    assert reload(frozen).last_problem["code"] == "account_frozen"
    assert transfers_of(unfunded) == transfers_of(frozen) == []


@pytest.mark.django_db
def test_a_reference_that_was_taken_meanwhile_refuses_it():
    source, target = pair()
    row = due(source, target, 1, reference="taken")
    move(source, target, 1, reference="taken")

    assert post(row) == "refused"
    assert reload(row).last_problem["code"] == "reference_taken"


@pytest.mark.django_db
def test_refusals_are_tried_again_with_growing_pauses_until_the_money_is_there():
    source, target = pair(balance=0)
    row = due(source, target, 100, retry_until=now() + timedelta(days=2))
    pauses = []

    for _ in range(5):
        make_due(row)
        before = ask("SELECT clock_timestamp()")
        assert post(row) == "scheduled"
        pauses.append(reload(row).next_attempt_at - before)

    quarter = RETRY_PAUSES[0]
    assert [round(pause / quarter) for pause in pauses] == [1, 2, 4, 4, 4]
    waiting = reload(row)
    assert (waiting.status, waiting.attempt_count) == ("scheduled", 5)
    assert waiting.last_problem["code"] == "insufficient_funds"
    assert post(row) is None
    giver = AccountFactory(ledger=source.ledger, balance=100)
    move(giver, source, 100)
    make_due(row)
    assert post(row) == "posted"
    assert reload(row).attempt_count == 6
    assert fresh(target).posted == 100


@pytest.mark.django_db
def test_the_last_attempt_is_at_the_end_of_retrying_and_final():
    source, target = pair(balance=0)
    clock = ask("SELECT clock_timestamp()")
    soon = clock + timedelta(minutes=10)
    row = due(
        source, target, 100, due_at=clock + timedelta(seconds=9), retry_until=soon
    )
    over = due(
        source,
        target,
        100,
        at=clock - 3 * HOUR,
        due_at=clock - 2 * HOUR,
        retry_until=clock - HOUR,
    )

    assert post(row) == "scheduled"
    assert reload(row).next_attempt_at == soon
    assert post(over) == "refused"
    assert reload(over).attempt_count == 1


@pytest.mark.django_db
def test_a_scheduled_payout_becomes_one():
    source, _ = pair()
    bank = AccountFactory(ledger=source.ledger, payout_destination="DE00")
    row = due(source, bank, 250)

    assert post(row) == "posted"

    task = OutboxTask.objects.get(transfer_id=reload(row).transfer_id, kind="payout")
    assert (task.amount, task.destination) == (250, "DE00")


# --- Cancelling ----------------------------------------------------------------------


@pytest.mark.django_db
def test_a_cancelled_one_is_not_posted_and_the_history_says_who_cancelled():
    source, target = pair()
    row = due(source, target, 100)

    cancelled = cancel(row, "moved out")

    assert cancelled.status == "cancelled"
    assert cancelled.end_reason == "moved out"
    assert cancelled.ended_at is not None
    assert post(row) is None
    assert fresh(target).posted == 0
    change = Change.objects.filter(ledger_id=row.ledger_id).latest("id")
    assert (change.actor, change.fields) == (ACTOR.label, ["scheduled_transfer"])
    assert change.new["scheduled_transfer"] == {
        "id": str(row.id),
        "status": "cancelled",
        "reason": "moved out",
    }


@pytest.mark.django_db
def test_what_has_ended_cannot_be_cancelled():
    source, target = pair(balance=100)
    posted, refused, cancelled = (due(source, target, 100) for _ in range(3))
    post(posted)
    post(refused)
    cancel(cancelled)

    for row, status in (
        (posted, "posted"),
        (refused, "refused"),
        (cancelled, "cancelled"),
    ):
        outcome = cancel(row)
        transfer_id = reload(row).transfer_id
        assert outcome.code == "scheduled_not_pending"
        assert outcome.fields == {
            "scheduled_id": str(row.id),
            "scheduled_status": status,
            "transfer_id": transfer_id and str(transfer_id),
        }


@pytest.mark.django_db
def test_another_ledgers_is_neither_found_nor_cancelled_nor_posted():
    row = due(*pair(), 1)
    other = LedgerFactory()

    for act in (
        lambda: scheduled_get(ledger_id=other.id, scheduled_id=row.id),
        lambda: scheduled_cancel(
            ledger_id=other.id, scheduled_id=row.id, reason="", actor=ACTOR
        ),
    ):
        with pytest.raises(ProblemError) as caught:
            act()
        assert caught.value.problem.code == "scheduled_not_found"
    assert scheduled_post(ledger_id=other.id, scheduled_id=row.id) is None
    assert reload(row).status == "scheduled"


# --- PostgreSQL's own rules ----------------------------------------------------------


@pytest.mark.django_db
def test_raw_sql_cannot_change_what_was_scheduled_or_bring_it_back():
    source, target = pair()
    ended, open_row = due(source, target, 1), due(source, target, 1)
    post(ended)
    transfer_id = reload(ended).transfer_id

    def update(row: ScheduledTransfer, change: str) -> str | None:
        return refusal(
            f"UPDATE ledger_scheduled_transfer SET {change}"
            " WHERE ledger_id = %s AND id = %s",
            [row.ledger_id, row.id],
        )

    back = "status = 'scheduled', transfer_id = NULL, ended_at = NULL"
    twin = f"status = 'posted', ended_at = now(), transfer_id = '{transfer_id}'"
    nothing = "status = 'posted', ended_at = now()"
    assert update(ended, back) == "scheduled_end_is_final"
    assert update(ended, "attempt_count = 9") == "scheduled_end_is_final"
    assert update(open_row, "due_at = now()") == "scheduled_content_never_changes"
    assert update(open_row, "postings = '[1]'") == "scheduled_content_never_changes"
    assert update(open_row, twin) == "scheduled_transfer_posted_once"
    assert update(open_row, nothing) == "scheduled_posted_has_transfer"
    refused = "status = 'refused', ended_at = now()"
    assert update(open_row, refused) == "scheduled_refused_has_problem"
    assert update(open_row, "status = 'cancelled'") == "scheduled_end_has_time"
    assert (
        refusal("DELETE FROM ledger_scheduled_transfer") == "scheduled_is_never_deleted"
    )


# --- The worker ----------------------------------------------------------------------


@pytest.fixture
def shop(committed_db: None) -> tuple[Account, Account]:
    with transaction_owner():
        return pair()


def committed(*args: Any, **fields: Any) -> ScheduledTransfer:
    with transaction_owner():
        return due(*args, **fields)


def test_the_worker_posts_what_is_due_of_every_ledger_and_nothing_else(shop):
    with transaction_owner():
        others = pair()
        waiting = scheduled(*shop, 1)
    rows = [committed(*shop, 10), committed(*shop, 20), committed(*others, 30)]

    tasks.post_scheduled()

    assert [reload(row).status for row in rows] == ["posted"] * 3
    assert reload(waiting).status == "scheduled"
    assert (fresh(shop[1]).posted, fresh(others[1]).posted) == (30, 30)
    assert audit_run(ledger_slug=shop[0].ledger.slug).is_sound


def test_each_ledger_has_its_turn_before_one_has_all(shop, monkeypatch):
    monkeypatch.setattr(tasks, "SLICE", 1)
    with transaction_owner():
        others = pair()
    rows = [committed(*a, 1) for a in (shop, shop, others, others)]

    tasks.post_scheduled()

    in_order = sorted(rows, key=lambda row: transfers_of(row)[0].created_at)
    for first, second in (in_order[:2], in_order[2:]):
        assert first.ledger_id != second.ledger_id


def test_a_run_whose_time_is_up_takes_nothing_new(shop, monkeypatch):
    monkeypatch.setattr(tasks, "RUN_SECONDS", -1.0)
    row = committed(*shop, 1)

    tasks.post_scheduled()

    assert reload(row).status == "scheduled"


def test_workers_that_meet_post_one_transfer(shop):
    row = committed(*shop, 100)

    outcomes = at_once([lambda: post_one(row)] * 6)

    assert sorted(outcomes, key=str) == [None] * 5 + ["posted"]
    assert len(transfers_of(row)) == 1
    assert fresh(shop[1]).posted == 100


def test_runs_that_meet_post_everything_once(shop):
    rows = [committed(*shop, 1) for _ in range(12)]

    at_once([tasks.post_scheduled] * 3)
    tasks.post_scheduled()

    assert [len(transfers_of(row)) for row in rows] == [1] * 12
    assert fresh(shop[1]).posted == 12


def test_a_cancelling_that_meets_a_posting_waits_and_finds_it_posted(shop):
    row = committed(*shop, 100)

    with steps() as start:
        posting = start(lambda: post(row)).work_done()
        cancelling = start(lambda: cancel(row))
        assert cancelling.waits_for(posting)
        assert posting.commit() == "posted"
        outcome = cancelling.commit()

    assert outcome.code == "scheduled_not_pending"
    assert outcome.fields["transfer_id"] == str(reload(row).transfer_id)
    assert fresh(shop[1]).posted == 100


def test_a_posting_that_meets_a_cancelling_passes_over_it(shop):
    row = committed(*shop, 100)

    with steps() as start:
        cancelling = start(lambda: cancel(row)).work_done()
        assert post_one(row) is None
        cancelling.commit()

    assert post_one(row) is None
    assert reload(row).status == "cancelled"
    assert fresh(shop[1]).posted == 0


@pytest.mark.parametrize("round_number", range(5))
def test_of_a_cancelling_and_a_posting_at_once_exactly_one_wins(shop, round_number):
    row = committed(*shop, 100)

    def cancelled() -> bool:
        with transaction_owner():
            return isinstance(cancel(row), ScheduledTransfer)

    was_cancelled, posted = at_once([cancelled, lambda: post_one(row)])

    status = reload(row).status
    assert status == ("cancelled" if was_cancelled else "posted")
    assert posted == (None if was_cancelled else "posted")
    assert len(transfers_of(row)) == (0 if was_cancelled else 1)


@pytest.fixture
def impatient(committed_db: None) -> Iterator[None]:
    """Locks that are not to be had soon are given up, on this test's connection."""
    ask("SELECT set_config('lock_timeout', '50ms', false)")
    yield
    connection.close()


def test_busy_accounts_are_no_attempt_and_put_it_off_by_seconds(shop, impatient):
    row = committed(*shop, 100)
    before = ask("SELECT clock_timestamp()")

    def lock() -> None:
        lock_accounts(ledger_id=row.ledger_id, account_ids=[shop[0].id])

    with steps() as start, capture_logs() as logs:
        holding = start(lock).work_done()
        assert post_one(row) is None
        holding.commit()

    waiting = reload(row)
    assert (waiting.status, waiting.attempt_count) == ("scheduled", 0)
    pause = waiting.next_attempt_at - before
    assert BUSY_PAUSE <= pause < 3 * BUSY_PAUSE
    assert waiting.last_problem is None
    assert [(e["event"], e["code"]) for e in logs] == [
        ("scheduled_left_due", "ledger_busy")
    ]
    make_due(row)
    assert post_one(row) == "posted"


def test_a_ledgers_busy_account_holds_up_no_other_ledger(shop, monkeypatch):
    # Whatever the order of the ledgers, and with time for two rows of the busy one.
    monkeypatch.setattr(tasks, "RUN_SECONDS", 1.5 * tasks.LOCK_WAIT_MS / 1_000)
    with transaction_owner():
        others = pair()
        both = sorted((shop, others), key=lambda accounts: accounts[0].ledger_id)
    busy, free = both
    for order in (list, lambda ledgers: ledgers[::-1]):
        monkeypatch.setattr(tasks, "_shuffled", order)
        stuck = [committed(*busy, 1) for _ in range(4)]
        row = committed(*free, 1)

        def lock() -> None:
            lock_accounts(ledger_id=busy[0].ledger_id, account_ids=[busy[0].id])

        with steps() as start:
            holding = start(lock).work_done()
            tasks.post_scheduled()
            posted = reload(row).status
            holding.commit()

        assert posted == "posted"
        assert {reload(waiting).status for waiting in stuck} == {"scheduled"}
        for waiting in stuck:
            with transaction_owner():
                cancel(waiting)


def test_every_run_has_another_order_of_ledgers():
    ledgers = [new_id() for _ in range(20)]

    orders = {tuple(tasks._shuffled(ledgers)) for _ in range(5)}

    assert len(orders) > 1
    assert all(sorted(order) == sorted(ledgers) for order in orders)


def unreadable(like: ScheduledTransfer, **changes: Any) -> ScheduledTransfer:
    """A due row that no service writes: its amount is no number."""
    fields = {"due_at": now(), "retry_until": None, "attempt_count": 0, **changes}
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_scheduled_transfer (ledger_id, id, due_at, retry_until,"
            " attempt_count, next_attempt_at, postings, actor)"
            " VALUES (%s, gen_random_uuid(), %s, %s, %s, now() - interval '1 day',"
            " %s, 'test') RETURNING id",
            [
                like.ledger_id,
                *fields.values(),
                json.dumps([{**like.postings[0], "amount": "many"}]),
            ],
        )
        (broken_id,) = cursor.fetchone()
    return scheduled_get(ledger_id=like.ledger_id, scheduled_id=broken_id)


def test_one_rows_error_is_logged_counted_put_off_and_holds_up_nobody(shop):
    good = committed(*shop, 1)
    broken = unreadable(good)

    with capture_logs() as logs:
        tasks.post_scheduled()

    assert reload(good).status == "posted"
    row = reload(broken)
    assert (row.status, row.attempt_count) == ("scheduled", 1)
    shown = scheduled_json(row)["last_problem"]
    assert (shown["code"], shown["status"]) == ("internal_error", 500)
    assert "TypeError" not in json.dumps(shown)
    assert row.next_attempt_at > now() + ERROR_PAUSE / 2
    (logged,) = [e for e in logs if e["event"] == "scheduled_failed"]
    assert logged["scheduled_id"] == str(broken.id)
    assert logged["ledger_id"] == str(good.ledger_id)


@pytest.mark.parametrize("retrying", [False, True])
def test_what_fails_again_and_again_is_refused_some_time_after_its_time(shop, retrying):
    good = committed(*shop, 1)
    tries = MIN_ERROR_ATTEMPTS - 1

    def fails(*, ended: timedelta, attempt_count: int) -> ScheduledTransfer:
        end = now() - ended
        times = {"due_at": end - HOUR, "retry_until": end} if retrying else {}
        row = unreadable(good, **{"due_at": end, **times}, attempt_count=attempt_count)
        assert post_one(row) is None
        return reload(row)

    too_early = fails(ended=ERROR_PATIENCE - HOUR, attempt_count=tries)
    too_few = fails(ended=ERROR_PATIENCE, attempt_count=tries - 1)
    over = fails(ended=ERROR_PATIENCE, attempt_count=tries)

    assert [row.status for row in (too_early, too_few)] == ["scheduled"] * 2
    assert (over.status, over.attempt_count) == ("refused", MIN_ERROR_ATTEMPTS)
    assert over.last_problem["code"] == "internal_error"
    assert over.ended_at is not None
    assert transfers_of(over) == []


CODE = """
from uuid import UUID
from ledger.tasks import post_one
print(post_one(ledger_id=UUID("{ledger_id}"), scheduled_id=UUID("{id}")))
"""


def killed_at(failpoint: str, row: ScheduledTransfer, folder: Path) -> None:
    """Posts the row in a process of its own, which dies there as if by kill -9."""
    code = CODE.format(ledger_id=row.ledger_id, id=row.id)
    worker = Process(
        ["manage.py", "shell", "--no-imports", "--command", code],
        log=folder / "worker.log",
        environment={"PAYFLOW_FAILPOINT": f"{failpoint}:kill:{folder / 'killed'}"},
    ).start()
    assert worker.wait() == -9, worker.log.read_text()
    assert (folder / "killed").exists()


def test_a_worker_killed_before_the_commit_leaves_it_due(shop, tmp_path):
    row = committed(*shop, 100)

    killed_at("before_commit", row, tmp_path)

    assert transfers_of(row) == []
    assert reload(row).attempt_count == 0
    # The dead worker's locks go when PostgreSQL notices the closed socket.
    wait_until(lambda: post_one(row) == "posted")
    assert len(transfers_of(row)) == 1
    assert fresh(shop[1]).posted == 100


def test_a_worker_killed_after_the_commit_has_posted_it_once(shop, tmp_path):
    row = committed(*shop, 100)

    killed_at("after_commit", row, tmp_path)

    (transfer,) = transfers_of(row)
    assert reload(row).transfer_id == transfer.id
    tasks.post_scheduled()
    assert post_one(row) is None
    assert len(transfers_of(row)) == 1
    assert fresh(shop[1]).posted == 100


def test_beat_knows_the_tasks_by_their_names():
    schedule = settings.CELERY_BEAT_SCHEDULE.values()
    known = {entry["task"]: entry for entry in schedule}

    for task in (tasks.post_scheduled, tasks.expire_holds):
        # A run is over before the next one begins, so that they do not pile up.
        assert known[task.name]["schedule"] > tasks.RUN_SECONDS


def test_no_statement_of_the_worker_reaches_across_ledgers(shop):
    row = committed(*shop, 1)
    with transaction_owner():
        hold = place(*shop, 1, lifetime=timedelta(milliseconds=1))
    wait_until(lambda: has_lapsed(hold.id))

    with CaptureQueriesContext(connection) as queries:
        tasks.post_scheduled()
        tasks.expire_holds()

    sent = [query["sql"] for query in queries]
    assert any("SKIP LOCKED" in sql for sql in sent)
    assert [v for sql in sent for v in violations(sql)] == []
    assert reload(row).status == "posted"


# --- The sweep of holds --------------------------------------------------------------


def has_lapsed(hold_id: UUID) -> bool:
    expired = "SELECT expires_at <= clock_timestamp() FROM ledger_hold WHERE id = %s"
    return bool(ask(expired, hold_id))


def status_of(ledger: Ledger, hold_id: UUID) -> str:
    return str(Hold.objects.get(ledger_id=ledger.id, id=hold_id).status)


def test_the_sweep_records_lapsed_holds_as_expired(shop):
    source, target = shop
    with transaction_owner():
        lapsed = place(source, target, 300, lifetime=timedelta(milliseconds=1))
        active = place(source, target, 200)
    wait_until(lambda: has_lapsed(lapsed.id))
    assert fresh(source).debits_pending == 500

    tasks.expire_holds()

    assert status_of(source.ledger, lapsed.id) == "expired"
    assert status_of(source.ledger, active.id) == "active"
    assert (fresh(source).debits_pending, fresh(target).credits_pending) == (200, 200)
    assert audit_run(ledger_slug=source.ledger.slug).is_sound


def test_one_ledgers_busy_accounts_do_not_hold_up_the_sweep_of_others(shop, impatient):
    with transaction_owner():
        others = pair()
        holds = [
            place(*accounts, 1, lifetime=timedelta(milliseconds=1))
            for accounts in (shop, others)
        ]
    wait_until(lambda: all(has_lapsed(hold.id) for hold in holds))

    def lock() -> None:
        lock_accounts(ledger_id=shop[0].ledger_id, account_ids=[shop[0].id])

    with steps() as start, capture_logs() as logs:
        holding = start(lock).work_done()
        tasks.expire_holds()
        holding.commit()

    assert status_of(shop[0].ledger, holds[0].id) == "active"
    assert status_of(others[0].ledger, holds[1].id) == "expired"
    (failed,) = [e for e in logs if e["event"] == "holds_not_expired"]
    assert failed["ledger_id"] == str(shop[0].ledger_id)
    tasks.expire_holds()
    assert status_of(shop[0].ledger, holds[0].id) == "expired"


# --- The API -------------------------------------------------------------------------

PATH = "/v1/scheduled-transfers"


def body(source: Account, target: Account, **changes: Any) -> dict[str, Any]:
    return {
        "from_account_id": str(source.id),
        "to_account_id": str(target.id),
        "amount": 400,
        "due_at": format_instant(now() + HOUR),
        **changes,
    }


@pytest.fixture
def accounts(api: Api) -> tuple[Account, Account]:
    return (
        AccountFactory(ledger=api.ledger, balance=1_000),
        AccountFactory(ledger=api.ledger),
    )


def row_of(api: Api, response: Any) -> ScheduledTransfer:
    assert response.status_code == 201, response.content
    return scheduled_get(
        ledger_id=api.ledger.id, scheduled_id=UUID(response.json()["id"])
    )


def test_the_api_schedules_shows_and_posts(api, accounts):
    wanted = body(*accounts, reference="rent", description="Rent", metadata={"a": 1})

    response = api.send(PATH, wanted, key="rent-11")

    made = response.json()
    row = row_of(api, response)
    postings = [
        {name: wanted[name] for name in ("from_account_id", "to_account_id", "amount")}
    ]
    assert made == {
        "id": str(row.id),
        "status": "scheduled",
        "due_at": wanted["due_at"],
        "retry_until": None,
        "postings": postings,
        "reference": "rent",
        "description": "Rent",
        "metadata": {"a": 1},
        "attempt_count": 0,
        "next_attempt_at": wanted["due_at"],
        "last_problem": None,
        "transfer_id": None,
        "end_reason": None,
        "created_at": format_instant(row.created_at),
        "ended_at": None,
    }
    assert response["Location"] == f"{PATH}/{row.id}"
    assert api.get(response["Location"]).json() == made
    assert (row.actor, row.idempotency_key) == (f"client:{api.client.name}", "rent-11")
    make_due(row)
    post(row)
    shown = api.get(response["Location"]).json()
    assert (shown["status"], shown["next_attempt_at"]) == ("posted", None)
    transfer = api.get(f"/v1/transfers/{shown['transfer_id']}").json()
    assert transfer["reference"] == "rent"
    assert shown["ended_at"] >= transfer["created_at"]


def test_a_refusal_is_shown_as_the_problem_that_it_is(api, accounts):
    response = api.send(PATH, body(*accounts, amount=5_000))
    row = row_of(api, response)
    make_due(row)

    post(row)

    shown = api.get(response["Location"]).json()
    assert shown["status"] == "refused"
    assert shown["last_problem"]["code"] == "insufficient_funds"
    assert shown["last_problem"]["status"] == 422
    assert shown["last_problem"]["required"] == 5_000


def test_the_api_demands_a_key_and_replays_its_answer(api, accounts):
    wanted = body(*accounts)

    without = api.send(PATH, wanted, key=None)
    first = api.send(PATH, wanted, key="rent-11")
    again = api.send(PATH, wanted, key="rent-11")
    other = api.send(PATH, {**wanted, "amount": 1}, key="rent-11")

    assert problem(without)["code"] == "idempotency_key_missing"
    assert again.content == first.content
    assert again["Idempotent-Replayed"] == "true"
    assert problem(other)["code"] == "idempotency_key_reused"
    count = ScheduledTransfer.objects.filter(ledger_id=api.ledger.id).count()
    assert count == 1


def test_a_purged_answer_is_rebuilt(api, accounts, monkeypatch):
    # As if Valkey had forgotten by then.
    monkeypatch.setattr("idempotency.store.claim_or_find", lambda **_: None)
    wanted = body(*accounts)
    first = api.send(PATH, wanted, key="rent-12")

    assert responses_purge(ledger_id=api.ledger.id, older_than=timedelta(0)) == 1
    again = api.send(PATH, wanted, key="rent-12")

    assert again["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    assert again["Location"] == first["Location"]


def test_the_systems_own_keys_cannot_be_used_by_clients(api, accounts):
    source, target = accounts
    row = row_of(api, api.send(PATH, body(source, target)))
    transfer = {
        "from_account_id": str(source.id),
        "to_account_id": str(target.id),
        "amount": 1,
    }

    single = api.send("/v1/transfers", transfer, key=f"scheduled:{row.id}")
    batch = api.send(
        "/v1/transfers/batch",
        {"transfers": [{**transfer, "idempotency_key": f"scheduled:{row.id}"}]},
    )

    assert problem(single)["code"] == "idempotency_key_invalid"
    assert field_codes(batch) == {"transfers[0].idempotency_key": "not_a_key"}


def test_a_dry_run_schedules_nothing(api, accounts):
    response = api.send(PATH, body(*accounts, dry_run=True), key=None)

    assert response.status_code == 200
    assert (response.json()["id"], response.json()["dry_run"]) == (None, True)
    assert not ScheduledTransfer.objects.filter(ledger_id=api.ledger.id).exists()


def test_the_api_cancels_once(api, accounts):
    made = api.send(PATH, body(*accounts)).json()
    path = f"{PATH}/{made['id']}/cancel"

    cancelled = api.send(path, {"reason": "moved out"}, key=None)
    again = api.send(path, {}, key=None)

    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "cancelled"
    assert cancelled.json()["end_reason"] == "moved out"
    assert problem(again)["code"] == "scheduled_not_pending"
    assert again.json()["scheduled_status"] == "cancelled"


def test_lists_are_pages_and_keep_their_filters(api, accounts):
    made = [api.send(PATH, body(*accounts)).json()["id"] for _ in range(3)]
    named = api.send(PATH, body(*accounts, reference="rent")).json()["id"]
    api.send(f"{PATH}/{made[1]}/cancel", {}, key=None)

    def ids(query: str) -> tuple[list[str], str | None]:
        page = api.get(f"{PATH}?{query}").json()
        return [item["id"] for item in page["data"]], page["next_cursor"]

    first, cursor = ids("status=scheduled&limit=2")
    rest, end = ids(f"limit=2&cursor={cursor}")
    assert (first, rest, end) == ([named, made[2]], [made[0]], None)
    assert ids("status=cancelled")[0] == [made[1]]
    assert ids("reference=rent")[0] == [named]
    assert field_codes(api.get(f"{PATH}?status=lost")) == {"status": "not_a_choice"}
    assert field_codes(api.get(f"{PATH}?stauts=posted")) == {"stauts": "unknown_field"}
    wrong = api.get(f"{PATH}?cursor=x")
    assert problem(wrong)["code"] == "invalid_cursor"


def test_unknown_ones_are_not_found(api, accounts):
    for made_up in (str(new_id()), "nonsense"):
        assert problem(api.get(f"{PATH}/{made_up}"))["code"] == "scheduled_not_found"
        response = api.send(f"{PATH}/{made_up}/cancel", {}, key=None)
        assert problem(response)["code"] == "scheduled_not_found"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"due_at": None}, {"due_at": "missing"}),
        ({"due_at": "tomorrow"}, {"due_at": "not_an_instant"}),
        ({"retry_until": "later"}, {"retry_until": "not_an_instant"}),
        (
            {"effective_at": "2026-11-22T12:00:00Z"},
            {"effective_at": "unknown_field"},
        ),
        ({"amount": "400"}, {"amount": "not_an_integer"}),
        ({"reference": ""}, {"reference": "empty"}),
    ],
)
def test_bodies_out_of_form_are_refused_by_name(api, accounts, changes, wrong):
    assert field_codes(api.send(PATH, body(*accounts, **changes))) == wrong


def test_a_body_without_its_time_is_refused_by_name(api, accounts):
    wanted = body(*accounts)
    del wanted["due_at"]

    assert field_codes(api.send(PATH, json.dumps(wanted))) == {"due_at": "missing"}


def test_refusals_of_the_api_have_their_facts(api, accounts):
    past = problem(api.send(PATH, body(*accounts, due_at="2026-01-01T00:00:00Z")))
    nobody = problem(api.send(PATH, body(*accounts, to_account_id=str(new_id()))))

    assert past["code"] == "due_at_out_of_range"
    assert past["after"] < past["latest"]
    assert nobody["code"] == "account_not_found"
