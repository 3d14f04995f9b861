"""Statements: what a period did to an account, line by line, in every format."""

import csv
import io
import re
import zipfile
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pypdf import PdfReader

from ledger.days import TICK
from ledger.models import Account
from ledger.selectors import statements
from ledger.selectors.as_of import FINAL_AFTER, clock_read
from ledger.selectors.statements import (
    Statement,
    StatementLine,
    statement_all_lines,
    statement_get,
    statement_lines,
)
from ledger.services.assets import AssetRequest, asset_create
from ledger.services.clients import api_key_create
from ledger.sheets import statement_sheet
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    ApiClientFactory,
    LedgerFactory,
    move,
    post,
)
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from payflow.clock import format_instant, now
from payflow.errors import Problem, ProblemError
from payflow.sheets import csv_chunks

pytestmark = pytest.mark.django_db

EVIL = '=HYPERLINK("http://evil","x")'


class Books:
    """An account of user-ada with a few lines, and an API client to ask for them."""

    def __init__(self, *, currency: str = "USD", time_zone: str = "UTC") -> None:
        self.ledger = LedgerFactory(name="Acme", time_zone=time_zone)
        fields = {"ledger": self.ledger, "currency": currency, "min_balance": None}
        self.ada = AccountFactory(reference="user-ada", owner_name="Ada", **fields)
        self.shop = AccountFactory(reference="shop", owner_name=EVIL, **fields)
        self.key = api_key_create(client=ApiClientFactory(ledger=self.ledger))
        self.http = Client(raise_request_exception=False)
        self.began = clock_read()

    def send(
        self, amount: int, *, source: Account | None = None, **fields: Any
    ) -> PostedTransfer:
        source = source or self.shop
        target = self.ada if source is self.shop else self.shop
        outcome = move(source, target, amount, **fields)
        assert isinstance(outcome, PostedTransfer), outcome
        return outcome

    def statement(self, **period: Any) -> Statement:
        return statement_get(
            ledger_id=self.ledger.id,
            account_id=self.ada.id,
            **{"start": self.began, **period},
        )

    def get(self, **query: Any) -> Any:
        return self.http.get(
            f"/v1/accounts/{self.ada.id}/statement",
            {"from": format_instant(self.began), **query},
            headers={"Authorization": f"Bearer {self.key}"},
        )


@pytest.fixture
def books() -> Books:
    return Books()


def lines_of(statement: Statement) -> list[StatementLine]:
    return list(statement_all_lines(statement=statement))


def body(response: Any) -> bytes:
    assert response.status_code == 200, response.content
    return (
        b"".join(response.streaming_content)
        if response.streaming
        else (response.content)
    )


def test_a_statement_shows_every_line_with_its_running_balance(books):
    books.send(500)
    yesterday = now() - timedelta(days=1)
    rent = books.send(
        200,
        source=books.ada,
        reference="rent-1",
        description="Rent",
        effective_at=yesterday,
    )

    statement = books.statement()
    first, second = lines_of(statement)

    assert (statement.opening_balance, statement.closing_balance) == (0, 300)
    assert (statement.total_debits, statement.total_credits) == (200, 500)
    assert (first.version, first.direction, first.amount, first.balance) == (
        1,
        "credit",
        500,
        500,
    )
    assert (second.version, second.direction, second.balance) == (2, "debit", 300)
    assert (second.booked_at, second.effective_at) == (rent.created_at, yesterday)
    assert second.transfer_id == rent.id
    assert second.transfer_kind == "transfer"
    assert (second.transfer_reference, second.transfer_description) == (
        "rent-1",
        "Rent",
    )
    assert second.counterparty_id == books.shop.id
    assert second.counterparty_reference == "shop"
    assert second.counterparty_name == EVIL


