"""Statements and reports by command and in the back office."""

import csv
import io
import json
import os
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from pypdf import PdfReader

from ledger.models import Account, Ledger
from ledger.selectors import reports
from ledger.selectors.as_of import clock_read
from ledger.tests.factories import AccountFactory, LedgerFactory, move
from ledger.types import PostedTransfer

pytestmark = pytest.mark.django_db


class Books:
    """A small company with a customer, a fee and what it has at its bank."""

    def __init__(self) -> None:
        self.ledger: Ledger = LedgerFactory(
            slug="acme", name="Acme", time_zone="Europe/Berlin"
        )
        fields: dict[str, Any] = {"ledger": self.ledger, "min_balance": None}
        self.cash = AccountFactory(kind="asset", code="1000", **fields)
        self.ada = AccountFactory(reference="user-ada", owner_name="Ada", **fields)
        self.fees = AccountFactory(kind="income", code="4000", **fields)
        for source, target, amount in (
            (self.cash, self.ada, 123_456),
            (self.ada, self.fees, 250),
        ):
            outcome = move(source, target, amount, description="<b>Pay</b>")
            assert isinstance(outcome, PostedTransfer), outcome

    @property
    def today(self) -> str:
        return clock_read().date().isoformat()


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    # Everything is final at once: nobody else writes into the test's transaction.
    monkeypatch.setattr(reports, "FINAL_AFTER", timedelta(0))
    return Books()


@pytest.fixture
def finance(client: Client) -> Client:
    user = User.objects.create_user("fin", password="secret", is_staff=True)
    user.groups.add(Group.objects.get(name="Finance"))
    client.force_login(user)
    return client


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


# --- Commands -----------------------------------------------------------------------


@pytest.mark.parametrize("by", ["id", "reference"])
def test_the_statement_is_printed_with_amounts_for_people(books, by):
    name = str(getattr(books.ada, by))

    text = run("statement", name, "--ledger", "acme", "--from", "2026-01-01")

    assert "Account statement" in text
    assert "1,234.56 USD" in text
    assert "1,232.06 USD" in text
    assert "Times in Europe/Berlin." in text


def test_the_statement_as_json_is_one_document_with_all_lines(books):
    text = run("statement", "user-ada", "--ledger=acme", "--from=2026-01-01", "--json")

    document = json.loads(text)

    assert [line["amount"] for line in document["lines"]] == [123_456, 250]
    assert document["closing_balance"] == 123_206
    assert document["account"]["reference"] == "user-ada"


def test_a_statement_without_lines_is_a_document_too(books):
    text = run(
        "statement",
        "user-ada",
        "--ledger=acme",
        "--from=2026-01-01",
        "--to=2026-01-31",
        "--json",
    )

    assert json.loads(text)["lines"] == []


def test_files_are_written(books, tmp_path):
    table, workbook = tmp_path / "a.csv", tmp_path / "a.xlsx"
    document = tmp_path / "a.pdf"
    common = ("statement", "user-ada", "--ledger=acme", "--from=2026-01-01")

    said = [
        run(*common, f"--{form}", str(path))
        for form, path in (("csv", table), ("xlsx", workbook), ("pdf", document))
    ]

    assert said == [f"Wrote {path}.\n" for path in (table, workbook, document)]
    with table.open(newline="") as file:
        assert [row["credit"] for row in csv.DictReader(file)] == [
            "",
            "1234.56",
            "",
            "",
        ]
    assert workbook.read_bytes().startswith(b"PK")
    assert "1,234.56" in PdfReader(document).pages[0].extract_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("trial-balance",), ["balanced", "asset", "1,234.56 USD"]),
        (("trial-balance", "--accounts"), ["user-ada", "1,232.06 USD"]),
        (("balance-sheet",), ["Total assets", "Income less expenses", "2.50 USD"]),
        (("income-statement", "--from=2026-01-01"), ["Net income", "2.50 USD"]),
    ],
)
def test_reports_are_printed(books, arguments, expected):
    text = run("report", *arguments, "--ledger=acme")

    assert all(part in text for part in expected), text


