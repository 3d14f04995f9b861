"""Sheets as PDF: what a reader of the document finds in it."""

import io
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import gevent
import pytest
from pypdf import PdfReader

from payflow import greenlets, pdf
from payflow.errors import ProblemError
from payflow.sheets import Amount, Column, Row, RowStyle, Sheet

COLUMNS = (
    Column("at", "Booked", 20, is_whole=True),
    Column("id", "Id", 38, is_printed=False),
    Column("text", "Description", 40),
    Column("name", "Name", 40),
    Column("amount", "Amount", 18, is_number=True),
    Column("balance", "Balance", 18, is_number=True),
)
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


def line(text: str, minor: int = 1, *, name: str = "", exponent: int = 2) -> Row:
    amount = Amount(minor, "EUR", exponent)
    return Row((AT, "hidden", text, name, amount, amount))


def sheet(*rows: Row, **fields: Any) -> Sheet:
    given: dict[str, Any] = {
        "title": "Account statement",
        "facts": (("Ledger", "Acme"), ("Account", "user-ada"), ("Owner", "Ada")),
        "columns": COLUMNS,
        "rows": iter(rows),
        "zone": ZoneInfo("Europe/Berlin"),
        **fields,
    }
    return Sheet(**given)


def document(*rows: Row, **fields: Any) -> PdfReader:
    file = io.BytesIO()
    pdf.write_pdf(sheet(*rows, **fields), file)
    return PdfReader(file)


def printed(reader: PdfReader) -> list[list[str]]:
    """The lines of each page; a row of the table is one, unless a text is broken."""
    return [page.extract_text().strip().split("\n") for page in reader.pages]


def test_a_document_says_what_it_is_about():
    reader = document(line("Pay", 123_456), note="Not final yet.")

    (page,) = printed(reader)
    assert page == [
        "Account statement",
        *("Ledger", "Acme", "Account", "user-ada", "Owner", "Ada"),
        "Not final yet. Times in Europe/Berlin.",
        "Booked Description Name Amount Balance",
        "2026-11-22 13:00:00 Pay 1,234.56 1,234.56",
        "Account statement · Acme · user-ada",
        "Page 1 of 1",
    ]
    assert reader.metadata is not None
    assert reader.metadata.title == "Account statement · Acme · user-ada"
    assert reader.trailer["/Root"]["/Lang"] == "en"


def test_each_page_names_the_columns_and_itself_and_no_row_is_lost():
    pages = printed(document(*(line(f"pay-{n}", n) for n in range(300))))

    assert len(pages) > 3
    for number, page in enumerate(pages, start=1):
        assert "Booked Description Name Amount Balance" in page
        assert page[-2:] == [
            "Account statement · Acme · user-ada",
            f"Page {number} of {len(pages)}",
        ]
    texts = [text.split()[2] for page in pages for text in page if "pay-" in text]
    assert texts == [f"pay-{n}" for n in range(300)]


@pytest.mark.parametrize(
    "text",
    [
        "Zażółć gęślą jaźń",
        "Þórður Sigurðsson",
        "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία",
        "Съешь ещё этих мягких булок; Їжак; Ђорђе",
        "Հայկ Աբրահամյան",
        "გიორგი ბერიძე",
        "€ £ ¥ ₽ ₺ ₴ ₾ ₿ ₸ ₼ ₫ ₹ ¢ „“ … № §",
        "Nguyễn Văn Ánh",
    ],
)
def test_the_scripts_of_europe_are_written_as_they_are(text):
    (page,) = printed(document(line(text)))

    assert pdf._MISSING not in "".join(page)
    assert text in " ".join(page)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("王小明", "���"),
        ("שלום", "����"),
        ("مرحبا", "�����"),
        ("a\U0001f600b", "a�b"),
        ("a\x00\x1b\u202eb", "a���b"),
        ("\ud800", "�"),
        ("a\r\n\tb\xa0c", "a b c"),
        ("e\u0301", "é"),
        ("<b>x</b> &amp; {page} =1+1", "<b>x</b> &amp; {page} =1+1"),
        ("(\\) \\n \\101", "(\\) \\n \\101"),
    ],
)
def test_what_the_fonts_lack_is_replaced_and_the_amount_stays(text, seen):
    (page,) = printed(document(line(text, 12_345), facts=(("Owner", text),)))

    assert seen in page
    assert f"2026-11-22 13:00:00 {seen} 123.45 123.45" in page


