"""``migrate`` as the role that owns the tables, where there is one."""

from typing import Any

from django.conf import settings
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import connections


class Command(DjangoMigrate):
    """Django's migrate, by default on the ``owner`` connection if one is configured."""

    def add_arguments(self, parser: Any) -> None:
        """Django's arguments with another default for ``--database``."""
        super().add_arguments(parser)
        if "owner" in settings.DATABASES:
            parser.set_defaults(database="owner")

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrates, for as long as it takes: requests have time limits, this has none.

        Locks are still waited for only as long as the connection's ``lock_timeout``
        says, so that a migration in a queue does not stop all traffic behind it.
        """
        connection = connections[options["database"]]
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
            if getattr(connection, "pg_version", 0) >= 170000:
                cursor.execute("SET transaction_timeout = 0")
        super().handle(*args, **options)