def test_each_posting_of_a_transfer_has_its_own_counterparty(books):
    other = AccountFactory(ledger=books.ledger, min_balance=None)
    (outcome,) = post(
        TransferRequest(
            (
                PostingRequest(books.shop.id, books.ada.id, 60),
                PostingRequest(books.ada.id, other.id, 20),
                PostingRequest(other.id, books.ada.id, 3),
            )
        ),
        ledger=books.ledger,
    )
    assert isinstance(outcome, PostedTransfer)

    lines = lines_of(books.statement())

    assert [(x.counterparty_id, x.direction, x.amount) for x in lines] == [
        (books.shop.id, "credit", 60),
        (other.id, "debit", 20),
        (other.id, "credit", 3),
    ]
    assert [x.balance for x in lines] == [60, 40, 43]


def test_periods_that_meet_share_no_line_and_lose_none(books):
    times = [books.send(amount).created_at for amount in (1, 2, 4, 8)]

    def between(start: datetime, end: datetime) -> Statement:
        return books.statement(start=start, end=end)

    early, late = between(books.began, times[2]), between(times[2], times[3] + TICK)

    assert [x.amount for x in lines_of(early)] == [1, 2]
    assert [x.amount for x in lines_of(late)] == [4, 8]
    assert early.closing_balance == late.opening_balance == 3
    assert late.closing_balance == 15
    assert lines_of(between(times[1] + TICK, times[2])) == []
    assert between(times[1], times[1]).line_count == 0


def test_a_finished_period_stays_as_it_is_whatever_is_booked_later(books):
    end = books.send(100).created_at + TICK
    before = books.statement(end=end)
    lines = lines_of(before)

    books.send(7, effective_at=before.start + timedelta(microseconds=10))
    after = books.statement(end=end)

    assert before.is_final
    assert after == before
    assert lines_of(after) == lines


def test_a_period_that_goes_on_is_not_final_and_says_how_far_it_goes(books):
    books.send(100)
    tomorrow = clock_read() + timedelta(days=1)

    statement = books.statement(end=tomorrow)
    books.send(50)
    pinned = books.statement(end=tomorrow, as_recorded_at=statement.as_recorded_at)

    assert not statement.is_final
    assert statement.as_recorded_at < tomorrow
    assert pinned == statement
    assert books.statement(end=tomorrow).closing_balance == 150


@pytest.mark.parametrize(
    ("zone", "first", "last", "start", "end"),
    [
        ("UTC", "2026-03-29", "2026-03-29", "03-29T00", "03-30T00"),
        ("Europe/Berlin", "2026-03-29", "2026-03-29", "03-28T23", "03-29T22"),
        ("Europe/Berlin", "2026-03-01", "2026-03-31", "02-28T23", "03-31T22"),
    ],
)
def test_days_are_the_ledgers_and_the_last_one_is_in(zone, first, last, start, end):
    books = Books(time_zone=zone)

    statement = books.statement(
        start=date.fromisoformat(first), end=date.fromisoformat(last)
    )

    def utc(text: str) -> datetime:
        return datetime.fromisoformat(f"2026-{text}:00:00+00:00")

    assert (statement.start, statement.end) == (utc(start), utc(end))
    assert statement.is_final


def test_a_period_of_whole_days_is_named_by_its_days():
    books = Books(time_zone="Europe/Berlin")

    def period(start: Any, end: Any) -> str:
        return dict(statement_sheet(books.statement(start=start, end=end)).facts)[
            "Period"
        ]

    assert period(date(2026, 3, 1), date(2026, 3, 31)) == "2026-03-01 to 2026-03-31"
    assert (
        period(date(2026, 3, 1), datetime(2026, 3, 29, 10, tzinfo=UTC))
        == "2026-03-01 00:00:00 to 2026-03-29 12:00:00"
    )