def test_both_fonts_have_the_same_characters_and_digits_of_one_width():
    regular, bold = pdf._ems(pdf._REGULAR), pdf._ems(pdf._BOLD)

    assert set(regular) == set(bold)
    for font in (regular, bold):
        assert len({font[ord(digit)] for digit in "0123456789"}) == 1


@pytest.mark.parametrize("text", ["x" * 1_000, "word " * 199 + "word", "W" * 50_000])
def test_a_long_text_is_broken_into_lines_and_over_pages_and_nothing_is_lost(text):
    rows = [line(text, name=text), line("the next one", 7)]

    pages = printed(document(*rows, facts=()))

    letters = [letter for page in pages for part in page for letter in part]
    assert letters.count(text[0]) >= 2 * text.count(text[0])
    assert any("the next one 0.07 0.07" in part for part in pages[-1])


def test_amounts_of_any_length_stand_beside_each_other_in_full():
    minor, exponent = -(10**27), 18

    (page,) = printed(document(line("x" * 300, minor, exponent=exponent)))

    amount = "-1,000,000,000.000000000000000000"
    assert "".join(page).count(amount) == 2


def test_numbers_end_at_the_same_place():
    amounts = [10**n for n in range(1, 12)]
    places: list[float] = []

    def visit(operator: bytes, operands: Any, *_: Any) -> None:
        if operator == b"Tm":
            places.append(float(operands[4]))

    reader = document(*(line("Pay", amount) for amount in amounts))
    reader.pages[0].extract_text(visitor_operand_before=visit)

    # A row begins at no place and has five cells; below them the foot has two texts.
    balances = places[-2 - 6 * len(amounts) : -2][5::6]
    ends = [
        x + pdf._width(f"{amount / 100:,.2f}", pdf._REGULAR, pdf._TABLE_SIZES[0])
        for x, amount in zip(balances, amounts, strict=True)
    ]
    assert ends == pytest.approx([ends[0]] * len(ends), abs=0.01)
    assert len(set(balances)) > 5


def test_a_heading_stands_on_the_page_of_what_follows_it():
    heading = Row(("Assets", None, "", "", None, None), RowStyle.HEADING)

    for before in range(20, 40):
        rows = [line("Pay") for _ in range(before)]
        pages = printed(document(*rows, heading, line("first")))

        (page,) = [page for page in pages if "Assets" in page]
        assert page[page.index("Assets") + 1].endswith(" first 0.01 0.01"), before


def test_a_sheet_without_rows_says_so():
    (page,) = printed(document())

    assert "No lines. Times in Europe/Berlin." in page


@pytest.mark.parametrize("row_count", [3, None])
def test_too_many_rows_are_refused(monkeypatch, row_count):
    monkeypatch.setattr(pdf, "MAX_PAGE_ROWS", 2)

    with pytest.raises(ProblemError) as caught:
        document(line("a"), line("b"), line("c"), row_count=row_count)

    assert caught.value.problem.code == "report_too_long"


def test_other_requests_get_their_turn_while_pages_are_made(monkeypatch):
    monkeypatch.setattr(greenlets, "are_in_use", lambda: True)
    rows = [line(f"pay-{n}") for n in range(400)]
    turns: list[int] = []
    other = gevent.spawn(
        lambda: [turns.append(gevent.sleep(0) or 1) for _ in range(60)]
    )

    reader = document(*rows)

    assert len(turns) >= 400 // pdf._GO_ROWS * 2
    assert len(reader.pages) > 10
    other.join()
