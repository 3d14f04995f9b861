"""Rows of hot reads as model instances, by statements that are prepared once.

Django composes the SQL of a query anew each time, which takes five times as long as
PostgreSQL's answer to a lookup by key.
"""

from collections.abc import Sequence
from functools import cache
from typing import TypeVar
from uuid import UUID

from django.db import connection, models

from payflow.statements import Packed, run_prepared

M = TypeVar("M", bound=models.Model)


def rows_where(
    model: type[M], conditions: str, parameters: Sequence[Packed | UUID]
) -> list[M]:
    """The rows of a model's table that meet constant conditions.

    Args:
        model: of the rows; its fields have the values that psycopg makes of them.
        conditions: what follows ``WHERE``; values as ``$1``, ``$2`` …
        parameters: their values.
    """
    select, names = _select(model)
    rows = run_prepared(f"{select} WHERE {conditions}", parameters)
    return [model.from_db(connection.alias, names, row) for row in rows]


@cache
def _select(model: type[models.Model]) -> tuple[str, list[str]]:
    fields = model._meta.concrete_fields
    columns = ", ".join(str(field.column) for field in fields)
    select = f"SELECT {columns} FROM {model._meta.db_table}"  # noqa: S608 - our names
    return select, [field.attname for field in fields]
