"""Trial balance, balance sheet and income statement, against a sum over all entries."""

import csv
import io
import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pypdf import PdfReader

from ledger.days import TICK
from ledger.enums import AccountKind
from ledger.models import Account, Entry, Ledger
from ledger.selectors import reports
from ledger.selectors.as_of import FINAL_AFTER, clock_read
from ledger.selectors.reports import (
    PeriodScope,
    ReportScope,
    account_balances,
    account_balances_page,
    balance_sheet,
    income_statement,
    period_scope,
    report_scope,
    trial_balance,
)
from ledger.services.assets import AssetRequest, asset_create
from ledger.services.clients import api_key_create
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    ApiClientFactory,
    LedgerFactory,
    move,
    post,
    transfer_request,
)
from ledger.types import PostedTransfer
from payflow.clock import format_instant, now
from payflow.errors import ProblemError

pytestmark = pytest.mark.django_db

CURRENCIES = ("EUR", "USD")
CODES = ("1000", "")


def account(ledger: Ledger, kind: str, currency: str = "USD", **fields: Any) -> Account:
    return AccountFactory(
        ledger=ledger, kind=kind, currency=currency, min_balance=None, **fields
    )


def send(source: Account, target: Account, amount: int, **fields: Any) -> datetime:
    outcome = move(source, target, amount, **fields)
    assert isinstance(outcome, PostedTransfer), outcome
    return outcome.created_at


def any_books(seed: int) -> SimpleNamespace:
    """Books of all kinds of accounts in two currencies, half of it backdated."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    ledger = LedgerFactory()
    accounts = [
        account(ledger, kind, currency, code=code)
        for currency in CURRENCIES
        for kind in AccountKind
        for code in CODES
    ]
    for _ in range(25):
        requests = []
        for _ in range(chance.randint(1, 4)):
            currency = chance.choice(CURRENCIES)
            pair = chance.sample([a for a in accounts if a.currency == currency], 2)
            ago = timedelta(minutes=chance.randint(1, 60))
            requests.append(
                transfer_request(
                    *pair,
                    chance.randint(1, 9_999),
                    effective_at=now() - ago if chance.random() < 0.5 else None,
                )
            )
        outcomes = post(*requests, ledger=ledger)
        assert all(isinstance(o, PostedTransfer) for o in outcomes)
    entries = list(Entry.objects.filter(ledger_id=ledger.id))
    instants = {e.effective_at for e in entries} | {e.created_at for e in entries}
    # A little before, so that there are instants between those of the entries.
    instants |= {instant - TICK for instant in instants}
    return SimpleNamespace(
        ledger=ledger,
        accounts={a.id: a for a in accounts},
        entries=entries,
        chance=chance,
        instants=sorted(instants),
    )


def brute_force(books: Any, t: datetime, r: datetime) -> dict[Any, int]:
    """Each account's credits less debits, by looking at every entry."""
    nets: dict[Any, int] = defaultdict(int)
    for e in books.entries:
        if e.effective_at <= t and e.created_at <= r:
            nets[e.account_id] += e.amount if e.direction == "credit" else -e.amount
    return nets


