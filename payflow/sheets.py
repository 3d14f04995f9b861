"""Tables that leave the system: one description, and its forms for people and programs.

A report says once which columns it has and what stands in them; this module makes CSV,
XLSX and what a page's template shows, and ``payflow.pdf`` makes PDF. Amounts are exact
decimals of major units in all of them, times are in the ledger's time zone, and no
spreadsheet ever runs a customer's text as a formula.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import IO, Any
from zoneinfo import ZoneInfo

import xlsxwriter

from payflow.errors import ProblemError
from payflow.money import format_amount

#: Rows of one CSV chunk.
CHUNK_ROWS = 500
#: The most rows of what is to be printed, as a page or as PDF, and of a workbook.
MAX_PAGE_ROWS = 10_000
MAX_WORKBOOK_ROWS = 100_000
#: A spreadsheet's numbers have so many decimal digits; further ones become zeros.
MAX_NUMBER_DIGITS = 15

#: Where a spreadsheet may take the rest of a text for a formula, the beginning of which
#: may also be in full width: in the first place, and behind what separates cells where
#: the list separator is no comma. Such a reader looks through quotes that open there.
_CELL_START = re.compile(
    r"""(?: \A (?=\ *[\t\r\n]) | (?: \A | [;\t\r\n] )
        (?= (?: [^\S\t\r\n] | " )* [-=+@\uff1d\uff0b\uff0d\uff20] ) )""",
    re.VERBOSE,
)
_WORKBOOK_INSTANT = "yyyy-mm-dd hh:mm:ss"


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money in a table.

    Attributes:
        minor: minor units.
        currency: the code.
        exponent: the number of decimals of the currency's minor unit.
    """

    minor: int
    currency: str
    exponent: int

    @property
    def decimal(self) -> Decimal:
        """Major units, exactly, with all decimals of the currency."""
        return Decimal(self.minor).scaleb(-self.exponent)

    def __str__(self) -> str:
        return format_amount(self.minor, self.currency, self.exponent)


#: What a cell holds. An ``int`` is a count or a number, never money.
Cell = str | int | datetime | Amount | None


class RowStyle(Enum):
    """What a row is: data, a heading above data, or a sum or balance of it."""

    LINE = "line"
    HEADING = "heading"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: for programs, in CSV.
        title: for people.
        width: in characters, in a workbook.
        is_number: aligned to the right, and never broken into lines.
        is_whole: never broken into lines.
        is_printed: part of the page for people too, and not of the files only.
    """

    name: str
    title: str
    width: int = 16
    is_number: bool = False
    is_whole: bool = False
    is_printed: bool = True

    @property
    def css_class(self) -> str:
        """How a page sets it."""
        return "number" if self.is_number else "whole" if self.is_whole else ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row with a cell for each column; a heading is its first printed cell."""

    cells: tuple[Cell, ...]
    style: RowStyle = RowStyle.LINE


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table with what it is about.

    Attributes:
        title: what it is.
        facts: names and values that stand above the table.
        columns: its columns.
        rows: its rows; they may be made as they are taken, and are taken once.
        zone: the time zone in which instants are shown.
        row_count: how many lines there are, if that is known before.
        note: a sentence that the reader of the table should know, or empty.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: Iterable[Row]
    zone: ZoneInfo
    row_count: int | None = None
    note: str = ""


def local_text(instant: datetime, zone: ZoneInfo) -> str:
    """An instant for people, to the second: ``2026-11-22 13:00:00``."""
    return f"{instant.astimezone(zone):%Y-%m-%d %H:%M:%S}"


# --- CSV --------------------------------------------------------------------------


class _Echo:
    """A file that hands back what is written to it."""

    def write(self, text: str) -> str:
        return text


def csv_chunks(sheet: Sheet) -> Iterator[str]:
    """The sheet as CSV (RFC 4180), in pieces of some hundred rows.

    The first row has the columns' names. Headings are left out; their words stand in
    columns of their own. Instants are RFC 3339 with the ledger's offset.
    """
    writer: Any = csv.writer(_Echo())
    lines = [writer.writerow([column.name for column in sheet.columns])]
    for row in sheet.rows:
        if row.style is RowStyle.HEADING:
            continue
        lines.append(writer.writerow([_csv_cell(cell, sheet) for cell in row.cells]))
        if len(lines) >= CHUNK_ROWS:
            yield "".join(lines)
            lines = []
    if lines:
        yield "".join(lines)


def _csv_cell(cell: Cell, sheet: Sheet) -> str:
    match cell:
        case None:
            return ""
        case str():
            return without_formula(cell)
        case datetime():
            return cell.astimezone(sheet.zone).isoformat(timespec="microseconds")
        case Amount():
            return f"{cell.decimal:f}"
        case int():
            return str(cell)


def without_formula(text: str) -> str:
    """The text, with a quote wherever a spreadsheet would find a formula in it.

    That is at its beginning, and behind a semicolon, a tab or a line end: where those
    separate cells, as in half of Europe, a comma's quotes do not hold a text together.
    """
    return _CELL_START.sub(r"\g<0>'", text)


# --- XLSX -------------------------------------------------------------------------


def write_workbook(sheet: Sheet, file: IO[bytes]) -> None:
    """Writes the sheet as an XLSX workbook: the table, and what it is about beside it.

    It takes a bounded amount of memory. Amounts are numbers in major units, and texts
    where a spreadsheet's 15 digits would round them.

    Raises:
        ProblemError: ``report_too_long``.
    """
    book: Any = xlsxwriter.Workbook(
        file,
        {
            "constant_memory": True,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
        },
    )
    table = book.add_worksheet("Table")
    writer = _WorkbookWriter(book, table, sheet.zone)
    for number, column in enumerate(sheet.columns):
        table.set_column(number, number, column.width)
        table.write_string(0, number, column.title, writer.format(is_bold=True))
    table.freeze_panes(1, 0)
    table.repeat_rows(0)
    table.set_landscape()
    table.set_paper(9)  # A4
    table.fit_to_pages(1, 0)
    rows = limited_rows(sheet, form="xlsx", maximum=MAX_WORKBOOK_ROWS)
    for line, row in enumerate(rows, start=1):
        for number, cell in enumerate(row.cells):
            writer.write(line, number, cell, is_bold=row.style is not RowStyle.LINE)
    about = book.add_worksheet("About")
    about.set_column(0, 1, 28)
    facts = [("Report", sheet.title), *sheet.facts, ("Time zone", sheet.zone.key)]
    if sheet.note:
        facts.append(("Note", sheet.note))
    for line, (name, value) in enumerate(facts):
        about.write_string(line, 0, name, writer.format(is_bold=True))
        about.write_string(line, 1, value)
    book.close()


class _WorkbookWriter:
    """Writes cells with as few formats as there are."""

    def __init__(self, book: Any, table: Any, zone: ZoneInfo) -> None:
        self._book = book
        self._table = table
        self._zone = zone
        self._formats: dict[tuple[str, bool], Any] = {}

    def format(self, number_format: str = "", *, is_bold: bool = False) -> Any:
        """The format, made when it is first needed."""
        key = (number_format, is_bold)
        if key not in self._formats:
            properties: dict[str, Any] = {"bold": is_bold}
            if number_format:
                properties["num_format"] = number_format
            self._formats[key] = self._book.add_format(properties)
        return self._formats[key]

    def write(self, line: int, column: int, cell: Cell, *, is_bold: bool) -> None:
        """Writes one cell as what it is."""
        plain = self.format(is_bold=is_bold)
        match cell:
            case None:
                pass
            case str():
                self._table.write_string(line, column, cell, plain)
            case datetime():
                local = cell.astimezone(self._zone).replace(tzinfo=None)
                style = self.format(_WORKBOOK_INSTANT, is_bold=is_bold)
                self._table.write_datetime(line, column, local, style)
            case Amount() if len(str(abs(cell.minor))) > MAX_NUMBER_DIGITS:
                style = self.format("@", is_bold=is_bold)
                self._table.write_string(line, column, f"{cell.decimal:f}", style)
            case Amount():
                decimals = f".{'0' * cell.exponent}" if cell.exponent else ""
                style = self.format(f"#,##0{decimals}", is_bold=is_bold)
                self._table.write_number(line, column, cell.decimal, style)
            case int():
                self._table.write_number(line, column, cell, plain)


# --- Pages ------------------------------------------------------------------------


def page_context(sheet: Sheet) -> dict[str, Any]:
    """What a page's template shows: every cell of a printed column as a text.

    Raises:
        ProblemError: ``report_too_long``.
    """
    printed = [n for n, column in enumerate(sheet.columns) if column.is_printed]
    return {
        "title": sheet.title,
        "facts": sheet.facts,
        "zone": sheet.zone.key,
        "note": sheet.note,
        "columns": [sheet.columns[n] for n in printed],
        "rows": [
            {
                "style": row.style.value,
                "cells": [
                    (page_text(row.cells[n], sheet.zone), sheet.columns[n].css_class)
                    for n in printed
                ],
            }
            for row in limited_rows(sheet, form="html", maximum=MAX_PAGE_ROWS)
        ],
    }


def page_text(cell: Cell, zone: ZoneInfo) -> str:
    """A cell for people."""
    match cell:
        case None:
            return ""
        case str():
            return cell
        case datetime():
            return local_text(cell, zone)
        case Amount():
            return f"{cell.decimal:,f}"
        case int():
            return f"{cell:,}"


def limited_rows(sheet: Sheet, *, form: str, maximum: int) -> Iterator[Row]:
    """The sheet's rows, refused where there are too many for the form.

    Raises:
        ProblemError: ``report_too_long``, at once where the number is known.
    """
    refusal = ProblemError(
        "report_too_long",
        f"As {form} it may have {maximum:,} rows at most.",
        format=form,
        max_rows=maximum,
    )
    if (sheet.row_count or 0) > maximum:
        raise refusal
    for number, row in enumerate(sheet.rows):
        # A few rows of balances and totals may come on top of the lines.
        if sheet.row_count is None and number >= maximum:
            raise refusal
        yield row
