"""Durations as people write and read them: ``7d``, ``12h``, ``30m``."""

import re
from datetime import timedelta

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_PARTS = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,8}}){unit})?" for unit in _UNITS))


def parse_duration(text: str) -> timedelta:
    """The duration that a text says: ``parse_duration("1d12h")`` is 36 hours.

    Args:
        text: whole numbers of days, hours, minutes and seconds, in this order, each
            followed by its unit's first letter; up to eight digits each.

    Raises:
        ValueError: it is no such text.
    """
    match = _PARTS.fullmatch(text.strip().lower())
    if match is None or not match.group():
        raise ValueError(f"{text!r} is no duration: write it as 7d, 12h, 30m or 1d12h.")
    return timedelta(
        **{
            _UNITS[unit]: int(count)
            for unit, count in match.groupdict(default="0").items()
        }
    )


def format_duration(duration: timedelta) -> str:
    """A duration for people: 36 hours are ``"1 day 12 hours"``.

    Args:
        duration: not negative; fractions of seconds are left out.
    """
    rest = duration.days * 86_400 + duration.seconds
    parts = []
    for name, seconds in (
        ("day", 86_400),
        ("hour", 3_600),
        ("minute", 60),
        ("second", 1),
    ):
        count, rest = divmod(rest, seconds)
        if count:
            parts.append(f"{count:,} {name}{'' if count == 1 else 's'}")
    return " ".join(parts) or "0 seconds"
