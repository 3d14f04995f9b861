"""The balance at an instant, as it was recorded at an instant.

The balance at T as recorded at R is the account's running totals after its last entry
with ``created_at <= min(T, R)``, plus the entries that were recorded later for earlier:
``effective_at <= T < created_at <= R``. The first is a search along the account's
versions, the second a look into an index that has backdated entries only.

Note on finality. An answer as recorded at R must never change. A transfer's recording
time is read from PostgreSQL's clock while its accounts are locked, but the transfer is
seen only after its commit: for a while, entries of before R may still appear. No
transaction lasts longer than a minute, and a recording time is at most a minute ahead
of the clock; so :data:`FINAL_AFTER` later all of them have appeared. Nearer to the
present, the reader of one account waits for its lock (:func:`entries_settle`), and a
report over a whole ledger, which cannot lock all accounts, refuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection

from ledger.days import TICK, Moment, moment_end, moment_start
from ledger.locks import lock_account_to_read
from ledger.models import Account, Ledger
from ledger.selectors.accounts import account_get
from payflow.clock import format_instant
from payflow.db import require_transaction
from payflow.errors import ProblemError

#: So long after an instant, everything that was recorded up to it is there.
FINAL_AFTER = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class TotalsAsOf:
    """What an account's entries come to at one instant, as recorded at another.

    Attributes:
        debits, credits: lifetime totals, in minor units.
        version: the number of the last entry that was recorded by both instants.
        backdated_entry_count: entries that are counted beyond that one, because they
            were recorded after the one instant for a time before it.
    """

    debits: int
    credits: int
    version: int
    backdated_entry_count: int


@dataclass(frozen=True, slots=True)
class BalanceAsOf:
    """An account's balance at ``at``, as recorded at ``as_recorded_at``."""

    account: Account
    at: datetime
    as_recorded_at: datetime
    totals: TotalsAsOf

    @property
    def posted(self) -> int:
        """The posted balance, in minor units."""
        net = self.totals.credits - self.totals.debits
        return -net if self.account.is_debit_normal else net


def balance_as_of(
    *,
    ledger_id: UUID,
    account_id: UUID,
    at: Moment | None = None,
    as_recorded_at: Moment | None = None,
) -> BalanceAsOf:
    """What was true at one instant, as far as it was known at another.

    Args:
        ledger_id, account_id: the account.
        at: of what time the balance is; a day means its end, ``None`` now.
        as_recorded_at: entries that were recorded later are left out; likewise.

    Raises:
        ProblemError: ``account_not_found``; ``instant_in_future``.
        RuntimeError: no transaction is open.
    """
    require_transaction()
    now = clock_read()
    account = account_get(ledger_id=ledger_id, account_id=account_id)
    zone = ZoneInfo(Ledger.objects.get(id=ledger_id).time_zone)
    at_instant = moment_resolve(at, field="at", zone=zone, now=now)
    recorded = moment_resolve(
        as_recorded_at, field="as_recorded_at", zone=zone, now=now
    )
    entries_settle(
        ledger_id=ledger_id, account_id=account_id, recorded_by=recorded, now=now
    )
    totals = totals_as_of(
        ledger_id=ledger_id,
        account_ids=[account_id],
        at=at_instant,
        as_recorded_at=recorded,
    )
    return BalanceAsOf(account, at_instant, recorded, totals[account_id])


def totals_as_of(
    *,
    ledger_id: UUID,
    account_ids: Sequence[UUID],
    at: datetime,
    as_recorded_at: datetime,
) -> dict[UUID, TotalsAsOf]:
    """The totals of accounts, in one statement; it neither waits nor judges finality.

    Args:
        ledger_id, account_ids: the accounts; those that do not exist are left out.
        at, as_recorded_at: see the module's text.
    """
    rows = fetch(
        TOTALS_SQL,
        {
            "ledger_id": ledger_id,
            "account_ids": list(account_ids),
            "at": at,
            "as_recorded_at": as_recorded_at,
            "both": min(at, as_recorded_at),
        },
    )
    return {row[0]: TotalsAsOf(int(row[1]), int(row[2]), *row[3:]) for row in rows}


