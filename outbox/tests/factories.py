"""Rows for the outbox's tests. ``make_task`` is the only place that inserts tasks."""

from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models.functions import Now

from outbox.enums import TaskKind
from outbox.models import OutboxTask
from payflow.ids import new_id

PAYOUT_DEFAULTS: dict[str, Any] = {
    "kind": TaskKind.PAYOUT,
    "posting_number": 1,
    "destination": "DE02100100100006820101",
    "amount": 2_500,
    "currency": "USD",
}


def make_task(*, ledger_id: UUID, **fields: Any) -> OutboxTask:
    """One task, inserted; a payout unless ``kind`` says otherwise."""
    (task,) = make_tasks(ledger_id=ledger_id, count=1, **fields)
    return task


def make_tasks(*, ledger_id: UUID, count: int, **fields: Any) -> list[OutboxTask]:
    """Several tasks with the same fields, inserted by one statement."""
    if fields.get("kind", TaskKind.PAYOUT) == TaskKind.PAYOUT:
        fields = {**PAYOUT_DEFAULTS, "account_id": new_id(), **fields}
    ids = [new_id() for _ in range(count)]
    OutboxTask.objects.bulk_create(
        OutboxTask(
            **{
                "ledger_id": ledger_id,
                "id": id_,
                "transfer_id": new_id(),
                "due_at": Now(),
                "created_at": Now(),
                **fields,
            }
        )
        for id_ in ids
    )
    found = OutboxTask.objects.filter(ledger_id=ledger_id, id__in=ids)
    return sorted(found, key=lambda task: task.id)


def make_attempt(task: OutboxTask, *, number: int = 1, action: str = "send") -> UUID:
    """One attempt row, inserted; returns its id."""
    attempt_id = new_id()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_attempt"
            " (ledger_id, id, task_id, number, action, lease_token)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [task.ledger_id, attempt_id, task.id, number, action, new_id()],
        )
    return attempt_id


def set_columns(task: OutboxTask, assignments: str, *params: Any) -> None:
    """Changes columns of a task by raw SQL, past everything but the database."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE outbox_task SET {assignments} WHERE ledger_id = %s AND id = %s",
            [*params, task.ledger_id, task.id],
        )


def make_due(task: OutboxTask) -> None:
    """Has the task's waiting time, or the lease on it, be over."""
    set_columns(task, "due_at = now() - interval '1 second'")


def reload(task: OutboxTask) -> OutboxTask:
    """The task as the database has it now."""
    return OutboxTask.objects.get(ledger_id=task.ledger_id, id=task.id)


def history(task: OutboxTask) -> list[tuple[str, str | None]]:
    """Each attempt's action and result, in order; ``None`` where no outcome is."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attempt.action, outcome.result FROM outbox_attempt AS attempt"
            " LEFT JOIN outbox_attempt_outcome AS outcome"
            "   ON outcome.ledger_id = attempt.ledger_id AND outcome.id = attempt.id"
            " WHERE attempt.ledger_id = %s AND attempt.task_id = %s"
            " ORDER BY attempt.number",
            [task.ledger_id, task.id],
        )
        return cursor.fetchall()
