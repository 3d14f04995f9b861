"""``manage.py create_api_key``: a key for a client of one ledger."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from ledger.management.base import LedgerCommand
from ledger.models import ApiClient, Ledger
from ledger.services.clients import api_key_create, client_get_or_create
from payflow.db import retry_on_conflict, transaction_owner

#: A key for longer than a hundred years is a mistake.
MAX_DAYS = 36_500

HELP = """\
Makes an API key and prints it, once: only its hash is stored. The client is made if the
ledger has none of that name. A client may have several keys, and is the same client
whichever of them it uses, so keys are replaced without a gap.
"""

EPILOG = """\
examples:
  manage.py create_api_key --ledger acme --client checkout
  manage.py create_api_key --ledger acme --client ci --expires-in-days 30 --json

how to use it:
  curl -H "Authorization: Bearer KEY" http://localhost:8080/v1/me
"""


class Command(LedgerCommand):
    """Makes an API key."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument(
            "--ledger", required=True, metavar="SLUG", help="the ledger it opens"
        )
        parser.add_argument(
            "--client", required=True, metavar="NAME", help="who it is for"
        )
        parser.add_argument(
            "--expires-in-days", type=int, metavar="N", help="default: never"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(self, options: dict[str, Any]) -> None:
        """Makes the key that the options describe."""
        slug, name, days = (
            options["ledger"],
            options["client"].strip(),
            options["expires_in_days"],
        )
        if not name:
            raise self.failure("The client needs a name: --client NAME.")
        if days is not None and not 1 <= days <= MAX_DAYS:
            raise self.failure(f"--expires-in-days takes 1 to {MAX_DAYS:,}.")
        ledger = Ledger.objects.filter(slug=slug).first()
        if ledger is None:
            raise self.failure(
                f"There is no ledger {slug!r}: make it with"
                f" `manage.py create_ledger {slug} --name NAME`."
            )

        def create() -> tuple[ApiClient, str]:
            with transaction_owner():
                client = client_get_or_create(ledger_id=ledger.id, name=name)
                lifetime = None if days is None else timedelta(days=days)
                return client, api_key_create(client=client, lifetime=lifetime)

        client, key = retry_on_conflict(create)
        if not client.is_active:
            self.stderr.write(f"Client {name} is not active: its keys do not work.")
        if options["json"]:
            self.say(
                json.dumps(
                    {
                        "ledger": slug,
                        "client": name,
                        "client_id": str(client.id),
                        "key": key,
                        "expires_in_days": days,
                    }
                )
            )
            return
        self.say(key)
        self.say("Keep it now: it will not be shown again.")
