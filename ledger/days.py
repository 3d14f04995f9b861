"""A ledger's days: from midnight to midnight in its own time zone.

Clocks are changed on some of them, so that a day may have 23 or 25 hours.
"""

import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

#: The step of PostgreSQL's clock, and so of every instant in the books.
TICK = timedelta(microseconds=1)

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
#: The years whose days and instants every time zone can tell.
YEARS = range(1970, 9999)

#: An instant, or a whole day of the ledger.
Moment = date | datetime


def day_parse(text: str) -> date | None:
    """The day that ``2026-11-22`` names, or ``None`` if the text names none."""
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None
    return day if day is not None and day.year in YEARS else None


def day_start(day: date, *, zone: ZoneInfo) -> datetime:
    """The first instant of a day, UTC.

    Where clocks are set back over midnight it is the earlier of the two midnights;
    where they skip it, the instant at which they do.
    """
    return datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)


def day_end(day: date, *, zone: ZoneInfo) -> datetime:
    """The first instant after a day, UTC."""
    return day_start(day + timedelta(days=1), zone=zone)


def moment_start(moment: Moment, *, zone: ZoneInfo) -> datetime:
    """The instant itself, or the first one of the day."""
    if isinstance(moment, datetime):
        return moment
    return day_start(moment, zone=zone)


def moment_end(moment: Moment, *, zone: ZoneInfo) -> datetime:
    """The instant itself, or the first one after the day."""
    if isinstance(moment, datetime):
        return moment
    return day_end(moment, zone=zone)
