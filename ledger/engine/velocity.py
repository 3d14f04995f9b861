"""Velocity limits: how much, and how often, an account may move in a window of time.

Windows go by recording time. What counts is kept as running totals (``ledger_usage``),
so what moved in a window is the difference of two rows, each found by index: it costs
the same on an account with a hundred million entries. Only what holds gave back is
summed, over the account's holds that were placed in the window and released.

* A hold counts when it is placed; its capture does not again, but for what a capture
  takes beyond the hold. What it releases, or has lapsed with, is given back to the
  window in which it was placed: a hold voided tomorrow makes no room tomorrow.
* Reversals, settlements and the ends of payouts do not count.
* ``out`` is what lowers the account's balance, ``in`` what raises it; each operation
  counts once for an account and direction, with the sum of its postings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from ledger.enums import LimitDirection
from ledger.locks import LockedAccount, LockedHold
from ledger.types import PostingRequest
from payflow.clock import format_instant
from payflow.errors import Problem
from payflow.money import MAX_COUNTER


@dataclass(slots=True)
class Totals:
    """An account's running totals; amounts in minor units."""

    out_amount: int = 0
    out_count: int = 0
    in_amount: int = 0
    in_count: int = 0

    def add(self, direction: str, amount: int, count: int) -> None:
        """Counts one movement."""
        if direction == LimitDirection.OUT:
            self.out_amount += amount
            self.out_count += count
        else:
            self.in_amount += amount
            self.in_count += count


@dataclass(slots=True)
class Window:
    """One limit and what is used of it; amounts in minor units.

    Attributes:
        starts_at: the window's first instant.
        ends_at: when the next one begins; ``None`` for a rolling day, which never ends.
    """

    direction: str
    period: str
    max_amount: int | None
    max_count: int | None
    starts_at: datetime
    ends_at: datetime | None
    amount: int
    count: int

    def measures(self) -> tuple[tuple[str, int, int | None], ...]:
        """Name, what is used and the limit of each thing that can be limited."""
        return (
            ("amount", self.amount, self.max_amount),
            ("count", self.count, self.max_count),
        )


@dataclass(slots=True)
class Usage:
    """What counts against an account's limits.

    Attributes:
        totals: all that was ever counted.
        last_at: when something was last counted.
        windows: the account's limits, by direction and period.
    """

    totals: Totals
    last_at: datetime | None
    windows: list[Window] = field(default_factory=list)


#: What an operation moves: ``(account_id, direction) -> (amount, count)``.
Movements = dict[tuple[UUID, str], tuple[int, int]]


def _begin(local: str) -> str:
    """SQL for the first instant at which the ledger's clocks show ``local``.

    Where they are set back over midnight, midnight comes twice, and PostgreSQL takes
    the second one.
    """
    at = f"({local} AT TIME ZONE l.time_zone)"
    earlier = f"({at} - interval '1 hour')"
    return (
        f"CASE WHEN {earlier} AT TIME ZONE l.time_zone >= {local} THEN {earlier}"
        f" ELSE {at} END"
    )


