"""Scheduled transfers: asked for today, posted at their time, under its rules.

A scheduled transfer moves, holds and reserves nothing until it is due. Then the worker
posts it through the engine as any transfer, and in the same transaction, under the
row's lock, writes into the row what came of it. So it happens exactly once:

* killed before COMMIT: transfer and outcome are both gone, and the row is due;
* killed after COMMIT: the row has ended, and nobody takes it up again;
* two workers: one has the lock, the other passes over the row, or finds it ended;
* cancelling and posting: both lock the row first, and who comes second finds it ended.

Whoever forgot the lock would be stopped by the trigger ``scheduled_end_is_final``, and
the transfer would be gone with the transaction.

The row's lock is the first of its transaction and accounts come after it; nobody who
has accounts locked asks for a scheduled transfer.

Note on the key. A transfer posted here bears the idempotency key ``scheduled:<id>``. It
needs no row among the clients' keys, because the scheduled transfer's own row is what
makes it happen once. Clients cannot send keys that begin with ``scheduled:``
(``idempotency.keys``), so among the transfers of a client no other has that key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models.functions import Now

from idempotency.keys import SCHEDULED_PREFIX
from ledger.engine.refusals import postings_forbid
from ledger.enums import ScheduledStatus
from ledger.locks import lock_due_scheduled, lock_scheduled
from ledger.models import Account, ScheduledTransfer
from ledger.selectors.as_of import clock_read
from ledger.selectors.scheduled import scheduled_get, scheduled_missing
from ledger.services.accounts import change_record
from ledger.services.transfers import transfer_post
from ledger.types import PostingRequest, TransferRequest
from payflow.actors import Actor
from payflow.clock import format_instant
from payflow.db import require_transaction
from payflow.errors import Problem
from payflow.ids import new_id

#: How far ahead a transfer can be scheduled: five years.
MAX_AHEAD = timedelta(days=5 * 366)
#: How long after it is due it can be tried again.
MAX_RETRYING = timedelta(days=31)
#: The pauses after the first refusals; after later ones it is the last of these.
RETRY_PAUSES = (timedelta(minutes=15), timedelta(minutes=30), timedelta(hours=1))
#: The pause after its accounts were busy.
BUSY_PAUSE = timedelta(seconds=10)
#: The pause after an error that is nobody's refusal.
ERROR_PAUSE = timedelta(minutes=5)
#: After an error it is tried for so long past its time, and so often at least.
ERROR_PATIENCE = timedelta(days=1)
MIN_ERROR_ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """A transfer to be posted later; see :class:`ledger.models.ScheduledTransfer`.

    ``retry_until`` lies after ``due_at``; without it the first refusal is final.
    """

    postings: tuple[PostingRequest, ...]
    due_at: datetime
    retry_until: datetime | None = None
    reference: str | None = None
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=new_id)


def scheduled_create(
    *,
    ledger_id: UUID,
    request: ScheduleRequest,
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> ScheduledTransfer | Problem:
    """Schedules a transfer.

    Refused for the first of: ``account_not_found``, ``same_account``,
    ``currency_mismatch``, ``due_at_out_of_range``, ``retry_until_out_of_range``. All
    else, funds above all, is judged when it is due.

    Args:
        ledger_id: the ledger that all accounts must belong to.
        request: what is to be posted, and when.
        actor: who asks; the transfer will name them too.
        now: the interface's clock, after which ``due_at`` must lie.
        idempotency_key: the key of the request, for the record.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    problem = _postings_forbid(ledger_id, request) or _times_forbid(request, now=now)
    if problem is not None:
        return problem
    ScheduledTransfer.objects.create(
        ledger_id=ledger_id,
        id=request.id,
        due_at=request.due_at,
        next_attempt_at=request.due_at,
        retry_until=request.retry_until,
        postings=[
            {
                "from_account_id": str(posting.from_account_id),
                "to_account_id": str(posting.to_account_id),
                "amount": posting.amount,
            }
            for posting in request.postings
        ],
        reference=request.reference,
        description=request.description,
        metadata=dict(request.metadata),
        actor=actor.label,
        client_id=actor.client_id,
        key_id=actor.key_id,
        request_id=actor.request_id,
        idempotency_key=idempotency_key,
        created_at=Now(),
    )
    return scheduled_get(ledger_id=ledger_id, scheduled_id=request.id)


def _postings_forbid(ledger_id: UUID, request: ScheduleRequest) -> Problem | None:
    wanted = {
        account_id
        for posting in request.postings
        for account_id in (posting.from_account_id, posting.to_account_id)
    }
    found = Account.objects.filter(ledger_id=ledger_id, id__in=wanted)
    return postings_forbid(request.postings, {account.id: account for account in found})


def _times_forbid(request: ScheduleRequest, *, now: datetime) -> Problem | None:
    latest = now + MAX_AHEAD
    if not now < request.due_at <= latest:
        return Problem(
            "due_at_out_of_range",
            f"due_at lies after {format_instant(now)}, by {format_instant(latest)}.",
            {"after": format_instant(now), "latest": format_instant(latest)},
        )
    latest = request.due_at + MAX_RETRYING
    if request.retry_until and not request.due_at < request.retry_until <= latest:
        return Problem(
            "retry_until_out_of_range",
            f"retry_until lies after due_at, by {format_instant(latest)}.",
            {"latest": format_instant(latest)},
        )
    return None


