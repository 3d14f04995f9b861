"""Sheets as PDF: A4 pages, to print, to send and to file.

ReportLab only draws what is laid out here. Its paragraphs would read text as markup;
drawn as it is, nothing that a customer typed can be that. The fonts (``payflow/fonts``)
have the scripts of Europe. A character that they lack is shown as ``�``; the scripts
that run from right to left are lacking as a whole, so no line has to be turned.

A document is laid out before it is drawn, because each page names the number of pages.
Both are work for the processor alone, so other requests get their turn in between.
"""

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

from reportlab import rl_config
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4, landscape
from reportlab.pdfbase.pdfmetrics import registerFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from payflow.greenlets import giving_way
from payflow.sheets import (
    MAX_PAGE_ROWS,
    Column,
    Row,
    RowStyle,
    Sheet,
    limited_rows,
    page_text,
)

T = TypeVar("T")

# Compressed pages as bytes, not as letters for a mail of the nineties: a fifth less.
rl_config.useA85 = 0

_FONTS = Path(__file__).with_name("fonts")
_REGULAR, _BOLD = "NotoSans-Regular", "NotoSans-SemiBold"
_MISSING = "\ufffd"
_INK, _QUIET, _RULE = HexColor("#14211d"), HexColor("#5b6b66"), HexColor("#c9d3cf")

# Lengths are in points, 72 to the inch.
_MARGIN = 36.0
_FOOTER = 20.0
_TITLE_SIZE, _FACT_SIZE, _SMALL_SIZE = 17.0, 9.0, 7.0
_FACT_WIDTH = 170.0
_GUTTER = 14.0
#: Beside a cell's text, and above and below it.
_PADDING, _AIR = 4.0, 2.6
#: A table has the first of these sizes in which its columns fit beside each other.
_TABLE_SIZES = (8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 5.0, 4.5, 4.0)
#: What a column of texts is left with at least, in ems: they are broken into lines.
_LEAST_EMS = 6.0
#: From line to line, and from a line's top to where its letters stand, in ems.
_LEADING, _ASCENT = 1.3, 1.0
#: A table of more characters lies across.
_UPRIGHT_CHARACTERS = 110
#: Rows that are worked on in one go: a few milliseconds.
_GO_ROWS = 20


@dataclass(frozen=True, slots=True)
class _Texts:
    """A row as it is printed."""

    style: RowStyle
    cells: tuple[str, ...]

    @property
    def font(self) -> str:
        return _REGULAR if self.style is RowStyle.LINE else _BOLD


@dataclass(frozen=True, slots=True)
class _Block:
    """What no page break divides: a row, or a part of one that is very high.

    Attributes:
        style: what the row is.
        font: what it is written in.
        cells: the lines of each cell; a heading has one cell.
        height: in points.
    """

    style: RowStyle
    font: str
    cells: tuple[list[str], ...]
    height: float


def write_pdf(sheet: Sheet, file: IO[bytes]) -> None:
    """Writes the printed columns of the sheet as a PDF, with what they are about.

    Amounts and times are written as on the page to print. A text is broken into as
    many lines as it needs; nothing is cut off. It takes memory for all rows.

    Raises:
        ProblemError: ``report_too_long``.
    """
    columns = [column for column in sheet.columns if column.is_printed]
    is_wide = sum(column.width for column in columns) > _UPRIGHT_CHARACTERS
    size = landscape(A4) if is_wide else A4
    width = size[0] - 2 * _MARGIN
    rows = [
        _texts(row, sheet)
        for row in _in_turns(limited_rows(sheet, form="pdf", maximum=MAX_PAGE_ROWS))
    ]
    head = _Head(sheet, is_empty=not rows, width=width)
    table = _Table(columns, rows, width=width)
    room = size[1] - 2 * _MARGIN - _FOOTER - table.title.height
    pages = _pages(
        [
            block
            for row in _in_turns(rows)
            for block in table.blocks(row, highest=room / 2)
        ],
        first_room=room - head.height,
        room=room,
    )
    # What each page says of the document, and a viewer of the file.
    name = " · ".join(
        [sheet.title, *(_printable(value) for _, value in sheet.facts[:2])]
    )
    canvas = Canvas(
        file,
        pagesize=size,
        lang="en",
        pageCompression=1,
        # Else each page would begin with a font that is not part of the document.
        initialFontName=_REGULAR,
    )
    canvas.setTitle(name)
    canvas.setCreator("PayFlow")
    for number, blocks in enumerate(_in_turns(pages, go=1), start=1):
        top = size[1] - _MARGIN
        if number == 1:
            head.draw(canvas, top)
            top -= head.height
        table.draw(canvas, blocks, top)
        _draw_foot(canvas, name, f"Page {number} of {len(pages)}", width)
        canvas.showPage()
    canvas.save()


def _in_turns(items: Iterable[T], *, go: int = _GO_ROWS) -> Iterator[T]:
    # No lock is held here, so others may have all the time they need.
    return giving_way(items, go=go, most_given=math.inf)


# --- Texts ------------------------------------------------------------------------