def of_kind(books: Any, nets: dict[Any, int], currency: str, *kinds: str) -> int:
    return sum(
        net
        for id_, net in nets.items()
        if books.accounts[id_].currency == currency
        and books.accounts[id_].kind in kinds
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("slice_accounts", [1, 7, 1_000])
def test_reports_are_the_sums_that_a_scan_of_all_entries_gives(
    seed, slice_accounts, monkeypatch
):
    books = any_books(seed)
    picks = [tuple(books.chance.choices(books.instants, k=2)) for _ in range(25)]

    for t, r in picks:
        scope = ReportScope(books.ledger, t, r)
        expected = brute_force(books, t, r)
        balances = list(account_balances(scope=scope, slice_accounts=slice_accounts))
        trial, sheet = trial_balance(scope=scope), balance_sheet(scope=scope)

        assert {b.id: b.net for b in balances} == expected
        assert trial.is_balanced
        assert sheet.is_balanced
        for total in trial.totals:
            debits = -sum(
                min(net, 0)
                for id_, net in expected.items()
                if books.accounts[id_].currency == total.currency
            )
            assert (total.debit, total.credit) == (debits, debits)
        assert sum(line.account_count for line in trial.lines) == len(expected)
        for part in sheet.currencies:
            own = (books, expected, part.currency)
            assert part.assets.total == -of_kind(*own, "asset")
            assert part.liabilities.total == of_kind(*own, "liability")
            assert part.equity.total == of_kind(*own, "equity")
            assert part.result == of_kind(*own, "income", "expense")


@pytest.mark.parametrize("seed", range(3))
def test_an_income_statement_is_what_became_effective_in_between(seed):
    books = any_books(seed)
    recorded = books.instants[-1]
    for _ in range(20):
        start, end = sorted(books.chance.choices(books.instants, k=2))
        before = brute_force(books, start - TICK, recorded)
        after = brute_force(books, end - TICK, recorded)
        report = income_statement(scope=PeriodScope(books.ledger, start, end, recorded))

        found = {c.currency: c for c in report.currencies}
        for currency in CURRENCIES:
            income, expense = (
                of_kind(books, after, currency, kind)
                - of_kind(books, before, currency, kind)
                for kind in ("income", "expense")
            )
            part = found.get(currency)
            assert (part.income.total if part else 0) == income
            assert (part.expense.total if part else 0) == -expense
            assert (part.net_income if part else 0) == income + expense


def test_a_backdated_transfer_changes_the_past_and_not_what_was_believed():
    ledger = LedgerFactory()
    cash, fees = account(ledger, "asset"), account(ledger, "income", code="4000")
    first = send(cash, fees, 100)
    happened = first - timedelta(days=30)
    second = send(cash, fees, 11, effective_at=happened)

    def net_income(t: datetime, r: datetime) -> int:
        report = balance_sheet(scope=ReportScope(ledger, t, r))
        assert report.is_balanced
        return sum(part.result for part in report.currencies)

    assert net_income(happened, second) == 11
    assert net_income(happened, first) == 0
    assert net_income(second, first) == 100
    assert net_income(second, second) == 111


def test_accounts_stand_in_the_column_of_their_side_and_groups_add_them_up():
    ledger = LedgerFactory()
    rich, poor = (account(ledger, "liability", code="2000") for _ in range(2))
    recorded = send(poor, rich, 30)

    report = trial_balance(scope=ReportScope(ledger, recorded, recorded))

    (line,) = report.lines
    assert (line.debit, line.credit, line.account_count) == (30, 30, 2)
    assert (report.totals[0].debit, report.totals[0].credit) == (30, 30)


def test_columns_that_differ_are_said_to_differ():
    sums = reports.ColumnSums()
    sums.add(reports.GroupLine(AccountKind.ASSET, "", "USD", 1, debit=5))
    sums.add(reports.GroupLine(AccountKind.INCOME, "", "USD", 1, credit=4))

    (total,) = sums.totals()

    assert not total.is_balanced


def test_accounts_that_rest_are_not_searched_for():
    ledger = LedgerFactory()
    source, target = account(ledger, "asset"), account(ledger, "income")
    for _ in range(50):
        recorded = send(source, target, 1)

    def entry_scans(at: datetime) -> list[str]:
        with CaptureQueriesContext(connection) as queries:
            list(account_balances(scope=ReportScope(ledger, at, at + TICK)))
        (sql,) = [q["sql"] for q in queries if "LATERAL" in q["sql"]]
        with connection.cursor() as cursor:
            # Of tables as small as a test's it is the quickest way.
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS OFF) {sql}")
            plan = [row[0] for row in cursor.fetchall()]
        places = (" on ledger_entry", " on ledger_backdated_totals")
        return [line for line in plan if any(place in line for place in places)]

    resting, moving = entry_scans(recorded), entry_scans(recorded - TICK)

    assert len(resting) == 2
    assert all("never executed" in line for line in resting)
    assert any("never executed" not in line for line in moving)
    assert all("Index Scan" in line or "Function Scan" in line for line in moving)


# --- Which instants ------------------------------------------------------------------


def test_a_report_is_by_default_of_the_newest_instant_that_is_final():
    ledger = LedgerFactory()
    before = clock_read()

    scope = report_scope(ledger_id=ledger.id)

    assert before <= scope.as_recorded_at + FINAL_AFTER <= clock_read()
    assert scope.at == scope.as_recorded_at


def test_an_instant_that_is_not_final_is_refused_with_the_time_to_ask_again():
    ledger = LedgerFactory()
    wanted = clock_read() - timedelta(seconds=30)

    with pytest.raises(ProblemError) as caught:
        report_scope(ledger_id=ledger.id, as_recorded_at=wanted)

    assert caught.value.problem.code == "as_recorded_at_not_final"
    assert caught.value.problem.fields["final_at"] == format_instant(
        wanted + FINAL_AFTER
    )


