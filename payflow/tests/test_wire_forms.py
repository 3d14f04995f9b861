"""Ids, instants and JSON have one form on the wire, whichever code makes it fast."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.enums import TransferKind
from payflow.api.rendering import to_json
from payflow.clock import format_instant
from payflow.ids import new_id, parse_id

ID = "0192F0c1-7b5a-7cde-8f00-0123456789aB"


def leaves() -> st.SearchStrategy[Any]:
    return (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.text()
        | st.uuids()
        | st.sampled_from(TransferKind)
    )


@given(
    st.recursive(
        leaves(),
        lambda inner: (
            st.lists(inner)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(), inner)
        ),
    )
)
def test_json_is_what_the_standard_library_makes(data: Any) -> None:
    exact = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)

    assert to_json(data) == exact.encode()


def every_character() -> Iterator[str]:
    for number in range(0x110000):
        if not 0xD800 <= number <= 0xDFFF:
            yield chr(number)


def test_every_character_is_written_as_the_standard_library_writes_it() -> None:
    text = "".join(every_character())

    assert to_json(text) == json.dumps(text, ensure_ascii=False).encode()


@dataclass
class Row:
    secret: str


@pytest.mark.parametrize(
    "value", [Row("x"), datetime.now(UTC), date(2026, 1, 1), {1, 2}, b"x", 2**70 * 1j]
)
def test_what_has_no_form_in_json_is_refused(value: Any) -> None:
    for data in (value, {"a": [value]}, [2**70, value]):
        with pytest.raises(TypeError):
            to_json(data)


def test_an_id_is_read_in_its_canonical_form_only() -> None:
    assert parse_id(ID) == parse_id(ID.lower()) == UUID(ID)

    for wrong in (
        "",
        ID[:-1],
        ID + "0",
        ID.replace("-", ""),
        ID.replace("-", "") + "----",
        "{" + ID[1:-1] + "}",
        ID[:-1] + "g",
        ID[:-1] + "\n",
        ID[:-1] + "\u0661",
        ID.replace("-", "_"),
        "urn:uuid:" + ID.replace("-", "")[:27],
        None,
        5,
        b"x" * 36,
        ["x"],
        UUID(ID),
    ):
        assert parse_id(wrong) is None, wrong


@given(st.uuids() | st.builds(new_id))
def test_an_id_comes_back_from_its_text(value: UUID) -> None:
    assert parse_id(str(value)) == value
    assert to_json(value) == b'"%s"' % str(value).encode()


@given(
    st.datetimes(
        timezones=st.sampled_from([UTC, ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")])
    ).filter(lambda instant: 1970 < instant.year < 9998)
)
def test_an_instant_is_told_in_utc_to_the_microsecond(instant: datetime) -> None:
    text = format_instant(instant)

    assert len(text) == len("2026-11-22T12:00:00.000000Z")
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == instant


def test_an_instant_with_an_offset_is_told_in_utc() -> None:
    offset = timezone(timedelta(hours=1))

    assert format_instant(datetime(2026, 1, 1, tzinfo=offset)) == (
        "2025-12-31T23:00:00.000000Z"
    )
