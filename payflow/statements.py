"""Statements that a connection prepares once, and columns of values in binary arrays.

Django's cursors write every value into the SQL text, and PostgreSQL parses and plans it
anew. What a posting runs each time goes this way instead: the text is sent once, the
values apart from it, and PostgreSQL keeps the plan. Placeholders are ``$1``, ``$2`` …;
what type a value has, the text says (``$1::uuid[]``).

A column of ten thousand values is one parameter: an array in the format in which
PostgreSQL sends and receives them (``array_recv`` in its ``adt/arrayfuncs.c``). In
network byte order: the number of dimensions, whether there are nulls, the elements'
type, the number of elements, the first one's index, and then each element's length and
bytes, -1 being the length of null. psycopg can do that too, one element after the
other; joining a whole column costs a tenth of it.

A pooler between us and PostgreSQL that changes sessions with each transaction must know
of prepared statements: PgBouncer does from 1.21 on, with ``max_prepared_statements``.
"""

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
from django.db import connection
from psycopg.adapt import Dumper
from psycopg.pq import Format

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NULL = b"\xff\xff\xff\xff"
_UUID_LENGTH = struct.pack(">i", 16)
_integer = struct.Struct(">ii").pack
_bigint = struct.Struct(">iq").pack
_interval = struct.Struct(">iqii").pack
_length = struct.Struct(">i").pack
_header = struct.Struct(">iiIii").pack


@dataclass(frozen=True, slots=True)
class Packed:
    """A parameter's bytes in PostgreSQL's binary format."""

    data: bytes


class _PackedDumper(Dumper):
    """Hands the bytes over; their type is what the statement's text says."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Packed) -> bytes:
        return obj.data


class _PreparedCursor(psycopg.RawCursor[Any]):
    """A cursor that prepares what it executes and asks for binary results."""

    def execute(self, query: Any, params: Any = None, **_options: Any) -> Any:
        try:
            return super().execute(query, params, prepare=True, binary=True)
        finally:
            # There Django's query log looks for the text.
            self._query = SimpleNamespace(query=query.encode())  # type: ignore[assignment]


def run_prepared(
    sql: str, parameters: Sequence[Packed | UUID | None]
) -> list[tuple[Any, ...]]:
    """Runs a statement that this connection prepares on first use; returns its rows.

    It goes through Django's wrapper, so its errors, hooks and query log are those of
    any other statement.

    Args:
        sql: a constant, or one of few texts: each stays prepared on the connection.
        parameters: for ``$1``, ``$2`` …; a null has the same type as a value, so that
            both find the same prepared statement.
    """
    connection.ensure_connection()
    session = connection.connection
    if session.prepare_threshold is None:
        # Django's setting means that psycopg does not prepare on its own account.
        session.prepare_threshold = 0
        session.adapters.register_dumper(Packed, _PackedDumper)
    raw = _PreparedCursor(session)
    with connection._prepare_cursor(raw) as cursor:  # type: ignore[attr-defined]
        cursor.execute(sql, parameters)
        # Not cursor.description: it makes an object of each column.
        has_rows = raw.pgresult is not None and raw.pgresult.nfields > 0
        return cursor.fetchall() if has_rows else []


def discard_plans(*, older_than_seconds: float) -> None:
    """Has this session make its plans anew, if it has not done so lately."""
    session = connection.connection
    kept_since = session.__dict__.get("_payflow_planned_at", 0.0)
    if time.monotonic() - kept_since < older_than_seconds:
        return
    with connection.cursor() as cursor:
        cursor.execute("DISCARD PLANS")
    session.__dict__["_payflow_planned_at"] = time.monotonic()


# --- Values -----------------------------------------------------------------------


def text(value: str | None) -> Packed | None:
    """A ``text``."""
    return None if value is None else Packed(value.encode())


def instant(value: datetime | None) -> Packed | None:
    """A ``timestamptz``."""
    return None if value is None else Packed(_instant_cell(value)[4:])


# --- Columns ----------------------------------------------------------------------


def uuids(values: Sequence[Any]) -> Packed:
    """A ``uuid[]`` of ``UUID``s, their 16 bytes, or nulls; bytes are fastest."""
    try:
        start = _start(2950, len(values), has_nulls=False)
        return Packed(_UUID_LENGTH.join([start, *values]))
    except TypeError:
        return _array(2950, [_uuid_cell(value) for value in values], None in values)


def _uuid_cell(value: UUID | bytes | None) -> bytes:
    if value is None:
        return _NULL
    return _UUID_LENGTH + (value.bytes if isinstance(value, UUID) else value)


def bigints(values: Sequence[int | None]) -> Packed:
    """A ``bigint[]``."""
    cells: list[int | None] = [8] * (2 * len(values))
    cells[1::2] = values
    try:
        data = struct.pack(">" + "iq" * len(values), *cells)
        return Packed(_start(20, len(values), has_nulls=False) + data)
    except struct.error:
        return _distinct(20, values, lambda value: _bigint(8, value))


def integers(values: Sequence[int | None]) -> Packed:
    """An ``integer[]``, of few different values."""
    return _distinct(23, values, lambda value: _integer(4, value))


def texts(values: Sequence[str | None]) -> Packed:
    """A ``text[]``."""
    return _distinct(25, values, _text_cell)


def blobs(values: Sequence[bytes]) -> Packed:
    """A ``bytea[]``."""
    return _array(17, [_length(len(value)) + value for value in values], False)


def instants(values: Sequence[datetime | None]) -> Packed:
    """A ``timestamptz[]``, of few different values."""
    return _distinct(1184, values, _instant_cell)


def intervals(values: Sequence[timedelta | None]) -> Packed:
    """An ``interval[]``, of few different values."""
    return _distinct(1186, values, lambda it: _interval(16, _microseconds(it), 0, 0))


def _text_cell(value: str) -> bytes:
    data = value.encode()
    return _length(len(data)) + data


def _instant_cell(value: datetime) -> bytes:
    return _bigint(8, _microseconds(value - _EPOCH))


def _microseconds(duration: timedelta) -> int:
    return duration // _MICROSECOND


def _distinct(oid: int, values: Sequence[Any], cell: Callable[[Any], bytes]) -> Packed:
    """An array that packs equal values once."""
    cells = {v: _NULL if v is None else cell(v) for v in set(values)}
    start = _start(oid, len(values), has_nulls=None in cells)
    if len(cells) == 1:
        (only,) = cells.values()
        return Packed(start + only * len(values))
    return Packed(b"".join([start, *[cells[value] for value in values]]))


def _array(oid: int, cells: Sequence[bytes], has_nulls: bool) -> Packed:
    return Packed(b"".join([_start(oid, len(cells), has_nulls=has_nulls), *cells]))


def _start(oid: int, count: int, *, has_nulls: bool) -> bytes:
    if count == 0:
        return struct.pack(">iiI", 0, 0, oid)
    return _header(1, has_nulls, oid, count, 1)
