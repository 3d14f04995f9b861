"""Migrations written in SQL: one file up, one file down, beside the migration."""

from pathlib import Path

from django.db import migrations
from django.db.migrations.operations.base import Operation


def sql_migration(
    module_file: str, name: str, *, state_operations: list[Operation] | None = None
) -> migrations.RunSQL:
    """The operation that runs ``sql/<name>_up.sql``, and ``_down.sql`` in reverse.

    Args:
        module_file: the migration's ``__file__``.
        name: the files' common beginning, for instance ``"0001_tasks"``.
        state_operations: what Django's model state learns of it.
    """
    folder = Path(module_file).parent / "sql"
    return migrations.RunSQL(
        (folder / f"{name}_up.sql").read_text(),
        (folder / f"{name}_down.sql").read_text(),
        state_operations=state_operations or [],
    )
