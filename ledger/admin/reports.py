"""Statements and reports in the back office, on the screen, to print and as files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from ledger.api.queries import Query
from ledger.models import Account, Ledger
from ledger.selectors.as_of import clock_read
from ledger.selectors.reports import (
    balance_sheet,
    income_statement,
    period_scope,
    report_scope,
    trial_balance,
)
from ledger.selectors.statements import Statement, statement_get
from ledger.sheets import (
    PAGE_TEMPLATE,
    account_name,
    balance_sheet_sheet,
    file_name_of,
    income_statement_sheet,
    statement_sheet,
    trial_balance_accounts_sheet,
    trial_balance_sheet,
)
from payflow.admin.cells import LEDGER_PARAMETER, can_view, link
from payflow.admin.scope import ledger_scope, parse_uuid
from payflow.api.downloads import FORMS, sheet_response
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import ProblemError
from payflow.sheets import Sheet, page_context

_SCREEN_TEMPLATE = "ledger/reports/screen.html"

REPORTS = {
    "trial-balance": "Trial balance",
    "trial-balance-accounts": "Trial balance by account",
    "balance-sheet": "Balance sheet",
    "income-statement": "Income statement",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a report's form; days are picked, instants are typed."""

    name: str
    label: str
    value: str
    help: str = ""

    @property
    def type(self) -> str:
        """The input's type: a full instant does not fit into a picked date."""
        return "text" if "T" in self.value else "date"


def can_view_books(request: HttpRequest) -> bool:
    """Whether the user may see accounts and their entries, so what is made of them."""
    return can_view(request, "ledger.account") and can_view(request, "ledger.entry")


def reports_url(ledger_id: UUID) -> str:
    """The address of a ledger's reports."""
    return (
        f"{reverse('admin:ledger_reports')}?{urlencode({LEDGER_PARAMETER: ledger_id})}"
    )


def statement_url(account: Account) -> str:
    """The address of an account's statement: of this month, as the form says first."""
    url = reverse("admin:ledger_account_statement", args=[account.id])
    return f"{url}?{urlencode({LEDGER_PARAMETER: account.ledger_id})}"


def report_urls() -> list[URLPattern]:
    """The pattern of the reports' page, for the ledgers' admin."""
    return [
        path("reports/", admin.site.admin_view(reports_view), name="ledger_reports")
    ]


def statement_urls() -> list[URLPattern]:
    """The pattern of the statement's page, for the accounts' admin."""
    return [
        path(
            "<uuid:account_id>/statement/",
            admin.site.admin_view(statement_view),
            name="ledger_account_statement",
        )
    ]


def statement_view(request: HttpRequest, account_id: UUID) -> HttpResponseBase:
    """An account's statement, with a form for its period."""
    _require_reading(request)
    ledger_id = parse_uuid(request.GET.get(LEDGER_PARAMETER, ""))
    if ledger_id is None:
        raise Http404
    account = Account.objects.filter(ledger_id=ledger_id, id=account_id).first()
    if account is None:
        raise Http404
    ledger = Ledger.objects.get(id=account.ledger_id)
    values = _values(request, "from", "to")
    values.setdefault("from", _month_start(ledger))

    def make(query: Query) -> tuple[Sheet, str]:
        start, end = query.moment("from", required=True), query.moment("to")
        query.finish()
        assert start is not None

        def read() -> Statement:
            with transaction_owner():
                return statement_get(
                    ledger_id=account.ledger_id,
                    account_id=account.id,
                    start=start,
                    end=end,
                )

        statement = retry_on_conflict(read)
        name = file_name_of(
            report="statement",
            name=account_name(account),
            at=statement.as_recorded_at,
            zone=ZoneInfo(ledger.time_zone),
        )
        return statement_sheet(statement), name

    return _respond(
        request,
        make,
        values,
        ledger,
        title="Statement",
        parent=link("ledger.account", account.id, account.ledger_id, str(account)),
        fields=[
            Field("from", "From", values["from"]),
            Field("to", "To", values.get("to", ""), "the last day; empty: now"),
        ],
    )


