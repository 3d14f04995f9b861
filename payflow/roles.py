"""The application's database role.

``migrate`` runs as the owner of the tables. The web server, the workers and the
commands log in as a member of ``payflow_app``, a group role that cannot change or
delete what is append-only, whatever the triggers say. ``grants.sql`` lists what it may.
"""

from pathlib import Path
from typing import Any

import structlog
from django.db import ProgrammingError, connections, transaction

log = structlog.get_logger(__name__)

_GRANTS = Path(__file__).with_name("grants.sql")


def apply_grants(*, using: str, **_kwargs: Any) -> None:
    """Makes the role if it is missing, and sets its grants anew. Runs after migrate.

    A database user without CREATEROLE gets a log line instead: then the database's
    administrator makes the role ``payflow_app`` and ``migrate`` is run again.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_regclass('idempotency_key'), to_regclass('ledger_entry')"
        )
        if None in cursor.fetchone():
            # Migrated backwards, or only in part: there is nothing to grant on.
            return
    try:
        with transaction.atomic(using=using), connection.cursor() as cursor:
            cursor.execute(_GRANTS.read_text())
    except ProgrammingError as error:
        log.warning(
            "database_role_not_granted",
            error=str(error).splitlines()[0],
            remedy="CREATE ROLE payflow_app NOLOGIN as an administrator; migrate again",
        )
