"""``manage.py create_api_key``: a key for a client of one ledger."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from ledger.enums import Permission
from ledger.management.base import LedgerCommand
from ledger.models import ApiClient, Ledger
from ledger.services.clients import (
    api_key_create,
    client_get_or_create,
    client_set_permissions,
)
from payflow.actors import Actor
from payflow.db import retry_on_conflict, transaction_owner

ACTOR = Actor("command:create_api_key")
#: A key for longer than a hundred years is a mistake.
MAX_DAYS = 36_500

_PERMISSIONS = "\n".join(f"  {p.value:<16} {p.label}" for p in Permission)

HELP = """\
Makes an API key and prints it, once: only its hash is stored. The client is made if the
ledger has none of that name. A client may have several keys, and is the same client
whichever of them it uses, so keys are replaced without a gap.

Permissions belong to the client and so to all of its keys. With --permission the client
has exactly those that are named; without it, it keeps those that it has. A new client
has none. Each change is kept in the ledger's history.
"""

EPILOG = f"""\
permissions:
{_PERMISSIONS}

examples:
  manage.py create_api_key --ledger acme --client checkout
  manage.py create_api_key --ledger acme --client ci --expires-in-days 30 --json
  manage.py create_api_key --ledger acme --client back-office \\
      --permission manage_accounts --permission close_period

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
        permissions = parser.add_mutually_exclusive_group()
        permissions.add_argument(
            "--permission",
            dest="permissions",
            action="append",
            choices=Permission.values,
            metavar="NAME",
            help="what the client may do beyond the ordinary; repeatable, see below",
        )
        permissions.add_argument(
            "--no-permissions",
            dest="permissions",
            action="store_const",
            const=[],
            help="take all permissions from the client",
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
                if options["permissions"] is not None:
                    client = client_set_permissions(
                        ledger_id=ledger.id,
                        client_id=client.id,
                        permissions=options["permissions"],
                        actor=ACTOR,
                    )
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
                        "permissions": client.permissions,
                        "key": key,
                        "expires_in_days": days,
                    }
                )
            )
            return
        self.say(key)
        self.say("Keep it now: it will not be shown again.")
