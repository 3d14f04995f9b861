"""``manage.py create_ledger``: a new, empty set of books."""

import json
from typing import Any

from django.core.management.base import CommandParser

from ledger.management.base import LedgerCommand
from ledger.management.ledgers import ledger_json
from ledger.models import Ledger
from ledger.services.ledgers import ledger_create
from payflow.actors import Actor
from payflow.db import retry_on_conflict, transaction_owner

ACTOR = Actor("command:create_ledger")

HELP = """\
Makes a ledger: a set of books of its own, for one tenant. Transfers never cross
ledgers. The slug is its name for ever; the rest can be changed with set_ledger.
"""

EPILOG = """\
examples:
  manage.py create_ledger acme --name "Acme Ltd"
  manage.py create_ledger acme-eu --name "Acme Europe" --time-zone Europe/Berlin
  manage.py create_ledger acme-us --name "Acme US" --json

what comes next:
  manage.py create_api_key --ledger acme --client checkout
"""


class Command(LedgerCommand):
    """Makes a ledger."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument(
            "slug", metavar="SLUG", help="1-63 lower-case letters, digits and hyphens"
        )
        parser.add_argument("--name", required=True, help="for people")
        parser.add_argument(
            "--time-zone",
            default="UTC",
            metavar="ZONE",
            help="IANA name; defines the ledger's days and months (default UTC)",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(self, options: dict[str, Any]) -> None:
        """Makes the ledger that the options describe."""

        def create() -> Ledger:
            with transaction_owner():
                return ledger_create(
                    slug=options["slug"],
                    name=options["name"],
                    time_zone=options["time_zone"],
                    actor=ACTOR,
                )

        ledger = retry_on_conflict(create)
        if options["json"]:
            self.say(json.dumps(ledger_json(ledger)))
            return
        self.say(
            f"Made ledger {ledger.slug}. A client of it needs a key:"
            f" manage.py create_api_key --ledger {ledger.slug} --client NAME"
        )
