"""How commands print statements and reports, and write them to files."""

import json
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser, OutputWrapper
from rich.console import Console
from rich.table import Table

from ledger.models import Ledger
from payflow.api.downloads import write_binary
from payflow.ids import new_id
from payflow.sheets import (
    MAX_PAGE_ROWS,
    Amount,
    Cell,
    RowStyle,
    Sheet,
    csv_chunks,
    limited_rows,
    page_text,
)

#: The options that name a file, one of which is given at most.
_FILE_FORMS = ("csv", "xlsx", "pdf")
#: Columns of a table where there is no terminal.
PLAIN_WIDTH = 160
#: What a terminal obeys instead of showing it, and what turns the order of a line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def add_output_options(parser: CommandParser) -> None:
    """Declares where the result goes."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    group.add_argument("--csv", metavar="FILE", help="write CSV; - is standard output")
    group.add_argument("--xlsx", metavar="FILE", help="write an XLSX workbook")
    group.add_argument("--pdf", metavar="FILE", help="write a PDF to print")


def write_sheet(
    sheet: Sheet,
    options: dict[str, Any],
    *,
    out: OutputWrapper,
    say: Callable[[str], None],
) -> None:
    """Writes the sheet to where the options say, or prints it for people.

    A file is there when it is whole; what was there before stays if it fails.

    Raises:
        CommandError: the file cannot be written.
        ProblemError: ``report_too_long``.
    """
    asked = [form for form in _FILE_FORMS if options[form] is not None]
    if not asked:
        _print(sheet, out=out, say=say)
        return
    (form,) = asked
    name = options[form]
    if (form, name) == ("csv", "-"):
        for chunk in csv_chunks(sheet):
            out.write(chunk, ending="")
        return
    if not name:
        raise CommandError(f"--{form} takes the name of a file.")
    try:
        with _whole_file(name) as file:
            if form == "csv":
                file.writelines(chunk.encode() for chunk in csv_chunks(sheet))
            else:
                write_binary(sheet, form=form, file=file)
    except OSError as error:
        raise CommandError(f"The file cannot be written: {error}.") from error
    say(f"Wrote {name}.")


def write_json(
    head: dict[str, Any], lines: Iterable[dict[str, Any]], *, out: OutputWrapper
) -> None:
    """Writes one JSON object: a head, and ``lines`` as they come.

    They are never together in memory, so there may be millions of them.
    """
    beginning = json.dumps(head, indent=2).removesuffix("\n}")
    out.write(f'{beginning},\n  "lines": [', ending="")
    separator = "\n    "
    for line in lines:
        out.write(f"{separator}{json.dumps(line)}", ending="")
        separator = ",\n    "
    out.write("\n  ]\n}")


@contextmanager
def _whole_file(name: str) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole, and is gone if it never is."""
    path = Path(name).absolute()
    # Nobody replaces a pipe or a device, nor what /dev/stdout stands for.
    if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
        with path.open("wb") as stream:
            yield stream
        return
    path = path.resolve()
    beside = path.with_name(f".payflow-{new_id()}")
    try:
        with beside.open("xb") as file:
            yield file
        if path.exists():
            beside.chmod(stat.S_IMODE(path.stat().st_mode))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _print(sheet: Sheet, *, out: OutputWrapper, say: Callable[[str], None]) -> None:
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
        say(f"  {name:<{width}}  {_visible(value)}")
    # Without a terminal to measure, wide enough for the table to be read in a log.
    console = Console(
        file=out,  # type: ignore[arg-type]
        width=None if out.isatty() else PLAIN_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(table)
    if sheet.note:
        say(sheet.note)
    say(f"Times in {sheet.zone.key}.")


def _text(cell: Cell, sheet: Sheet) -> str:
    if isinstance(cell, Amount):
        return str(cell)
    return _visible(page_text(cell, sheet.zone))


def _visible(text: str) -> str:
    """The text without what would command the terminal it is shown on."""
    return _CONTROLS.sub("\ufffd", text)


def ledger_id_of(slug: str) -> UUID:
    """The id of a ledger.

    Raises:
        CommandError: there is none of that name.
    """
    ledger_id = Ledger.objects.filter(slug=slug).values_list("id", flat=True).first()
    if ledger_id is None:
        raise CommandError(f"There is no ledger {slug!r}.")
    return ledger_id
