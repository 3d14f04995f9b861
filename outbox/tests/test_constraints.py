"""What the database refuses, whoever asks and however. Each by the rule's name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from outbox.models import OutboxAttempt, OutboxAttemptOutcome, OutboxTask
from outbox.tests.factories import (
    make_attempt,
    make_task,
    reload,
    set_columns,
)
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

DECIDED: dict[str, Any] = {
    "state": "done",
    "delivery": "settled",
    "finished_at": Now(),
    "completion_transfer_id": F("transfer_id"),
}


@contextmanager
def refused(constraint: str) -> Iterator[None]:
    """The database refuses what the block does, by this rule."""
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        yield
    cause = caught.value.__cause__
    assert isinstance(cause, psycopg.Error)
    assert cause.diag.constraint_name == constraint


def execute(sql: str, *params: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def let_content_change() -> None:
    """Takes away the trigger that is asked before the constraints."""
    # So that autovacuum, which may be at work on the table, gives way at once.
    execute("SET LOCAL deadlock_timeout = '10ms'")
    execute("ALTER TABLE outbox_task DISABLE TRIGGER task_content_never_changes")


# --- tasks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"kind": "email"}, "task_kind_is_known"),
        ({"state": "lost", "finished_at": Now()}, "task_state_is_known"),
        ({"delivery": "lost"}, "task_delivery_is_known"),
        ({"amount": 0}, "task_payout_is_complete"),
        ({"amount": -1}, "task_payout_is_complete"),
        ({"destination": None}, "task_payout_is_complete"),
        ({"currency": None}, "task_payout_is_complete"),
        ({"account_id": None}, "task_payout_is_complete"),
        ({"posting_number": 0}, "task_payout_is_complete"),
        ({"kind": "transfer.posted"}, "task_payout_is_complete"),
        ({"attempt_count": -1}, "task_counts_are_not_negative"),
        ({"failure_count": -1}, "task_counts_are_not_negative"),
        ({"state": "leased"}, "task_lease_has_token"),
        ({"lease_token": new_id()}, "task_lease_has_token"),
        ({"state": "dead"}, "task_end_has_time"),
        ({"finished_at": Now()}, "task_end_has_time"),
        (
            {**DECIDED, "completion_transfer_id": None},
            "task_payout_ends_with_transfer",
        ),
        (
            {"completion_transfer_id": F("transfer_id")},
            "task_payout_ends_with_transfer",
        ),
        ({**DECIDED, "delivery": "unknown"}, "task_payout_is_done_when_decided"),
        (
            {**DECIDED, "state": "cancelled", "delivery": "unknown"},
            "task_cancelled_was_never_sent",
        ),
        (
            {
                **DECIDED,
                "state": "cancelled",
                "delivery": "unsent",
                "attempt_count": 1,
            },
            "task_cancelled_was_never_sent",
        ),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(
    ledger_id: UUID, fields: dict[str, Any], constraint: str
) -> None:
    task = make_task(ledger_id=ledger_id)
    let_content_change()

    with refused(constraint):
        OutboxTask.objects.filter(ledger_id=ledger_id, id=task.id).update(**fields)


def test_a_posted_transfers_task_carries_no_payout(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id, kind="transfer.posted")
    let_content_change()

    with refused("task_payout_is_complete"):
        set_columns(task, "amount = 5")


def test_a_posting_has_one_payout_task(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id)

    with refused("task_unique_per_posting"):
        execute(
            "INSERT INTO outbox_task (ledger_id, id, kind, transfer_id,"
            " posting_number, account_id, destination, amount, currency)"
            " SELECT ledger_id, %s, kind, transfer_id, posting_number, account_id,"
            " destination, amount, currency FROM outbox_task"
            " WHERE ledger_id = %s AND id = %s",
            new_id(),
            ledger_id,
            task.id,
        )


@pytest.mark.parametrize(
    "assignment",
    [
        "destination = 'somewhere else'",
        "amount = amount + 1",
        "currency = 'EUR'",
        "account_id = %(other_account_id)s",
        "transfer_id = %(other_transfer_id)s",
        "posting_number = posting_number + 1",
        "id = gen_random_uuid()",
        "created_at = created_at - interval '1 day'",
    ],
)
def test_what_a_task_says_never_changes(ledger_id: UUID, assignment: str) -> None:
    task = make_task(ledger_id=ledger_id)
    other = make_task(ledger_id=ledger_id)
    posted = make_task(ledger_id=ledger_id, kind="transfer.posted")
    values = {
        "other_account_id": other.account_id,
        "other_transfer_id": posted.transfer_id,
        "ledger_id": ledger_id,
        "id": task.id,
    }

    with refused("task_content_never_changes"), connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE outbox_task SET {assignment}"
            " WHERE ledger_id = %(ledger_id)s AND id = %(id)s",
            values,
        )


@pytest.mark.parametrize(
    "fields",
    [DECIDED, {**DECIDED, "state": "cancelled", "delivery": "unsent"}],
    ids=["done", "cancelled"],
)
@pytest.mark.parametrize(
    "assignment",
    [
        "state = 'pending', finished_at = NULL, completion_transfer_id = NULL",
        "provider_reference = 'another'",
        "last_error = 'x'",
    ],
)
def test_an_end_is_final(
    ledger_id: UUID, fields: dict[str, Any], assignment: str
) -> None:
    task = make_task(ledger_id=ledger_id, **fields)

    with refused("task_end_is_final"):
        set_columns(task, assignment)


@pytest.mark.parametrize("decision", ["settled", "rejected"])
@pytest.mark.parametrize("other", ["unsent", "unknown", "accepted", "the opposite"])
def test_a_providers_decision_is_final(
    ledger_id: UUID, decision: str, other: str
) -> None:
    if other == "the opposite":
        other = "rejected" if decision == "settled" else "settled"
    task = make_task(ledger_id=ledger_id, delivery=decision)

    with refused("task_decision_is_final"):
        set_columns(task, "delivery = %s", other)


def test_attempts_are_counted_upwards(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id, attempt_count=2)

    with refused("task_attempts_never_decrease"):
        set_columns(task, "attempt_count = 1")


def test_a_task_is_never_deleted(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id)

    with refused("task_is_never_deleted"):
        execute(
            "DELETE FROM outbox_task WHERE ledger_id = %s AND id = %s",
            ledger_id,
            task.id,
        )

    assert reload(task).state == "pending"


@pytest.mark.parametrize(
    ("tables", "constraint"),
    [
        ("outbox_attempt_outcome", "attempt_outcome_is_append_only"),
        ("outbox_attempt, outbox_attempt_outcome", "attempt_is_append_only"),
        (
            "outbox_task, outbox_attempt, outbox_attempt_outcome",
            "task_is_never_deleted",
        ),
    ],
)
def test_no_table_is_truncated(tables: str, constraint: str) -> None:
    with refused(constraint):
        execute(f"TRUNCATE {tables}")


# --- attempts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE outbox_attempt SET action = 'inquire' WHERE ledger_id = %s AND id = %s",
        "DELETE FROM outbox_attempt WHERE ledger_id = %s AND id = %s",
    ],
)
def test_an_attempt_is_evidence(ledger_id: UUID, sql: str) -> None:
    attempt_id = make_attempt(make_task(ledger_id=ledger_id))

    with refused("attempt_is_append_only"):
        execute(sql, ledger_id, attempt_id)

    assert OutboxAttempt.objects.get(ledger_id=ledger_id, id=attempt_id)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE outbox_attempt_outcome SET result = 'x'"
        " WHERE ledger_id = %s AND id = %s",
        "DELETE FROM outbox_attempt_outcome WHERE ledger_id = %s AND id = %s",
    ],
)
def test_an_outcome_is_evidence(ledger_id: UUID, sql: str) -> None:
    attempt_id = make_attempt(make_task(ledger_id=ledger_id))
    add_outcome(ledger_id, attempt_id)

    with refused("attempt_outcome_is_append_only"):
        execute(sql, ledger_id, attempt_id)

    assert OutboxAttemptOutcome.objects.get(ledger_id=ledger_id, id=attempt_id)


def add_outcome(ledger_id: UUID, attempt_id: UUID) -> None:
    execute(
        "INSERT INTO outbox_attempt_outcome (ledger_id, id, result)"
        " VALUES (%s, %s, 'settled')",
        ledger_id,
        attempt_id,
    )


def test_an_attempt_has_one_outcome(ledger_id: UUID) -> None:
    attempt_id = make_attempt(make_task(ledger_id=ledger_id))
    add_outcome(ledger_id, attempt_id)

    with refused("outbox_attempt_outcome_pkey"):
        add_outcome(ledger_id, attempt_id)


def test_attempts_of_a_task_are_numbered_apart(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id)
    make_attempt(task)

    with refused("attempt_unique_per_task"):
        make_attempt(task)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"number": 0}, "attempt_number_is_positive"),
        ({"action": "shout"}, "attempt_action_is_known"),
    ],
)
def test_an_attempt_that_makes_no_sense_is_refused(
    ledger_id: UUID, fields: dict[str, Any], constraint: str
) -> None:
    task = make_task(ledger_id=ledger_id)

    with refused(constraint):
        make_attempt(task, **fields)


def test_an_attempt_belongs_to_a_task_of_its_own_ledger(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id)
    elsewhere = OutboxTask(ledger_id=new_id(), id=task.id)

    with refused("attempt_belongs_to_task"):
        make_attempt(elsewhere)
        connection.check_constraints()


def test_an_outcome_belongs_to_an_attempt(ledger_id: UUID) -> None:
    with refused("outcome_belongs_to_attempt"):
        add_outcome(ledger_id, new_id())
        connection.check_constraints()


def test_disarmed_sessions_are_refused_too(ledger_id: UUID) -> None:
    attempt_id = make_attempt(make_task(ledger_id=ledger_id))
    execute("SET LOCAL session_replication_role = 'replica'")

    with refused("attempt_is_append_only"):
        execute(
            "DELETE FROM outbox_attempt WHERE ledger_id = %s AND id = %s",
            ledger_id,
            attempt_id,
        )
