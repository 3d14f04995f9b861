"""``manage.py audit_ledger``: proves the books, or names what is broken."""

import json
import os
from typing import Any

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.table import Table

from ledger.audit import AuditReport, audit_row_estimate, audit_run
from ledger.management.base import LedgerCommand, ProgressLine

#: Exit codes; a script can tell broken books from an audit that did not take place.
BROKEN = 1
COULD_NOT_RUN = 2
#: The most findings that are printed; --json lists more.
MAX_PRINTED = 20
#: Columns of the table where there is no terminal.
PLAIN_WIDTH = 120
#: The most connections that it reads on without being told to.
MOST_DEFAULT_JOBS = 4
MAX_JOBS = 16

HELP = """\
Checks every invariant of the books against every row, and reports; it repairs nothing.
It may run while transfers are posted: it reads in short snapshots and locks nothing.
With --jobs 1 --share 25 it works on one connection and a quarter of the time, and
leaves the rest to the transfers; both change how long it takes, not what it finds.

The result is stored, and /health follows it: after findings it answers 503 until an
audit finds the books sound again. With --ledger, what the last audit found in other
ledgers stands.
"""

EPILOG = """\
exit codes:
  0  the books are sound
  1  something is broken; the findings say what and where
  2  the audit could not run or was interrupted; nothing is known

examples:
  manage.py audit_ledger
  manage.py audit_ledger --ledger demo
  manage.py audit_ledger --jobs 1 --share 25
  manage.py audit_ledger --json | jq '.checks[] | select(.finding_count > 0)'
"""


class Command(LedgerCommand):
    """Audits all ledgers, or one."""

    help = HELP
    epilog = EPILOG
    failure_code = COULD_NOT_RUN
    interrupted_code = COULD_NOT_RUN

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument("--ledger", metavar="SLUG", help="look at this ledger only")
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object and nothing else"
        )
        parser.add_argument(
            "--jobs",
            type=int,
            default=min(MOST_DEFAULT_JOBS, os.cpu_count() or 1),
            choices=range(1, MAX_JOBS + 1),
            metavar="N",
            help="connections that read at the same time (default: one for each core,"
            f" at most {MOST_DEFAULT_JOBS})",
        )
        parser.add_argument(
            "--share",
            type=int,
            default=100,
            choices=range(1, 101),
            metavar="PERCENT",
            help="how much of the time each of them works; between its slices it rests"
            " (default: 100)",
        )

    def run(self, options: dict[str, Any]) -> None:
        """Runs the audit, prints its report and sets the exit code."""
        slug = options["ledger"]
        total = None if slug else audit_row_estimate()
        with ProgressLine("Auditing", total) as progress:
            report = audit_run(
                ledger_slug=slug,
                progress=progress.advance,
                jobs=options["jobs"],
                share=options["share"] / 100,
            )
        if options["json"]:
            self.say(json.dumps(report.as_json(), indent=2))
        else:
            self._print(report)
        if not report.is_sound:
            raise CommandError(_verdict(report), returncode=BROKEN)
        if not options["json"]:
            self.say(_verdict(report))

    def _print(self, report: AuditReport) -> None:
        table = Table("check", "what it proves", "looked at", "findings")
        table.columns[2].justify = table.columns[3].justify = "right"
        table.columns[0].no_wrap = True
        for result in report.checks:
            table.add_row(
                result.check.name,
                result.check.meaning,
                f"{result.row_count:,} {result.check.rows}",
                f"[red]{result.finding_count:,}[/red]" if result.finding_count else "0",
            )
        # Without a terminal to measure, wide enough for the table to be read in a log.
        width = None if self.stdout.isatty() else PLAIN_WIDTH
        Console(file=self.stdout, width=width).print(table)  # type: ignore[arg-type]
        for finding in report.findings[:MAX_PRINTED]:
            ids = ", ".join(f"{name} {value}" for name, value in finding.ids.items())
            self.say(
                f"{finding.check} in ledger {finding.ledger_id}: {ids}\n"
                f"  expected {finding.expected}\n  actual   {finding.actual}\n"
                f"  difference {finding.difference:,}"
            )
        if report.finding_count > MAX_PRINTED:
            self.say(
                f"... {report.finding_count:,} findings in all; --json lists more."
            )


def _verdict(report: AuditReport) -> str:
    scope = f"Ledger {report.ledger_slug}" if report.ledger_slug else "All ledgers"
    seconds = (report.finished_at - report.started_at).total_seconds()
    if report.is_sound:
        return f"{scope}: sound. ({seconds:.1f} s)"
    return (
        f"{scope}: BROKEN, {report.finding_count:,} findings, differences of"
        f" {report.difference:,} minor units. ({seconds:.1f} s)"
    )
