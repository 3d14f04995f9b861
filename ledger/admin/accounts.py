"""Accounts."""

from collections.abc import Iterable
from typing import Any, cast

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from ledger.admin.changes import change_table
from ledger.admin.holds import open_holds_table
from ledger.admin.limits import limits_table
from ledger.admin.reports import can_view_books, statement_url, statement_urls
from ledger.admin.shared import (
    BooksAdmin,
    account_status_badge,
    balance_after,
    by_id,
    direction_badge,
)
from ledger.models import Account, Entry
from ledger.selectors.holds import without_lapsed
from outbox.admin import TASK_COLUMNS, task_row
from outbox.enums import IN_FLIGHT_STATES
from outbox.models import OutboxTask
from payflow.admin.bounds import MAX_TABLE_ROWS
from payflow.admin.cells import (
    Table,
    can_view,
    instant,
    instant_column,
    json_column,
    link,
    list_link,
    list_url,
    money,
    short,
    short_id,
)
from payflow.admin.filters import CurrencyFilter, LedgerFilter, choice_filter
from payflow.admin.read_only import BELOW_TABLES


@admin.register(Account)
class AccountAdmin(BooksAdmin):
    """Accounts with their balances."""

    index_position = 2
    list_display = (
        "name",
        "owner",
        "kind",
        "state",
        "posted",
        "available",
        "pending_out",
        "entries",
    )
    list_filter = (
        LedgerFilter,
        choice_filter("kind"),
        choice_filter("status"),
        CurrencyFilter,
    )
    list_defer = ("metadata",)
    search_fields = ("reference",)
    search_help_text = (
        "A full id, or the beginning of a reference or of an owner's name"
        " (upper and lower case differ)."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "reference",
                    "owner_name",
                    ("kind", "state"),
                    "code",
                    "currency",
                    "floor",
                    "payout_destination",
                )
            },
        ),
        (
            "Balances",
            {
                "fields": (
                    ("posted", "available"),
                    ("pending_in", "pending_out"),
                    ("total_debits", "total_credits"),
                    ("pending_debits", "pending_credits"),
                    ("version", "last_entry"),
                )
            },
        ),
        (
            "Record",
            {
                "classes": (BELOW_TABLES,),
                "fields": ("id", "in_books", "created", "metadata_text"),
            },
        ),
    )
    last_entry = instant_column("last_entry_at", "last entry")
    metadata_text = json_column("metadata", "metadata")

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Takes out of the pending amounts what lapsed holds only seem to reserve."""
        for ledger_id in {row.ledger_id for row in rows}:
            without_lapsed(
                ledger_id=ledger_id,
                accounts=[row for row in rows if row.ledger_id == ledger_id],
            )

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """The account, likewise."""
        account = cast("Any", super().get_object(request, object_id, from_field))
        if account is not None:
            self.prepare_rows(request, [account])
        return account

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """References and owners that begin with the text."""
        return [
            rows.filter(reference__startswith=text),
            rows.filter(owner_name__startswith=text).exclude(owner_name=""),
        ]

    @admin.display(description="account")
    def name(self, account: Account) -> str:
        """The reference, or else the id."""
        return (
            short(account.reference, 40) if account.reference else short_id(account.id)
        )

    @admin.display(description="owner")
    def owner(self, account: Account) -> str:
        """The owner's name, cut to a cell."""
        return short(account.owner_name, 40)

    @admin.display(description="status")
    def state(self, account: Account) -> str:
        """The status, in colour."""
        return account_status_badge(account.status)

    @admin.display(description="posted balance")
    def posted(self, account: Account) -> str:
        """The posted balance."""
        return money(account.posted, account.currency, account.ledger_id)

    @admin.display(description="available")
    def available(self, account: Account) -> str:
        """The available balance."""
        return money(account.available, account.currency, account.ledger_id)

    @admin.display(description="pending in")
    def pending_in(self, account: Account) -> str:
        """What holds of others would bring."""
        return money(account.pending_in, account.currency, account.ledger_id)

    @admin.display(description="pending out")
    def pending_out(self, account: Account) -> str:
        """What the account's own holds would take."""
        return money(account.pending_out, account.currency, account.ledger_id)

    @admin.display(description="debits, in total")
    def total_debits(self, account: Account) -> str:
        """The sum of the account's debits."""
        return money(account.debits_posted, account.currency, account.ledger_id)

    @admin.display(description="credits, in total")
    def total_credits(self, account: Account) -> str:
        """The sum of the account's credits."""
        return money(account.credits_posted, account.currency, account.ledger_id)

    @admin.display(description="debits, pending")
    def pending_debits(self, account: Account) -> str:
        """The sum of pending debits."""
        return money(account.debits_pending, account.currency, account.ledger_id)

    @admin.display(description="credits, pending")
    def pending_credits(self, account: Account) -> str:
        """The sum of pending credits."""
        return money(account.credits_pending, account.currency, account.ledger_id)

    @admin.display(description="floor of available")
    def floor(self, account: Account) -> str:
        """The least available balance."""
        if account.min_balance is None:
            return "none"
        return money(account.min_balance, account.currency, account.ledger_id)

    @admin.display(description="entries")
    def entries(self, account: Account) -> str:
        """How many, and the way to them; ``version`` counts them without a query."""
        return list_link(
            "ledger.entry",
            account.ledger_id,
            f"{account.version:,}",
            account=account.id,
        )

    def get_urls(self) -> list[Any]:
        """The accounts' pages, and that of their statements."""
        return [*statement_urls(), *super().get_urls()]

    def links(self, request: HttpRequest, obj: Account) -> Iterable[tuple[str, str]]:
        """The account's statement, entries, payouts, open holds and changes."""
        if can_view_books(request):
            yield statement_url(obj), "Statement"
        if can_view(request, "ledger.entry"):
            yield list_url("ledger.entry", obj.ledger_id, account=obj.id), "Entries"
        if obj.payout_destination and can_view(request, "outbox.outboxtask"):
            url = list_url("outbox.outboxtask", obj.ledger_id, account=obj.id)
            yield url, "Payouts"
        if can_view(request, "ledger.hold"):
            yield list_url("ledger.hold", obj.ledger_id, account=obj.id), "Open holds"
        if can_view(request, "ledger.change"):
            yield list_url("ledger.change", obj.ledger_id, account=obj.id), "Changes"

    def tables(self, request: HttpRequest, obj: Account) -> Iterable[Table]:
        """Limits, open holds, the latest entries, payouts in flight and changes."""
        if obj.has_velocity_limits and can_view(request, "ledger.velocitylimit"):
            yield limits_table(obj)
        if (obj.pending_in or obj.pending_out) and can_view(request, "ledger.hold"):
            yield open_holds_table(obj)
        if can_view(request, "ledger.entry"):
            entries = Entry.objects.filter(
                ledger_id=obj.ledger_id, account_id=obj.id
            ).order_by("-account_version")[:MAX_TABLE_ROWS]
            rows = list(entries)
            for row in rows:
                row.account = obj
            yield Table(
                "Latest entries",
                ("#No.", "When", "Direction", "#Amount", "#Balance after", "Transfer"),
                [
                    (
                        link(
                            "ledger.entry", row.id, obj.ledger_id, row.account_version
                        ),
                        instant(row.created_at),
                        direction_badge(row),
                        money(row.amount, row.currency, row.ledger_id),
                        balance_after(row),
                        link("ledger.transfer", row.transfer_id, obj.ledger_id),
                    )
                    for row in rows
                ],
                empty="No money has moved yet.",
                more_url=list_url("ledger.entry", obj.ledger_id, account=obj.id),
                more_label=f"All {obj.version:,} entries",
            )
        if obj.payout_destination and can_view(request, "outbox.outboxtask"):
            tasks = OutboxTask.objects.filter(
                ledger_id=obj.ledger_id,
                account_id=obj.id,
                state__in=IN_FLIGHT_STATES,
            ).order_by()[:MAX_TABLE_ROWS]
            yield Table(
                "Payouts in flight",
                TASK_COLUMNS,
                [task_row(task) for task in sorted(tasks, key=by_id, reverse=True)],
                empty="None: everything that came in has been settled or reversed.",
                more_url=list_url("outbox.outboxtask", obj.ledger_id, account=obj.id),
                more_label="All payouts of this account",
            )
        if can_view(request, "ledger.change"):
            yield change_table(obj.ledger_id, obj.id)