def test_a_period_that_has_not_begun_or_ends_before_it_begins_is_refused(books):
    with pytest.raises(ProblemError) as future:
        books.statement(start=date(2999, 1, 1))
    with pytest.raises(ProblemError) as backwards:
        books.statement(end=books.began - TICK)

    assert future.value.problem.code == "instant_in_future"
    assert future.value.problem.fields["field"] == "from"
    assert backwards.value.problem.code == "invalid_request"
    assert backwards.value.problem.fields["errors"][0]["code"] == "before_from"


def test_the_day_before_the_first_one_is_no_end(books):
    today = clock_read().date()
    midnight = datetime.combine(today, time.min, tzinfo=UTC)
    yesterday = today - timedelta(days=1)

    with pytest.raises(ProblemError) as caught:
        books.statement(start=today, end=yesterday)

    assert caught.value.problem.fields["errors"] == [
        {
            "field": "to",
            "code": "before_from",
            "message": (
                f"The period would end ({yesterday}) before it begins ({today})."
            ),
        }
    ]
    # Instants say themselves where they are: a period may be empty.
    assert books.statement(start=midnight, end=midnight).line_count == 0


@pytest.mark.parametrize(
    "end", [date(9999, 12, 31), datetime(9999, 12, 31, 23, 59, tzinfo=UTC)]
)
def test_a_period_ends_in_a_year_that_every_clock_can_tell(end):
    books = Books(time_zone="Pacific/Kiritimati")

    with pytest.raises(ProblemError) as caught:
        books.statement(end=end)
    last = books.statement(end=datetime(9998, 12, 31, 23, 59, tzinfo=UTC))

    assert caught.value.problem.fields["errors"][0]["code"] == "not_an_instant"
    assert "9999-01-01 13:59:00" in dict(statement_sheet(last).facts)["Period"]


def test_lines_are_fetched_in_slices_by_keys(books, monkeypatch):
    monkeypatch.setattr(statements, "SLICE_LINES", 4)
    for amount in range(1, 11):
        books.send(amount)
    statement = books.statement()

    with CaptureQueriesContext(connection) as queries:
        lines = lines_of(statement)
    with connection.cursor() as cursor:
        # Of tables as small as a test's it is the quickest way.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {queries[0]['sql']}")
        plan = "\n".join(row[0] for row in cursor.fetchall())

    assert [line.amount for line in lines] == list(range(1, 11))
    assert len(queries) == 3
    assert "Seq Scan" not in plan
    assert "Hash" not in plan
    assert statement_lines(statement=statement, limit=2, after=8)[0].version == 9


# --- The API ------------------------------------------------------------------------


def test_the_api_pages_through_the_lines_and_shows_the_balances_on_each(books):
    for amount in (1, 2, 4):
        books.send(amount, description="Pay")

    first = books.get(limit=2).json()
    books.send(100)
    second = books.get(
        limit=2, cursor=first["next_cursor"], as_recorded_at=first["as_recorded_at"]
    ).json()

    assert [line["amount"] for line in first["lines"] + second["lines"]] == [1, 2, 4]
    assert second["next_cursor"] is None
    for answer in (first, second):
        assert answer["opening_balance"] == 0
        assert answer["closing_balance"] == answer["total_credits"] == 7
        assert answer["total_debits"] == 0
        assert answer["line_count"] == 3
    assert first["account"] == {
        "id": str(books.ada.id),
        "reference": "user-ada",
        "owner_name": "Ada",
        "kind": "liability",
        "currency": "USD",
    }
    line = first["lines"][1]
    assert line["balance_after"] == 3
    assert line["transfer"]["description"] == "Pay"
    assert line["counterparty"]["reference"] == "shop"


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ({"from": "yesterday"}, "from", "not_an_instant"),
        ({"from": "2026-02-30"}, "from", "not_an_instant"),
        ({"from": "1969-12-31"}, "from", "not_an_instant"),
        ({"from": "2026-01-02", "to": "2026-01-01T00:00:00Z"}, "to", "before_from"),
        ({"until": "2026-01-01"}, "until", "unknown_field"),
        ({"format": "docx"}, "format", "not_a_choice"),
        ({"limit": "0"}, "limit", "out_of_range"),
        ({"cursor": "x"}, "as_recorded_at", "missing"),
    ],
)
def test_a_question_that_is_not_understood_is_refused_by_name(
    books, query, field, code
):
    response = books.get(**query)

    assert response.status_code == 400
    errors = {e["field"]: e["code"] for e in response.json()["errors"]}
    assert errors == {field: code}


