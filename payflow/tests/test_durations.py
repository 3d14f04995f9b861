"""Durations as people write and read them."""

from datetime import timedelta

import pytest

from payflow.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("7d", timedelta(days=7)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("45s", timedelta(seconds=45)),
        (" 1D12h ", timedelta(hours=36)),
        ("99999999d99999999s", timedelta(days=99_999_999, seconds=99_999_999)),
    ],
)
def test_a_duration_is_read(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text", ["", " ", "7", "d", "7x", "-7d", "7.5d", "1h1d", "7d7d", "1" * 9 + "d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(days=7), "7 days"),
        (timedelta(hours=36), "1 day 12 hours"),
        (timedelta(minutes=61, seconds=1), "1 hour 1 minute 1 second"),
        (timedelta(), "0 seconds"),
        (timedelta(seconds=1, microseconds=999_999), "1 second"),
    ],
)
def test_a_duration_is_shown_in_words(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text
