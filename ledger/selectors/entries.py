"""Reading entries of one account."""

from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from ledger.models import Entry
from ledger.selectors.finding import (
    ANY_TIME,
    FoundPage,
    Key,
    Range,
    Search,
    amount_conditions,
    equal_conditions,
    find,
    max_of,
    range_conditions,
    version_conditions,
)
from ledger.selectors.rows import rows_where
from payflow.statements import bigints


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilters:
    """Which entries are looked for; ``None`` means any. See ``docs/finding.md``.

    ``amounts`` are the least and the greatest, in minor units.
    """

    key_type: ClassVar[type[int]] = int

    direction: str | None = None
    amounts: tuple[int | None, int | None] = (None, None)
    transfer_id: UUID | None = None
    created: Range = ANY_TIME
    effective: Range = ANY_TIME


def entry_list(
    *,
    ledger_id: UUID,
    account_id: UUID,
    limit: int,
    before: Key | None,
    filters: EntryFilters = EntryFilters(),
) -> FoundPage[Entry]:
    """A page of an account's entries, newest first.

    Args:
        ledger_id, account_id: the account.
        limit: the page size.
        before: the last ``account_version`` that the page before looked at.
        filters: which ones.
    """
    parameters: dict[str, Any] = {
        "ledger_id": ledger_id,
        "account_id": account_id,
        "before": before,
    }
    conditions = [
        *equal_conditions(
            {"direction": filters.direction, "transfer_id": filters.transfer_id},
            parameters,
        ),
        *amount_conditions(filters.amounts, parameters, of="r"),
        *range_conditions("r.created_at", "created", filters.created, parameters),
        *range_conditions("r.effective_at", "effective", filters.effective, parameters),
    ]
    if filters.transfer_id is None:
        # Nothing is effective after it was recorded.
        recorded = (
            max_of(filters.created[0], filters.effective[0]),
            filters.created[1],
        )
        walked = version_conditions(recorded=recorded, parameters=parameters)
    else:
        walked = list(_OF_TRANSFER)
    if before is not None:
        walked.append("w.account_version < %(before)s")
    keys, after = find(
        Search(
            walked=f"FROM ledger_entry w WHERE {' AND '.join(walked)}",
            key="account_version",
            candidates="{walked} r",
            candidate_key="r.account_version",
            conditions=conditions,
            parameters=parameters,
        ),
        limit=limit,
    )
    rows = rows_where(Entry, _OF_VERSIONS, [ledger_id, account_id, bigints(keys)])
    return FoundPage(rows, after=after)


_OF_VERSIONS = (
    "ledger_id = $1 AND account_id = $2 AND account_version = ANY ($3::bigint[])"
    " ORDER BY account_version DESC"
)
# A transfer has few entries. Not an equality of the account, which would let PostgreSQL
# search them among all entries of the account.
_OF_TRANSFER = (
    "w.ledger_id = %(ledger_id)s",
    "w.transfer_id = %(transfer_id)s",
    "w.account_id IS NOT DISTINCT FROM %(account_id)s",
)
