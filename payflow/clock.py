"""The interfaces' clock and the wire form of instants."""

from datetime import UTC, datetime
from functools import lru_cache


def now() -> datetime:
    """The current instant, UTC. Only interfaces call it; services are handed it."""
    return datetime.now(UTC)


# All transfers of a batch are recorded at one instant.
@lru_cache(maxsize=256)
def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC with microseconds: ``2026-11-22T12:00:00.000000Z``."""
    utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"
