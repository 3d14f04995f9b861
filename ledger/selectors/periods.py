"""Reading which periods of a ledger are closed, and who closed and reopened them."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from ledger.days import day_end
from ledger.models import Change, Ledger
from ledger.selectors.finding import FoundPage, Key
from ledger.selectors.history import ANY_CHANGE, ChangeFilters, changes_page

#: The names under which the ledger's history has a closing, and a reopening's reason.
CLOSED_BEFORE = "closed_before"
REASON = "reason"


@dataclass(frozen=True, slots=True)
class Periods:
    """How far a ledger is closed.

    Attributes:
        closed_before: nothing becomes effective before this instant any more; ``None``
            if everything is open.
        zone: the ledger's time zone, which defines its days.
    """

    closed_before: datetime | None
    zone: ZoneInfo

    @property
    def closed_through(self) -> date | None:
        """The last day that is closed to its end."""
        if self.closed_before is None:
            return None
        day = self.closed_before.astimezone(self.zone).date()
        # Where clocks are set back over midnight, the day that has just ended shows
        # again for an hour.
        if day_end(day, zone=self.zone) <= self.closed_before:
            return day
        return day - timedelta(days=1)


def periods_of(ledger: Ledger) -> Periods:
    """How far a ledger is closed, by its row."""
    closed_before = ledger.closed_before
    return Periods(
        None if closed_before is None else closed_before.astimezone(UTC),
        ZoneInfo(ledger.time_zone),
    )


def periods_get(*, ledger_id: UUID) -> Periods:
    """How far a ledger is closed."""
    return periods_of(Ledger.objects.get(id=ledger_id))


def period_changes(
    *,
    ledger_id: UUID,
    limit: int,
    before: Key | None,
    filters: ChangeFilters = ANY_CHANGE,
) -> FoundPage[Change]:
    """A page of closings and reopenings, newest first.

    The index ``change_of_period`` has them and no other changes, in the words of this
    query.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: the id of the last change of the page before.
        filters: which ones.
    """
    rows = Change.objects.filter(
        ledger_id=ledger_id, account_id=None, fields__contains=[CLOSED_BEFORE]
    )
    return changes_page(rows, limit=limit, before=before, filters=filters)
