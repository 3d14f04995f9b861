"""What the database's errors mean to a caller, each one raised by PostgreSQL itself."""

import pytest
from django.db import Error, InterfaceError, connection, transaction

from payflow.api.problems import PROBLEMS
from payflow.db import problem_of
from payflow.errors import ProblemError


def raised(sqlstate: str) -> Error:
    with (
        pytest.raises(Error) as caught,
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(
            f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$"
        )
    return caught.value


@pytest.mark.parametrize(
    "sqlstate",
    [
        *("08000", "08003", "08006", "08P01"),
        *("53000", "53100", "53200", "53300", "53400"),
        *("57P01", "57P02", "57P03", "57P04", "57P05"),
        *("58000", "58030", "58P01"),
        *("25P03", "25P04", "25006", "40003"),
    ],
)
def test_a_server_that_cannot_serve_is_unavailable(db, sqlstate):
    problem = problem_of(raised(sqlstate))

    assert isinstance(problem, ProblemError), problem
    assert problem.problem.code == "database_unavailable"
    assert PROBLEMS["database_unavailable"].status == 503
    assert problem.retry_after_seconds
    assert "nothing was changed" not in problem.problem.detail
    assert "same idempotency key" in problem.problem.detail


@pytest.mark.parametrize("sqlstate", ["55P03", "57014", "40P01", "40001"])
def test_a_lock_that_could_not_be_had_is_busy(db, sqlstate):
    problem = problem_of(raised(sqlstate))

    assert isinstance(problem, ProblemError)
    assert problem.problem.code == "ledger_busy"


@pytest.mark.parametrize("sqlstate", ["22012", "42P01", "XX000", "23514", "57000"])
def test_anything_else_is_a_bug(db, sqlstate):
    error = raised(sqlstate)

    assert problem_of(error) is error


def test_a_closed_connection_is_unavailable():
    problem = problem_of(InterfaceError("connection already closed"))

    assert isinstance(problem, ProblemError)
    assert problem.problem.code == "database_unavailable"
