"""Entries."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from ledger.admin.shared import (
    AccountScope,
    BooksAdmin,
    TransferScope,
    account_link,
    balance_after,
    direction_badge,
    fetch_accounts,
)
from ledger.models import Entry
from payflow.admin.cells import instant_column, link, money
from payflow.admin.filters import CurrencyFilter, LedgerFilter, choice_filter
from payflow.admin.lists import Keyset
from payflow.admin.scope import parse_uuid


@admin.register(Entry)
class EntryAdmin(BooksAdmin):
    """Entries: a ledger's newest first, or one account's or one transfer's."""

    index_position = 4
    list_display = (
        "created",
        "of_account",
        "account_version",
        "side",
        "amount_shown",
        "balance_after",
        "of_transfer",
        "effective",
    )
    list_display_links = ("created",)
    list_filter = (
        LedgerFilter,
        AccountScope,
        TransferScope,
        choice_filter("direction"),
        CurrencyFilter,
    )
    search_fields = ("id",)
    search_help_text = (
        "A full id of an entry or of a transfer. For an account's entries, follow the"
        " link on the account's page."
    )
    detail_select_related = ("account", "transfer")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "of_account",
                    "of_transfer",
                    ("side", "amount_shown"),
                    "balance_after",
                    ("debits_so_far", "credits_so_far"),
                    ("account_version", "posting_number"),
                    ("created", "effective"),
                )
            },
        ),
        ("Record", {"fields": ("id", "in_books")}),
    )
    created = instant_column("created_at", "recorded")
    effective = instant_column("effective_at", "effective")

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's account, in one query for all rows."""
        fetch_accounts(rows)

    def get_keyset(self, request: HttpRequest) -> Keyset:
        """By the index that serves the scope: account, transfer or ledger."""
        if parse_uuid(request.GET.get("q", "")):
            return Keyset()
        if parse_uuid(request.GET.get(AccountScope.parameter_name, "")):
            return Keyset("account_version")
        if parse_uuid(request.GET.get(TransferScope.parameter_name, "")):
            # Both entries of a posting stand on one page, because PER_PAGE is even.
            return Keyset("posting_number", is_descending=False, tail=("-direction",))
        return Keyset()

    def find_by_id(
        self, request: HttpRequest, rows: QuerySet[Any], value: UUID
    ) -> list[QuerySet[Any]]:
        """An entry, or a transfer's entries."""
        return [rows.filter(pk=value), rows.filter(transfer_id=value)]

    @admin.display(description="account")
    def of_account(self, entry: Entry) -> str:
        """The account."""
        return account_link(entry.account)

    @admin.display(description="transfer")
    def of_transfer(self, entry: Entry) -> str:
        """The transfer."""
        return link("ledger.transfer", entry.transfer_id, entry.ledger_id)

    @admin.display(description="direction")
    def side(self, entry: Entry) -> str:
        """Debit or credit."""
        return direction_badge(entry)

    @admin.display(description="amount")
    def amount_shown(self, entry: Entry) -> str:
        """The amount."""
        return money(entry.amount, entry.currency, entry.ledger_id)

    @admin.display(description="balance after")
    def balance_after(self, entry: Entry) -> str:
        """The account's posted balance after this entry."""
        return balance_after(entry)

    @admin.display(description="debits so far")
    def debits_so_far(self, entry: Entry) -> str:
        """The account's running total of debits."""
        return money(entry.debits_after, entry.currency, entry.ledger_id)

    @admin.display(description="credits so far")
    def credits_so_far(self, entry: Entry) -> str:
        """The account's running total of credits."""
        return money(entry.credits_after, entry.currency, entry.ledger_id)
