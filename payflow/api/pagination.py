"""Keyset pages: a cursor names the last row that was seen, never an offset."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from payflow.errors import ProblemError, shape_errors
from payflow.ids import parse_id

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_MAX_DIGITS = 18


def bad_cursor(
    detail: str = "The cursor does not belong to this list.",
) -> ProblemError:
    """The problem of a cursor that cannot be followed."""
    return ProblemError("invalid_cursor", detail)


def read_limit(query: Mapping[str, str]) -> int:
    """The page size that ``?limit=`` asks for, 1 to :data:`MAX_LIMIT`.

    Raises:
        ProblemError: ``invalid_request``.
    """
    text = query.get("limit")
    if text is None:
        return DEFAULT_LIMIT
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    if not (is_number and 1 <= int(text) <= MAX_LIMIT):
        raise shape_errors(
            [("limit", "out_of_range", f"An integer from 1 to {MAX_LIMIT}.")]
        )
    return int(text)


def write_cursor(*, kind: str, key: object, filters: str = "") -> str:
    """The cursor of what comes after a row.

    Args:
        kind: the list's name, so that no other list takes the cursor.
        key: the value of the row by which the list is ordered.
        filters: the list's filters as a query string; a cursor keeps them.
    """
    raw = f"{kind}\n{key}\n{filters}".encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def parse_cursor(text: str, *, kind: str) -> tuple[str, str]:
    """The key and the filters that :func:`write_cursor` put into a cursor.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    try:
        padded = text + "=" * (-len(text) % 4)
        raw = base64.urlsafe_b64decode(padded.encode("ascii")).decode()
        name, key, filters = raw.split("\n")
    except (ValueError, binascii.Error):
        raise bad_cursor() from None
    if name != kind:
        raise bad_cursor()
    return key, filters


def parse_id_key(key: str) -> UUID:
    """The id that a cursor's key spells.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    value = parse_id(key)
    if value is None:
        raise bad_cursor()
    return value


def parse_number_key(key: str) -> int:
    """The positive number that a cursor's key spells.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    if not (key.isascii() and key.isdigit() and len(key) <= _MAX_DIGITS):
        raise bad_cursor()
    return int(key)


def read_cursor(query: Mapping[str, str], *, kind: str) -> str | None:
    """The key of the last row seen, from ``?cursor=``, or ``None`` on the first page.

    Args:
        query: the request's query parameters.
        kind: which list the cursor must be of.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    text = query.get("cursor")
    return None if text is None else parse_cursor(text, kind=kind)[0]


def read_id_cursor(query: Mapping[str, str], *, kind: str) -> UUID | None:
    """Like :func:`read_cursor`, of a list that is ordered by id.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    key = read_cursor(query, kind=kind)
    return None if key is None else parse_id_key(key)


def read_number_cursor(query: Mapping[str, str], *, kind: str) -> int | None:
    """Like :func:`read_cursor`, of a list that is ordered by a positive number.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    key = read_cursor(query, kind=kind)
    return None if key is None else parse_number_key(key)


def page(
    rows: list[Any], *, limit: int, kind: str, key: str
) -> tuple[list[Any], str | None]:
    """Cuts ``limit + 1`` rows to a page and makes the cursor of the next one.

    Args:
        rows: up to ``limit + 1`` rows, in the list's order.
        limit: the page size.
        kind: the list's name, written into the cursor.
        key: the attribute that orders the rows.

    Returns:
        The page's rows, and ``next_cursor`` or ``None`` on the last page.
    """
    if len(rows) <= limit:
        return rows, None
    rows = rows[:limit]
    return rows, write_cursor(kind=kind, key=getattr(rows[-1], key))