@pytest.mark.parametrize(
    "arguments",
    [
        ("trial-balance",),
        ("balance-sheet",),
        ("income-statement", "--from=2026-01-01"),
    ],
)
def test_reports_as_json_are_what_the_api_answers(books, arguments):
    document = json.loads(run("report", *arguments, "--ledger=acme", "--json"))

    assert document["report"] == arguments[0].replace("-", "_")
    assert document["as_recorded_at"].endswith("Z")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("income-statement", "--from="), "from: "),
        (("income-statement", "--from=2026-01-01", "--to="), "to: "),
        (("trial-balance", "--at="), "at: "),
        (("trial-balance", "--as-recorded-at="), "as_recorded_at: "),
        (("trial-balance", "--currency="), "currency: "),
        (("trial-balance", "--csv="), "--csv takes the name of a file"),
        (("trial-balance", "--xlsx="), "--xlsx takes the name of a file"),
        (("trial-balance", "--pdf="), "--pdf takes the name of a file"),
    ],
)
def test_an_empty_option_of_a_report_is_not_left_out(
    books, tmp_path, arguments, message
):
    table = tmp_path / "inc.csv"
    target = () if "takes the name" in message else (f"--csv={table}",)

    with pytest.raises(CommandError, match=message):
        run("report", *arguments, "--ledger=acme", *target)

    assert not table.exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--to=", "to: "),
        ("--as-recorded-at=", "as_recorded_at: "),
        ("--csv=", "--csv takes"),
        ("--xlsx=", "--xlsx takes"),
        ("--pdf=", "--pdf takes"),
    ],
)
def test_an_empty_option_of_a_statement_is_not_left_out(books, option, message):
    with pytest.raises(CommandError, match=message):
        run("statement", "user-ada", "--ledger=acme", "--from=2026-01-01", option)


def test_an_end_that_no_clock_tells_is_refused_in_a_sentence(books):
    Ledger.objects.filter(id=books.ledger.id).update(time_zone="Pacific/Kiritimati")
    period = ("--ledger=acme", "--from=2026-01-01", "--to=9999-12-31T23:00:00Z")

    for name in (("report", "income-statement"), ("statement", "user-ada")):
        with pytest.raises(CommandError, match="to: "):
            run(*name, *period)


def test_the_accounts_of_a_trial_balance_are_one_document(books):
    text = run("report", "trial-balance", "--accounts", "--ledger=acme", "--json")

    document = json.loads(text)

    assert document["report"] == "trial_balance"
    assert document["ledger"]["slug"] == "acme"
    assert [(line["reference"], line["credit"]) for line in document["lines"]] == [
        (None, 0),
        ("user-ada", 123_206),
        (None, 250),
    ]


def test_a_terminal_shows_texts_of_users_and_obeys_none(books):
    evil = "\x1b[2J\x9b1m\r\n\u202e[red]x[/red] :smile:"
    seen = "\ufffd[2J\ufffd1m\ufffd\ufffd\ufffd[red]x[/red] :smile:"
    Account.objects.filter(id=books.ada.id).update(owner_name=evil)
    move(books.cash, books.ada, 1, description=evil)

    statement = run("statement", "user-ada", "--ledger=acme", "--from=2026-01-01")
    accounts = run("report", "trial-balance", "--accounts", "--ledger=acme")

    assert f"Owner            {seen}\n" in statement
    words = [text.replace("\n", "") for text in (statement, accounts)]
    assert all("[red]x[/red]" in text and ":smile:" in text for text in words)
    assert not {"\x1b", "\x9b", "\r", "\u202e"} & set(statement + accounts)


