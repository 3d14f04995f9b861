"""Finding rows by filters, with a bound on what each page costs.

Note on bounds. Most filters have no index of their own: each would cost every transfer,
and any two of them would need a third. Instead a page looks at no more than
:data:`SCAN_ROWS` rows, newest first, and returns the key of the last one that it looked
at; the next page goes on there. So a page may have fewer rows than were asked for, even
none, and still not be the last; and no filter, however rare what it looks for, can hold
up the database.

What an index finds does not need that patience. A *probe* asks an index for all rows of
one value (a reference, a metadata value), again up to :data:`SCAN_ROWS`: if there are
no more, the page is cut from them, wherever they are in time. A value that more rows
have is common enough to be met by walking. Which of the two is cheaper is not left to
PostgreSQL's statistics, which are wrong exactly where a value is rare: each statement
here has one sensible plan (``OFFSET 0`` and ``LIMIT`` keep the conditions where they
are written).

Note on ids and time. Ids are UUIDv7, made by the application shortly before PostgreSQL
dates the row: a transaction lasts at most a minute, and a process whose clock differs
from PostgreSQL's by more than another does not start, and is not ready
(``payflow.db.database_refusals``). So ``created_at`` within a range means an id within
the range of :data:`ID_SLACK_MS` more on both sides, and an old range is reached by the
primary key instead of from the newest row. Ids of accounts may be given by hand, so
they say nothing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db import connection

from payflow.money import MAX_AMOUNT

#: The most rows that a page looks at.
SCAN_ROWS = 10_000
#: How many it looks at before it asks an index that can have too many of them.
FIRST_ROWS = 1_000
#: The longest time between the making of an id and the row's ``created_at``.
ID_SLACK_MS = 10 * 60 * 1_000

Key = UUID | int
#: From this instant on, and before that one; ``None`` is open.
Range = tuple[datetime | None, datetime | None]
#: Names with the texts of their values.
Metadata = tuple[tuple[str, str], ...]
ANY_TIME: Range = (None, None)
T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_TICK = timedelta(microseconds=1)
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,15}")
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}


class FoundPage(list[T], Generic[T]):
    """The rows of a page, and where the next one begins.

    Attributes:
        after: the key of the last row that was looked at; ``None`` at the end.
    """

    def __init__(self, rows: Sequence[T], *, after: Key | None) -> None:
        super().__init__(rows)
        self.after = after


@dataclass(frozen=True, slots=True)
class Search:
    """Where to look for what.

    Attributes:
        walked: ``FROM`` and ``WHERE`` of the rows to walk along, called ``w``, with no
            other conditions than an index on their key serves.
        key: the column of ``w`` that orders the list, descending.
        candidates: a ``FROM`` clause with the rows ``r`` that belong to ``{walked}``.
        candidate_key: the key, as an expression on them.
        conditions: of ``r``.
        probed: joins to ``r`` from rows ``p``, which have an ``id``.
        probed_key: the key, as an expression on them.
        quick_probes, slow_probes: statements that find ids by an index, without limit;
            quick ones come before the walk, the others after its first rows.
        parameters: of all these.
    """

    walked: str
    key: str
    candidates: str
    candidate_key: str
    conditions: Sequence[str]
    parameters: Mapping[str, Any]
    probed: str = ""
    probed_key: str = "p.id"
    quick_probes: Sequence[str] = ()
    slow_probes: Sequence[str] = ()


_WALK = """
SELECT found.keys, CASE WHEN cardinality(found.keys) <= %(limit)s THEN (
    SELECT w.{key} {walked} ORDER BY w.{key} DESC OFFSET %(scan_rows)s - 1 LIMIT 1) END
FROM (SELECT ARRAY(
    SELECT {candidate_key} FROM {candidates}
    WHERE {conditions}
    ORDER BY {candidate_key} DESC LIMIT %(limit)s + 1) AS keys OFFSET 0) found
"""
_WALKED = "(SELECT w.* {walked} ORDER BY w.{key} DESC LIMIT %(scan_rows)s)"

_PROBE = """
WITH probe AS MATERIALIZED ({probe} LIMIT %(scan_rows)s + 1)
SELECT CASE WHEN (SELECT count(*) FROM probe) <= %(scan_rows)s THEN ARRAY(
    SELECT {key}
    FROM (SELECT DISTINCT p.id FROM probe p ORDER BY p.id DESC OFFSET 0) p {probed}
    WHERE {conditions}
    ORDER BY {key} DESC LIMIT %(limit)s + 1) END