# An account without an entry after T or R has its totals in its counters. OFFSET 0
# keeps the planner from writing the search for the version into every place that
# mentions it, and from looking for backdated entries where there cannot be any.
TOTALS_SQL = """
SELECT a.id,
    coalesce(last.debits_after, v.debits) + coalesce(late.debits, 0),
    coalesce(last.credits_after, v.credits) + coalesce(late.credits, 0),
    v.version, coalesce(late.entry_count, 0)
FROM ledger_account a
CROSS JOIN LATERAL (
    SELECT CASE WHEN a.last_entry_at > %(both)s
            THEN ledger_version_at(a.ledger_id, a.id, %(both)s)
            ELSE a.version END AS version,
        CASE WHEN a.last_entry_at > %(both)s THEN 0 ELSE a.debits_posted END AS debits,
        CASE WHEN a.last_entry_at > %(both)s THEN 0 ELSE a.credits_posted END AS credits
    OFFSET 0
) v
LEFT JOIN LATERAL (
    SELECT e.debits_after, e.credits_after FROM ledger_entry e
    WHERE a.last_entry_at > %(both)s
        AND e.ledger_id = %(ledger_id)s AND e.account_id = a.id
        AND e.account_version = v.version
    LIMIT 1
) last ON true
LEFT JOIN LATERAL (
    SELECT b.debits, b.credits, b.entry_count
    FROM ledger_backdated_totals(
        a.ledger_id, a.id, %(at)s::timestamptz, %(as_recorded_at)s::timestamptz) b
    WHERE a.last_entry_at > %(at)s AND %(at)s < %(as_recorded_at)s
    OFFSET 0
) late ON true
WHERE a.ledger_id = %(ledger_id)s AND a.id = ANY(%(account_ids)s)
"""


def entries_settle(
    *, ledger_id: UUID, account_id: UUID, recorded_by: datetime, now: datetime
) -> None:
    """Waits until all of an account's entries of an instant and before are there.

    Args:
        ledger_id, account_id: the account.
        recorded_by: the instant, ``now`` at the latest.
        now: what :func:`clock_read` said before.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    if recorded_by > now - FINAL_AFTER:
        lock_account_to_read(ledger_id=ledger_id, account_id=account_id)


def moment_resolve(
    moment: Moment | None, *, field: str, zone: ZoneInfo, now: datetime
) -> datetime:
    """The instant that is meant: a day means its end, or now if it has not ended.

    Args:
        moment: an instant or a day; ``None`` means ``now``.
        field: the name that the caller has for it, for the problem.
        zone: the ledger's time zone.
        now: what :func:`clock_read` said.

    Raises:
        ProblemError: ``instant_in_future``.
    """
    if moment is None:
        return now
    require_past(moment, field=field, zone=zone, now=now)
    if isinstance(moment, datetime):
        return moment
    return min(moment_end(moment, zone=zone) - TICK, now)


def require_past(moment: Moment, *, field: str, zone: ZoneInfo, now: datetime) -> None:
    """Refuses an instant that is yet to come, or a day that has not begun.

    Raises:
        ProblemError: ``instant_in_future``.
    """
    if moment_start(moment, zone=zone) > now:
        raise ProblemError(
            "instant_in_future",
            f"{field} lies in the future; PostgreSQL's clock says"
            f" {format_instant(now)}.",
            field=field,
            now=format_instant(now),
        )


def clock_read() -> datetime:
    """PostgreSQL's clock, which also dates the entries."""
    ((now,),) = fetch("SELECT clock_timestamp()", {})
    return now  # type: ignore[no-any-return]


def fetch(sql: str, parameters: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
    """The rows of one statement."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
