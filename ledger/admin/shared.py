"""What several pages of the books share."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe

from ledger.enums import AccountStatus, Direction
from ledger.models import Account, ApiClient, Entry
from payflow.admin.cells import (
    EMPTY,
    badge,
    instant_column,
    link,
    list_link,
    money,
    short,
    short_id,
)
from payflow.admin.filters import ScopeFilter
from payflow.admin.read_only import ReadOnlyModelAdmin
from payflow.admin.scope import ledger_link

_STATUS_TONES = {
    AccountStatus.OPEN: "good",
    AccountStatus.FROZEN_OUT: "warn",
    AccountStatus.FROZEN: "warn",
}


class AccountScope(ScopeFilter):
    """One account's rows."""

    title = parameter_name = "account"
    column = "account_id"


class TransferScope(ScopeFilter):
    """One transfer's rows."""

    title = parameter_name = "transfer"
    column = "transfer_id"


def accounts_by_key(keys: Iterable[tuple[UUID, UUID]]) -> dict[Any, Account]:
    """Accounts by ledger and id, by one query and without their JSON."""
    wanted = set(keys)
    if not wanted:
        return {}
    accounts = Account.objects.filter(
        ledger_id__in={ledger_id for ledger_id, _ in wanted},
        id__in={account_id for _, account_id in wanted},
    ).only("id", "ledger_id", "reference", "owner_name", "kind", "currency")
    return {(account.ledger_id, account.id): account for account in accounts}


def fetch_accounts(rows: Iterable[Any]) -> list[Any]:
    """The rows with their accounts, all fetched by one query.

    Django cannot defer columns and follow a composite relation in the same query.
    """
    found = list(rows)
    by_key = accounts_by_key(
        (row.ledger_id, row.account_id) for row in found if row.account_id
    )
    for row in found:
        if row.account_id:
            row.account = by_key[row.ledger_id, row.account_id]
    return found


def account_link(account: Account) -> str:
    """A link to an account, named as people know it."""
    return link("ledger.account", account.id, account.ledger_id, short(account, 40))


def account_status_badge(value: str) -> str:
    """The status of an account, in colour."""
    status = AccountStatus(value)
    return badge(status.label.capitalize(), _STATUS_TONES.get(status, "plain"))


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


def sums(amounts: Mapping[str, int], ledger_id: UUID) -> str:
    """Amounts in minor units by currency, one below the other."""
    if not amounts:
        return EMPTY
    return format_html_join(
        mark_safe("<br>"),
        "{}",
        ((money(amounts[code], code, ledger_id),) for code in sorted(amounts)),
    )


def stacked(above: str, below: str) -> str:
    """Two values in one cell, so that a list with many columns fits a screen."""
    return format_html('{}<div class="below">{}</div>', above, below)


def route(source: Account, target: Account, posting_count: int) -> str:
    """Both accounts of a first posting, and how many more postings there are."""
    more = posting_count - 1
    return format_html(
        '<div class="route">{}</div><div class="route">→ {}{}</div>',
        account_link(source),
        account_link(target),
        format_html(' <span class="muted">and {} more</span>', f"{more:,}")
        if more
        else "",
    )


class RecordedAdmin(ReadOnlyModelAdmin):
    """What transfers, holds and changes share: who did it, by which request."""

    @admin.display(description="API client")
    def client(self, row: Any) -> str:
        """The client whose key was used; one query, so only on one object's page."""
        names = ApiClient.objects.filter(ledger_id=row.ledger_id, id=row.client_id)
        name = names.values_list("name", flat=True).first() if row.client_id else None
        return link("ledger.apiclient", row.client_id, row.ledger_id, name)

    @admin.display(description="idempotency key")
    def key(self, row: Any) -> str:
        """The key of the request, and the way to its stored outcome."""
        if row.idempotency_key is None:
            return short(None)
        return list_link(
            "idempotency.idempotencykey",
            row.ledger_id,
            row.idempotency_key,
            q=row.idempotency_key,
        )


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