"""


def find(search: Search, *, limit: int) -> tuple[list[Any], Key | None]:
    """The keys of a page's rows, and where the next one begins.

    Args:
        search: where to look for what.
        limit: the page size.
    """
    parameters = {**search.parameters, "limit": limit, "scan_rows": SCAN_ROWS}
    for probe in search.quick_probes:
        keys = _probe(search, probe, parameters)
        if keys is not None:
            return _page(keys, edge=None, limit=limit)
    if search.slow_probes:
        # What is common is met at once, and what is rare is found by the index.
        keys, edge = _walk(search, parameters, rows=min(FIRST_ROWS, SCAN_ROWS))
        if edge is None:
            return _page(keys, edge=None, limit=limit)
        for probe in search.slow_probes:
            probed = _probe(search, probe, parameters)
            if probed is not None:
                return _page(probed, edge=None, limit=limit)
    keys, edge = _walk(search, parameters, rows=SCAN_ROWS)
    return _page(keys, edge=edge, limit=limit)


def _walk(
    search: Search, parameters: Mapping[str, Any], *, rows: int
) -> tuple[list[Key], Key | None]:
    """The keys of a page of the next ``rows``, and the last key if it is not full."""
    walked = _WALKED.format(walked=search.walked, key=search.key)
    sql = _WALK.format(
        key=search.key,
        walked=search.walked,
        candidates=search.candidates.format(walked=walked),
        candidate_key=search.candidate_key,
        conditions=" AND ".join(search.conditions) or "true",
    )
    ((keys, edge),) = _fetch(sql, {**parameters, "scan_rows": rows})
    return keys, edge


def _probe(
    search: Search, probe: str, parameters: Mapping[str, Any]
) -> list[Key] | None:
    """The keys of a page, or ``None`` if the index has too many rows for that."""
    conditions = list(search.conditions)
    if parameters["before"] is not None:
        conditions.append(f"{search.probed_key} < %(before)s")
    sql = _PROBE.format(
        probe=probe,
        key=search.probed_key,
        probed=search.probed,
        conditions=" AND ".join(conditions) or "true",
    )
    ((keys,),) = _fetch(sql, parameters)
    return keys  # type: ignore[no-any-return]


def _page(
    keys: list[Key], *, edge: Key | None, limit: int
) -> tuple[list[Key], Key | None]:
    return keys[:limit], keys[limit - 1] if len(keys) > limit else edge


def _fetch(sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def search_by_id(
    *,
    table: str,
    ledger_id: UUID,
    before: Key | None,
    conditions: Sequence[str],
    parameters: Mapping[str, Any],
    id_range: Range = ANY_TIME,
    quick_probes: Sequence[str] = (),
    slow_probes: Sequence[str] = (),
) -> Search:
    """The search of a list that is ordered by id.

    Args:
        table: of what.
        ledger_id: whose.
        before: the last id that was looked at.
        conditions: of the rows, called ``r``.
        parameters: of the conditions and probes.
        id_range: a range of ``created_at`` that holds for all rows that are looked for;
            only for tables all of whose ids are made by the application.
        quick_probes, slow_probes: see :class:`Search`.
    """
    first_id, end_id = ids_made_in(id_range)
    bounds = ["w.ledger_id = %(ledger_id)s"]
    if before is not None:
        bounds.append("w.id < %(before)s")
    if first_id is not None:
        bounds.append("w.id >= %(id_from)s")
    if end_id is not None:
        bounds.append("w.id < %(id_to)s")
    return Search(
        walked=f"FROM {table} w WHERE {' AND '.join(bounds)}",
        key="id",
        candidates="{walked} r",
        candidate_key="r.id",
        conditions=conditions,
        probed=row_of("p.id", table=table),
        quick_probes=quick_probes,
        slow_probes=slow_probes,
        parameters={
            **parameters,
            "ledger_id": ledger_id,
            "before": before,
            "id_from": first_id,
            "id_to": end_id,
        },
    )


def version_conditions(*, recorded: Range, parameters: dict[str, Any]) -> list[str]:
    """Conditions for the entries ``w`` of an account, by its versions.

    Recording times do not decrease along an account's versions, so that a range of them
    is a range of versions, found by bisection.

    Args:
        recorded: a range of ``created_at`` that holds for all that is looked for.
        parameters: where the values go; it has ``ledger_id`` and ``account_id``.
    """
    start, end = recorded
    parameters |= {
        "recorded_before": start and start - _TICK,
        "recorded_by": end and end - _TICK,
    }
    conditions = [
        "w.ledger_id = %(ledger_id)s",
        "w.account_id = %(account_id)s",
    ]
    if start is not None:
        conditions.append(
            f"w.account_version > {_VERSION_AT.format('recorded_before')}"
        )
    if end is not None:
        conditions.append(f"w.account_version <= {_VERSION_AT.format('recorded_by')}")
    return conditions


_VERSION_AT = (
    "(SELECT ledger_version_at(%(ledger_id)s, %(account_id)s, %({})s::timestamptz))"
)


def max_of(one: datetime | None, other: datetime | None) -> datetime | None:
    """The later of two instants, either of which may be missing."""
    if one is None or other is None:
        return one or other
    return max(one, other)


def row_of(key: str, *, table: str) -> str:
    """A join to the row with the id ``key``, as ``r``, by the primary key."""
    return _ROW_OF.format(key=key, table=table)


_ROW_OF = """
CROSS JOIN LATERAL (
    SELECT r.* FROM {table} r
    WHERE r.ledger_id = %(ledger_id)s AND r.id = {key} OFFSET 0) r
