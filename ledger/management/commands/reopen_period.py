"""``manage.py reopen_period``: what comes after a day is open again."""

from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import CommandParser

from ledger.days import day_end
from ledger.enums import Permission
from ledger.management.periods import PeriodCommand, day_argument, local_text
from ledger.selectors.periods import periods_get
from ledger.services.periods import period_reopen
from payflow.actors import Actor

ACTOR = Actor(
    "command:reopen_period", permissions=frozenset({str(Permission.REOPEN_PERIOD)})
)

HELP = """\
Opens a ledger's closed books again: all of them, or what comes after a day, in the
ledger's time zone. The reason is kept in the ledger's history.
"""

EPILOG = """\
examples:
  manage.py reopen_period --ledger acme --through 2026-09-30 \\
      --reason "Late invoices of October"
  manage.py reopen_period --ledger acme --all --reason "Closed by mistake" --yes

exit codes:
  0  open, now or before
  1  not reopened: refused, declined or failed
  2  an argument is missing or wrong
"""


class Command(PeriodCommand):
    """Reopens periods."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        super().add_arguments(parser)
        extent = parser.add_mutually_exclusive_group(required=True)
        extent.add_argument(
            "--through",
            type=day_argument,
            metavar="DAY",
            help="the last day that stays closed",
        )
        extent.add_argument("--all", action="store_true", help="open everything")
        parser.add_argument(
            "--reason", required=True, type=_reason, help="why, for the history"
        )

    def run(self, options: dict[str, Any]) -> None:
        """Reopens as the options say."""
        ledger = self.ledger(options["ledger"])
        day = options["through"]
        periods = periods_get(ledger_id=ledger.id)
        extent = "everything"
        if day is not None:
            since = local_text(day_end(day, zone=periods.zone), periods)
            extent = f"everything from {since} on"
        self.confirm(ledger, f"To be opened again: {extent}.", is_sure=options["yes"])
        self.change(
            ledger,
            lambda: period_reopen(
                ledger_id=ledger.id,
                end=day,
                reason=options["reason"],
                actor=ACTOR,
            ),
            as_json=options["json"],
        )


def _reason(text: str) -> str:
    reason = text.strip()
    if not reason:
        raise ArgumentTypeError("It must not be empty.")
    return reason
