"""What the lists of the API can be filtered by: query parameters to filters."""

from ledger.enums import (
    AccountKind,
    AccountStatus,
    Direction,
    HoldStatus,
    ScheduledStatus,
    TransferKind,
)
from ledger.selectors.accounts import AccountFilters
from ledger.selectors.entries import EntryFilters
from ledger.selectors.history import ChangeFilters
from ledger.selectors.holds import HoldFilters
from ledger.selectors.scheduled import ScheduledFilters
from ledger.selectors.transfers import TransferFilters
from payflow.api.filters import ListQuery
from payflow.api.shapes import MAX_REFERENCE

MAX_OWNER_NAME = 255
MAX_CODE = 50
MAX_CURRENCY = 12


def read_account_filters(query: ListQuery) -> AccountFilters:
    """The filters of ``GET /v1/accounts``; the caller finishes the query."""
    return AccountFilters(
        reference=_reference(query, "reference"),
        reference_prefix=_reference(query, "reference_prefix"),
        owner_name_prefix=query.text(
            "owner_name_prefix", maximum=MAX_OWNER_NAME, empty=False
        ),
        kind=query.one_of("kind", AccountKind.values),
        currency=query.text("currency", maximum=MAX_CURRENCY, empty=False),
        status=query.one_of("status", AccountStatus.values),
        code=query.text("code", maximum=MAX_CODE),
        created=query.instants("created"),
        metadata=query.metadata_values(),
    )


def read_transfer_filters(query: ListQuery) -> TransferFilters:
    """The filters of ``GET /v1/transfers``; the caller finishes the query."""
    return TransferFilters(
        reference=_reference(query, "reference"),
        reference_prefix=_reference(query, "reference_prefix"),
        kind=query.one_of("kind", TransferKind.values),
        account_id=query.optional_id("account_id"),
        currency=query.text("currency", maximum=MAX_CURRENCY, empty=False),
        amounts=query.amounts(),
        created=query.instants("created"),
        effective=query.instants("effective"),
        reverses_transfer_id=query.optional_id("reverses_transfer_id"),
        hold_id=query.optional_id("hold_id"),
        metadata=query.metadata_values(),
    )


def read_entry_filters(query: ListQuery) -> EntryFilters:
    """The filters of an account's entries; the caller finishes the query."""
    return EntryFilters(
        direction=query.one_of("direction", Direction.values),
        amounts=query.amounts(),
        transfer_id=query.optional_id("transfer_id"),
        created=query.instants("created"),
        effective=query.instants("effective"),
    )


def read_hold_filters(query: ListQuery) -> HoldFilters:
    """The filters of ``GET /v1/holds``; the caller finishes the query."""
    return HoldFilters(
        reference=_reference(query, "reference"),
        reference_prefix=_reference(query, "reference_prefix"),
        status=query.one_of("status", HoldStatus.values),
        account_id=query.optional_id("account_id"),
        currency=query.text("currency", maximum=MAX_CURRENCY, empty=False),
        amounts=query.amounts(),
        created=query.instants("created"),
        expires=query.instants("expires"),
        metadata=query.metadata_values(),
    )


def read_scheduled_filters(query: ListQuery) -> ScheduledFilters:
    """The filters of ``GET /v1/scheduled-transfers``; the caller finishes the query."""
    return ScheduledFilters(
        reference=_reference(query, "reference"),
        reference_prefix=_reference(query, "reference_prefix"),
        status=query.one_of("status", ScheduledStatus.values),
        account_id=query.optional_id("account_id"),
        amounts=query.amounts(),
        created=query.instants("created"),
        due=query.instants("due"),
        metadata=query.metadata_values(),
    )


def read_change_filters(query: ListQuery) -> ChangeFilters:
    """The filters of histories; the caller finishes the query."""
    return ChangeFilters(created=query.instants("created"))


def _reference(query: ListQuery, name: str) -> str | None:
    return query.text(name, maximum=MAX_REFERENCE, empty=False)
