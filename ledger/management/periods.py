"""What the commands that close and reopen periods share."""

import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import date, datetime

from django.core.management.base import CommandParser

from ledger.days import day_parse
from ledger.management.base import LedgerCommand
from ledger.models import Ledger
from ledger.selectors.periods import Periods, periods_get
from payflow.clock import format_instant
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import Problem, ProblemError


class PeriodCommand(LedgerCommand):
    """Moves the boundary of what is closed, after it has shown where to."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares what both commands take."""
        parser.add_argument(
            "--ledger", required=True, metavar="SLUG", help="whose periods"
        )
        parser.add_argument(
            "--yes", action="store_true", help="do not ask; needed without a terminal"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def ledger(self, slug: str) -> Ledger:
        """The ledger of this name."""
        ledger = Ledger.objects.filter(slug=slug).first()
        if ledger is None:
            raise self.failure(f"There is no ledger {slug!r}.")
        return ledger

    def confirm(self, ledger: Ledger, announcement: str, *, is_sure: bool) -> None:
        """Says what will happen, and goes on only if nobody objects.

        It speaks on standard error, so that standard output stays the result.
        """
        periods = periods_get(ledger_id=ledger.id)
        for line in (
            f"Ledger {ledger.slug}, days by {periods.zone.key}.",
            f"Now: {state_text(periods)}",
            announcement,
        ):
            self.stderr.write(line, style_func=str)
        if is_sure:
            return
        if not sys.stdin.isatty():
            raise self.failure("Nobody can be asked here: say --yes.")
        self.stderr.write("Go on? [y/N] ", style_func=str, ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise self.failure("Nothing was changed.")

    def change(
        self,
        ledger: Ledger,
        command: Callable[[], Periods | Problem],
        *,
        as_json: bool,
    ) -> None:
        """Runs the service in its transaction and prints how far it is closed then."""

        def run() -> Periods | Problem:
            with transaction_owner():
                return command()

        outcome = retry_on_conflict(run)
        if isinstance(outcome, Problem):
            raise ProblemError.of(outcome)
        if not as_json:
            self.say(state_text(outcome))
            return
        before, through = outcome.closed_before, outcome.closed_through
        self.say(
            json.dumps(
                {
                    "ledger": ledger.slug,
                    "closed_before": before and format_instant(before),
                    "closed_through": through and through.isoformat(),
                    "time_zone": outcome.zone.key,
                }
            )
        )


def day_argument(text: str) -> date:
    """The day that an option names, for the parser."""
    day = day_parse(text)
    if day is None:
        raise ArgumentTypeError(f"It takes a day as 2026-10-31, not {text!r}.")
    return day


def state_text(periods: Periods) -> str:
    """How far the ledger is closed, as a sentence."""
    if periods.closed_before is None:
        return "Everything is open."
    return f"Closed is everything before {local_text(periods.closed_before, periods)}."


def local_text(instant: datetime, periods: Periods) -> str:
    """An instant by the ledger's clocks, and UTC."""
    local = instant.astimezone(periods.zone)
    return f"{local:%Y-%m-%d %H:%M:%S %Z} ({format_instant(instant)})"
