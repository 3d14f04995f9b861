"""``migrate`` as the role that owns the tables, where there is one."""

from typing import Any

from django.conf import settings
from django.core.management.commands.migrate import Command as DjangoMigrate


class Command(DjangoMigrate):
    """Django's migrate, by default on the ``owner`` connection if one is configured."""

    def add_arguments(self, parser: Any) -> None:
        """Django's arguments with another default for ``--database``."""
        super().add_arguments(parser)
        if "owner" in settings.DATABASES:
            parser.set_defaults(database="owner")
