"""The ledger's periodic tasks. Beat calls them; the truth is in the tables.

A message that is lost, or comes twice, or to two workers at once, does no harm: each
row is locked for the transaction that works on it, and looked at under the lock.
"""

import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import structlog
from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from ledger.selectors.holds import ledgers_with_lapsed_holds
from ledger.selectors.scheduled import ledgers_with_due, scheduled_due
from ledger.services.holds import holds_expire
from ledger.services.integrity import integrity_refresh
from ledger.services.scheduled import scheduled_post, scheduled_postpone
from payflow import failpoints
from payflow.clock import now
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import ProblemError

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: A run takes nothing new after so many seconds; beat starts the next one soon.
RUN_SECONDS = 4.0
#: The most scheduled transfers of one ledger before the next ledger has its turn.
SLICE = 100
#: Problems that pass by themselves and say nothing about the row.
PASSING = frozenset({"ledger_busy", "database_unavailable", "clock_behind"})


@shared_task(name="ledger.refresh_integrity")
def refresh_integrity() -> None:
    """Computes the number behind ``/health`` anew."""
    integrity_refresh()


@shared_task(name="ledger.post_scheduled")
def post_scheduled() -> None:
    """Posts the scheduled transfers that are due, ledger by ledger, a slice each."""
    deadline = time.monotonic() + RUN_SECONDS
    tried: set[UUID] = set()
    while waiting := [
        (ledger_id, scheduled_id)
        for ledger_id in ledgers_with_due()
        for scheduled_id in scheduled_due(
            ledger_id=ledger_id, limit=SLICE, without=tried
        )
    ]:
        for ledger_id, scheduled_id in waiting:
            if time.monotonic() > deadline:
                return
            tried.add(scheduled_id)
            post_one(ledger_id=ledger_id, scheduled_id=scheduled_id)


def post_one(*, ledger_id: UUID, scheduled_id: UUID) -> str | None:
    """Posts one scheduled transfer in a transaction of its own.

    What passes by itself (a lock that is not to be had, a database that is away) leaves
    the row due, for the next run. An error is logged, and the row is put off so that it
    holds up nobody.

    Returns:
        The row's ``ScheduledStatus`` now; ``None`` if nothing came of it.
    """
    row = {"ledger_id": ledger_id, "scheduled_id": scheduled_id}
    names = {name: str(value) for name, value in row.items()}
    try:
        status = _in_transaction(lambda: scheduled_post(**row))
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        if isinstance(error, ProblemError) and error.problem.code in PASSING:
            log.warning("scheduled_left_due", code=error.problem.code, **names)
            return None
        log.exception("scheduled_failed", **names)
        _in_transaction(lambda: scheduled_postpone(**row))
        return None
    if status is not None:
        log.info("scheduled_attempted", status=status, **names)
    return status


@shared_task(name="ledger.expire_holds")
def expire_holds() -> None:
    """Records lapsed holds as expired, ledger by ledger.

    Whether a hold has lapsed is decided by its time and not by this; the sweep keeps
    the rows and the accounts' counters short of old news.
    """
    deadline = time.monotonic() + RUN_SECONDS
    for ledger_id in ledgers_with_lapsed_holds():
        try:
            while time.monotonic() < deadline and _expire(ledger_id):
                pass
        except SoftTimeLimitExceeded:
            raise
        except Exception:
            # One ledger's trouble; the others must not wait for its end.
            log.exception("holds_not_expired", ledger_id=str(ledger_id))


def _expire(ledger_id: UUID) -> int:
    count = _in_transaction(lambda: holds_expire(ledger_id=ledger_id, now=now()))
    if count:
        log.info("holds_expired", ledger_id=str(ledger_id), count=count)
    return count


def _in_transaction(work: Callable[[], T]) -> T:
    """Runs ``work`` in a transaction of its own, and again after a lost race."""

    def run() -> T:
        with transaction_owner():
            result = work()
            failpoints.reach("before_commit")
        failpoints.reach("after_commit")
        return result

    return retry_on_conflict(run)