def test_a_report_that_nobody_dated_says_how_far_it_goes(books):
    said = "As the books stood two minutes ago; what is younger is not final yet."
    moment = clock_read().isoformat()

    by_default = run("report", "trial-balance", "--ledger=acme")
    asked = run("report", "trial-balance", "--ledger=acme", "--as-recorded-at", moment)

    assert said in by_default
    assert said not in asked


def test_a_file_that_fails_leaves_the_one_before_and_nothing_beside(
    books, tmp_path, monkeypatch
):
    monkeypatch.setattr("payflow.sheets.MAX_WORKBOOK_ROWS", 1)
    workbook = tmp_path / "a.xlsx"
    workbook.write_text("November")

    with pytest.raises(CommandError, match="rows at most"):
        run("report", "balance-sheet", "--ledger=acme", "--xlsx", str(workbook))

    assert [path.name for path in tmp_path.iterdir()] == ["a.xlsx"]
    assert workbook.read_text() == "November"


def test_a_file_keeps_its_mode_and_a_link_its_target(books, tmp_path):
    table, link = tmp_path / "a.csv", tmp_path / "link.csv"
    table.write_text("November")
    table.chmod(0o640)
    link.symlink_to(table)

    run("report", "trial-balance", "--ledger=acme", "--csv", str(link))

    assert link.is_symlink()
    assert table.read_text().startswith("currency,kind,")
    assert table.stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.iterdir())) == 2


def test_a_pipe_is_written_to_and_not_replaced(books):
    reading, writing = os.pipe()

    run("report", "trial-balance", "--ledger=acme", "--csv", f"/dev/fd/{writing}")

    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read().startswith("currency,kind,")


def test_what_standard_output_was_sent_to_is_not_replaced(books, tmp_path):
    with (tmp_path / "out.csv").open("w+") as out:
        run("report", "trial-balance", "--ledger=acme", f"--csv=/dev/fd/{out.fileno()}")

        assert out.read().startswith("currency,kind,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "trial-balance", "--ledger=none"), "no ledger 'none'"),
        (("report", "trial-balance", "--ledger=acme", "--to=2026-01-01"), "--to does"),
        (("report", "income-statement", "--ledger=acme"), "needs --from"),
        (("report", "balance-sheet", "--ledger=acme", "--at=2999-01-01"), "future"),
        (("report", "balance-sheet", "--ledger=acme", "--at=soon"), "at: A day as"),
        (("report", "balance-sheet", "--ledger=acme", "--accounts"), "--accounts"),
        (
            ("report", "trial-balance", "--ledger=acme", "--csv=/nowhere/x"),
            "cannot be written",
        ),
        (("statement", "x", "--ledger=acme", "--from=2026-01-01"), "no account 'x'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(books, arguments, message):
    with pytest.raises(CommandError, match=message):
        run(*arguments)


# --- The back office ----------------------------------------------------------------


def statement_of(account: Account) -> str:
    return reverse("admin:ledger_account_statement", args=[account.id])


def test_an_accounts_page_leads_to_its_statement(books, finance):
    in_books = {"ledger": str(books.ledger.id)}

    page = finance.get(
        reverse("admin:ledger_account_change", args=[books.ada.id]), in_books
    ).content.decode()
    statement = finance.get(statement_of(books.ada), in_books)

    assert f'href="{statement_of(books.ada)}?ledger={books.ledger.id}"' in page
    text = statement.content.decode()
    assert statement.status_code == 200
    assert "1,234.56" in text
    assert "&lt;b&gt;Pay&lt;/b&gt;" in text
    assert 'type="date" id="from"' in text


def test_the_index_leads_to_the_reports(books, finance):
    assert (
        f'href="{reverse("admin:ledger_reports")}"'
        in finance.get(reverse("admin:index")).content.decode()
    )


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("trial-balance", "1,232.06"),
        ("trial-balance-accounts", "user-ada"),
        ("balance-sheet", "Total liabilities"),
        ("income-statement", "Net income"),
    ],
)
def test_every_report_is_shown_and_taken_along(books, finance, report, expected):
    query = {"ledger": str(books.ledger.id), "report": report}

    def get(**more: str) -> Any:
        return finance.get(reverse("admin:ledger_reports"), {**query, **more})

    screen = get().content.decode()
    assert expected in screen
    assert "format=xlsx" in screen
    assert expected in get(format="html").content.decode()
    assert get(format="csv")["Content-Type"].startswith("text/csv")
    workbook = get(format="xlsx")
    assert b"".join(workbook.streaming_content).startswith(b"PK")
    assert "format=pdf" in screen
    document = PdfReader(io.BytesIO(b"".join(get(format="pdf").streaming_content)))
    assert expected in document.pages[0].extract_text()