# A window begins at its first instant: [start, now]. The totals before it are the last
# row's that is older. What holds gave back is counted by hold: a hold of which nothing
# was captured on this side of the account gives back its count too.
_LOAD = f"""
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at)
SELECT v.account_id, coalesce(last.out_amount, 0), coalesce(last.out_count, 0),
    coalesce(last.in_amount, 0), coalesce(last.in_count, 0), last.created_at,
    v.direction, v.period, v.max_amount, v.max_count, w.starts_at, w.ends_at,
    CASE v.direction
        WHEN 'out' THEN coalesce(last.out_amount - coalesce(before.out_amount, 0), 0)
        ELSE coalesce(last.in_amount - coalesce(before.in_amount, 0), 0) END
        - back.amount,
    CASE v.direction
        WHEN 'out' THEN coalesce(last.out_count - coalesce(before.out_count, 0), 0)
        ELSE coalesce(last.in_count - coalesce(before.in_count, 0), 0) END
        - back.count
FROM clock
CROSS JOIN ledger_velocity_limit v
JOIN ledger_ledger l ON l.id = v.ledger_id
JOIN ledger_account a ON a.ledger_id = v.ledger_id AND a.id = v.account_id
CROSS JOIN LATERAL (
    SELECT (v.direction = 'out') = (a.kind NOT IN ('asset', 'expense')) AS is_debit,
        CASE WHEN v.period <> 'rolling_day'
            THEN date_trunc(v.period, clock.at AT TIME ZONE l.time_zone) END AS local,
        CASE v.period WHEN 'month' THEN interval '1 month' ELSE interval '1 day'
            END AS length) d
CROSS JOIN LATERAL (
    SELECT CASE WHEN d.local IS NULL THEN clock.at - interval '24 hours'
            ELSE {_begin("d.local")} END AS starts_at,
        {_begin("(d.local + d.length)")} AS ends_at) w
LEFT JOIN LATERAL (
    SELECT u.* FROM ledger_usage u
    WHERE u.ledger_id = v.ledger_id AND u.account_id = v.account_id
    ORDER BY u.created_at DESC LIMIT 1) last ON true
LEFT JOIN LATERAL (
    SELECT u.* FROM ledger_usage u
    WHERE u.ledger_id = v.ledger_id AND u.account_id = v.account_id
        AND u.created_at < w.starts_at
    ORDER BY u.created_at DESC LIMIT 1) before ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(h.amount), 0)::bigint AS amount,
        count(*) FILTER (WHERE NOT EXISTS (
            SELECT 1 FROM ledger_hold_posting c
            WHERE c.ledger_id = v.ledger_id AND c.hold_id = h.hold_id
              AND c.captured > 0 AND v.account_id = CASE WHEN d.is_debit
                THEN c.from_account_id ELSE c.to_account_id END)) AS count
    FROM (
        SELECT p.hold_id, sum(CASE WHEN p.expires_at <= clock.at
            THEN p.amount - p.captured ELSE p.released END) AS amount
        FROM (
            SELECT p.* FROM ledger_hold_posting p
            WHERE d.is_debit
              AND p.ledger_id = v.ledger_id AND p.from_account_id = v.account_id
              AND p.created_at >= w.starts_at AND p.captured < p.amount
            UNION ALL
            SELECT p.* FROM ledger_hold_posting p
            WHERE NOT d.is_debit
              AND p.ledger_id = v.ledger_id AND p.to_account_id = v.account_id
              AND p.created_at >= w.starts_at AND p.captured < p.amount
        ) p
        WHERE p.released > 0 OR p.expires_at <= clock.at
        GROUP BY p.hold_id
    ) h
) back
WHERE v.ledger_id = %(ledger_id)s AND v.account_id = ANY (%(account_ids)s)
ORDER BY v.account_id, v.direction, v.period
"""  # noqa: S608 - the text above, and nothing from outside


def read_usage(*, ledger_id: UUID, account_ids: Iterable[UUID]) -> dict[UUID, Usage]:
    """What is used of the limits of those of the accounts that have some."""
    usage: dict[UUID, Usage] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            _LOAD, {"ledger_id": ledger_id, "account_ids": list(account_ids)}
        )
        for row in cursor.fetchall():
            of_account = usage.setdefault(row[0], Usage(Totals(*row[1:5]), row[5]))
            of_account.windows.append(Window(*row[6:]))
    return usage