@cache
def _font(name: str) -> Any:
    """A font, read once in the life of a process."""
    font = TTFont(name, _FONTS / f"{name}.ttf")
    registerFont(font)
    return font


@cache
def _ems(name: str) -> dict[int, float]:
    """How wide each character is that a font has, in thousandths of the size."""
    return dict(_font(name).face.charWidths)


def _width(text: str, font: str, size: float) -> float:
    """How wide a printable text is."""
    return sum(map(_ems(font).__getitem__, map(ord, text))) * size / 1000


def _texts(row: Row, sheet: Sheet) -> _Texts:
    texts = (
        _printable(page_text(cell, sheet.zone))
        for column, cell in zip(sheet.columns, row.cells, strict=True)
        if column.is_printed
    )
    return _Texts(row.style, tuple(texts))


def _printable(text: str) -> str:
    """The text in one line, with ``�`` for what the fonts or a page cannot show."""
    if text.isascii() and text.isprintable():
        return text
    glyphs = _font(_REGULAR).face.charToGlyph
    return "".join(
        character if character.isprintable() and ord(character) in glyphs else _MISSING
        for character in unicodedata.normalize("NFC", " ".join(text.split()))
    )


def _lines(text: str, font: str, size: float, width: float) -> list[str]:
    """The text in lines of at most this width, broken within words where it must be."""
    if _width(text, font, size) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if _width(longer, font, size) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = ""
        for character in word:
            if line and _width(line + character, font, size) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line]


# --- The table --------------------------------------------------------------------