@pytest.mark.parametrize(
    ("form", "limit", "offered"),
    [
        ("", "MAX_PAGE_ROWS", {"csv", "xlsx"}),
        ("html", "MAX_PAGE_ROWS", {"csv", "xlsx"}),
        ("pdf", "MAX_PAGE_ROWS", {"csv", "xlsx"}),
        ("xlsx", "MAX_WORKBOOK_ROWS", {"csv"}),
    ],
)
@pytest.mark.parametrize("page", ["report", "statement"])
def test_what_is_too_long_for_one_form_is_offered_in_the_others(
    books, finance, monkeypatch, page, form, limit, offered
):
    module = "payflow.pdf" if form == "pdf" else "payflow.sheets"
    monkeypatch.setattr(f"{module}.{limit}", 1)
    url = reverse("admin:ledger_reports")
    if page == "statement":
        url = statement_of(books.ada)
    query = {"ledger": str(books.ledger.id), "from": books.today}
    query |= {"format": form} if form else {}

    response = finance.get(url, query)

    text = response.content.decode()
    assert response.status_code == 200
    assert "take the CSV" in text
    assert set(re.findall(r'href="\?[^"]*format=(\w+)"', text)) == offered
    assert finance.get(url, {**query, "format": "csv"}).status_code == 200


def test_an_empty_field_is_as_good_as_none_and_a_wrong_one_is_said(books, finance):
    url = reverse("admin:ledger_reports")
    ledger = {"ledger": str(books.ledger.id)}

    empty = finance.get(url, {**ledger, "at": "", "currency": ""})
    wrong = finance.get(url, {**ledger, "at": "2999-01-01"})

    assert empty.status_code == 200
    assert wrong.status_code == 400
    assert "at lies in the future" in wrong.content.decode()
    assert "format=csv" not in wrong.content.decode()


@pytest.mark.parametrize("missing", ["view_account", "view_entry"])
def test_only_who_may_see_accounts_and_entries_sees_what_is_made_of_them(
    books, client, missing
):
    user = User.objects.create_user("few", password="secret", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="ledger").exclude(
            codename=missing
        )
    )
    client.force_login(user)
    in_books = {"ledger": str(books.ledger.id)}

    assert client.get(reverse("admin:ledger_reports"), in_books).status_code == 403
    assert client.get(statement_of(books.ada), in_books).status_code == 403
    index = client.get(reverse("admin:index")).content.decode()
    assert reverse("admin:ledger_reports") not in index


def test_nobody_posts_to_a_report_and_strangers_log_in_first(books, finance):
    url = reverse("admin:ledger_reports")

    assert finance.post(url).status_code == 403
    assert finance.post(statement_of(books.ada)).status_code == 403
    assert "/login/" in Client().get(url)["Location"]


@pytest.mark.parametrize("query", [{}, {"ledger": "x"}])
def test_a_statement_in_no_ledger_is_not_found(books, finance, query):
    other = {"ledger": str(LedgerFactory().id)}

    assert finance.get(statement_of(books.ada), query).status_code == 404
    assert finance.get(statement_of(books.ada), other).status_code == 404
