"""Reading scheduled transfers, and which of them are due."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from django.db import connection
from django.db.models.functions import Now

from ledger.enums import ScheduledStatus
from ledger.models import ScheduledTransfer
from ledger.selectors.finding import (
    ANY_TIME,
    EQUAL_PROBE,
    FoundPage,
    Key,
    Metadata,
    Range,
    amount_conditions,
    equal_conditions,
    find,
    metadata_parts,
    prefix_parts,
    range_conditions,
    search_by_id,
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledFilters:
    """Which scheduled transfers are looked for; ``None`` means any.

    One posting must meet ``account_id`` and ``amounts`` (the least and the greatest, in
    minor units) together. See ``docs/finding.md``.
    """

    key_type: ClassVar[type[UUID]] = UUID

    reference: str | None = None
    reference_prefix: str | None = None
    status: str | None = None
    account_id: UUID | None = None
    amounts: tuple[int | None, int | None] = (None, None)
    created: Range = ANY_TIME
    due: Range = ANY_TIME
    metadata: Metadata = ()


def scheduled_list(
    *,
    ledger_id: UUID,
    limit: int,
    before: Key | None,
    filters: ScheduledFilters = ScheduledFilters(),
) -> FoundPage[ScheduledTransfer]:
    """A page of scheduled transfers, newest first.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: the last id that the page before looked at.
        filters: which ones.
    """
    parameters: dict[str, Any] = {}
    conditions = [
        *equal_conditions(
            {"reference": filters.reference, "status": filters.status}, parameters
        ),
        *range_conditions("r.created_at", "created", filters.created, parameters),
        *range_conditions("r.due_at", "due", filters.due, parameters),
        *_posting_conditions(filters, parameters),
    ]
    quick: list[str] = []
    slow: list[str] = []
    if filters.reference is not None:
        quick.append(EQUAL_PROBE.format(table=_TABLE, column="reference"))
    if filters.status == ScheduledStatus.SCHEDULED:
        slow.append(_WAITING)
    for found, probes in (
        prefix_parts(_TABLE, filters.reference_prefix, parameters),
        metadata_parts(_TABLE, filters.metadata, parameters),
    ):
        conditions += found
        slow += probes
    keys, after = find(
        search_by_id(
            table=_TABLE,
            ledger_id=ledger_id,
            before=before,
            conditions=conditions,
            parameters=parameters,
            id_range=filters.created,
            quick_probes=quick,
            slow_probes=slow,
        ),
        limit=limit,
    )
    rows = ScheduledTransfer.objects.filter(ledger_id=ledger_id, id__in=keys)
    return FoundPage(list(rows.order_by("-id")), after=after)


def _posting_conditions(
    filters: ScheduledFilters, parameters: dict[str, Any]
) -> list[str]:
    """What one posting must meet."""
    tests = amount_conditions(filters.amounts, parameters, of="p")
    if filters.account_id is not None:
        parameters["account_id"] = filters.account_id
        tests.append("%(account_id)s IN (p.from_account_id, p.to_account_id)")
    return [_OF_POSTING.format(tests=" AND ".join(tests))] if tests else []


_TABLE = "ledger_scheduled_transfer"
_OF_POSTING = """
EXISTS (SELECT FROM jsonb_to_recordset(r.postings) AS p (
        from_account_id uuid, to_account_id uuid, amount bigint)
    WHERE {tests})
"""
# In the index's order, so that PostgreSQL has nothing cheaper than the index.
_WAITING = """
    SELECT s.id FROM ledger_scheduled_transfer s
    WHERE s.ledger_id = %(ledger_id)s AND s.status = 'scheduled'
    ORDER BY s.next_attempt_at
"""


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
