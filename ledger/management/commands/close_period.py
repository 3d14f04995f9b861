"""``manage.py close_period``: nothing becomes effective any more up to a day's end."""

from typing import Any

from django.core.management.base import CommandParser

from ledger.days import day_end
from ledger.enums import Permission
from ledger.management.periods import PeriodCommand, day_argument, local_text
from ledger.selectors.periods import periods_get
from ledger.services.periods import period_close
from payflow.actors import Actor

ACTOR = Actor(
    "command:close_period", permissions=frozenset({str(Permission.CLOSE_PERIOD)})
)

HELP = """\
Closes a ledger's books up to the end of a day, in the ledger's time zone. From then on
a transfer whose effective_at lies before that is refused. A day can be closed an hour
after its end. What is closed that far already stays as it is.
"""

EPILOG = """\
examples:
  manage.py close_period --ledger acme --through 2026-10-31
  manage.py close_period --ledger acme --through 2026-10-31 --yes --json

exit codes:
  0  closed, now or before
  1  not closed: refused, declined or failed
  2  an argument is missing or wrong
"""


class Command(PeriodCommand):
    """Closes periods."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        super().add_arguments(parser)
        parser.add_argument(
            "--through",
            required=True,
            type=day_argument,
            metavar="DAY",
            help="the last day to close",
        )

    def run(self, options: dict[str, Any]) -> None:
        """Closes through the day that the options name."""
        ledger = self.ledger(options["ledger"])
        day = options["through"]
        periods = periods_get(ledger_id=ledger.id)
        until = local_text(day_end(day, zone=periods.zone), periods)
        self.confirm(
            ledger, f"To be closed: everything before {until}.", is_sure=options["yes"]
        )
        self.change(
            ledger,
            lambda: period_close(ledger_id=ledger.id, end=day, actor=ACTOR),
            as_json=options["json"],
        )
