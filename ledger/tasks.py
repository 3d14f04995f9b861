"""The ledger's periodic tasks. Beat calls them; the truth is in the tables.

A message that is lost, or comes twice, or to two workers at once, does no harm: each
row is locked for the transaction that works on it, and looked at under the lock.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import structlog
from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection

from ledger.selectors.holds import ledgers_with_lapsed_holds
from ledger.selectors.scheduled import ledgers_with_due, scheduled_due
from ledger.services.holds import holds_expire
from ledger.services.integrity import integrity_refresh_if_due
from ledger.services.scheduled import (
    scheduled_fail,
    scheduled_post,
    scheduled_postpone,
)
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
#: The longest wait for a lock, in milliseconds: a run has others to look after.
LOCK_WAIT_MS = 500
BUSY = "ledger_busy"
#: Problems that pass by themselves and say nothing about the row.
PASSING = frozenset({BUSY, "database_unavailable", "clock_behind"})


@shared_task(name="ledger.refresh_integrity")
def refresh_integrity() -> None:
    """Computes the number behind ``/health`` anew, as often as its cost allows."""
    integrity_refresh_if_due()


@shared_task(name="ledger.post_scheduled")
def post_scheduled() -> None:
    """Posts the scheduled transfers that are due, ledger by ledger, a slice each.

    Every run has another order of ledgers, and what could not be posted ends its
    ledger's turn; so no ledger's trouble uses up the time of the others.
    """
    deadline = time.monotonic() + RUN_SECONDS
    tried: set[UUID] = set()
    while waiting := [
        (ledger_id, rows)
        for ledger_id in _shuffled(ledgers_with_due())
        if (rows := scheduled_due(ledger_id=ledger_id, limit=SLICE, without=tried))
    ]:
        for ledger_id, rows in waiting:
            for scheduled_id in rows:
                if time.monotonic() > deadline:
                    return
                tried.add(scheduled_id)
                if post_one(ledger_id=ledger_id, scheduled_id=scheduled_id) is None:
                    break


def post_one(*, ledger_id: UUID, scheduled_id: UUID) -> str | None:
    """Posts one scheduled transfer in a transaction of its own.

    What passes by itself (a lock that is not to be had, a database that is away) is no
    attempt, and the row is soon tried again. An error is logged and counted; its
    transaction rolled back and moved nothing, so trying again is safe. Either way the
    row is put off, so that it is not the first one of the next run.

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
            if error.problem.code == BUSY:
                _in_transaction(lambda: scheduled_postpone(**row))
            return None
        log.exception("scheduled_failed", **names)
        _in_transaction(lambda: scheduled_fail(**row))
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
    waiting = deque(_shuffled(ledgers_with_lapsed_holds()))
    while waiting and time.monotonic() < deadline:
        ledger_id = waiting.popleft()
        try:
            if _expire(ledger_id):
                waiting.append(ledger_id)
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


def _shuffled(ledgers: list[UUID]) -> list[UUID]:
    return random.sample(ledgers, len(ledgers))


def _in_transaction(work: Callable[[], T]) -> T:
    """Runs ``work`` in a transaction of its own, and again after a lost race."""

    def run() -> T:
        with transaction_owner():
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
            result = work()
            failpoints.reach("before_commit")
        failpoints.reach("after_commit")
        return result

    return retry_on_conflict(run)