@pytest.mark.parametrize("field", ["at", "as_recorded_at"])
def test_a_report_on_the_future_is_refused(field):
    ledger = LedgerFactory()

    with pytest.raises(ProblemError) as caught:
        report_scope(ledger_id=ledger.id, **{field: date(2999, 1, 1)})

    assert caught.value.problem.code == "instant_in_future"
    assert caught.value.problem.fields["field"] == field


def test_a_day_of_a_report_ends_at_the_ledgers_midnight():
    ledger = LedgerFactory(time_zone="America/New_York")

    scope = report_scope(
        ledger_id=ledger.id, at=date(2026, 3, 8), as_recorded_at=date(2026, 3, 9)
    )

    assert scope.at == datetime(2026, 3, 9, 3, 59, 59, 999999, tzinfo=UTC)
    assert scope.as_recorded_at == datetime(2026, 3, 10, 3, 59, 59, 999999, tzinfo=UTC)


def test_a_running_day_is_as_far_as_can_be_told():
    ledger = LedgerFactory()
    today = clock_read().date()

    scope = report_scope(ledger_id=ledger.id, as_recorded_at=today)

    assert scope.as_recorded_at <= clock_read() - FINAL_AFTER
    assert scope.is_newest


def test_a_period_that_ends_before_it_begins_is_refused():
    with pytest.raises(ProblemError) as caught:
        period_scope(
            ledger_id=LedgerFactory().id, start=date(2026, 2, 1), end=date(2026, 1, 1)
        )

    assert caught.value.problem.fields["errors"][0]["code"] == "before_from"


def test_an_income_statement_goes_through_the_accounts_once_in_slices(monkeypatch):
    monkeypatch.setattr(reports, "SLICE_ACCOUNTS", 3)
    ledger = LedgerFactory()
    cash = account(ledger, "asset")
    incomes = [account(ledger, "income", code="4000") for _ in range(7)]
    for income in incomes:
        ended = send(cash, income, 5)
    scope = PeriodScope(ledger, ended - timedelta(days=1), ended + TICK, ended + TICK)

    with CaptureQueriesContext(connection) as queries:
        report = income_statement(scope=scope)

    assert report.currencies[0].net_income == 35
    # Eight accounts in slices of three, with the totals at both ends of each.
    totals = [q["sql"] for q in queries if "LATERAL" in q["sql"]]
    assert len(totals) == 2 * 3


# --- The API -------------------------------------------------------------------------


class Api:
    """Books of a small company, and a client to ask for its reports.

    What was recorded just now is not final yet, so tests that read it look at ``at``.
    """

    def __init__(self) -> None:
        self.ledger = LedgerFactory(name="Acme", slug="acme-books")
        self.cash = account(self.ledger, "asset", code="1000", reference="cash")
        self.ada = account(self.ledger, "liability", code="2000", reference="=ada")
        self.fees = account(self.ledger, "income", code="4000", reference="fees")
        send(self.cash, self.ada, 10_000)
        send(self.ada, self.fees, 250)
        self.key = api_key_create(client=ApiClientFactory(ledger=self.ledger))

    def get(self, report: str, **query: str) -> Any:
        return Client(raise_request_exception=False).get(
            f"/v1/reports/{report}",
            query,
            headers={"Authorization": f"Bearer {self.key}"},
        )


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    # Everything is final at once: nobody else writes into the test's transaction.
    monkeypatch.setattr(reports, "FINAL_AFTER", timedelta(0))
    return Api()


def test_the_trial_balance_is_answered_by_code(api):
    answer = api.get("trial-balance").json()

    assert answer["report"] == "trial_balance"
    assert answer["ledger"] == {
        "slug": "acme-books",
        "name": "Acme",
        "time_zone": "UTC",
    }
    assert [
        (x["kind"], x["code"], x["debit"], x["credit"]) for x in answer["lines"]
    ] == [
        ("asset", "1000", 10_000, 0),
        ("liability", "2000", 0, 9_750),
        ("income", "4000", 0, 250),
    ]
    assert answer["totals"] == [
        {"currency": "USD", "debit": 10_000, "credit": 10_000, "is_balanced": True}
    ]
    assert answer["is_balanced"] is True
    assert answer["at"] == answer["as_recorded_at"]


def test_the_trial_balance_is_paged_by_account(api):
    pages = []
    query: dict[str, str] = {"detail": "accounts", "limit": "2"}
    while True:
        answer = api.get("trial-balance", **query).json()
        pages.append(answer["lines"])
        if answer["next_cursor"] is None:
            break
        query["cursor"] = answer["next_cursor"]
        query["as_recorded_at"] = answer["as_recorded_at"]

    assert [len(lines) for lines in pages] == [2, 1]
    assert [line["reference"] for lines in pages for line in lines] == [
        "cash",
        "=ada",
        "fees",
    ]