class Velocity:
    """The limits of the locked accounts that have some, and what is used of them."""

    def __init__(self, ledger_id: UUID, accounts: Iterable[LockedAccount]) -> None:
        """Reads limits and usage, in one statement if any account has limits."""
        limited = {a.id: a for a in accounts if a.has_velocity_limits}
        self._usage = (
            read_usage(ledger_id=ledger_id, account_ids=limited) if limited else {}
        )
        self._accounts = {account_id: limited[account_id] for account_id in self._usage}
        self._touched: set[UUID] = set()

    @property
    def last_usage_at(self) -> datetime | None:
        """The latest time of any usage, which a new one does not precede."""
        times = [usage.last_at for usage in self._usage.values() if usage.last_at]
        return max(times, default=None)

    def __bool__(self) -> bool:
        return bool(self._usage)

    def movements(self, postings: Sequence[PostingRequest]) -> Movements:
        """What an operation with these postings counts for the limited accounts."""
        found: Movements = {}
        for posting in postings:
            for account_id, is_debit in (
                (posting.from_account_id, True),
                (posting.to_account_id, False),
            ):
                account = self._accounts.get(account_id)
                if account is None:
                    continue
                falls = is_debit != account.is_debit_normal
                side = (account_id, "out" if falls else "in")
                amount, _ = found.get(side, (0, 0))
                found[side] = (amount + posting.amount, 1)
        return found

    def refusal(self, movements: Movements) -> Problem | None:
        """The first limit that the movements would exceed, with its headroom."""
        for (account_id, direction), wanted in movements.items():
            if max(astuple(self._usage[account_id].totals)) > MAX_COUNTER - wanted[0]:
                return Problem(
                    "balance_out_of_range",
                    f"What account {account_id} moved in its life would be too much.",
                    {"account_id": str(account_id)},
                )
            for window in self._usage[account_id].windows:
                if window.direction != direction:
                    continue
                for (measure, used, limit), more in zip(
                    window.measures(), wanted, strict=True
                ):
                    if limit is not None and more > 0 and used + more > limit:
                        return _limit_exceeded(
                            account_id, window, measure, used, more, limit
                        )
        return None

    def count(self, movements: Movements) -> None:
        """Counts movements that are about to be written."""
        for (account_id, direction), (amount, count) in movements.items():
            self._touched.add(account_id)
            usage = self._usage[account_id]
            usage.totals.add(direction, amount, count)
            for window in usage.windows:
                if window.direction == direction:
                    window.amount += amount
                    window.count += count

    def give_back(self, hold: LockedHold) -> None:
        """Counts no more what a hold that ends still holds.

        It gives that back to the windows in which it was placed, and its count where
        nothing of it was captured. One that has lapsed had given back already, by the
        time at which the usage was read.
        """
        if hold.is_lapsed:
            return
        postings = hold.postings
        held = self.movements([p.part(p.held) for p in postings if p.held])
        taken = self.movements([p.part(p.captured) for p in postings if p.captured])
        for side, (amount, count) in held.items():
            account_id, direction = side
            for window in self._usage[account_id].windows:
                if window.direction != direction:
                    continue
                if hold.created_at >= window.starts_at:
                    window.amount -= amount
                    window.count -= 0 if side in taken else count

    def rows(self) -> list[tuple[Any, ...]]:
        """The new totals of every account that something was counted for."""
        return [
            (account_id, *astuple(self._usage[account_id].totals))
            for account_id in self._touched
        ]


def _limit_exceeded(
    account_id: UUID, window: Window, measure: str, used: int, wanted: int, limit: int
) -> Problem:
    headroom = max(0, limit - used)
    name = {"rolling_day": "24 hours", "day": "day", "month": "month"}[window.period]
    return Problem(
        "limit_exceeded",
        f"Account {account_id} has a limit of {limit} ({measure}, {window.direction}, "
        f"per {name}); {headroom} of it is left, and {wanted} is required.",
        {
            "account_id": str(account_id),
            "direction": window.direction,
            "period": window.period,
            "measure": measure,
            "limit": limit,
            "used": used,
            "headroom": headroom,
            "required": wanted,
            "resets_at": format_instant(window.ends_at) if window.ends_at else None,
        },
    )
