"""Prepared statements and binary arrays, against PostgreSQL's own reading of them."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from payflow.ids import new_id
from payflow.statements import (
    bigints,
    instant,
    instants,
    integers,
    intervals,
    run_prepared,
    text,
    texts,
    uuids,
)

pytestmark = pytest.mark.django_db

IDS = [new_id(), UUID(int=0), UUID(int=2**128 - 1)]
TEXTS = ["", "a", "a", 'é"\\,{}', "NULL", "\U0001f4b6", "x" * 100_000]
TIMES = [
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(9998, 12, 31, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=-5))),
]
SPANS = [timedelta(0), timedelta(days=-3, microseconds=1), timedelta(days=40_000)]


@pytest.mark.parametrize(
    ("pack", "type_", "values"),
    [
        (uuids, "uuid", IDS),
        (bigints, "bigint", [0, 1, -1, 2**63 - 1, -(2**63)]),
        (integers, "integer", [0, 1, 1, -1, 2**31 - 1, -(2**31)]),
        (texts, "text", TEXTS),
        (instants, "timestamptz", TIMES),
        (intervals, "interval", SPANS),
    ],
)
@pytest.mark.parametrize("shape", ["none", "values", "nulls too", "only nulls"])
def test_a_packed_column_is_what_postgresql_reads(pack, type_, values, shape):
    column = {
        "none": [],
        "values": values,
        "nulls too": [None, *values, None],
        "only nulls": [None, None],
    }[shape]

    rows = run_prepared(f"SELECT unnest($1::{type_}[])", [pack(column)])

    assert [value for (value,) in rows] == column


def test_ids_may_be_given_as_their_bytes():
    rows = run_prepared(
        "SELECT unnest($1::uuid[])", [uuids([value.bytes for value in IDS])]
    )
    mixed = run_prepared(
        "SELECT unnest($1::uuid[])", [uuids([IDS[0].bytes, None, IDS[1]])]
    )

    assert [value for (value,) in rows] == IDS
    assert [value for (value,) in mixed] == [IDS[0], None, IDS[1]]


def test_a_statement_is_prepared_once_whatever_is_null():
    sql = "SELECT $1::text, $2::timestamptz /* prepared once */"

    for value, at in ((None, None), ("a", TIMES[0]), ("b", None)):
        assert run_prepared(sql, [text(value), instant(at)]) == [(value, at)]

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement = %s", [sql]
        )
        assert cursor.fetchone() == (1,)


def test_prepared_statements_stand_in_the_query_log_and_raise_as_others_do():
    with CaptureQueriesContext(connection) as queries:
        run_prepared("SELECT $1::text", [text("a")])
        with pytest.raises(DatabaseError) as caught, transaction.atomic():
            run_prepared("SELECT 1 / length($1::text)", [text("")])

    assert queries[0]["sql"] == "SELECT $1::text"
    assert caught.value.__cause__.sqlstate == "22012"


def test_a_rollback_does_not_lose_a_prepared_statement():
    for _ in range(2):
        with transaction.atomic():
            assert run_prepared("SELECT $1::text", [text("a")]) == [("a",)]
            transaction.set_rollback(True)