def scheduled_cancel(
    *, ledger_id: UUID, scheduled_id: UUID, reason: str, actor: Actor
) -> ScheduledTransfer | Problem:
    """Ends a scheduled transfer before it is posted. The ledger's history says who did.

    Refused: ``scheduled_not_pending`` (it has been posted, refused or cancelled).

    Args:
        ledger_id, scheduled_id: what is cancelled.
        reason: why; may be empty.
        actor: who cancels.

    Raises:
        ProblemError: ``scheduled_not_found``.
        RuntimeError: no transaction is open.
    """
    row = lock_scheduled(ledger_id=ledger_id, scheduled_id=scheduled_id)
    if row is None:
        raise scheduled_missing(scheduled_id)
    if row.status != ScheduledStatus.SCHEDULED:
        transfer_id = str(row.transfer_id) if row.transfer_id else None
        return Problem(
            "scheduled_not_pending",
            f"The scheduled transfer is {row.status}.",
            {
                "scheduled_id": str(scheduled_id),
                "scheduled_status": row.status,
                "transfer_id": transfer_id,
            },
        )
    _update(row, status=ScheduledStatus.CANCELLED, end_reason=reason, ended_at=Now())
    change_record(
        ledger_id=ledger_id,
        account_id=None,
        old={"scheduled_transfer": {"id": str(row.id), "status": row.status}},
        new={
            "scheduled_transfer": {
                "id": str(row.id),
                "status": ScheduledStatus.CANCELLED,
                "reason": reason,
            }
        },
        actor=actor,
    )
    return scheduled_get(ledger_id=ledger_id, scheduled_id=scheduled_id)


def scheduled_post(*, ledger_id: UUID, scheduled_id: UUID) -> str | None:
    """Posts a scheduled transfer that is due, or writes down why it is refused.

    A refusal before ``retry_until`` is followed by another attempt after one of
    :data:`RETRY_PAUSES`, at ``retry_until`` for the last time. Times are PostgreSQL's.

    Returns:
        The row's ``ScheduledStatus`` now; ``None`` if it was not due, or somebody else
        has it.

    Raises:
        RuntimeError: no transaction is open.
    """
    row = lock_due_scheduled(ledger_id=ledger_id, scheduled_id=scheduled_id)
    if row is None:
        return None
    now = clock_read()
    outcome = transfer_post(
        ledger_id=ledger_id,
        request=TransferRequest(
            postings=tuple(
                PostingRequest(
                    UUID(posting["from_account_id"]),
                    UUID(posting["to_account_id"]),
                    posting["amount"],
                )
                for posting in row.postings
            ),
            reference=row.reference,
            description=row.description,
            metadata=row.metadata,
        ),
        actor=Actor(
            label=f"scheduled:{row.actor}",
            client_id=row.client_id,
            key_id=row.key_id,
            request_id=row.request_id,
        ),
        now=now,
        idempotency_key=f"{SCHEDULED_PREFIX}{row.id}",
    )
    attempt_count = row.attempt_count + 1
    if not isinstance(outcome, Problem):
        return _update(
            row,
            status=ScheduledStatus.POSTED,
            transfer_id=outcome.id,
            attempt_count=attempt_count,
            ended_at=Now(),
        )
    refusal = {
        "code": outcome.code,
        "detail": outcome.detail,
        "fields": dict(outcome.fields),
    }
    if row.retry_until is None or now >= row.retry_until:
        return _update(
            row,
            status=ScheduledStatus.REFUSED,
            last_problem=refusal,
            attempt_count=attempt_count,
            ended_at=Now(),
        )
    pause = RETRY_PAUSES[min(attempt_count, len(RETRY_PAUSES)) - 1]
    return _update(
        row,
        last_problem=refusal,
        attempt_count=attempt_count,
        next_attempt_at=min(now + pause, row.retry_until),
    )


def scheduled_postpone(*, ledger_id: UUID, scheduled_id: UUID) -> None:
    """Lets a due row rest for :data:`BUSY_PAUSE`; it is no attempt.

    Raises:
        RuntimeError: no transaction is open.
    """
    row = lock_due_scheduled(ledger_id=ledger_id, scheduled_id=scheduled_id)
    if row is not None:
        _update(row, next_attempt_at=clock_read() + BUSY_PAUSE)


def scheduled_fail(*, ledger_id: UUID, scheduled_id: UUID) -> None:
    """Counts and notes an attempt that ended with an error, and rolled back with it.

    Another one follows after :data:`ERROR_PAUSE`; the last is at least
    :data:`ERROR_PATIENCE` after ``retry_until``, or ``due_at``, and at least the
    :data:`MIN_ERROR_ATTEMPTS`-th, so that a fault of ours has time to be mended.

    Raises:
        RuntimeError: no transaction is open.
    """
    row = lock_due_scheduled(ledger_id=ledger_id, scheduled_id=scheduled_id)
    if row is None:
        return
    now = clock_read()
    attempt_count = row.attempt_count + 1
    noted = {"attempt_count": attempt_count, "last_problem": _ERROR}
    is_over = now >= (row.retry_until or row.due_at) + ERROR_PATIENCE
    if is_over and attempt_count >= MIN_ERROR_ATTEMPTS:
        _update(row, status=ScheduledStatus.REFUSED, ended_at=Now(), **noted)
    else:
        _update(row, next_attempt_at=now + ERROR_PAUSE, **noted)


_ERROR = {
    "code": "internal_error",
    "detail": "An error on our side; nothing was moved by this attempt.",
    "fields": {},
}


def _update(row: ScheduledTransfer, **changes: Any) -> str:
    """Writes the changes; returns the status that the row has then."""
    ScheduledTransfer.objects.filter(ledger_id=row.ledger_id, id=row.id).update(
        **changes
    )
    return str(changes.get("status", row.status))
