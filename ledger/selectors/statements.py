"""An account's statement: what was booked on it in a period, in the order of booking.

The period goes by booking time (``created_at``), so the lines of a period that has
passed are a range of the account's versions for ever; backdated transfers stand in the
period in which they were recorded, with ``effective_at`` as their value date. Balances
and totals are running totals of the entries at both ends: nothing is summed, and a
statement of a million lines costs, but for its lines, as much as one of three.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from ledger.days import TICK, YEARS, Moment, moment_end, moment_start
from ledger.enums import Direction
from ledger.models import Account, Entry, Ledger
from ledger.selectors.accounts import account_get
from ledger.selectors.as_of import (
    clock_read,
    entries_settle,
    fetch,
    moment_resolve,
    require_past,
)
from payflow.clock import format_instant
from payflow.db import require_transaction
from payflow.errors import shape_errors

#: Lines that one statement of SQL fetches.
SLICE_LINES = 1_000


@dataclass(frozen=True, slots=True)
class Totals:
    """An account's state after one of its entries; amounts in minor units."""

    version: int
    debits: int
    credits: int


@dataclass(frozen=True, slots=True)
class Statement:
    """What a period did to an account; its lines are fetched in slices.

    Attributes:
        ledger, account: whose statement it is.
        start, end: the period, ``start`` inclusive, ``end`` exclusive.
        as_recorded_at: how far it goes: to ``end``, or as far as was asked for or could
            be known.
        opening, closing: the account's totals before the first line and after the last.
    """

    ledger: Ledger
    account: Account
    start: datetime
    end: datetime
    as_recorded_at: datetime
    opening: Totals
    closing: Totals

    @property
    def is_final(self) -> bool:
        """True if no line can be added any more."""
        return self.as_recorded_at == self.end

    @property
    def line_count(self) -> int:
        """How many lines it has."""
        return self.closing.version - self.opening.version

    @property
    def opening_balance(self) -> int:
        """The posted balance before the period, in minor units."""
        return self.posted(self.opening)

    @property
    def closing_balance(self) -> int:
        """The posted balance after the period, in minor units."""
        return self.posted(self.closing)

    @property
    def total_debits(self) -> int:
        """The sum of the period's debits, in minor units."""
        return self.closing.debits - self.opening.debits

    @property
    def total_credits(self) -> int:
        """The sum of the period's credits, in minor units."""
        return self.closing.credits - self.opening.credits

    def posted(self, totals: Totals) -> int:
        """The posted balance that totals make, in minor units."""
        net = totals.credits - totals.debits
        return -net if self.account.is_debit_normal else net


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One entry of the account with its transfer and the other side of its posting.

    Amounts are minor units; ``balance`` is the posted balance after it.
    """

    version: int
    booked_at: datetime
    effective_at: datetime
    direction: Direction
    amount: int
    balance: int
    transfer_id: UUID
    transfer_kind: str
    transfer_reference: str | None
    transfer_description: str
    counterparty_id: UUID
    counterparty_reference: str | None
    counterparty_name: str


def statement_get(
    *,
    ledger_id: UUID,
    account_id: UUID,
    start: Moment,
    end: Moment | None = None,
    as_recorded_at: Moment | None = None,
) -> Statement:
    """An account's statement without its lines.

    Args:
        ledger_id, account_id: the account.
        start: the period's first instant or day.
        end: the first instant after the period, or its last day; ``None`` means now.
        as_recorded_at: what was booked later is left out; ``None`` means now.

    Raises:
        ProblemError: ``account_not_found``; ``instant_in_future`` if the period has not
            begun; ``invalid_request`` as of :func:`period_resolve`.
        RuntimeError: no transaction is open.
    """
    require_transaction()
    now = clock_read()
    account = account_get(ledger_id=ledger_id, account_id=account_id)
    ledger = Ledger.objects.get(id=ledger_id)
    zone = ZoneInfo(ledger.time_zone)
    require_past(start, field="from", zone=zone, now=now)
    known_at = moment_resolve(
        as_recorded_at, field="as_recorded_at", zone=zone, now=now
    )
    first, last = period_resolve(start, end, zone=zone, until=known_at)
    known_at = min(last, known_at)
    entries_settle(
        ledger_id=ledger_id, account_id=account_id, recorded_by=known_at, now=now
    )
    # The instant that ends a period is not in it any more.
    through = last - TICK if known_at == last else known_at
    return Statement(
        ledger=ledger,
        account=account,
        start=first,
        end=last,
        as_recorded_at=known_at,
        opening=_totals_at(account, first - TICK),
        closing=_totals_at(account, max(first - TICK, through)),
    )


def period_resolve(
    start: Moment, end: Moment | None, *, zone: ZoneInfo, until: datetime
) -> tuple[datetime, datetime]:
    """The instants of a period: its first, and the first one after it.

    Args:
        start: an instant, or a day from its beginning.
        end: an instant, or a day to its end; ``None`` means ``until``.
        zone: the ledger's time zone.
        until: where a period ends that is given no end.

    Raises:
        ProblemError: ``invalid_request`` if it ends before it begins, or in a year that
            is not one of ``ledger.days.YEARS``.
    """
    if end is not None and end.year not in YEARS:
        message = f"A time in {YEARS[0]} to {YEARS[-1]}."
        raise shape_errors([("to", "not_an_instant", message)])
    first = moment_start(start, zone=zone)
    last = until if end is None else moment_end(end, zone=zone)
    # The day before the first one ends at the instant at which that one begins.
    are_days = not (isinstance(start, datetime) or isinstance(end, datetime))
    if last < first or (are_days and end is not None and end < start):
        ends, begins = (
            (str(end), str(start))
            if are_days and end is not None
            else (format_instant(last), format_instant(first))
        )
        message = f"The period would end ({ends}) before it begins ({begins})."
        raise shape_errors([("to", "before_from", message)])
    return first, last


def _totals_at(account: Account, instant: datetime) -> Totals:
    ((version,),) = fetch(
        "SELECT ledger_version_at(%(ledger_id)s, %(account_id)s, %(instant)s)",
        {
            "ledger_id": account.ledger_id,
            "account_id": account.id,
            "instant": instant,
        },
    )
    if version == 0:
        return Totals(0, 0, 0)
    entry = Entry.objects.get(
        ledger_id=account.ledger_id, account_id=account.id, account_version=version
    )
    return Totals(version, entry.debits_after, entry.credits_after)


def statement_lines(
    *, statement: Statement, limit: int, after: int | None = None
) -> list[StatementLine]:
    """Lines in the order of booking, ``limit + 1`` so that the caller sees the end.

    Args:
        statement: whose lines.
        limit: the page size.
        after: only lines with a greater version: the last one of the page before.
    """
    account = statement.account
    rows = fetch(
        _LINES,
        {
            "ledger_id": account.ledger_id,
            "account_id": account.id,
            "after": max(statement.opening.version, after or 0),
            "through": statement.closing.version,
            "limit": limit + 1,
        },
    )
    return [
        StatementLine(
            version=row[0],
            booked_at=row[1],
            effective_at=row[2],
            direction=Direction(row[3]),
            amount=row[4],
            balance=statement.posted(Totals(row[0], row[5], row[6])),
            transfer_id=row[7],
            transfer_kind=row[8],
            transfer_reference=row[9],
            transfer_description=row[10],
            counterparty_id=row[11],
            counterparty_reference=row[12],
            counterparty_name=row[13],
        )
        for row in rows
    ]


def statement_all_lines(*, statement: Statement) -> Iterator[StatementLine]:
    """Every line, fetched :data:`SLICE_LINES` at a time as they are taken.

    It needs no transaction: the range of versions is settled, and they never change.
    """
    after = statement.opening.version
    while after < statement.closing.version:
        lines = statement_lines(statement=statement, limit=SLICE_LINES - 1, after=after)
        yield from lines
        after = lines[-1].version


# One probe of a key for each line and table, whatever the planner believes: a join
# could be made by reading a whole table.
_LINES = """
SELECT e.account_version, e.created_at, e.effective_at, e.direction, e.amount,
    e.debits_after, e.credits_after,
    t.id, t.kind, t.reference, t.description, a.id, a.reference, a.owner_name
FROM (
    SELECT * FROM ledger_entry
    WHERE ledger_id = %(ledger_id)s AND account_id = %(account_id)s
        AND account_version > %(after)s AND account_version <= %(through)s
    ORDER BY account_version LIMIT %(limit)s
) e
CROSS JOIN LATERAL (
    SELECT t.id, t.kind, t.reference, t.description FROM ledger_transfer t
    WHERE t.ledger_id = %(ledger_id)s AND t.id = e.transfer_id LIMIT 1
) t
CROSS JOIN LATERAL (
    SELECT o.account_id FROM ledger_entry o
    WHERE o.ledger_id = %(ledger_id)s AND o.transfer_id = e.transfer_id
        AND o.posting_number = e.posting_number AND o.direction <> e.direction
    LIMIT 1
) o
CROSS JOIN LATERAL (
    SELECT a.id, a.reference, a.owner_name FROM ledger_account a
    WHERE a.ledger_id = %(ledger_id)s AND a.id = o.account_id LIMIT 1
) a
ORDER BY e.account_version
"""