def pages_of(scope: ReportScope, limit: int) -> list[tuple[list[Any], int]]:
    """The ids of each page with the number of statements that it took."""
    pages: list[tuple[list[Any], int]] = []
    after = None
    while True:
        with CaptureQueriesContext(connection) as queries:
            rows = account_balances_page(scope=scope, limit=limit, after=after)
        pages.append(([row.id for row in rows], len(queries)))
        after = rows.after
        if after is None:
            return pages


@pytest.mark.parametrize("currency", [None, "EUR"])
def test_a_page_looks_at_so_many_accounts_and_no_more(monkeypatch, currency):
    monkeypatch.setattr(reports, "SLICE_ACCOUNTS", 3)
    ledger = LedgerFactory()
    euros = [account(ledger, kind, "EUR") for kind in ("asset", "equity")]
    for number in range(30):  # No entries, or of another currency.
        dollars = account(ledger, "asset")
        if number % 15 == 0:
            send(dollars, account(ledger, "equity"), 1)
    send(*(account(ledger, kind, "EUR") for kind in ("asset", "equity")), 1)
    send(*euros, 1)
    scope = ReportScope(ledger, clock_read(), clock_read(), currency)

    pages = pages_of(scope, limit=1)

    assert [id_ for ids, _ in pages for id_ in ids] == [
        balance.id for balance in account_balances(scope=scope)
    ]
    assert max(statements for _, statements in pages) <= 6
    assert any(not ids for ids, _ in pages[:-1])


def test_an_empty_page_says_where_the_next_one_begins(api, monkeypatch):
    monkeypatch.setattr(reports, "SLICE_ACCOUNTS", 2)
    for _ in range(20):
        account(api.ledger, "asset")
    last = [account(api.ledger, kind) for kind in ("asset", "equity")]
    send(*last, 7)
    query: dict[str, str] = {"detail": "accounts", "limit": "1"}
    found = []
    while True:
        answer = api.get("trial-balance", **query).json()
        found.append([line["account_id"] for line in answer["lines"]])
        if answer["next_cursor"] is None:
            break
        query["cursor"] = answer["next_cursor"]
        query["as_recorded_at"] = answer["as_recorded_at"]

    known = [api.cash, api.ada, api.fees, *last]
    assert [id_ for ids in found for id_ in ids] == [str(one.id) for one in known]
    assert [] in found[:-1]


def test_a_page_of_accounts_without_the_first_pages_instant_is_refused(api):
    first = api.get("trial-balance", detail="accounts", limit="1").json()
    response = api.get("trial-balance", detail="accounts", cursor=first["next_cursor"])

    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == "as_recorded_at"


def test_the_balance_sheet_counts_the_result_to_the_owners(api):
    (part,) = api.get("balance-sheet").json()["currencies"]

    assert part["assets"]["total"] == part["total_liabilities_and_equity"] == 10_000
    assert part["liabilities"]["total"] == 9_750
    assert part["equity"] == {"lines": [], "total": 0}
    assert part["result"] == 250
    assert part["is_balanced"] is True


def test_the_income_statement_shows_what_was_earned(api):
    today = clock_read().date().isoformat()
    answer = api.get("income-statement", **{"from": today, "to": today}).json()

    (part,) = answer["currencies"]
    assert part["income"] == {
        "lines": [{"code": "4000", "account_count": 1, "balance": 250}],
        "total": 250,
    }
    assert part["expense"]["lines"] == []
    assert part["net_income"] == 250
    assert answer["from"] == f"{today}T00:00:00.000000Z"


def test_a_currency_narrows_every_report(api):
    euro = [account(api.ledger, kind, "EUR") for kind in ("asset", "equity")]
    send(*euro, 7)

    trial = api.get("trial-balance", currency="EUR").json()
    sheet = api.get("balance-sheet", currency="EUR").json()

    assert {line["currency"] for line in trial["lines"]} == {"EUR"}
    assert [part["currency"] for part in sheet["currencies"]] == ["EUR"]


