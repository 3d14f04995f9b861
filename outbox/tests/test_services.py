"""What other apps may do to a task."""

from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from outbox.services import task_cancel_unsent, task_lock_unsent, task_retry
from outbox.tests.factories import complete, make_task, reload, set_columns
from payflow.ids import new_id

ENDED: dict[str, Any] = {"finished_at": Now()}
LEASED: dict[str, Any] = {"state": "leased", "lease_token": new_id()}
ATTEMPTED: dict[str, Any] = {"attempt_count": 1}


@pytest.mark.django_db
@pytest.mark.parametrize("fields", [{}, LEASED], ids=["pending", "leased"])
def test_a_payout_that_was_never_attempted_can_be_cancelled(
    ledger_id: UUID, fields: dict[str, Any]
) -> None:
    task = make_task(ledger_id=ledger_id, **fields)
    reversal_id = complete(task)

    unsent = task_lock_unsent(ledger_id=ledger_id, task_id=task.id)
    cancelled = task_cancel_unsent(
        ledger_id=ledger_id, task_id=task.id, completion_transfer_id=reversal_id
    )

    assert unsent
    assert cancelled
    after = reload(task)
    assert after.state == "cancelled"
    assert after.completion_transfer_id == reversal_id
    assert after.finished_at is not None
    assert after.lease_token is None


@pytest.mark.django_db
@pytest.mark.parametrize(
    "fields",
    [
        ATTEMPTED,
        {**ATTEMPTED, "delivery": "unknown"},
        {"delivery": "accepted"},
        {**LEASED, **ATTEMPTED, "delivery": "unknown"},
        {**ENDED, "state": "dead", "delivery": "unknown"},
        {**ENDED, "state": "needs_attention", "delivery": "settled"},
        {
            **ENDED,
            "state": "done",
            "delivery": "settled",
            "completion_transfer_id": F("transfer_id"),
        },
    ],
)
def test_a_payout_that_may_have_been_sent_cannot_be_cancelled(
    ledger_id: UUID, fields: dict[str, Any]
) -> None:
    task = make_task(ledger_id=ledger_id, **fields)

    unsent = task_lock_unsent(ledger_id=ledger_id, task_id=task.id)
    cancelled = task_cancel_unsent(
        ledger_id=ledger_id, task_id=task.id, completion_transfer_id=task.transfer_id
    )

    assert not unsent
    assert not cancelled
    assert reload(task).state == task.state


@pytest.mark.django_db
def test_a_task_of_another_ledger_is_not_found(ledger_id: UUID) -> None:
    task = make_task(ledger_id=ledger_id)

    unsent = task_lock_unsent(ledger_id=new_id(), task_id=task.id)
    cancelled = task_cancel_unsent(
        ledger_id=new_id(), task_id=task.id, completion_transfer_id=task.transfer_id
    )

    assert not unsent
    assert not cancelled
    assert reload(task).state == "pending"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("state", "delivery"),
    [
        ("dead", "unsent"),
        ("dead", "unknown"),
        ("dead", "accepted"),
        ("needs_attention", "settled"),
        ("needs_attention", "rejected"),
    ],
)
def test_a_stuck_task_is_taken_up_again_with_what_is_known_of_it(
    ledger_id: UUID, state: str, delivery: str
) -> None:
    task = make_task(
        ledger_id=ledger_id, state=state, delivery=delivery, failure_count=9, **ENDED
    )

    taken_up = task_retry(ledger_id=ledger_id, task_id=task.id)

    assert taken_up
    after = reload(task)
    assert (after.state, after.delivery) == ("pending", delivery)
    assert (after.failure_count, after.finished_at) == (0, None)
    assert after.retried_at is not None


@pytest.mark.django_db
@pytest.mark.parametrize(
    "fields",
    [
        {},
        LEASED,
        {**ENDED, "state": "cancelled", "completion_transfer_id": F("transfer_id")},
    ],
)
def test_a_task_that_is_not_stuck_is_not_taken_up_again(
    ledger_id: UUID, fields: dict[str, Any]
) -> None:
    task = make_task(ledger_id=ledger_id, **fields)

    taken_up = task_retry(ledger_id=ledger_id, task_id=task.id)

    assert not taken_up
    assert reload(task).state == task.state


@pytest.mark.usefixtures("committed_db")
def test_the_services_demand_a_transaction(ledger_id: UUID) -> None:
    names = {"ledger_id": ledger_id, "task_id": new_id()}

    for call in (
        lambda: task_lock_unsent(**names),
        lambda: task_cancel_unsent(**names, completion_transfer_id=new_id()),
        lambda: task_retry(**names),
    ):
        with pytest.raises(RuntimeError, match="transaction"):
            call()


@pytest.mark.usefixtures("committed_db")
def test_a_cancellation_that_is_rolled_back_leaves_the_payout_to_be_sent(
    ledger_id: UUID,
) -> None:
    task = make_task(ledger_id=ledger_id)

    with transaction.atomic():
        task_cancel_unsent(
            ledger_id=ledger_id,
            task_id=task.id,
            completion_transfer_id=complete(task),
        )
        transaction.set_rollback(True)

    assert reload(task).state == "pending"
    set_columns(task, "due_at = now() + interval '1 hour'")
