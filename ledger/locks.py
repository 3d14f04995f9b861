"""The one place that locks accounts.

Order of locks in every transaction: accounts in ascending id, then outbox tasks. Two
transactions that follow it cannot deadlock on them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ledger.enums import AccountKind
from ledger.models import Account
from payflow.db import require_transaction


@dataclass(slots=True)
class LockedAccount:
    """An account's state under its lock, on which the engine computes.

    Amounts are minor units; the counters are the account's lifetime totals.
    """

    id: UUID
    currency: str
    is_debit_normal: bool
    status: str
    min_balance: int | None
    payout_destination: str | None
    version: int
    debits_posted: int
    credits_posted: int
    debits_pending: int
    credits_pending: int
    last_entry_at: datetime | None

    @property
    def posted(self) -> int:
        """The posted balance."""
        net = self.credits_posted - self.debits_posted
        return -net if self.is_debit_normal else net

    @property
    def pending_out(self) -> int:
        """What the account's own holds would take."""
        return self.credits_pending if self.is_debit_normal else self.debits_pending


_FIELDS = (
    "id",
    "currency",
    "kind",
    "status",
    "min_balance",
    "payout_destination",
    "version",
    "debits_posted",
    "credits_posted",
    "debits_pending",
    "credits_pending",
    "last_entry_at",
)
_DEBIT_NORMAL = {kind.value: kind.is_debit_normal for kind in AccountKind}


def lock_accounts(
    *, ledger_id: UUID, account_ids: Iterable[UUID]
) -> dict[UUID, LockedAccount]:
    """Locks accounts of one ledger until the transaction ends.

    Args:
        ledger_id: the ledger; accounts of others are not found.
        account_ids: any order, with repetitions.

    Returns:
        The accounts that exist, by id. NO KEY UPDATE is enough, because keys never
        change, and lets others' foreign keys refer to the account meanwhile.
    """
    require_transaction()
    rows = (
        Account.objects.filter(ledger_id=ledger_id, id__in=sorted(set(account_ids)))
        .order_by("id")
        .select_for_update(of=("self",), no_key=True)
        .values_list(*_FIELDS)
    )
    return {
        row[0]: LockedAccount(row[0], row[1], _DEBIT_NORMAL[row[2]], *row[3:])
        for row in rows
    }


def lock_account_row(*, ledger_id: UUID, account_id: UUID) -> Account | None:
    """Locks one account for a change of its own fields; ``None`` if there is none."""
    require_transaction()
    return (
        Account.objects.filter(ledger_id=ledger_id, id=account_id)
        .select_for_update(of=("self",), no_key=True)
        .first()
    )
