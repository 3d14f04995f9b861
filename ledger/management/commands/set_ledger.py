"""``manage.py set_ledger``: changes a ledger's name or time zone."""

from typing import Any

from django.core.management.base import CommandParser

from ledger.management.base import LedgerCommand
from ledger.models import Ledger
from ledger.services.ledgers import ledger_update
from payflow.actors import Actor
from payflow.db import retry_on_conflict, transaction_owner

ACTOR = Actor("command:set_ledger")

HELP = """\
Changes a ledger's name or time zone. Each change is kept in the ledger's history, with
the old value. What is already as wanted is not written.
"""

EPILOG = """\
examples:
  manage.py set_ledger acme --name "Acme Limited"
  manage.py set_ledger acme --time-zone America/New_York
"""


class Command(LedgerCommand):
    """Changes a ledger."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument("slug", metavar="SLUG", help="the ledger")
        parser.add_argument("--name", help="the new name, for people")
        parser.add_argument("--time-zone", metavar="ZONE", help="the new IANA name")

    def run(self, options: dict[str, Any]) -> None:
        """Changes what the options name."""
        changes = {
            field: options[field]
            for field in ("name", "time_zone")
            if options[field] is not None
        }
        if not changes:
            raise self.failure("Nothing to change: give --name or --time-zone.")

        def update() -> Ledger:
            with transaction_owner():
                return ledger_update(slug=options["slug"], changes=changes, actor=ACTOR)

        ledger = retry_on_conflict(update)
        self.say(
            f"Ledger {ledger.slug}: name {ledger.name!r}, time zone {ledger.time_zone}."
        )
