"""Reading accounts of one ledger."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from ledger.models import Account
from ledger.selectors.finding import (
    ANY_TIME,
    EQUAL_PROBE,
    FoundPage,
    Key,
    Metadata,
    Range,
    equal_conditions,
    find,
    metadata_parts,
    prefix_parts,
    range_conditions,
    search_by_id,
)
from ledger.selectors.holds import without_lapsed
from ledger.selectors.rows import rows_where
from payflow.errors import ProblemError


def account_get(*, ledger_id: UUID, account_id: UUID) -> Account:
    """One account.

    Raises:
        ProblemError: ``account_not_found``, also for another ledger's account.
    """
    found = rows_where(Account, "ledger_id = $1 AND id = $2", [ledger_id, account_id])
    if not found:
        raise account_missing(account_id)
    (account,) = found
    without_lapsed(ledger_id=ledger_id, accounts=[account])
    return account


def accounts_get(*, ledger_id: UUID, account_ids: Iterable[UUID]) -> list[Account]:
    """The accounts with these ids that the ledger has, in ascending id."""
    rows = Account.objects.filter(ledger_id=ledger_id, id__in=set(account_ids))
    accounts = list(rows.order_by("id"))
    without_lapsed(ledger_id=ledger_id, accounts=accounts)
    return accounts


def account_missing(account_id: object) -> ProblemError:
    """The problem of an account that this ledger does not have."""
    return ProblemError(
        "account_not_found",
        f"There is no account {account_id} in this ledger.",
        account_id=str(account_id),
    )


def account_get_by_reference(*, ledger_id: UUID, reference: str) -> Account:
    """The account with this reference.

    Raises:
        ProblemError: ``account_not_found``.
    """
    account = Account.objects.filter(ledger_id=ledger_id, reference=reference).first()
    if account is None:
        raise ProblemError(
            "account_not_found",
            f"There is no account with the reference {reference!r} in this ledger.",
            reference=reference,
        )
    without_lapsed(ledger_id=ledger_id, accounts=[account])
    return account


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFilters:
    """Which accounts are looked for; ``None`` means any. See ``docs/finding.md``."""

    key_type: ClassVar[type[UUID]] = UUID

    reference: str | None = None
    reference_prefix: str | None = None
    owner_name_prefix: str | None = None
    kind: str | None = None
    currency: str | None = None
    status: str | None = None
    code: str | None = None
    created: Range = ANY_TIME
    metadata: Metadata = ()


def account_list(
    *,
    ledger_id: UUID,
    limit: int,
    before: Key | None,
    filters: AccountFilters = AccountFilters(),
) -> FoundPage[Account]:
    """A page of accounts, newest first.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: the last id that the page before looked at.
        filters: which ones.
    """
    parameters: dict[str, Any] = {}
    conditions = [
        *equal_conditions(
            {
                "reference": filters.reference,
                "kind": filters.kind,
                "currency": filters.currency,
                "status": filters.status,
                "code": filters.code,
            },
            parameters,
        ),
        *range_conditions("r.created_at", "created", filters.created, parameters),
    ]
    quick: list[str] = []
    slow: list[str] = []
    if filters.reference is not None:
        quick.append(EQUAL_PROBE.format(table=_TABLE, column="reference"))
    if filters.owner_name_prefix is not None:
        parameters["owner_name_prefix"] = filters.owner_name_prefix
        conditions.append("r.owner_name ^@ %(owner_name_prefix)s")
        slow.append(_OWNER_NAME_PROBE)
    for found, probes in (
        prefix_parts(_TABLE, filters.reference_prefix, parameters),
        metadata_parts(_TABLE, filters.metadata, parameters),
    ):
        conditions += found
        slow += probes
    keys, after = find(
        search_by_id(
            table=_TABLE,
            ledger_id=ledger_id,
            before=before,
            conditions=conditions,
            parameters=parameters,
            quick_probes=quick,
            slow_probes=slow,
        ),
        limit=limit,
    )
    accounts = list(
        Account.objects.filter(ledger_id=ledger_id, id__in=keys).order_by("-id")
    )
    without_lapsed(ledger_id=ledger_id, accounts=accounts)
    return FoundPage(accounts, after=after)


_TABLE = "ledger_account"
# In the index's order, so that PostgreSQL has nothing cheaper than the index.
_OWNER_NAME_PROBE = """
    SELECT r.id FROM ledger_account r
    WHERE r.ledger_id = %(ledger_id)s AND r.owner_name ^@ %(owner_name_prefix)s
        AND r.owner_name <> ''
    ORDER BY r.owner_name USING ~<~
"""
