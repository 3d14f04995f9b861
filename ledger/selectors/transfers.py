"""Reading transfers of one ledger, with the postings that their entries form."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ledger.enums import REVERSIBLE_KINDS, AccountKind, Direction
from ledger.models import Account, Entry, ReversalTotal, Transfer
from ledger.selectors.finding import (
    ANY_TIME,
    EQUAL_PROBE,
    FoundPage,
    Key,
    Metadata,
    Range,
    Search,
    amount_conditions,
    equal_conditions,
    find,
    max_of,
    metadata_parts,
    prefix_parts,
    range_conditions,
    row_of,
    search_by_id,
    version_conditions,
)
from ledger.types import BalanceAfter, PostedTransfer, Posting
from payflow.errors import ProblemError


def transfer_get(*, ledger_id: UUID, transfer_id: UUID) -> PostedTransfer:
    """One transfer.

    Raises:
        ProblemError: ``transfer_not_found``, also for another ledger's transfer.
    """
    row = Transfer.objects.filter(ledger_id=ledger_id, id=transfer_id).first()
    if row is None:
        raise transfer_missing(transfer_id)
    return transfers_with_postings(ledger_id=ledger_id, rows=[row])[0]


def transfer_missing(transfer_id: object) -> ProblemError:
    """The problem of a transfer that this ledger does not have."""
    return ProblemError(
        "transfer_not_found",
        f"There is no transfer {transfer_id} in this ledger.",
        transfer_id=str(transfer_id),
    )


def transfer_get_by_reference(*, ledger_id: UUID, reference: str) -> PostedTransfer:
    """The transfer with this reference.

    Raises:
        ProblemError: ``transfer_not_found``.
    """
    row = Transfer.objects.filter(ledger_id=ledger_id, reference=reference).first()
    if row is None:
        raise ProblemError(
            "transfer_not_found",
            f"There is no transfer with the reference {reference!r} in this ledger.",
            reference=reference,
        )
    return transfers_with_postings(ledger_id=ledger_id, rows=[row])[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFilters:
    """Which transfers are looked for; ``None`` means any. See ``docs/finding.md``.

    One posting must meet ``account_id``, ``currency`` and ``amounts`` (the least and
    the greatest, in minor units) together.
    """

    reference: str | None = None
    reference_prefix: str | None = None
    kind: str | None = None
    account_id: UUID | None = None
    currency: str | None = None
    amounts: tuple[int | None, int | None] = (None, None)
    created: Range = ANY_TIME
    effective: Range = ANY_TIME
    reverses_transfer_id: UUID | None = None
    hold_id: UUID | None = None
    metadata: Metadata = ()

    @property
    def key_type(self) -> type[UUID] | type[int]:
        """An account's transfers are ordered by its versions, all others by id."""
        return UUID if self.account_id is None else int


def transfer_list(
    *,
    ledger_id: UUID,
    limit: int,
    before: Key | None,
    filters: TransferFilters = TransferFilters(),
) -> FoundPage[PostedTransfer]:
    """A page of transfers, newest first.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: the key of the last one that the page before looked at: its id, or the
            account's version if they are an account's transfers.
        filters: which ones.
    """
    search = _search(ledger_id=ledger_id, before=before, filters=filters)
    keys, after = find(search, limit=limit)
    ids: Sequence[UUID] = keys
    if filters.account_id is not None:
        by_version = dict(
            Entry.objects.filter(
                ledger_id=ledger_id,
                account_id=filters.account_id,
                account_version__in=keys,
            ).values_list("account_version", "transfer_id")
        )
        ids = [by_version[version] for version in keys]
    rows = {
        row.id: row for row in Transfer.objects.filter(ledger_id=ledger_id, id__in=ids)
    }
    transfers = transfers_with_postings(
        ledger_id=ledger_id, rows=[rows[transfer_id] for transfer_id in ids]
    )
    return FoundPage(transfers, after=after)


def _search(*, ledger_id: UUID, before: Key | None, filters: TransferFilters) -> Search:
    parameters: dict[str, Any] = {"ledger_id": ledger_id, "before": before}
    columns = {
        "reference": filters.reference,
        "kind": filters.kind,
        "reverses_transfer_id": filters.reverses_transfer_id,
        "hold_id": filters.hold_id,
    }
    conditions = [
        *equal_conditions(columns, parameters),
        *range_conditions("r.created_at", "created", filters.created, parameters),
        *range_conditions("r.effective_at", "effective", filters.effective, parameters),
        *_posting_conditions(filters, parameters),
    ]
    quick = [
        EQUAL_PROBE.format(table=_TABLE, column=column)
        for column in ("reference", "reverses_transfer_id", "hold_id")
        if columns[column] is not None
    ]
    slow: list[str] = []
    for found, probes in (
        prefix_parts(_TABLE, filters.reference_prefix, parameters),
        metadata_parts(_TABLE, filters.metadata, parameters),
    ):
        conditions += found
        slow += probes
    # Nothing is effective after it was recorded.
    recorded = (max_of(filters.created[0], filters.effective[0]), filters.created[1])
    if filters.account_id is None:
        return search_by_id(
            table=_TABLE,
            ledger_id=ledger_id,
            before=before,
            conditions=conditions,
            parameters=parameters,
            id_range=recorded,
            quick_probes=quick,
            slow_probes=slow,
        )
    parameters["account_id"] = filters.account_id
    walked = version_conditions(recorded=recorded, parameters=parameters)
    heads = ["w.above IS DISTINCT FROM w.transfer_id"]
    if before is not None:
        walked.append("w.account_version <= %(before)s")
        heads.append("w.account_version < %(before)s")
    return Search(
        walked=f"FROM ledger_entry w WHERE {' AND '.join(walked)}",
        key="account_version",
        candidates=_ACCOUNT_CANDIDATES.replace("{heads}", " AND ".join(heads))
        + row_of("w.transfer_id", table=_TABLE),
        candidate_key="w.account_version",
        conditions=conditions,
        probed=row_of("p.id", table=_TABLE) + _ACCOUNT_VERSION,
        probed_key="v.version",
        quick_probes=quick,
        slow_probes=slow,
        parameters=parameters,
    )


