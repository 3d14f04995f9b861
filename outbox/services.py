"""What other apps may do to a task, inside their own transaction.

The task's row is locked for the rest of it: lock accounts before.
"""

from uuid import UUID

from django.db.models.functions import Now

from outbox.enums import LIVE_STATES, Delivery, TaskState
from outbox.models import OutboxTask
from payflow.db import require_transaction

#: States from which a person may have a task tried again.
RETRYABLE_STATES = (TaskState.DEAD, TaskState.NEEDS_ATTENTION)


def task_lock_unsent(*, ledger_id: UUID, task_id: UUID) -> bool:
    """Whether the payout was never attempted; if so, nobody can begin it from here on.

    The answer holds until the end of the transaction, because the row is locked: a
    dispatcher that has leased the task cannot announce its first call meanwhile. It is
    the refusal's question, to be asked before the first write; follow it up with
    ``task_cancel_unsent``.

    Args:
        ledger_id: the task's ledger.
        task_id: the payout task.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    task = (
        OutboxTask.objects.select_for_update(of=("self",))
        .filter(ledger_id=ledger_id, id=task_id)
        .first()
    )
    return (
        task is not None
        and task.state in LIVE_STATES
        and task.delivery == Delivery.UNSENT
        and task.attempt_count == 0
    )


def task_cancel_unsent(
    *, ledger_id: UUID, task_id: UUID, completion_transfer_id: UUID
) -> bool:
    """Cancels a payout that was never attempted; says whether it did.

    One that a dispatcher has leased and not begun is cancelled too: the dispatcher
    finds its lease gone when it announces the call. If an attempt was announced the
    answer is ``False``, nothing is changed, and the caller must roll back.

    Args:
        ledger_id: the task's ledger.
        task_id: the payout task.
        completion_transfer_id: the reversal that gives the money back.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    cancelled = OutboxTask.objects.filter(
        ledger_id=ledger_id,
        id=task_id,
        state__in=LIVE_STATES,
        delivery=Delivery.UNSENT,
        attempt_count=0,
    ).update(
        state=TaskState.CANCELLED,
        completion_transfer_id=completion_transfer_id,
        lease_token=None,
        finished_at=Now(),
    )
    return cancelled == 1


def task_retry(*, ledger_id: UUID, task_id: UUID) -> bool:
    """Takes a dead task, or one that needs attention, up again; says whether it did.

    It is due at once, its failures are forgotten and its age starts anew. What is known
    of its delivery stays: a payout that may have been sent is inquired after first,
    and one that the provider has decided is only booked.

    Args:
        ledger_id: the task's ledger.
        task_id: the task.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    taken_up = OutboxTask.objects.filter(
        ledger_id=ledger_id, id=task_id, state__in=RETRYABLE_STATES
    ).update(
        state=TaskState.PENDING,
        failure_count=0,
        due_at=Now(),
        retried_at=Now(),
        finished_at=None,
    )
    return taken_up == 1