@pytest.mark.parametrize("code", ["EURO", "eur", "PTS"])
def test_a_currency_that_the_ledger_cannot_have_is_refused(api, code):
    asset_create(
        ledger_id=LedgerFactory().id,
        request=AssetRequest(code="PTS", name="Points", exponent=0),
        actor=ACTOR,
    )
    day = {"from": clock_read().date().isoformat()}

    for report, query in (("balance-sheet", {}), ("income-statement", day)):
        response = api.get(report, currency=code, **query)

        assert response.status_code == 422
        assert response.json()["code"] == "currency_unknown"
        assert response.json()["currency"] == code


@pytest.mark.parametrize("code", ["DEM", "KWD", "PTS"])
def test_a_currency_that_old_books_may_have_and_an_asset_are_taken(api, code):
    asset_create(
        ledger_id=api.ledger.id,
        request=AssetRequest(code="PTS", name="Points", exponent=0),
        actor=ACTOR,
    )

    assert api.get("trial-balance", currency=code).json()["lines"] == []


def test_an_account_without_a_reference_gets_none_in_a_file(api):
    accounts = [account(api.ledger, kind) for kind in ("asset", "equity")]
    send(*accounts, 7)

    table = body(api.get("trial-balance", detail="accounts", format="csv")).decode()
    rows = {row["account_id"]: row for row in csv.DictReader(io.StringIO(table))}

    assert [rows[str(one.id)]["reference"] for one in accounts] == ["", ""]
    assert rows[str(api.cash.id)]["reference"] == "cash"


def test_a_page_says_how_far_it_goes_where_nobody_asked(api):
    said = "As the books stood two minutes ago; what is younger is not final yet."
    moment = format_instant(clock_read())

    for query, is_said in (
        ({}, True),
        ({"at": "2026-01-01"}, True),
        ({"as_recorded_at": moment}, False),
    ):
        page = body(api.get("trial-balance", format="html", **query)).decode()
        assert (said in page) is is_said, query
    period = {"from": clock_read().date().isoformat()}
    assert said in body(api.get("income-statement", format="html", **period)).decode()


def test_a_report_sees_no_other_ledger(api):
    other = LedgerFactory()
    send(account(other, "asset"), account(other, "equity"), 1_000_000)

    assert api.get("trial-balance").json()["totals"][0]["debit"] == 10_000


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"at": "tomorrow"}, 400, "invalid_request"),
        ({"currncy": "EUR"}, 400, "invalid_request"),
        ({"format": "docx"}, 400, "invalid_request"),
        ({"limit": "5"}, 400, "invalid_request"),
        ({"at": "2999-01-01"}, 422, "instant_in_future"),
    ],
)
def test_a_question_that_is_not_understood_is_refused(api, query, status, code):
    response = api.get("trial-balance", **query)

    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("text", ["yesterday", "next month", "2026-1-1T00:00:00Z"])
def test_what_is_no_time_is_told_that_a_day_will_do(api, text):
    (error,) = api.get("trial-balance", at=text).json()["errors"]

    assert (error["field"], error["code"]) == ("at", "not_an_instant")
    assert "A day as 2026-11-22" in error["message"]


@pytest.mark.parametrize(
    ("report", "query", "expected"),
    [
        ("trial-balance", {}, {"code": "2000", "credit": "97.50", "debit": "0.00"}),
        (
            "trial-balance",
            {"detail": "accounts"},
            {"reference": "'=ada", "credit": "97.50"},
        ),
        ("balance-sheet", {}, {"section": "Liabilities", "balance": "97.50"}),
        (
            "income-statement",
            {"from": "2026-01-01"},
            {"section": "Income", "code": "4000", "balance": "2.50"},
        ),
    ],
)
def test_every_report_is_a_file_and_a_page_too(api, report, query, expected):
    table = body(api.get(report, format="csv", **query)).decode()
    workbook = body(api.get(report, format="xlsx", **query))
    page = body(api.get(report, format="html", **query)).decode()
    pdf = PdfReader(io.BytesIO(body(api.get(report, format="pdf", **query))))

    rows = list(csv.DictReader(io.StringIO(table)))
    assert any(expected.items() <= row.items() for row in rows), rows
    assert workbook.startswith(b"PK")
    assert "Acme" in page
    amounts = [value for value in expected.values() if value.replace(".", "").isdigit()]
    assert all(f">{value}<" in page for value in amounts)
    printed = pdf.pages[0].extract_text().splitlines()
    assert "Acme" in printed
    assert all(f" {amount}" in " ".join(printed) for amount in amounts)


def body(response: Any) -> bytes:
    assert response.status_code == 200, response.content
    chunks: Iterable[bytes] = (
        response.streaming_content if response.streaming else [response.content]
    )
    return b"".join(chunks)
