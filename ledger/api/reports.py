"""``/v1/reports``: trial balance, balance sheet and income statement."""

from typing import Any
from zoneinfo import ZoneInfo

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.queries import Query, ReportView
from ledger.models import Ledger
from ledger.selectors.reports import (
    AccountBalance,
    BalanceSheet,
    IncomeStatement,
    PeriodScope,
    ReportScope,
    Section,
    TrialBalance,
    account_balances_page,
    balance_sheet,
    income_statement,
    period_scope,
    report_scope,
    trial_balance,
)
from ledger.sheets import (
    PAGE_TEMPLATE,
    balance_sheet_sheet,
    file_name_of,
    income_statement_sheet,
    trial_balance_accounts_sheet,
    trial_balance_sheet,
)
from payflow.api.downloads import sheet_response
from payflow.api.pagination import read_id_cursor, read_limit, write_cursor
from payflow.clock import format_instant
from payflow.sheets import Sheet

_ACCOUNTS = "trial-balance-accounts"


class TrialBalanceView(ReportView):
    """What all accounts come to at an instant, and that it comes to nothing."""

    def get(self, request: Request) -> Response | HttpResponseBase:
        """By kind and code, or with ``detail=accounts`` by account."""
        query = Query(request.query_params)
        detail = query.choice("detail", ("codes", "accounts"), default="codes")
        form, scope = _read_scope(query, request, is_paged=detail == "accounts")
        if detail == "codes":
            report = trial_balance(scope=scope)
            if form == "json":
                return Response(trial_balance_json(report))
            return _file(trial_balance_sheet(report), scope, "trial-balance", form)
        if form != "json":
            sheet = trial_balance_accounts_sheet(scope)
            return _file(sheet, scope, _ACCOUNTS, form)
        limit = read_limit(request.query_params)
        after = read_id_cursor(request.query_params, kind=_ACCOUNTS)
        rows = account_balances_page(scope=scope, limit=limit, after=after)
        return Response(
            {
                **scope_json("trial_balance", scope),
                "lines": [account_balance_json(row) for row in rows],
                "next_cursor": rows.after
                and write_cursor(kind=_ACCOUNTS, key=rows.after),
            }
        )


class BalanceSheetView(ReportView):
    """What the ledger owns and owes at an instant."""

    def get(self, request: Request) -> Response | HttpResponseBase:
        """For each currency."""
        form, scope = _read_scope(Query(request.query_params), request)
        report = balance_sheet(scope=scope)
        if form == "json":
            return Response(balance_sheet_json(report))
        return _file(balance_sheet_sheet(report), scope, "balance-sheet", form)


class IncomeStatementView(ReportView):
    """What the ledger earned and spent in a period."""

    def get(self, request: Request) -> Response | HttpResponseBase:
        """For each currency."""
        query = Query(request.query_params)
        start = query.moment("from", required=True)
        end = query.moment("to")
        as_recorded_at = query.moment("as_recorded_at")
        currency = query.currency()
        form = query.form()
        query.finish()
        assert start is not None
        scope = period_scope(
            ledger_id=request.user.ledger_id,
            start=start,
            end=end,
            as_recorded_at=as_recorded_at,
            currency=currency,
        )
        report = income_statement(scope=scope)
        if form == "json":
            return Response(income_statement_json(report))
        return _file(income_statement_sheet(report), scope, "income-statement", form)


def _read_scope(
    query: Query, request: Request, *, is_paged: bool = False
) -> tuple[str, ReportScope]:
    at = query.moment("at")
    as_recorded_at = query.moment("as_recorded_at")
    currency = query.currency()
    form = query.form()
    if is_paged:
        query.paging()
    query.finish()
    scope = report_scope(
        ledger_id=request.user.ledger_id,
        at=at,
        as_recorded_at=as_recorded_at,
        currency=currency,
    )
    return form, scope


def _file(
    sheet: Sheet, scope: ReportScope | PeriodScope, report: str, form: str
) -> HttpResponseBase:
    return sheet_response(
        sheet,
        form=form,
        file_name=file_name_of(
            report=report,
            name=scope.ledger.slug,
            at=scope.at if isinstance(scope, ReportScope) else scope.end,
            zone=ZoneInfo(scope.ledger.time_zone),
        ),
        template=PAGE_TEMPLATE,
    )


def trial_balance_json(report: TrialBalance) -> dict[str, Any]:
    """A trial balance. Amounts are integers of minor units."""
    return {
        **scope_json("trial_balance", report.scope),
        "lines": [
            {
                "kind": line.kind.value,
                "code": line.code,
                "currency": line.currency,
                "account_count": line.account_count,
                "debit": line.debit,
                "credit": line.credit,
            }
            for line in report.lines
        ],
        "totals": [
            {
                "currency": total.currency,
                "debit": total.debit,
                "credit": total.credit,
                "is_balanced": total.is_balanced,
            }
            for total in report.totals
        ],
        "is_balanced": report.is_balanced,
    }


def account_balance_json(balance: AccountBalance) -> dict[str, Any]:
    """One account of a trial balance."""
    return {
        "account_id": str(balance.id),
        "reference": balance.reference,
        "owner_name": balance.owner_name,
        "kind": balance.kind.value,
        "code": balance.code,
        "currency": balance.currency,
        "debit": balance.debit,
        "credit": balance.credit,
    }


def balance_sheet_json(report: BalanceSheet) -> dict[str, Any]:
    """A balance sheet. Amounts are integers of minor units."""
    return {
        **scope_json("balance_sheet", report.scope),
        "currencies": [
            {
                "currency": sheet.currency,
                "assets": _section_json(sheet.assets),
                "liabilities": _section_json(sheet.liabilities),
                "equity": _section_json(sheet.equity),
                "result": sheet.result,
                "total_liabilities_and_equity": sheet.total_liabilities_and_equity,
                "is_balanced": sheet.is_balanced,
            }
            for sheet in report.currencies
        ],
        "is_balanced": report.is_balanced,
    }


def income_statement_json(report: IncomeStatement) -> dict[str, Any]:
    """An income statement. Amounts are integers of minor units."""
    return {
        "report": "income_statement",
        "ledger": _ledger_json(report.scope.ledger),
        "from": format_instant(report.scope.start),
        "to": format_instant(report.scope.end),
        "as_recorded_at": format_instant(report.scope.as_recorded_at),
        "currencies": [
            {
                "currency": sheet.currency,
                "income": _section_json(sheet.income),
                "expense": _section_json(sheet.expense),
                "net_income": sheet.net_income,
            }
            for sheet in report.currencies
        ],
    }


def _section_json(section: Section) -> dict[str, Any]:
    return {
        "lines": [
            {
                "code": line.code,
                "account_count": line.account_count,
                "balance": line.posted,
            }
            for line in section.lines
        ],
        "total": section.total,
    }


def scope_json(report: str, scope: ReportScope) -> dict[str, Any]:
    """What a report is, of which ledger and of what time."""
    return {
        "report": report,
        "ledger": _ledger_json(scope.ledger),
        "at": format_instant(scope.at),
        "as_recorded_at": format_instant(scope.as_recorded_at),
    }


def _ledger_json(ledger: Ledger) -> dict[str, Any]:
    return {"slug": ledger.slug, "name": ledger.name, "time_zone": ledger.time_zone}
