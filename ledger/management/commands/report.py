"""``manage.py report``: trial balance, balance sheet, income statement."""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ledger.api.queries import Query
from ledger.api.reports import (
    account_balance_json,
    balance_sheet_json,
    income_statement_json,
    scope_json,
    trial_balance_json,
)
from ledger.management.base import LedgerCommand
from ledger.management.sheets import (
    add_output_options,
    ledger_id_of,
    write_json,
    write_sheet,
)
from ledger.selectors.reports import (
    ReportScope,
    account_balances,
    balance_sheet,
    income_statement,
    period_scope,
    report_scope,
    trial_balance,
)
from ledger.sheets import (
    balance_sheet_sheet,
    income_statement_sheet,
    trial_balance_accounts_sheet,
    trial_balance_sheet,
)
from payflow.sheets import Sheet

HELP = """\
Reports on a whole ledger, by the time at which transfers became effective:

  trial-balance     debit and credit balances by kind and code, and their sums
  balance-sheet     assets against liabilities, equity and result
  income-statement  income and expenses of a period

A time is a day of the ledger (2026-11-30, which means its end; for --from its
beginning) or an instant (2026-11-30T12:00:00Z). With --as-recorded-at, what was
recorded later is left out; by default it is two minutes ago, because transfers that
were recorded later than that may still appear.
"""

EPILOG = """\
examples:
  manage.py report trial-balance --ledger demo
  manage.py report trial-balance --ledger demo --accounts --csv accounts.csv
  manage.py report balance-sheet --ledger demo --at 2026-10-31 --xlsx october.xlsx
  manage.py report income-statement --ledger demo --from 2026-10-01 --to 2026-10-31
  manage.py report balance-sheet --ledger demo --at 2026-10-31 \\
      --as-recorded-at 2026-11-05 --json
"""


class Command(LedgerCommand):
    """Prints a report, or writes it to a file."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument(
            "report",
            choices=("trial-balance", "balance-sheet", "income-statement"),
            help="which one; see above",
        )
        parser.add_argument(
            "--ledger", required=True, metavar="SLUG", help="the ledger that it is of"
        )
        parser.add_argument(
            "--at", metavar="TIME", help="of what time the balances are (default: now)"
        )
        parser.add_argument(
            "--from",
            metavar="TIME",
            help="the period's beginning; for income-statement",
        )
        parser.add_argument(
            "--to", metavar="TIME", help="the period's last day, or end (default: now)"
        )
        parser.add_argument(
            "--as-recorded-at", metavar="TIME", help="leave out what was recorded later"
        )
        parser.add_argument("--currency", metavar="CODE", help="only this one")
        parser.add_argument(
            "--accounts", action="store_true", help="each account; for trial-balance"
        )
        add_output_options(parser)

    def run(self, options: dict[str, Any]) -> None:
        """Makes the report that the options ask for."""
        self._check(options)
        names = ("at", "from", "to", "as_recorded_at", "currency")
        query = Query({n: options[n] for n in names if options[n] is not None})
        if options["report"] == "income-statement":
            self._income_statement(query, options)
            return
        at, recorded = query.moment("at"), query.moment("as_recorded_at")
        currency = query.currency()
        query.finish()
        scope = report_scope(
            ledger_id=ledger_id_of(options["ledger"]),
            at=at,
            as_recorded_at=recorded,
            currency=currency,
        )
        if options["accounts"]:
            self._accounts(scope, options)
        elif options["report"] == "trial-balance":
            trial = trial_balance(scope=scope)
            self._write(trial_balance_json(trial), trial_balance_sheet(trial), options)
        else:
            sheet = balance_sheet(scope=scope)
            self._write(balance_sheet_json(sheet), balance_sheet_sheet(sheet), options)

    def _income_statement(self, query: Query, options: dict[str, Any]) -> None:
        start, end = query.moment("from", required=True), query.moment("to")
        recorded, currency = query.moment("as_recorded_at"), query.currency()
        query.finish()
        assert start is not None
        scope = period_scope(
            ledger_id=ledger_id_of(options["ledger"]),
            start=start,
            end=end,
            as_recorded_at=recorded,
            currency=currency,
        )
        income = income_statement(scope=scope)
        self._write(
            income_statement_json(income), income_statement_sheet(income), options
        )

    def _accounts(self, scope: ReportScope, options: dict[str, Any]) -> None:
        if options["json"]:
            lines = map(account_balance_json, account_balances(scope=scope))
            write_json(scope_json("trial_balance", scope), lines, out=self.stdout)
        else:
            sheet = trial_balance_accounts_sheet(scope)
            write_sheet(sheet, options, out=self.stdout, say=self.say)

    def _write(
        self, document: dict[str, Any], sheet: Sheet, options: dict[str, Any]
    ) -> None:
        if options["json"]:
            self.say(json.dumps(document, indent=2))
        else:
            write_sheet(sheet, options, out=self.stdout, say=self.say)

    def _check(self, options: dict[str, Any]) -> None:
        is_period = options["report"] == "income-statement"
        misplaced = ("at",) if is_period else ("from", "to")
        for name in misplaced:
            if options[name] is not None:
                raise CommandError(f"--{name} does not go with {options['report']}.")
        if is_period and options["from"] is None:
            raise CommandError("An income statement needs --from.")
        if options["accounts"] and options["report"] != "trial-balance":
            raise CommandError("--accounts goes with trial-balance only.")