def test_a_parameter_given_twice_is_refused(books):
    response = books.http.get(
        f"/v1/accounts/{books.ada.id}/statement?from=2026-01-01&from=2026-02-01",
        headers={"Authorization": f"Bearer {books.key}"},
    )

    assert response.json()["errors"][0]["code"] == "repeated"


def test_nobody_sees_the_statement_or_balance_of_another_ledgers_account(books):
    stranger = AccountFactory()

    for page in ("statement?from=2026-01-01", "balance"):
        response = books.http.get(
            f"/v1/accounts/{stranger.id}/{page}",
            headers={"Authorization": f"Bearer {books.key}"},
        )
        assert response.status_code == 404
        assert response.json()["code"] == "account_not_found"


def test_the_balance_is_answered_with_both_instants(books):
    recorded = books.send(75).created_at

    def ask(**query: str) -> Any:
        return books.http.get(
            f"/v1/accounts/{books.ada.id}/balance",
            query,
            headers={"Authorization": f"Bearer {books.key}"},
        )

    latest = ask().json()
    past = ask(at=format_instant(recorded - TICK)).json()
    future = ask(at="2999-01-01T00:00:00Z")

    assert latest["balance"] == {"posted": 75}
    assert latest["at"] == latest["as_recorded_at"]
    assert (latest["version"], latest["currency"]) == (1, "USD")
    assert past["balance"] == {"posted": 0}
    assert (future.status_code, future.json()["code"]) == (422, "instant_in_future")


# --- Files --------------------------------------------------------------------------


def csv_rows(response: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(body(response).decode(), newline="")))


def test_csv_has_decimals_with_a_dot_and_times_with_their_offset():
    books = Books(time_zone="Asia/Kolkata")
    sent = books.send(123_456)
    books.send(200_000, source=books.ada)

    response = books.get(format="csv")
    opening, first, second, closing = csv_rows(response)

    assert response["Content-Type"].startswith("text/csv; charset=utf-8")
    assert 'filename="statement-user-ada-' in response["Content-Disposition"]
    assert (first["credit"], first["debit"], first["currency"]) == (
        "1234.56",
        "",
        "USD",
    )
    assert (second["debit"], second["balance"]) == ("2000.00", "-765.44")
    assert datetime.fromisoformat(first["booked_at"]) == sent.created_at
    assert first["booked_at"].endswith("+05:30")
    assert (opening["description"], opening["balance"]) == ("Opening balance", "0.00")
    assert (closing["description"], closing["balance"]) == (
        "Closing balance",
        "-765.44",
    )
    assert first["transfer_id"] == str(sent.id)


@pytest.mark.parametrize(
    ("currency", "minor", "text"),
    [("JPY", 1_234, "1234"), ("BHD", 1_234, "1.234"), ("CLF", 1, "0.0001")],
)
def test_csv_has_as_many_decimals_as_the_currency(currency, minor, text):
    books = Books(currency=currency)
    books.send(minor)

    assert csv_rows(books.get(format="csv"))[1]["credit"] == text


def test_an_asset_is_shown_with_its_own_decimals(books):
    asset = asset_create(
        ledger_id=books.ledger.id,
        request=AssetRequest(code="POINTS", name="Points", exponent=5),
        actor=ACTOR,
    )
    assert not isinstance(asset, Problem), asset
    fields = {"ledger": books.ledger, "currency": "POINTS", "min_balance": None}
    books.ada, books.shop = (AccountFactory(**fields) for _ in range(2))
    books.send(123)

    (row,) = [row for row in csv_rows(books.get(format="csv")) if row["credit"]]

    assert (row["credit"], row["currency"]) == ("0.00123", "POINTS")


