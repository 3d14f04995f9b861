"""The one place that opens transactions, and what the database's errors mean.

``transaction_owner`` is opened once per request, task or command step; everything
below declares with ``require_transaction`` that it needs one and opens none itself
(each nested ``atomic`` would cost a SAVEPOINT and a RELEASE).
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
import structlog
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    connection,
    transaction,
)
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from psycopg_pool import PoolTimeout

from payflow.clock import now
from payflow.databases import TRANSACTION_MS
from payflow.errors import ProblemError
from payflow.metrics import transaction_conflicted

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: By how much the clocks of a process and of PostgreSQL may differ: ids begin with the
#: time of the one, rows are dated by the other, and lists look for both together.
MAX_CLOCK_DIFFERENCE = timedelta(minutes=1)
#: How often a deadlock or a serialization failure is tried again.
MAX_CONFLICT_RETRIES = 5
#: The longest pause before such a retry, in seconds; the pause itself is random.
MAX_CONFLICT_PAUSE_SECONDS = 0.2

#: Constraints that a race can hit although the service looked first, and the problem
#: that the loser sees. Any other name is a bug of ours and is logged as one.
CONSTRAINT_PROBLEMS = {
    "transfer_reference_unique_in_ledger": "reference_taken",
    "account_reference_unique_in_ledger": "reference_taken",
    "account_payout_role_changes_only_empty": "account_not_empty",
    "hold_reference_unique_in_ledger": "reference_taken",
    "hold_expires_after_its_beginning": "expires_at_in_past",
    "hold_lifetime_is_limited": "hold_too_long",
    "capture_before_expiry": "hold_expired",
    "hold_is_extended_before_it_lapses": "hold_expired",
    "transfer_effective_in_open_period": "period_closed",
    "transfer_not_recorded_in_future": "clock_behind",
}

#: Those of them that a second look turns into an ordinary refusal.
LOST_RACES = frozenset(
    {
        "transfer_reference_unique_in_ledger",
        "account_reference_unique_in_ledger",
        "hold_reference_unique_in_ledger",
        "capture_before_expiry",
        "hold_is_extended_before_it_lapses",
        "transfer_effective_in_open_period",
    }
)

#: SQLSTATEs, or the classes that they begin with, of a server that is away, full, going
#: down, broken or not the primary; or that cut this session (time limits, 25P03 and
#: 25P04), or lost sight of a commit (40003).
_UNAVAILABLE = ("08", "53", "57P", "58", "25P03", "25P04", "25006", "40003")


@contextmanager
def transaction_owner() -> Iterator[None]:
    """Opens the transaction of a request, task or command step.

    Raises:
        RuntimeError: one is open already, so this caller would not be its owner.
    """
    with transaction.atomic(durable=True):
        yield


def require_transaction() -> None:
    """Declares that the caller runs inside somebody's transaction.

    Raises:
        RuntimeError: none is open.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("this service needs the caller's transaction")


def give_back_connection() -> None:
    """Returns this greenlet's connection to the pool, if there is a pool.

    Whoever goes on to wait for others calls this first: they may need the connection
    to get on. The next query takes one again.
    """
    if (
        connection.connection is not None
        and not connection.in_atomic_block
        and connection.pool is not None  # type: ignore[attr-defined]
    ):
        connection.close()


def retry_on_conflict(work: Callable[[], T]) -> T:
    """Runs ``work``, which opens its own transaction, again after a lost race.

    That is a deadlock, or a name that somebody else took between our look and our
    write: the second look finds it, and refuses as it would have at first.

    Raises:
        ProblemError: ``ledger_busy`` when the retries are used up or a lock could not
            be had in time; ``database_unavailable`` when the server cannot be reached;
            the mapped problem when a race hit a known constraint.
    """
    for attempt in range(MAX_CONFLICT_RETRIES + 1):
        try:
            return work()
        except (DatabaseError, InterfaceError) as error:
            is_passing = _is_conflict(error) or constraint_name(error) in LOST_RACES
            if is_passing and attempt < MAX_CONFLICT_RETRIES:
                log.info("transaction_conflict_retried", attempt=attempt + 1)
                transaction_conflicted()
                ceiling = min(MAX_CONFLICT_PAUSE_SECONDS, 0.01 * 2**attempt)
                time.sleep(random.uniform(0, ceiling))  # noqa: S311 - jitter
                continue
            problem = problem_of(error)
            if problem is error:
                raise
            raise problem from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def problem_of(error: DatabaseError | InterfaceError) -> Exception:
    """The problem that a database error means, or the error itself if it means none."""
    cause = error.__cause__
    if isinstance(error, IntegrityError):
        name = constraint_name(error)
        code = CONSTRAINT_PROBLEMS.get(name or "")
        if code == "clock_behind":
            log.error("database_clock_behind")
            return ProblemError(
                code,
                "PostgreSQL's clock says an earlier time than the books already hold; "
                "nothing was changed.",
                retry_after_seconds=60,
            )
        if code is not None:
            return ProblemError(code, "Somebody else was faster; look and try again.")
        log.error("database_backstop_hit", constraint=name)
        return error
    if _is_conflict(error) or isinstance(
        cause, psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled
    ):
        return ProblemError(
            "ledger_busy",
            "The accounts are in use by other requests; nothing was changed.",
            retry_after_seconds=1,
        )
    if isinstance(cause, PoolTimeout) and _pool_is_full():
        return ProblemError(
            "ledger_busy",
            "All of this server's connections to the database are in use; nothing was"
            " changed.",
            retry_after_seconds=1,
        )
    if isinstance(error, InterfaceError) or _is_unavailable(cause):
        log.error("database_unavailable", error=type(cause).__name__)
        # It may have been COMMIT's own answer that was lost.
        return ProblemError(
            "database_unavailable",
            "The database did not answer, so it is not known whether the request was "
            "carried out. Retry with the same idempotency key: it happens once.",
            retry_after_seconds=2,
        )
    return error


