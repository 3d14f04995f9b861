"""``manage.py set_ledger``: changes a ledger's name, time zone or settings of holds."""

import json
from argparse import ArgumentTypeError
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import CommandParser

from ledger.management.base import LedgerCommand
from ledger.management.ledgers import ledger_json
from ledger.models import Ledger
from ledger.selectors.ledgers import (
    DEFAULT_LIFETIME,
    MAX_LIFETIME,
    OVER_CAPTURE,
    hold_settings_of,
)
from ledger.services.ledgers import ledger_update
from payflow.actors import Actor
from payflow.db import retry_on_conflict, transaction_owner
from payflow.durations import format_duration, parse_duration

ACTOR = Actor("command:set_ledger")

HELP = """\
Changes a ledger's name, its time zone, or what it says about holds, and shows what it
is then. Each change is kept in the ledger's history, with the old value. What is
already as wanted is not written. Holds that exist keep what they were made with.
"""

EPILOG = """\
examples:
  manage.py set_ledger acme --name "Acme Limited"
  manage.py set_ledger acme --time-zone America/New_York
  manage.py set_ledger acme --hold-default-lifetime 12h --hold-max-lifetime 31d
  manage.py set_ledger acme --over-capture-percent 15 --json
"""


def lifetime(text: str) -> int:
    """The seconds of a duration such as ``7d``."""
    try:
        return int(parse_duration(text).total_seconds())
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def basis_points(text: str) -> int:
    """The hundredths of a percent of a percentage such as ``12.5``."""
    try:
        points = Decimal(text) * 100
        if points == int(points):
            return int(points)
    except (InvalidOperation, ValueError, OverflowError):
        pass
    raise ArgumentTypeError(
        f"{text!r} is no percentage: write it as 15 or 12.5, with two decimals at most."
    )


class Command(LedgerCommand):
    """Changes a ledger."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument("slug", metavar="SLUG", help="the ledger")
        parser.add_argument("--name", help="the new name, for people")
        parser.add_argument("--time-zone", metavar="ZONE", help="the new IANA name")
        parser.add_argument(
            "--hold-default-lifetime",
            dest=DEFAULT_LIFETIME,
            type=lifetime,
            metavar="DURATION",
            help="of holds that do not say when they lapse, for instance 7d or 12h",
        )
        parser.add_argument(
            "--hold-max-lifetime",
            dest=MAX_LIFETIME,
            type=lifetime,
            metavar="DURATION",
            help="the longest of any hold, extensions included; up to 366d",
        )
        parser.add_argument(
            "--over-capture-percent",
            dest=OVER_CAPTURE,
            type=basis_points,
            metavar="PERCENT",
            help="what captures may take beyond the hold, 0 to 100, for instance 12.5",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(self, options: dict[str, Any]) -> None:
        """Changes what the options name."""
        changes = {
            field: options[field]
            for field in (
                "name",
                "time_zone",
                DEFAULT_LIFETIME,
                MAX_LIFETIME,
                OVER_CAPTURE,
            )
            if options[field] is not None
        }
        if not changes:
            raise self.failure(
                "Nothing to change: give --name, --time-zone, --hold-default-lifetime,"
                " --hold-max-lifetime or --over-capture-percent."
            )

        def update() -> Ledger:
            with transaction_owner():
                return ledger_update(slug=options["slug"], changes=changes, actor=ACTOR)

        ledger = retry_on_conflict(update)
        if options["json"]:
            self.say(json.dumps(ledger_json(ledger)))
            return
        settings = hold_settings_of(ledger)
        self.say(
            f"Ledger {ledger.slug}: name {ledger.name!r}, time zone {ledger.time_zone}."
        )
        self.say(
            f"Holds: lapse after {format_duration(settings.default_lifetime)} by"
            f" default, after {format_duration(settings.max_lifetime)} at the latest;"
            f" captures may take {settings.over_capture_percent}% more than was held."
        )
