"""Velocity limits: what an account may move, and what counts against that."""

from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from ledger.admin.shared import AccountScope, BooksAdmin, account_link, fetch_accounts
from ledger.enums import LimitDirection, LimitPeriod
from ledger.models import Account, Usage
from ledger.selectors.limits import limits_get
from payflow.admin.cells import Table, badge, instant, instant_column, list_url, money
from payflow.admin.filters import LedgerFilter
from payflow.admin.lists import Keyset
from payflow.admin.scope import parse_uuid

_PERIODS: Mapping[str, str] = {
    LimitPeriod.ROLLING_DAY: "24 hours",
    LimitPeriod.DAY: "day",
    LimitPeriod.MONTH: "month",
}


def limits_table(account: Account) -> Table:
    """An account's limits, what is used of them at this moment, and what is left."""
    rows: list[tuple[Any, ...]] = []
    for window in limits_get(
        ledger_id=account.ledger_id, account_id=account.id
    ).windows:
        for measure, used, limit in window.measures():
            if limit is None:
                continue
            left = max(0, limit - used)
            figures: list[Any] = [
                money(figure, account.currency, account.ledger_id)
                if measure == "amount"
                else f"{figure:,}"
                for figure in (limit, used, left)
            ]
            rows.append(
                (
                    LimitDirection(window.direction).label.capitalize(),
                    _PERIODS[window.period],
                    "amount" if measure == "amount" else "times",
                    *figures,
                    badge("Used up", "bad") if not left else "",
                    instant(window.starts_at),
                    instant(window.ends_at),
                )
            )
    return Table(
        "Velocity limits",
        (
            "Direction",
            "Per",
            "Counts",
            "#Limit",
            "#Used",
            "#Left",
            "",
            "Since",
            "Begins anew",
        ),
        rows,
        more_url=list_url("ledger.usage", account.ledger_id, account=account.id),
        more_label="What counted, one after the other",
    )


@admin.register(Usage)
class UsageAdmin(BooksAdmin):
    """What counted against the limits of accounts, as running totals."""

    index_position = 10
    list_display = (
        "created",
        "of_account",
        "out_shown",
        "out_count",
        "in_shown",
        "in_count",
    )
    list_filter = (LedgerFilter, AccountScope)
    search_fields = ("id",)
    search_help_text = (
        "A full id. Totals are of all time: what moved between two rows is their"
        " difference. For one account's, follow the link on the account's page."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "created",
                    "of_account",
                    ("out_shown", "out_count"),
                    ("in_shown", "in_count"),
                    "id",
                    "in_books",
                )
            },
        ),
    )
    detail_select_related = ("account",)
    created = instant_column("created_at", "when")

    def get_keyset(self, request: HttpRequest) -> Keyset:
        """By the index of one account's rows, or else by id."""
        if parse_uuid(request.GET.get("q", "")):
            return Keyset()
        if parse_uuid(request.GET.get(AccountScope.parameter_name, "")):
            return Keyset("created_at")
        return Keyset()

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's account, in one query for all rows."""
        fetch_accounts(rows)

    @admin.display(description="account")
    def of_account(self, usage: Usage) -> str:
        """The account."""
        return account_link(usage.account)

    @admin.display(description="out, in total")
    def out_shown(self, usage: Usage) -> str:
        """What had gone out by then."""
        return money(usage.out_amount, usage.account.currency, usage.ledger_id)

    @admin.display(description="in, in total")
    def in_shown(self, usage: Usage) -> str:
        """What had come in by then."""
        return money(usage.in_amount, usage.account.currency, usage.ledger_id)
