"""``/v1/accounts/{id}/balance`` and ``/v1/accounts/{id}/statement``."""

from typing import Any
from zoneinfo import ZoneInfo

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.queries import Query, ReportView
from ledger.api.views import ApiView, path_id
from ledger.models import Account
from ledger.selectors.as_of import BalanceAsOf, balance_as_of
from ledger.selectors.statements import (
    Statement,
    StatementLine,
    statement_get,
    statement_lines,
)
from ledger.sheets import PAGE_TEMPLATE, account_name, file_name_of, statement_sheet
from payflow.api.downloads import sheet_response
from payflow.api.pagination import page, read_limit, read_number_cursor
from payflow.clock import format_instant
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import ProblemError

_KIND = "statement"


def _missing() -> ProblemError:
    return ProblemError("account_not_found", "There is no such account in this ledger.")


class AccountBalanceView(ApiView):
    """The balance of one account at one instant, as recorded at another."""

    query_parameters = None

    def get(self, request: Request, account_id: str) -> Response:
        """What was true then, as far as it was known then."""
        query = Query(request.query_params)
        at = query.moment("at")
        as_recorded_at = query.moment("as_recorded_at")
        query.finish()
        wanted_id = path_id(account_id, problem=_missing())

        def read() -> BalanceAsOf:
            with transaction_owner():
                return balance_as_of(
                    ledger_id=request.user.ledger_id,
                    account_id=wanted_id,
                    at=at,
                    as_recorded_at=as_recorded_at,
                )

        return Response(balance_json(retry_on_conflict(read)))


class AccountStatementView(ReportView):
    """What a period did to one account."""

    def get(self, request: Request, account_id: str) -> Response | HttpResponseBase:
        """A page of the statement as JSON, or the whole of it as a file."""
        query = Query(request.query_params)
        start = query.moment("from", required=True)
        end = query.moment("to")
        as_recorded_at = query.moment("as_recorded_at")
        form = query.form()
        query.paging()
        query.finish()
        limit = read_limit(request.query_params)
        after = read_number_cursor(request.query_params, kind=_KIND)
        wanted_id = path_id(account_id, problem=_missing())
        assert start is not None

        def read() -> Statement:
            with transaction_owner():
                return statement_get(
                    ledger_id=request.user.ledger_id,
                    account_id=wanted_id,
                    start=start,
                    end=end,
                    as_recorded_at=as_recorded_at,
                )

        statement = retry_on_conflict(read)
        if form != "json":
            return statement_response(statement, form=form)
        rows, next_cursor = page(
            statement_lines(statement=statement, limit=limit, after=after),
            limit=limit,
            kind=_KIND,
            key="version",
        )
        return Response(
            {
                **statement_json(statement),
                "lines": [statement_line_json(row) for row in rows],
                "next_cursor": next_cursor,
            }
        )


def statement_response(statement: Statement, *, form: str) -> HttpResponseBase:
    """The whole statement as a file or page.

    Raises:
        ProblemError: ``report_too_long``.
    """
    return sheet_response(
        statement_sheet(statement),
        form=form,
        file_name=file_name_of(
            report="statement",
            name=account_name(statement.account),
            at=statement.as_recorded_at,
            zone=ZoneInfo(statement.ledger.time_zone),
        ),
        template=PAGE_TEMPLATE,
    )


def balance_json(balance: BalanceAsOf) -> dict[str, Any]:
    """A balance as of an instant. Amounts are integers of minor units."""
    return {
        "account_id": str(balance.account.id),
        "currency": balance.account.currency,
        "at": format_instant(balance.at),
        "as_recorded_at": format_instant(balance.as_recorded_at),
        "balance": {"posted": balance.posted},
        "version": balance.totals.version,
        "backdated_entry_count": balance.totals.backdated_entry_count,
    }


def statement_json(statement: Statement) -> dict[str, Any]:
    """A statement without its lines. Amounts are integers of minor units."""
    return {
        "account": _account_json(statement.account),
        "time_zone": statement.ledger.time_zone,
        "from": format_instant(statement.start),
        "to": format_instant(statement.end),
        "as_recorded_at": format_instant(statement.as_recorded_at),
        "is_final": statement.is_final,
        "opening_balance": statement.opening_balance,
        "total_debits": statement.total_debits,
        "total_credits": statement.total_credits,
        "closing_balance": statement.closing_balance,
        "line_count": statement.line_count,
    }


def _account_json(account: Account) -> dict[str, Any]:
    return {
        "id": str(account.id),
        "reference": account.reference,
        "owner_name": account.owner_name,
        "kind": account.kind,
        "currency": account.currency,
    }


def statement_line_json(line: StatementLine) -> dict[str, Any]:
    """A line of a statement, with the other side of its posting."""
    return {
        "version": line.version,
        "booked_at": format_instant(line.booked_at),
        "effective_at": format_instant(line.effective_at),
        "direction": line.direction.value,
        "amount": line.amount,
        "balance_after": line.balance,
        "transfer": {
            "id": str(line.transfer_id),
            "kind": line.transfer_kind,
            "reference": line.transfer_reference,
            "description": line.transfer_description,
        },
        "counterparty": {
            "id": str(line.counterparty_id),
            "reference": line.counterparty_reference,
            "owner_name": line.counterparty_name,
        },
    }
