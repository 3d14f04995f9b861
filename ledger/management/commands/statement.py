"""``manage.py statement``: what a period did to an account."""

from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from ledger.api.queries import Query
from ledger.api.statements import statement_json, statement_line_json
from ledger.management.base import LedgerCommand
from ledger.management.sheets import (
    add_output_options,
    ledger_id_of,
    write_json,
    write_sheet,
)
from ledger.models import Account
from ledger.selectors.statements import (
    Statement,
    statement_all_lines,
    statement_get,
)
from ledger.sheets import statement_sheet
from payflow.db import retry_on_conflict, transaction_owner
from payflow.ids import parse_id

HELP = """\
Shows what was booked on an account in a period, with the balances before and after.

A time is a day of the ledger (2026-11-30; as --to it is in the period) or an instant
(2026-11-30T12:00:00Z; as --to it is not). Lines go by the time of booking, so a period
that has passed never changes; backdated transfers show their value date.
"""

EPILOG = """\
examples:
  manage.py statement user-ada --ledger demo --from 2026-11-01 --to 2026-11-30
  manage.py statement 00000000-0000-0000-0000-000000000002 --ledger demo \\
      --from 2026-11-01
  manage.py statement user-ada --ledger demo --from 2026-11-01 --xlsx november.xlsx
  manage.py statement user-ada --ledger demo --from 2026-11-01 --pdf november.pdf
  manage.py statement user-ada --ledger demo --from 2026-11-01 --csv - | head
"""


class Command(LedgerCommand):
    """Prints a statement, or writes it to a file."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument(
            "account", metavar="ACCOUNT", help="the account's id or reference"
        )
        parser.add_argument(
            "--ledger", required=True, metavar="SLUG", help="the ledger that it is in"
        )
        parser.add_argument(
            "--from", required=True, metavar="TIME", help="the period's beginning"
        )
        parser.add_argument(
            "--to", metavar="TIME", help="its last day, or end (default: now)"
        )
        parser.add_argument(
            "--as-recorded-at", metavar="TIME", help="leave out what was booked later"
        )
        add_output_options(parser)

    def run(self, options: dict[str, Any]) -> None:
        """Makes the statement that the options ask for."""
        names = ("from", "to", "as_recorded_at")
        query = Query({n: options[n] for n in names if options[n] is not None})
        start = query.moment("from", required=True)
        end, recorded = query.moment("to"), query.moment("as_recorded_at")
        query.finish()
        assert start is not None
        ledger_id = ledger_id_of(options["ledger"])
        account_id = _account_id_of(ledger_id, options["account"])

        def read() -> Statement:
            with transaction_owner():
                return statement_get(
                    ledger_id=ledger_id,
                    account_id=account_id,
                    start=start,
                    end=end,
                    as_recorded_at=recorded,
                )

        statement = retry_on_conflict(read)
        if options["json"]:
            lines = map(statement_line_json, statement_all_lines(statement=statement))
            write_json(statement_json(statement), lines, out=self.stdout)
        else:
            sheet = statement_sheet(statement)
            write_sheet(sheet, options, out=self.stdout, say=self.say)


def _account_id_of(ledger_id: UUID, name: str) -> UUID:
    """The account with this id or reference.

    Raises:
        CommandError: there is none.
    """
    rows = Account.objects.filter(ledger_id=ledger_id).values_list("id", flat=True)
    wanted = parse_id(name.lower())
    found = rows.filter(reference=name) if wanted is None else rows.filter(id=wanted)
    account_id = found.first()
    if account_id is None:
        raise CommandError(f"There is no account {name!r} in this ledger.")
    return account_id