@pytest.mark.parametrize(
    "text",
    [EVIL, "+1", "-1", "@SUM(A1)", "\tx", "  =1+1", "\rx", "\uff1d1"],  # full width
)
def test_csv_never_has_a_cell_that_a_spreadsheet_runs(books, text):
    books.send(1, description=text, reference=text)

    row = csv_rows(books.get(format="csv"))[1]

    assert row["description"] == row["reference"] == f"'{text}"
    assert row["counterparty_name"] == f"'{EVIL}"


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("x;=HYPERLINK(1)", "x;'=HYPERLINK(1)"),
        ("x; -1", "x;' -1"),
        ('x;"=1', "x;'\"=1"),
        ("x;;@A1", "x;;'@A1"),
        ("x\t+1", "x\t'+1"),
        ("x\r\n=1", "x\r\n'=1"),
        ("\r=1", "'\r'=1"),
        ("x;\xa0\uff1d1", "x;'\xa0\uff1d1"),
        ("a; b\r\nc\td - e = f", "a; b\r\nc\td - e = f"),
    ],
)
def test_csv_runs_nothing_where_another_separator_splits_a_text(books, text, guarded):
    books.send(1, description=text)

    assert csv_rows(books.get(format="csv"))[1]["description"] == guarded


def test_csv_keeps_commas_quotes_and_line_ends(books):
    text = 'a, "b"\r\nc'
    books.send(1, description=text)

    assert csv_rows(books.get(format="csv"))[1]["description"] == text


def test_csv_is_sent_while_it_is_read(books, monkeypatch):
    monkeypatch.setattr(statements, "SLICE_LINES", 2)
    monkeypatch.setattr("payflow.sheets.CHUNK_ROWS", 2)
    for amount in range(1, 8):
        books.send(amount)
    chunks = csv_chunks(statement_sheet(books.statement()))

    with CaptureQueriesContext(connection) as first:
        next(chunks)
    with CaptureQueriesContext(connection) as rest:
        list(chunks)

    assert len(first) == 0
    assert len(rest) == 4


SPREADSHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def sheet_cells(content: bytes) -> dict[str, tuple[str, str]]:
    """Type and value of each cell of the first worksheet."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        shared: list[str] = []
        if "xl/sharedStrings.xml" in file.namelist():
            strings = ET.fromstring(file.read("xl/sharedStrings.xml"))  # noqa: S314
            shared = ["".join(item.itertext()) for item in strings]
        sheet = ET.fromstring(file.read("xl/worksheets/sheet1.xml"))  # noqa: S314
    cells = {}
    for cell in sheet.iter(f"{SPREADSHEET}c"):
        kind = cell.get("t", "n")
        value = "".join(cell.itertext())
        if kind == "s":
            value = shared[int(value)]
        cells[cell.get("r", "")] = (kind, value)
        assert cell.find(f"{SPREADSHEET}f") is None, "a formula"
    return cells


def test_xlsx_has_real_numbers_and_dates_and_no_formula():
    books = Books(time_zone="Europe/Berlin")
    sent = books.send(123_456, description=EVIL)

    content = body(books.get(format="xlsx"))
    cells = sheet_cells(content)

    assert cells["A1"] == ("inlineStr", "Booked")
    assert cells["G3"][1] == EVIL
    kind, value = cells["L3"]
    assert (kind, Decimal(value)) == ("n", Decimal("1234.56"))
    kind, value = cells["A3"]
    local = sent.created_at.astimezone(ZoneInfo("Europe/Berlin"))
    since_1899 = local.replace(tzinfo=None) - datetime(1899, 12, 30)  # noqa: DTZ001
    assert kind == "n"
    assert abs(float(value) - since_1899 / timedelta(days=1)) < 1e-6
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        sheet = file.read("xl/worksheets/sheet1.xml").decode()
        assert 'state="frozen"' in sheet
        assert "#,##0.00" in file.read("xl/styles.xml").decode()
        assert "Acme" in file.read("xl/worksheets/sheet2.xml").decode()


def test_xlsx_has_a_text_where_a_number_would_be_rounded(books):
    books.send(9_007_199_254_740_991)

    cells = sheet_cells(body(books.get(format="xlsx")))

    assert cells["L3"] == ("inlineStr", "90071992547409.91")


def test_the_page_to_print_names_what_it_shows_and_runs_nothing(books):
    books.send(123_456, description="<script>alert(1)</script>")

    page = body(books.get(format="html")).decode()

    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "1,234.56" in page
    for text in ("Account statement", "Acme", "user-ada", "Opening balance", "final"):
        assert text in page
    assert "@page { size: A4 landscape" in page
    assert not re.search(r"(src|href)=", page), "it stands alone"


def test_the_pdf_shows_what_the_json_says(books):
    for amount in (123_456, 1, 9_007_199_254_740_991 - 123_457):
        books.send(amount, description="Łódź, Αθήνα, Київ: €")
    books.send(2_000, source=books.ada, description="Back")

    json, response = books.get().json(), books.get(format="pdf")
    reader = PdfReader(io.BytesIO(body(response)))

    def decimal(minor: int) -> str:
        return f"{Decimal(minor).scaleb(-2):,f}"

    assert response["Content-Type"] == "application/pdf"
    assert re.search(r'filename="statement-.*\.pdf"', response["Content-Disposition"])
    (page,) = [page.extract_text().split("\n") for page in reader.pages]
    for name in ("opening_balance", "closing_balance", "total_debits", "total_credits"):
        assert f"{decimal(json[name])} USD" in page
    assert {json["account"]["reference"], json["account"]["owner_name"]} <= set(page)
    text = " ".join(page)
    amounts = re.findall(r"-?[\d,]+\.\d\d(?! USD)", text)
    assert amounts == [
        decimal(json["opening_balance"]),
        *(
            decimal(line[name])
            for line in json["lines"]
            for name in ("amount", "balance_after")
        ),
        decimal(json["closing_balance"]),
    ]
    for line in json["lines"]:
        assert line["transfer"]["description"] in text
        assert line["booked_at"][:19].replace("T", " ") in text


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("html", "sheets.MAX_PAGE_ROWS"),
        ("pdf", "pdf.MAX_PAGE_ROWS"),
        ("xlsx", "sheets.MAX_WORKBOOK_ROWS"),
    ],
)
def test_what_is_too_long_for_a_format_is_refused_before_it_is_read(
    books, monkeypatch, form, name
):
    books.send(1)
    books.send(2)
    monkeypatch.setattr(f"payflow.{name}", 1)

    with CaptureQueriesContext(connection) as queries:
        response = books.get(format=form)

    assert response.status_code == 422
    problem = response.json()
    assert problem["code"] == "report_too_long"
    assert (problem["format"], problem["max_rows"]) == (form, 1)
    assert not any("LATERAL" in query["sql"] for query in queries)


def test_every_accept_header_gets_the_format_that_the_parameter_names(books):
    response = books.http.get(
        f"/v1/accounts/{books.ada.id}/statement?from=2026-01-01&format=csv",
        headers={"Authorization": f"Bearer {books.key}", "Accept": "text/csv"},
    )

    assert body(response).startswith(b"booked_at,value_date,version,")


def test_a_reader_of_a_final_statement_takes_no_lock(books):
    with CaptureQueriesContext(connection) as queries:
        books.statement(
            start=books.began - timedelta(days=2), end=books.began - FINAL_AFTER
        )

    assert not any("FOR SHARE" in query["sql"] for query in queries)