def _pool_is_full() -> bool:
    """Whether all connections that there may be are there; else none can be made."""
    pool = connection.pool  # type: ignore[attr-defined]
    return pool is not None and pool.get_stats()["pool_size"] >= pool.max_size


def _is_unavailable(cause: BaseException | None) -> bool:
    if not isinstance(cause, psycopg.Error):
        return False
    if cause.sqlstate is None:
        # libpq's own words, of a connection that could not be made or broke.
        return isinstance(cause, psycopg.OperationalError)
    return cause.sqlstate.startswith(_UNAVAILABLE)


def constraint_name(error: BaseException) -> str | None:
    """The name of the constraint or trigger rule that an error reports, if any."""
    cause = error.__cause__ if not isinstance(error, psycopg.Error) else error
    return cause.diag.constraint_name if isinstance(cause, psycopg.Error) else None


def _is_conflict(error: BaseException) -> bool:
    return isinstance(
        error.__cause__,
        psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure,
    )


def database_refusals() -> list[str]:
    """Why this process must not post on this server: empty when it may.

    Start-up and ``/readyz`` ask: a server that may lose a commit that it acknowledged,
    a standby, another isolation default, or clocks that differ would break promises
    that PayFlow makes.
    """
    with connection.cursor() as cursor:
        asked_at = now()
        cursor.execute("SELECT clock_timestamp()")
        (server_at,) = cursor.fetchone()
        answered_at = now()
        cursor.execute(
            "SELECT name, setting FROM pg_settings WHERE name IN ('fsync',"
            " 'full_page_writes', 'synchronous_commit',"
            " 'default_transaction_isolation')"
        )
        settings = dict(cursor.fetchall())
        cursor.execute("SELECT pg_is_in_recovery()")
        (is_standby,) = cursor.fetchone()
    refusals = [
        f"{name} is off: a crash could lose acknowledged transfers"
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if settings.get(name) == "off"
    ]
    if is_standby:
        refusals.append("this server is a standby: point DATABASE_URL at the primary")
    isolation = settings.get("default_transaction_isolation")
    if isolation != "read committed":
        refusals.append(
            f"default_transaction_isolation is '{isolation}', not 'read committed'"
        )
    # The round trip counts in favour of the clocks.
    behind, ahead = server_at - answered_at, asked_at - server_at
    if max(behind, ahead) > MAX_CLOCK_DIFFERENCE:
        seconds, side = max(
            (behind.total_seconds(), "behind"), (ahead.total_seconds(), "ahead of")
        )
        refusals.append(
            f"this host's clock is {seconds:.0f} seconds {side} PostgreSQL's: ids made"
            " here would not go with the times at which PostgreSQL records them"
        )
    return refusals


def require_sound_database() -> None:
    """Refuses to start on a server that must not hold money.

    Raises:
        ImproperlyConfigured: with every reason.
    """
    refusals = database_refusals()
    if refusals:
        raise ImproperlyConfigured("PostgreSQL is refused: " + "; ".join(refusals))


@receiver(connection_created)
def _limit_transactions(connection: Any, **_kwargs: Any) -> None:
    # Not a connection option, because servers before 17 refuse the unknown name.
    if connection.pg_version < 170000 or not is_new(connection, "limits"):
        return
    owner = connection.alias == "owner"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('transaction_timeout', %s, false)",
            ["0" if owner else str(TRANSACTION_MS)],
        )


def is_new(connection: Any, purpose: str) -> bool:
    """Whether Django's wrapper has a session that was not seen for ``purpose`` before.

    A pool hands the same session out many times, each time as newly created.
    """
    seen: set[str] = connection.connection.__dict__.setdefault("_payflow_seen", set())
    if purpose in seen:
        return False
    seen.add(purpose)
    return True
