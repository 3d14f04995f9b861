"""Rows for the outbox's tests. ``make_tasks`` is the only place that makes tasks.

A task exists only with its transfer, so it comes out of the posting engine; what a
test wants to differ is changed afterwards.
"""

from typing import Any
from uuid import UUID

from django.db import connection, transaction

from ledger.enums import AccountKind
from ledger.models import Account, Ledger
from ledger.services.accounts import AccountRequest, account_create
from ledger.services.ledgers import ledger_create
from ledger.services.payouts import PayoutHandler
from ledger.services.posting import transfers_post
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from outbox.enums import TaskKind
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import now
from payflow.ids import new_id

ACTOR = Actor("test")
DESTINATION = "DE02100100100006820101"
AMOUNT = 2_500


def make_task(*, ledger_id: UUID, **fields: Any) -> OutboxTask:
    """One task; a payout unless ``kind`` says otherwise. See ``make_tasks``."""
    (task,) = make_tasks(ledger_id=ledger_id, count=1, **fields)
    return task


def make_tasks(
    *,
    ledger_id: UUID,
    count: int,
    kind: str = TaskKind.PAYOUT,
    destination: str = DESTINATION,
    **fields: Any,
) -> list[OutboxTask]:
    """Several tasks of one kind, oldest first, each with a transfer of its own.

    The ledger is made where there is none; ``fields`` are columns to change.
    """
    is_payout = kind == TaskKind.PAYOUT
    with transaction.atomic():
        if not Ledger.objects.filter(id=ledger_id).exists():
            ledger_create(
                slug=f"test-{ledger_id}",
                name="Test",
                time_zone="UTC",
                actor=ACTOR,
                ledger_id=ledger_id,
            )
        source = make_account(ledger_id, kind=AccountKind.EQUITY, min_balance=None)
        target = make_account(
            ledger_id, payout_destination=destination if is_payout else None
        )
        outcomes = transfers_post(
            ledger_id=ledger_id,
            requests=[
                TransferRequest((PostingRequest(source.id, target.id, AMOUNT),))
                for _ in range(count)
            ],
            actor=ACTOR,
            now=now(),
            # A payout's own transfer.posted task would only be in the way.
            tasks_are_done=is_payout,
        )
        tasks = OutboxTask.objects.filter(
            ledger_id=ledger_id,
            kind=kind,
            transfer_id__in=[
                outcome.id
                for outcome in outcomes
                if isinstance(outcome, PostedTransfer)
            ],
        )
        if fields.get("completion_transfer_id") is not None:
            # A payout ends with the transfer that completes it, so each has its own.
            for task in tasks.all():
                fields["completion_transfer_id"] = complete(
                    task, settled=fields.get("delivery") == "settled"
                )
                tasks.filter(id=task.id).update(**fields)
        elif fields:
            tasks.update(**fields)
        return sorted(tasks, key=lambda task: task.id)


def make_account(ledger_id: UUID, **fields: Any) -> Account:
    """An empty account in US dollars."""
    account = account_create(
        ledger_id=ledger_id,
        request=AccountRequest(currency="USD", owner_name="Somebody", **fields),
    )
    assert isinstance(account, Account), account
    return account


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


def complete(task: OutboxTask, *, settled: bool = False) -> UUID:
    """Posts the settlement or the reversal of a payout; the task is left alone."""
    handler = PayoutHandler()
    if settled:
        return handler.settle(task=task)
    return handler.reject(task=task, reason="a test")


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
