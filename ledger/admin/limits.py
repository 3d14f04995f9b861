"""Velocity limits: what an account may move, and what counts against that."""

from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import JSONObject
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
    LimitPeriod.ROLLING_DAY: "24 h",
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
            figures = [
                money(figure, account.currency, account.ledger_id)
                if measure == "amount"
                else f"{figure:,}"
                for figure in (limit, used, left)
            ]
            if not left:
                figures[-1] = badge("used up", "bad")
            rows.append(
                (
                    LimitDirection(window.direction).label.capitalize(),
                    _PERIODS[window.period],
                    "amount" if measure == "amount" else "times",
                    *figures,
                    instant(window.starts_at),
                    instant(window.ends_at) if window.ends_at else "rolling",
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
        "went_out",
        "came_in",
        "out_shown",
        "out_count",
        "in_shown",
        "in_count",
    )
    list_filter = (LedgerFilter, AccountScope)
    search_fields = ("id",)
    search_help_text = (
        "A full id. For one account's, follow the link on the account's page. Totals"
        " are of all time, so what moved in a window is the difference of two rows."
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

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows with the totals before them, each by one probe of the index."""
        before = (
            Usage.objects.filter(
                ledger_id=OuterRef("ledger_id"),
                account_id=OuterRef("account_id"),
                created_at__lt=OuterRef("created_at"),
            )
            .order_by("-created_at")
            .values(totals=JSONObject(out="out_amount", in_="in_amount"))[:1]
        )
        return super().get_queryset(request).annotate(before=Subquery(before))

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's account, in one query for all rows."""
        fetch_accounts(rows)

    @admin.display(description="account")
    def of_account(self, usage: Usage) -> str:
        """The account."""
        return account_link(usage.account)

    @admin.display(description="went out")
    def went_out(self, usage: Any) -> str:
        """What counted at this instant."""
        return self._counted(usage, usage.out_amount, "out")

    @admin.display(description="came in")
    def came_in(self, usage: Any) -> str:
        """What counted at this instant."""
        return self._counted(usage, usage.in_amount, "in_")

    def _counted(self, usage: Any, total: int, name: str) -> str:
        amount = total - (usage.before or {name: 0})[name]
        return money(amount or None, usage.account.currency, usage.ledger_id)

    @admin.display(description="out, in total")
    def out_shown(self, usage: Usage) -> str:
        """What had gone out by then."""
        return money(usage.out_amount, usage.account.currency, usage.ledger_id)

    @admin.display(description="in, in total")
    def in_shown(self, usage: Usage) -> str:
        """What had come in by then."""
        return money(usage.in_amount, usage.account.currency, usage.ledger_id)
