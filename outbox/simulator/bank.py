"""The simulated bank's books: one SQLite file, synced to disk with every change.

A bank that forgets a payout when it is killed would hide the very mistakes that it is
there to show. ``payment`` gets a row each time that money leaves and has no unique key
on purpose: paying twice is possible here, and would be seen.
"""

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from outbox.simulator.behaviours import (
    REJECTION_REASON,
    Behaviour,
    Rule,
    rule_of_destination,
)

#: Most payouts that the list shows.
MAX_LISTED = 1_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS payout (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    destination TEXT NOT NULL,
    reference TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('settled', 'accepted', 'rejected')),
    reason TEXT NOT NULL DEFAULT '',
    later_status TEXT CHECK (later_status IN ('settled', 'rejected')),
    decide_at REAL,
    received_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS payment (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL REFERENCES payout (key),
    amount INTEGER NOT NULL,
    paid_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS rule (
    destination TEXT PRIMARY KEY,
    behaviour TEXT NOT NULL,
    delay_seconds REAL NOT NULL,
    times INTEGER
);
"""


class KeyReused(Exception):
    """The key belongs to a payout with another body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutRequest:
    """The body of ``POST /payouts``; the amount is in minor units."""

    amount: int
    currency: str
    destination: str
    reference: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the bank did with a request.

    Attributes:
        rule: the behaviour that applied; ``None`` if the payout was known already.
        payout: the payout as JSON shows it; ``None`` if nothing was recorded.
    """

    rule: Rule | None
    payout: dict[str, Any] | None


class Bank:
    """Receives payouts and decides on them.

    Args:
        path: the SQLite file; it is made if it is not there.
        now: the clock, in seconds.
    """

    def __init__(self, path: str, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    def receive(self, key: str, request: PayoutRequest) -> Receipt:
        """Takes a payout in, or finds the one that has the key already.

        Raises:
            KeyReused: the key's payout has another body.
        """
        with self._lock, _Transaction(self._db):
            self._decide_due()
            known = self._find(key)
            if known is not None:
                if request != PayoutRequest(
                    amount=known["amount"],
                    currency=known["currency"],
                    destination=known["destination"],
                    reference=known["reference"],
                ):
                    raise KeyReused
                return Receipt(None, self._shown(known))
            rule = self._take_rule(request.destination)
            if rule.behaviour == Behaviour.FAIL:
                return Receipt(rule, None)
            self._record(key, request, rule)
            return Receipt(rule, self._shown(self._find(key)))

    def find(self, key: str) -> dict[str, Any] | None:
        """The payout with this key, as JSON shows it."""
        with self._lock, _Transaction(self._db):
            self._decide_due()
            row = self._find(key)
            return None if row is None else self._shown(row)

    def newest(self) -> list[dict[str, Any]]:
        """The newest payouts, newest first."""
        with self._lock, _Transaction(self._db):
            self._decide_due()
            rows = self._db.execute(
                "SELECT * FROM payout ORDER BY number DESC LIMIT ?", [MAX_LISTED]
            ).fetchall()
            return [self._shown(row) for row in rows]

    def set_rule(self, rule: Rule) -> None:
        """Has a behaviour apply from now on; it replaces the one for its destination.

        A rule for all destinations that settles at once and for good is the state that
        the bank starts in, so it also clears the rules of single destinations.
        """
        with self._lock, _Transaction(self._db):
            if rule == Rule(
                behaviour=Behaviour.SETTLE, delay_seconds=rule.delay_seconds
            ):
                self._db.execute("DELETE FROM rule")
                return
            self._db.execute(
                "INSERT OR REPLACE INTO rule VALUES (?, ?, ?, ?)",
                [
                    rule.destination or "",
                    rule.behaviour.value,
                    rule.delay_seconds,
                    rule.times,
                ],
            )

    def rules(self) -> list[dict[str, Any]]:
        """The rules in force."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM rule ORDER BY destination")
            return [
                {**dict(row), "destination": row["destination"] or None} for row in rows
            ]

    def _find(self, key: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(
            "SELECT * FROM payout WHERE key = ?", [key]
        ).fetchone()
        return row

    def _take_rule(self, destination: str) -> Rule:
        """The rule for this payout: set for it, asked for by it, set for all."""
        for name in (destination, ""):
            row = self._db.execute(
                "SELECT * FROM rule WHERE destination = ?", [name]
            ).fetchone()
            if row is not None:
                if row["times"] is not None:
                    self._db.execute(
                        "UPDATE rule SET times = times - 1 WHERE destination = ?",
                        [name],
                    )
                    self._db.execute("DELETE FROM rule WHERE times <= 0")
                return Rule(
                    behaviour=Behaviour(row["behaviour"]),
                    delay_seconds=row["delay_seconds"],
                )
            asked = rule_of_destination(destination)
            if asked is not None:
                return asked
        return Rule(behaviour=Behaviour.SETTLE)

    def _record(self, key: str, request: PayoutRequest, rule: Rule) -> None:
        now = self._now()
        status, reason, later_status, decide_at = "settled", "", None, None
        if rule.behaviour == Behaviour.REJECT:
            status, reason = "rejected", REJECTION_REASON
        elif rule.behaviour in (Behaviour.SETTLE_LATER, Behaviour.REJECT_LATER):
            status, decide_at = "accepted", now + rule.delay_seconds
            later_status = (
                "settled" if rule.behaviour == Behaviour.SETTLE_LATER else "rejected"
            )
        self._db.execute(
            "INSERT INTO payout (key, amount, currency, destination, reference, status,"
            " reason, later_status, decide_at, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                key,
                request.amount,
                request.currency,
                request.destination,
                request.reference,
                status,
                reason,
                later_status,
                decide_at,
                now,
            ],
        )
        if status == "settled":
            self._pay(key, request.amount)

    def _decide_due(self) -> None:
        """Decides the accepted payouts whose time has come."""
        due = self._db.execute(
            "SELECT * FROM payout WHERE status = 'accepted' AND decide_at <= ?",
            [self._now()],
        ).fetchall()
        for row in due:
            status = row["later_status"]
            self._db.execute(
                "UPDATE payout SET status = ?, reason = ? WHERE key = ?",
                [status, REJECTION_REASON if status == "rejected" else "", row["key"]],
            )
            if status == "settled":
                self._pay(row["key"], row["amount"])

    def _pay(self, key: str, amount: int) -> None:
        self._db.execute(
            "INSERT INTO payment (key, amount, paid_at) VALUES (?, ?, ?)",
            [key, amount, self._now()],
        )

    def _shown(self, row: sqlite3.Row | None) -> dict[str, Any]:
        assert row is not None
        paid = self._db.execute(
            "SELECT count(*), coalesce(sum(amount), 0) FROM payment WHERE key = ?",
            [row["key"]],
        ).fetchone()
        return {
            "key": row["key"],
            "amount": row["amount"],
            "currency": row["currency"],
            "destination": row["destination"],
            "reference": row["reference"],
            "status": row["status"],
            "reason": row["reason"],
            "provider_reference": f"bank-{row['number']:08d}",
            "payment_count": paid[0],
            "paid_amount": paid[1],
        }


class _Transaction:
    """``BEGIN IMMEDIATE`` to ``COMMIT``, or ``ROLLBACK`` on any exception."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