def _posting_conditions(
    filters: TransferFilters, parameters: dict[str, Any]
) -> list[str]:
    tests = amount_conditions(filters.amounts, parameters, of="e")
    if filters.currency is not None:
        parameters["currency"] = filters.currency
        tests.append("e.currency = %(currency)s")
    if not tests:
        return []
    if filters.account_id is None:
        # Both sides of a posting have its amount and currency.
        tests.append("e.direction = 'debit'")
    else:
        tests.append(_OF_ACCOUNT)
    return [
        "EXISTS (SELECT FROM ledger_entry e WHERE e.ledger_id = %(ledger_id)s"
        f" AND e.transfer_id = r.id AND {' AND '.join(tests)} OFFSET 0)"
    ]


_TABLE = "ledger_transfer"

# Not an equality, which would let PostgreSQL search a transfer's few entries among all
# entries of the account.
_OF_ACCOUNT = "e.account_id IS NOT DISTINCT FROM %(account_id)s"

# Note on an account's transfers. A transfer has as many entries on an account as it has
# postings there, one after the other: the engine numbers a transfer's entries before it
# turns to the next one. The first of them in descending order stands for the transfer:
# the one whose neighbour above belongs to another. So that it is known at the beginning
# of a page, too, the walk begins with the entry that the page before looked at last.
_ACCOUNT_CANDIDATES = """(
    SELECT w.account_version, w.transfer_id FROM (
        SELECT w.account_version, w.transfer_id,
            lag(w.transfer_id) OVER (ORDER BY w.account_version DESC) AS above
        FROM {walked} w) w
    WHERE {heads} ORDER BY w.account_version DESC OFFSET 0) w
"""

_ACCOUNT_VERSION = """
CROSS JOIN LATERAL (
    SELECT max(e.account_version) AS version FROM ledger_entry e
    WHERE e.ledger_id = %(ledger_id)s AND e.transfer_id = r.id
        AND e.account_id IS NOT DISTINCT FROM %(account_id)s
    HAVING count(*) > 0) v
"""


def transfers_with_postings(
    *, ledger_id: UUID, rows: Sequence[Transfer]
) -> list[PostedTransfer]:
    """``rows`` with their postings and the balances that they left."""
    entries: dict[UUID, list[Entry]] = defaultdict(list)
    for entry in Entry.objects.filter(
        ledger_id=ledger_id, transfer_id__in=[row.id for row in rows]
    ).order_by("transfer_id", "posting_number", "-direction"):
        entries[entry.transfer_id].append(entry)
    kinds = dict(
        Account.objects.filter(
            ledger_id=ledger_id,
            id__in={e.account_id for group in entries.values() for e in group},
        ).values_list("id", "kind")
    )
    reversed_amounts = {
        (transfer_id, number): amount
        for transfer_id, number, amount in ReversalTotal.objects.filter(
            ledger_id=ledger_id, transfer_id__in=[row.id for row in rows]
        ).values_list("transfer_id", "posting_number", "reversed")
    }
    return [
        PostedTransfer(
            ledger_id=ledger_id,
            id=row.id,
            kind=row.kind,
            postings=tuple(_postings(row, entries[row.id], reversed_amounts)),
            balances=tuple(_balances(entries[row.id], kinds)),
            reference=row.reference,
            description=row.description,
            metadata=row.metadata,
            effective_at=row.effective_at,
            created_at=row.created_at,
            reverses_transfer_id=row.reverses_transfer_id,
            hold_id=row.hold_id,
            reason=row.reason,
            permission=row.permission,
            exchange_rate=row.exchange_rate,
        )
        for row in rows
    ]


def _postings(
    transfer: Transfer,
    entries: Iterable[Entry],
    reversed_amounts: Mapping[tuple[UUID, int], int],
) -> Iterable[Posting]:
    is_reversible = transfer.kind in REVERSIBLE_KINDS
    debits = {e.posting_number: e for e in entries if e.direction == Direction.DEBIT}
    for entry in entries:
        if entry.direction == Direction.CREDIT:
            source = debits[entry.posting_number]
            gone = reversed_amounts.get((transfer.id, entry.posting_number), 0)
            yield Posting(
                source.account_id,
                entry.account_id,
                entry.amount,
                entry.currency,
                entry.amount - gone if is_reversible else 0,
            )


def _balances(
    entries: Iterable[Entry], kinds: dict[UUID, str]
) -> Iterable[BalanceAfter]:
    """The last entry's balance of each account, in the order of first appearance."""
    last: dict[UUID, Entry] = {}
    for entry in entries:
        known = last.get(entry.account_id)
        if known is None or known.account_version < entry.account_version:
            last[entry.account_id] = entry
    for account_id, entry in last.items():
        net = entry.credits_after - entry.debits_after
        posted = -net if AccountKind(kinds[account_id]).is_debit_normal else net
        yield BalanceAfter(account_id, entry.currency, posted, entry.account_version)
