"""``manage.py bank_simulator``: a bank to send payouts to."""

import argparse
import sqlite3
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from outbox.simulator.behaviours import (
    DEFAULT_DELAY_SECONDS,
    DESTINATION_PREFIX,
    Behaviour,
)
from outbox.simulator.server import serve

HELP = """\
Runs a small bank that receives payouts over HTTP, for trying things out and for
tests. It keeps what it is told in one file, synced to disk, so that killing it loses
nothing. SIGTERM lets it finish the requests under way.
"""

EPILOG = f"""\
paths:
  POST /payouts          asks for a payout; the header Idempotency-Key makes it one
                         payout however often it is sent
  GET  /payouts/KEY      tells what became of it; "paid_amount" is the money that has
                         really left, "payment_count" how many times
  GET  /payouts          the newest payouts
  PUT  /control          sets what happens to payouts from now on
  GET  /health

what it can be told to do:
  settle                 pay at once; the default
  settle_later           accept, and pay after delay_seconds
  reject                 refuse at once
  reject_later           accept, and refuse after delay_seconds
  slow                   pay at once, and answer after delay_seconds
  fail                   answer 500 and know nothing of it
  fail_after_accept      pay, and answer 500
  cut                    pay, and cut the connection without an answer

  curl -X PUT http://127.0.0.1:8090/control \\
    -d '{{"behaviour": "settle_later", "delay_seconds": 5, "times": 3}}'

"times" limits it to the next payouts, "destination" to one destination;
delay_seconds is {DEFAULT_DELAY_SECONDS:g} unless given. {{"behaviour": "settle"}}
clears everything.

A destination may ask for its own treatment: one that begins with
{DESTINATION_PREFIX}reject is rejected, and so on ({DESTINATION_PREFIX}settle-later, \
{DESTINATION_PREFIX}cut ...).
"""
assert all(f"  {behaviour} " in EPILOG for behaviour in Behaviour)


class Command(BaseCommand):
    """Runs the bank in the foreground."""

    help = HELP
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """The parser, with an epilog that keeps its lines."""
        return super().create_parser(
            prog_name,
            subcommand,
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """The command's options."""
        parser.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (%(default)s)"
        )
        parser.add_argument(
            "--port",
            type=int,
            default=8090,
            help="port to listen on (%(default)s); 0 takes a free one",
        )
        parser.add_argument(
            "--database",
            default="bank_simulator.sqlite3",
            metavar="FILE",
            help="file that holds the bank's books (%(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serves until it is told to stop."""
        host, port, database = options["host"], options["port"], options["database"]
        try:
            serve(host=host, port=port, database=database)
        except sqlite3.Error as error:
            raise CommandError(
                f"The file {database} cannot be used: {error}."
            ) from error
        except (OSError, OverflowError) as error:
            raise CommandError(f"Cannot listen on {host}:{port}: {error}.") from error