"""


def ids_made_in(times: Range) -> tuple[UUID | None, UUID | None]:
    """The ids of what was recorded in a range of time: the first, and the one after."""
    start, end = times
    return (
        None if start is None else _first_id(start, -ID_SLACK_MS),
        None if end is None else _first_id(end, ID_SLACK_MS + 1),
    )


def _first_id(instant: datetime, shift_ms: int) -> UUID:
    """The smallest UUIDv7 of the millisecond of ``instant``, shifted."""
    milliseconds = max(0, (instant - _EPOCH) // _MS + shift_ms)
    return UUID(int=milliseconds << 80)


# --- What several lists share ------------------------------------------------------

EQUAL_PROBE = """
    SELECT r.id FROM {table} r
    WHERE r.ledger_id = %(ledger_id)s AND r.{column} = %({column})s
"""

# The column's C collation lets its index find prefixes.
_PREFIX_CONDITION = "r.reference ^@ %(reference_prefix)s"
# In the index's order, so that PostgreSQL has nothing cheaper than the index.
_PREFIX_PROBE = """
    SELECT r.id FROM {table} r
    WHERE r.ledger_id = %(ledger_id)s AND r.reference ^@ %(reference_prefix)s
    ORDER BY r.reference
"""
_METADATA_CONDITION = "r.metadata @> ANY (%(metadata)s::jsonb[])"
_METADATA_PROBE = """
    SELECT id FROM ledger_ids_by_metadata(
        '{table}', %(ledger_id)s, %(metadata)s::jsonb[], %(scan_rows)s + 1) id
"""


def range_conditions(
    column: str, name: str, bounds: Range, parameters: dict[str, Any]
) -> list[str]:
    """Conditions for a range of instants: the start is in it, the end is not.

    Args:
        column: an instant of the row.
        name: of the parameters, which are added to ``parameters``.
        bounds: start and end; ``None`` is open.
        parameters: where the values go.
    """
    start, end = bounds
    parameters |= {f"{name}_from": start, f"{name}_to": end}
    conditions = []
    if start is not None:
        conditions.append(f"{column} >= %({name}_from)s")
    if end is not None:
        conditions.append(f"{column} < %({name}_to)s")
    return conditions


def equal_conditions(
    values: Mapping[str, Any], parameters: dict[str, Any]
) -> list[str]:
    """Conditions for the columns of ``r`` that must have these values.

    Args:
        values: by column; ``None`` means any.
        parameters: where the values go.
    """
    given = {column: value for column, value in values.items() if value is not None}
    parameters |= given
    return [f"r.{column} = %({column})s" for column in given]


def amount_conditions(
    amounts: tuple[int | None, int | None], parameters: dict[str, Any], *, of: str
) -> list[str]:
    """Conditions for an amount, in minor units.

    Args:
        amounts: least and greatest; ``None`` is open.
        parameters: where the values go.
        of: what the row with the amount is called.
    """
    least, greatest = amounts
    if least is None and greatest is None:
        return []
    parameters |= {"amount_min": least or 1, "amount_max": greatest or MAX_AMOUNT}
    return [f"{of}.amount BETWEEN %(amount_min)s AND %(amount_max)s"]


def prefix_parts(
    table: str, prefix: str | None, parameters: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Conditions and probes for the beginning of a reference.

    Args:
        table: of the rows.
        prefix: ``None`` means any.
        parameters: where the value goes.
    """
    if prefix is None:
        return [], []
    parameters["reference_prefix"] = prefix
    return [_PREFIX_CONDITION], [_PREFIX_PROBE.format(table=table)]


def metadata_parts(
    table: str, values: Metadata, parameters: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Conditions and probes for metadata.

    A filter's value is a text; where it reads as an integer, true, false or null, that
    value is looked for, too.

    Args:
        table: of the rows.
        values: names with their values; a row must have all of them.
        parameters: where the values go.
    """
    if not values:
        return [], []
    choices = [[(name, value) for value in _readings(text)] for name, text in values]
    parameters["metadata"] = [json.dumps(dict(choice)) for choice in product(*choices)]
    return [_METADATA_CONDITION], [_METADATA_PROBE.format(table=table)]


def _readings(text: str) -> list[Any]:
    if _INTEGER.fullmatch(text) and abs(int(text)) <= MAX_AMOUNT:
        return [text, int(text)]
    return [text, _WORDS[text]] if text in _WORDS else [text]