class _Table:
    """The columns in their places, and the rows in their lines.

    Attributes:
        title: the names of the columns, which stand on top of each page.
    """

    def __init__(
        self, columns: Sequence[Column], rows: Sequence[_Texts], *, width: float
    ) -> None:
        titles = _Texts(RowStyle.TOTAL, tuple(column.title for column in columns))
        natural = [0.0] * len(columns)
        for row in _in_turns([titles, *rows]):
            if row.style is not RowStyle.HEADING:
                for n, text in enumerate(row.cells):
                    natural[n] = max(natural[n], _width(text, row.font, 1))
        is_whole = [column.is_number or column.is_whole for column in columns]
        least = [
            ems if whole else min(ems, _LEAST_EMS)
            for ems, whole in zip(natural, is_whole, strict=True)
        ]
        inner = width - 2 * _PADDING * len(columns)
        self._size = next(
            (size for size in _TABLE_SIZES if sum(least) * size <= inner),
            _TABLE_SIZES[-1],
        )
        ems = _shared(natural, is_whole, inner / self._size)
        self._widths = [each * self._size for each in ems]
        self._is_right = [column.is_number for column in columns]
        self._width = width
        (self.title,) = self.blocks(titles, highest=math.inf)

    def blocks(self, row: _Texts, *, highest: float) -> list[_Block]:
        """The row in its lines, in one block or, if need be, in several.

        Args:
            row: what is printed.
            highest: the most that one block may take, in points.
        """
        leading = _LEADING * self._size
        widths = self._widths
        if row.style is RowStyle.HEADING:
            # It stands apart from what is before it, over all columns.
            widths = [self._width - 2 * _PADDING]
        cells = [
            _lines(text, row.font, self._size, width)
            for text, width in zip(row.cells, widths, strict=False)
        ]
        above = leading if row.style is RowStyle.HEADING else 0.0
        total = max(map(len, cells))
        most = total
        if above + total * leading + 2 * _AIR > highest:
            most = int((highest - above - 2 * _AIR) // leading)
        blocks = []
        for first in range(0, total, most):
            part = tuple(lines[first : first + most] for lines in cells)
            height = above + max(map(len, part)) * leading + 2 * _AIR
            blocks.append(_Block(row.style, row.font, part, height))
        return blocks

    def draw(self, canvas: Canvas, blocks: Iterable[_Block], top: float) -> None:
        """Draws the names of the columns and, below, the blocks of one page."""
        top = self._draw_block(canvas, self.title, top)
        _rule(canvas, top, self._width, weight=0.9, color=_INK)
        for block in blocks:
            if block.style is RowStyle.TOTAL:
                _rule(canvas, top, self._width, weight=0.5, color=_INK)
            top = self._draw_block(canvas, block, top)
            color = _INK if block.style is RowStyle.HEADING else _RULE
            _rule(canvas, top, self._width, weight=0.4, color=color)

    def _draw_block(self, canvas: Canvas, block: _Block, top: float) -> float:
        """Draws one block, and says where the next one begins."""
        leading = _LEADING * self._size
        bottom = top - block.height
        highest = max(map(len, block.cells))
        first = bottom + _AIR + highest * leading - _ASCENT * self._size
        canvas.setFillColor(_INK)
        text = canvas.beginText()
        text.setFont(block.font, self._size)
        left = _MARGIN + _PADDING
        for lines, width, is_right in zip(
            block.cells, self._widths, self._is_right, strict=False
        ):
            for number, line in enumerate(lines):
                x = left
                if is_right:
                    x += width - _width(line, block.font, self._size)
                text.setTextOrigin(x, first - number * leading)
                text.textOut(line)
            left += width + 2 * _PADDING
        canvas.drawText(text)
        return bottom


def _shared(
    natural: Sequence[float], is_whole: Sequence[bool], room: float
) -> list[float]:
    """How wide each column is, so that all of them fill the room.

    What may not be broken has its own width. The others have theirs as far as that is
    no more than an equal share, and an equal part of what is left over.
    """
    widths = list(natural)
    left = room - sum(w for w, whole in zip(natural, is_whole, strict=True) if whole)
    broken = sorted(
        (n for n, whole in enumerate(is_whole) if not whole), key=natural.__getitem__
    )
    for rank, n in enumerate(broken):
        widths[n] = min(natural[n], left / (len(broken) - rank))
        left -= widths[n]
    for n in broken:
        widths[n] += left / len(broken)
    return widths


def _pages(
    blocks: Sequence[_Block], *, first_room: float, room: float
) -> list[list[_Block]]:
    """The blocks of each page; a heading stands on the page of what follows it."""
    pages: list[list[_Block]] = [[]]
    left = first_room
    for number, block in enumerate(blocks, start=1):
        needed = block.height
        if block.style is RowStyle.HEADING and number < len(blocks):
            needed += blocks[number].height
        if needed > left:
            pages.append([])
            left = room
        pages[-1].append(block)
        left -= block.height
    return pages


# --- What stands around it --------------------------------------------------------


class _Head:
    """The title, and what the table is about, above it on the first page.

    Attributes:
        height: in points, with the space below.
    """

    def __init__(self, sheet: Sheet, *, is_empty: bool, width: float) -> None:
        count = int((width + _GUTTER) // _FACT_WIDTH)
        self._step = (width + _GUTTER) / count
        self._width = width
        self._title = sheet.title
        facts = [
            (
                name,
                _lines(_printable(value), _REGULAR, _FACT_SIZE, self._step - _GUTTER),
            )
            for name, value in sheet.facts
        ]
        self._rows = [facts[n : n + count] for n in range(0, len(facts), count)]
        words = ["No lines."] if is_empty else []
        words += [sheet.note] if sheet.note else []
        self._note = " ".join([*words, f"Times in {sheet.zone.key}."])
        self.height = (
            _TITLE_SIZE * 1.6
            + 2 * _FACT_SIZE
            + sum(map(self._row_height, self._rows))
            + _SMALL_SIZE * 2.6
        )

    def draw(self, canvas: Canvas, top: float) -> None:
        """Draws it from the top of the page downwards."""
        canvas.setFillColor(_INK)
        canvas.setFont(_BOLD, _TITLE_SIZE)
        canvas.drawString(_MARGIN, top - _TITLE_SIZE, self._title)
        y = top - _TITLE_SIZE * 1.6
        _rule(canvas, y, self._width, weight=0.4, color=_RULE)
        y -= _FACT_SIZE
        for facts in self._rows:
            for n, (name, lines) in enumerate(facts):
                x = _MARGIN + n * self._step
                canvas.setFillColor(_QUIET)
                canvas.setFont(_REGULAR, _SMALL_SIZE)
                canvas.drawString(x, y - _SMALL_SIZE, name)
                canvas.setFillColor(_INK)
                canvas.setFont(_REGULAR, _FACT_SIZE)
                for number, line in enumerate(lines, start=1):
                    base = y - _SMALL_SIZE - number * _LEADING * _FACT_SIZE
                    canvas.drawString(x, base, line)
            y -= self._row_height(facts)
        _rule(canvas, y, self._width, weight=0.4, color=_RULE)
        canvas.setFillColor(_QUIET)
        canvas.setFont(_REGULAR, _SMALL_SIZE)
        canvas.drawString(_MARGIN, y - _SMALL_SIZE * 1.6, self._note)

    @staticmethod
    def _row_height(facts: Sequence[tuple[str, list[str]]]) -> float:
        most = max(len(lines) for _, lines in facts)
        return _SMALL_SIZE + most * _LEADING * _FACT_SIZE + _FACT_SIZE


def _draw_foot(canvas: Canvas, name: str, number: str, width: float) -> None:
    """What document this is, and which page of it."""
    y = _MARGIN + _SMALL_SIZE * 1.6
    _rule(canvas, y, width, weight=0.4, color=_RULE)
    canvas.setFillColor(_QUIET)
    canvas.setFont(_REGULAR, _SMALL_SIZE)
    room = width - _width(number, _REGULAR, _SMALL_SIZE) - _GUTTER
    lines = _lines(name, _REGULAR, _SMALL_SIZE, room)
    more = " …" if len(lines) > 1 else ""
    canvas.drawString(_MARGIN, _MARGIN, f"{lines[0]}{more}")
    canvas.drawRightString(_MARGIN + width, _MARGIN, number)


def _rule(
    canvas: Canvas, y: float, width: float, *, weight: float, color: HexColor
) -> None:
    canvas.setStrokeColor(color)
    canvas.setLineWidth(weight)
    canvas.line(_MARGIN, y, _MARGIN + width, y)