def reports_view(request: HttpRequest) -> HttpResponseBase:
    """The reports of one ledger: a form, and the report that it asks for."""
    _require_reading(request)
    scope = ledger_scope(request)
    ledger = Ledger.objects.filter(id=scope.id).first()
    if ledger is None:
        raise Http404
    report = request.GET.get("report", "trial-balance")
    if report not in REPORTS:
        raise Http404
    is_period = report == "income-statement"
    moments = ("from", "to") if is_period else ("at",)
    values = _values(request, *moments, "as_recorded_at", "currency")
    if is_period:
        values.setdefault("from", _month_start(ledger))

    def make(query: Query) -> tuple[Sheet, str]:
        return _report(query, ledger, report)

    fields = [
        Field(name, label, values.get(name, ""), text)
        for name, label, text in (
            ("at", "At the end of", "empty: now"),
            ("from", "From", ""),
            ("to", "To", "the last day; empty: now"),
            ("as_recorded_at", "As recorded at the end of", "empty: now"),
        )
        if name in (*moments, "as_recorded_at")
    ]
    return _respond(
        request,
        make,
        values,
        ledger,
        title="Reports",
        parent=link("ledger.ledger", ledger.id, None, ledger.slug),
        fields=fields,
        reports=[(name, label, name == report) for name, label in REPORTS.items()],
        ledgers=scope.choices,
        currency=values.get("currency", ""),
    )


def _report(query: Query, ledger: Ledger, report: str) -> tuple[Sheet, str]:
    start, end, at = query.moment("from"), query.moment("to"), query.moment("at")
    recorded, currency = query.moment("as_recorded_at"), query.currency()
    query.finish()
    zone = ZoneInfo(ledger.time_zone)
    if report == "income-statement":
        assert start is not None
        period = period_scope(
            ledger_id=ledger.id,
            start=start,
            end=end,
            as_recorded_at=recorded,
            currency=currency,
        )
        sheet, instant = (
            income_statement_sheet(income_statement(scope=period)),
            period.end,
        )
    else:
        scope = report_scope(
            ledger_id=ledger.id, at=at, as_recorded_at=recorded, currency=currency
        )
        instant = scope.at
        if report == "balance-sheet":
            sheet = balance_sheet_sheet(balance_sheet(scope=scope))
        elif report == "trial-balance":
            sheet = trial_balance_sheet(trial_balance(scope=scope))
        else:
            sheet = trial_balance_accounts_sheet(scope)
    return sheet, file_name_of(report=report, name=ledger.slug, at=instant, zone=zone)


def _respond(
    request: HttpRequest,
    make: Callable[[Query], tuple[Sheet, str]],
    values: dict[str, str],
    ledger: Ledger,
    **context: Any,
) -> HttpResponseBase:
    """The sheet as the file that was asked for, or on the screen with its form.

    What is too long for one form can still be taken in the others.
    """
    form = request.GET.get("format", "")
    page: dict[str, Any] = {}
    problem = ""
    offered = {"html": "Print view", "pdf": "PDF", "csv": "CSV", "xlsx": "Excel"}
    try:
        sheet, file_name = make(Query(values))
        if form in FORMS:
            return sheet_response(
                sheet, form=form, file_name=file_name, template=PAGE_TEMPLATE
            )
        page = page_context(sheet)
    except ProblemError as error:
        problem = error.problem.detail
        if error.problem.code == "report_too_long":
            too_long = ["html", "pdf", *(["xlsx"] if form == "xlsx" else [])]
            offered = {k: v for k, v in offered.items() if k not in too_long}
            where = {"xlsx": "a workbook", "pdf": "a PDF"}.get(form, "the screen")
            problem = f"Too long for {where}: take the CSV. {problem}"
        else:
            offered = {}
    asked = {**values, LEDGER_PARAMETER: str(ledger.id)}
    if "report" in request.GET:
        asked["report"] = request.GET["report"]
    return TemplateResponse(
        request,
        _SCREEN_TEMPLATE,
        {
            **admin.site.each_context(request),
            **context,
            "sheet": page,
            "problem": problem,
            "ledger": ledger,
            "downloads": [
                (label, f"?{urlencode({**asked, 'format': name})}")
                for name, label in offered.items()
            ],
        },
        status=200 if offered else 400,
    )


def _values(request: HttpRequest, *names: str) -> dict[str, str]:
    """The fields that were filled in."""
    found = {name: request.GET.get(name, "").strip() for name in names}
    return {name: value for name, value in found.items() if value}


def _month_start(ledger: Ledger) -> str:
    zone = ZoneInfo(ledger.time_zone)
    return clock_read().astimezone(zone).date().replace(day=1).isoformat()


def _require_reading(request: HttpRequest) -> None:
    if request.method not in ("GET", "HEAD") or not can_view_books(request):
        raise PermissionDenied
