"""Reading scheduled transfers, and which of them are due."""

from collections.abc import Collection
from uuid import UUID

from django.db import connection
from django.db.models.functions import Now

from ledger.enums import ScheduledStatus
from ledger.models import ScheduledTransfer
from payflow.errors import ProblemError

# From one ledger to the next by index, however much each has scheduled. PostgreSQL's
# clock decides what is due, and nobody else's.
_LEDGERS = """
WITH RECURSIVE found (ledger_id, next_attempt_at) AS (
    (SELECT ledger_id, next_attempt_at FROM ledger_scheduled_transfer
     WHERE status = 'scheduled' ORDER BY ledger_id, next_attempt_at LIMIT 1)
    UNION ALL
    SELECT n.ledger_id, n.next_attempt_at FROM found f CROSS JOIN LATERAL (
        SELECT s.ledger_id, s.next_attempt_at FROM ledger_scheduled_transfer s
        WHERE s.status = 'scheduled' AND s.ledger_id > f.ledger_id
        ORDER BY s.ledger_id, s.next_attempt_at LIMIT 1) n
)
SELECT ledger_id FROM found WHERE next_attempt_at <= statement_timestamp()
"""


def scheduled_get(*, ledger_id: UUID, scheduled_id: UUID) -> ScheduledTransfer:
    """One scheduled transfer.

    Raises:
        ProblemError: ``scheduled_not_found``, also for another ledger's.
    """
    found = ScheduledTransfer.objects.filter(
        ledger_id=ledger_id, id=scheduled_id
    ).first()
    if found is None:
        raise scheduled_missing(scheduled_id)
    return found


def scheduled_missing(scheduled_id: object) -> ProblemError:
    """The problem of a scheduled transfer that this ledger does not have."""
    return ProblemError(
        "scheduled_not_found",
        f"There is no scheduled transfer {scheduled_id} in this ledger.",
        scheduled_id=str(scheduled_id),
    )


def scheduled_list(
    *,
    ledger_id: UUID,
    limit: int,
    before: UUID | None,
    reference: str | None = None,
    status: str | None = None,
) -> list[ScheduledTransfer]:
    """Scheduled transfers, newest first, ``limit + 1`` of them.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: only those with a smaller id: the last one of the page before.
        reference: only those with this reference.
        status: only those that are in this state.
    """
    rows = ScheduledTransfer.objects.filter(ledger_id=ledger_id).order_by("-id")
    if before is not None:
        rows = rows.filter(id__lt=before)
    if reference is not None:
        rows = rows.filter(reference=reference)
    if status is not None:
        rows = rows.filter(status=status)
    return list(rows[: limit + 1])


def ledgers_with_due() -> list[UUID]:
    """The ids of the ledgers that have scheduled transfers to be posted now."""
    with connection.cursor() as cursor:
        cursor.execute(_LEDGERS)
        return [ledger_id for (ledger_id,) in cursor.fetchall()]


def scheduled_due(
    *, ledger_id: UUID, limit: int, without: Collection[UUID] = ()
) -> list[UUID]:
    """The ids of what is to be posted now, the longest due first.

    Args:
        ledger_id: the ledger.
        limit: at most so many.
        without: ids to be left out.
    """
    rows = ScheduledTransfer.objects.filter(
        ledger_id=ledger_id,
        status=ScheduledStatus.SCHEDULED,
        next_attempt_at__lte=Now(),
    ).order_by("next_attempt_at", "id")
    return list(rows.exclude(id__in=without).values_list("id", flat=True)[:limit])
