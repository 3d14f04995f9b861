"""How commands print statements and reports, and write them to files."""

import sys
from collections.abc import Callable
from typing import Any, TextIO
from uuid import UUID

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.table import Table

from ledger.models import Ledger
from payflow.sheets import (
    MAX_PAGE_ROWS,
    Amount,
    Cell,
    RowStyle,
    Sheet,
    csv_chunks,
    limited_rows,
    page_text,
    write_workbook,
)

#: Columns of a table where there is no terminal.
PLAIN_WIDTH = 160


def add_output_options(parser: CommandParser) -> None:
    """Declares where the result goes."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    group.add_argument("--csv", metavar="FILE", help="write CSV; - is standard output")
    group.add_argument("--xlsx", metavar="FILE", help="write an XLSX workbook")


def write_sheet(
    sheet: Sheet, options: dict[str, Any], *, out: TextIO, say: Callable[[str], None]
) -> None:
    """Writes the sheet to where the options say, or prints it for people.

    Raises:
        CommandError: the file cannot be written.
        ProblemError: ``report_too_long``.
    """
    try:
        if options["csv"] == "-":
            sys.stdout.writelines(csv_chunks(sheet))
        elif options["csv"]:
            with open(options["csv"], "w", encoding="utf-8", newline="") as text:
                text.writelines(csv_chunks(sheet))
            say(f"Wrote {options['csv']}.")
        elif options["xlsx"]:
            with open(options["xlsx"], "wb") as file:
                write_workbook(sheet, file)
            say(f"Wrote {options['xlsx']}.")
        else:
            _print(sheet, out=out, say=say)
    except OSError as error:
        raise CommandError(f"The file cannot be written: {error}.") from error


def _print(sheet: Sheet, *, out: TextIO, say: Callable[[str], None]) -> None:
    printed = [n for n, column in enumerate(sheet.columns) if column.is_printed]
    table = Table(pad_edge=False)
    for n in printed:
        column = sheet.columns[n]
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number or column.is_whole,
        )
    for row in limited_rows(sheet, form="text", maximum=MAX_PAGE_ROWS):
        is_line = row.style is RowStyle.LINE
        table.add_row(
            *(_text(row.cells[n], sheet) for n in printed),
            style=None if is_line else "bold",
            end_section=row.style is RowStyle.TOTAL,
        )
    width = max(len(name) for name, _ in sheet.facts)
    say(sheet.title)
    for name, value in sheet.facts:
        say(f"  {name:<{width}}  {value}")
    # Without a terminal to measure, wide enough for the table to be read in a log.
    console = Console(
        file=out, width=None if out.isatty() else PLAIN_WIDTH, markup=False
    )
    console.print(table)
    say(f"Times in {sheet.zone.key}.")


def _text(cell: Cell, sheet: Sheet) -> str:
    return str(cell) if isinstance(cell, Amount) else page_text(cell, sheet.zone)


def ledger_id_of(slug: str) -> UUID:
    """The id of a ledger.

    Raises:
        CommandError: there is none of that name.
    """
    ledger_id = Ledger.objects.filter(slug=slug).values_list("id", flat=True).first()
    if ledger_id is None:
        raise CommandError(f"There is no ledger {slug!r}.")
    return ledger_id
