"""Keyset pages: a cursor names the last row that was seen, never an offset."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from payflow.api.shapes import shape_errors
from payflow.errors import ProblemError
from payflow.ids import parse_id

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_MAX_DIGITS = 18
#: Ours are shorter; nesting needs no more than length to exhaust a JSON parser.
_MAX_CURSOR = 200


def _bad_cursor() -> ProblemError:
    return ProblemError("invalid_cursor", "The cursor does not belong to this list.")


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


def read_cursor(query: Mapping[str, str], *, kind: str) -> str | None:
    """The key of the last row seen, from ``?cursor=``, or ``None`` on the first page.

    Args:
        query: the request's query parameters.
        kind: which list the cursor must be of.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    text = query.get("cursor")
    if text is None:
        return None
    if len(text) > _MAX_CURSOR:
        raise _bad_cursor()
    try:
        padded = text + "=" * (-len(text) % 4)
        name, value = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        name, value = None, None
    if name != kind or not isinstance(value, str):
        raise _bad_cursor()
    return value


def read_id_cursor(query: Mapping[str, str], *, kind: str) -> UUID | None:
    """Like :func:`read_cursor`, of a list that is ordered by id.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    text = read_cursor(query, kind=kind)
    if text is None:
        return None
    value = parse_id(text)
    if value is None:
        raise _bad_cursor()
    return value


def read_number_cursor(query: Mapping[str, str], *, kind: str) -> int | None:
    """Like :func:`read_cursor`, of a list that is ordered by a positive number.

    Raises:
        ProblemError: ``invalid_cursor``.
    """
    text = read_cursor(query, kind=kind)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise _bad_cursor()
    return int(text)


def read_text_filter(query: Mapping[str, str], name: str) -> str | None:
    """The value of a filter on a text column, or ``None``.

    Raises:
        ProblemError: ``invalid_request`` for a text that no column can hold.
    """
    text = query.get(name)
    if text is not None and "\x00" in text:
        raise shape_errors([(name, "null_character", "U+0000 cannot be stored.")])
    return text


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
    raw = json.dumps([kind, str(getattr(rows[-1], key))]).encode()
    return rows, base64.urlsafe_b64encode(raw).decode().rstrip("=")
