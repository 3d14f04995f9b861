"""Reading transfers of one ledger, with the postings that their entries form."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from ledger.enums import REVERSIBLE_KINDS, AccountKind, Direction
from ledger.models import Account, Entry, ReversalTotal, Transfer
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


def transfer_list(
    *, ledger_id: UUID, limit: int, before: UUID | None, reference: str | None = None
) -> list[PostedTransfer]:
    """Transfers, newest first, ``limit + 1`` of them, in four statements.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: only transfers with a smaller id: the last one of the page before.
        reference: only the transfer with this reference.
    """
    rows = Transfer.objects.filter(ledger_id=ledger_id).order_by("-id")
    if before is not None:
        rows = rows.filter(id__lt=before)
    if reference is not None:
        rows = rows.filter(reference=reference)
    return transfers_with_postings(ledger_id=ledger_id, rows=list(rows[: limit + 1]))


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
