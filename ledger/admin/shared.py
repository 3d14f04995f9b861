"""What several pages of the books share."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin

from ledger.enums import Direction
from ledger.models import Account, ApiClient, Entry
from payflow.admin.cells import badge, instant_column, link, money, short, short_id
from payflow.admin.filters import ScopeFilter
from payflow.admin.read_only import ReadOnlyModelAdmin
from payflow.admin.scope import ledger_link


class AccountScope(ScopeFilter):
    """One account's rows."""

    title = parameter_name = "account"
    column = "account_id"


class TransferScope(ScopeFilter):
    """One transfer's rows."""

    title = parameter_name = "transfer"
    column = "transfer_id"


def fetch_accounts(rows: Iterable[Any]) -> list[Any]:
    """The rows with their accounts, all fetched by one query and without their JSON.

    Django cannot defer columns and follow a composite relation in the same query.
    """
    found = list(rows)
    keys = {(row.ledger_id, row.account_id) for row in found if row.account_id}
    accounts = Account.objects.filter(
        ledger_id__in={ledger_id for ledger_id, _ in keys},
        id__in={account_id for _, account_id in keys},
    ).only("id", "ledger_id", "reference", "owner_name", "kind", "currency")
    by_key = {(account.ledger_id, account.id): account for account in accounts}
    for row in found:
        if row.account_id:
            row.account = by_key[row.ledger_id, row.account_id]
    return found


def account_link(account: Account) -> str:
    """A link to an account, named as people know it."""
    return link("ledger.account", account.id, account.ledger_id, short(account, 40))


def direction_badge(entry: Entry) -> str:
    """The side of an entry in words."""
    return badge(Direction(entry.direction).label.capitalize())


def balance_after(entry: Entry) -> str:
    """The account's posted balance after an entry whose account has been fetched."""
    net = entry.credits_after - entry.debits_after
    return money(
        -net if entry.account.is_debit_normal else net, entry.currency, entry.ledger_id
    )


def by_id(row: Any) -> UUID:
    """What puts rows into the order in which they were made."""
    return row.id


class RecordedAdmin(ReadOnlyModelAdmin):
    """What transfers and changes share: who did it."""

    @admin.display(description="API client")
    def client(self, row: Any) -> str:
        """The client whose key was used; one query, so only on one object's page."""
        names = ApiClient.objects.filter(ledger_id=row.ledger_id, id=row.client_id)
        name = names.values_list("name", flat=True).first() if row.client_id else None
        return link("ledger.apiclient", row.client_id, row.ledger_id, name)


class BooksAdmin(ReadOnlyModelAdmin):
    """What every table inside a ledger shares."""

    created = instant_column("created_at", "created")

    @admin.display(description="id")
    def short_id(self, row: Any) -> str:
        """The end of the id."""
        return short_id(row.id)

    @admin.display(description="ledger")
    def in_books(self, row: Any) -> str:
        """The ledger, by its slug; one query, so only on the page of one object."""
        return ledger_link(row.ledger_id)
