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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from ledger.enums import LimitDirection
from ledger.locks import LockedAccount
from ledger.types import PostingRequest
from payflow.errors import Problem


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
    """One limit and what is used of it."""

    direction: str
    period: str
    max_amount: int | None
    max_count: int | None
    amount: int
    count: int


#: What an operation moves: ``(account_id, direction) -> (amount, count)``.
Movements = dict[tuple[UUID, str], tuple[int, int]]

# A window begins at its first instant: [start, now]. The totals before it are the last
# row's that is older. What holds gave back is counted by hold: a hold of which nothing
# was captured gives back its count too.
_LOAD = """
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at)
SELECT v.account_id, v.direction, v.period, v.max_amount, v.max_count,
    coalesce(last.out_amount, 0), coalesce(last.out_count, 0),
    coalesce(last.in_amount, 0), coalesce(last.in_count, 0), last.created_at,
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
    SELECT CASE v.period
        WHEN 'rolling_day' THEN clock.at - interval '24 hours'
        ELSE date_trunc(v.period, clock.at, l.time_zone) END AS start) w
LEFT JOIN LATERAL (
    SELECT u.* FROM ledger_usage u
    WHERE u.ledger_id = v.ledger_id AND u.account_id = v.account_id
    ORDER BY u.created_at DESC LIMIT 1) last ON true
LEFT JOIN LATERAL (
    SELECT u.* FROM ledger_usage u
    WHERE u.ledger_id = v.ledger_id AND u.account_id = v.account_id
        AND u.created_at < w.start
    ORDER BY u.created_at DESC LIMIT 1) before ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(h.amount), 0)::bigint AS amount,
        count(*) FILTER (WHERE NOT EXISTS (
            SELECT 1 FROM ledger_hold_posting c
            WHERE c.ledger_id = v.ledger_id AND c.hold_id = h.hold_id
              AND c.captured > 0)) AS count
    FROM (
        SELECT p.hold_id, sum(CASE WHEN p.expires_at <= clock.at
            THEN p.amount - p.captured ELSE p.released END) AS amount
        FROM (
            SELECT p.* FROM ledger_hold_posting p
            WHERE (v.direction = 'out') = (a.kind NOT IN ('asset', 'expense'))
              AND p.ledger_id = v.ledger_id AND p.from_account_id = v.account_id
              AND p.created_at >= w.start AND p.captured < p.amount
            UNION ALL
            SELECT p.* FROM ledger_hold_posting p
            WHERE (v.direction = 'out') = (a.kind IN ('asset', 'expense'))
              AND p.ledger_id = v.ledger_id AND p.to_account_id = v.account_id
              AND p.created_at >= w.start AND p.captured < p.amount
        ) p
        WHERE p.released > 0 OR p.expires_at <= clock.at
        GROUP BY p.hold_id
    ) h
) back
WHERE v.ledger_id = %(ledger_id)s AND v.account_id = ANY (%(account_ids)s)
ORDER BY v.account_id, v.direction, v.period
"""


class Velocity:
    """The limits of the locked accounts that have some, and what is used of them."""

    def __init__(self, ledger_id: UUID, accounts: Iterable[LockedAccount]) -> None:
        """Reads limits and usage, in one statement if any account has limits."""
        self._accounts = {a.id: a for a in accounts if a.has_velocity_limits}
        self._windows: dict[UUID, list[Window]] = {}
        self._totals: dict[UUID, Totals] = {}
        self._touched: set[UUID] = set()
        #: The latest recording time of any usage, which a new one does not precede.
        self.last_usage_at: datetime | None = None
        if not self._accounts:
            return
        with connection.cursor() as cursor:
            cursor.execute(
                _LOAD,
                {"ledger_id": ledger_id, "account_ids": list(self._accounts)},
            )
            for row in cursor.fetchall():
                self._windows.setdefault(row[0], []).append(
                    Window(*row[1:5], *row[10:])
                )
                self._totals[row[0]] = Totals(*row[5:9])
                if row[9] is not None:
                    self.last_usage_at = max(self.last_usage_at or row[9], row[9])

    def __bool__(self) -> bool:
        return bool(self._windows)

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
        for (account_id, direction), (amount, count) in movements.items():
            for window in self._windows.get(account_id, ()):
                if window.direction != direction:
                    continue
                for measure, used, wanted, limit in (
                    ("amount", window.amount, amount, window.max_amount),
                    ("count", window.count, count, window.max_count),
                ):
                    if limit is not None and wanted > 0 and used + wanted > limit:
                        return _limit_exceeded(
                            account_id, window, measure, used, wanted, limit
                        )
        return None

    def count(self, movements: Mapping[tuple[UUID, str], tuple[int, int]]) -> None:
        """Counts movements that are about to be written."""
        for (account_id, direction), (amount, count) in movements.items():
            self._touched.add(account_id)
            self._totals.setdefault(account_id, Totals()).add(direction, amount, count)
            for window in self._windows.get(account_id, ()):
                if window.direction == direction:
                    window.amount += amount
                    window.count += count

    def rows(self) -> list[tuple[Any, ...]]:
        """The new totals of every account that something was counted for."""
        return [
            (account_id, t.out_amount, t.out_count, t.in_amount, t.in_count)
            for account_id in self._touched
            for t in (self._totals[account_id],)
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
        },
    )
