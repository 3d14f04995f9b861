"""Reading the limits of an account, and what is used of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from ledger.engine.velocity import Window, read_usage
from ledger.selectors.accounts import account_get


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What limits an account.

    Attributes:
        id: the account's.
        min_balance: the floor of the available balance, in minor units; ``None`` is
            none.
        windows: its velocity limits and what is used of them, by direction and period.
    """

    id: UUID
    min_balance: int | None
    windows: Sequence[Window]


def limits_get(*, ledger_id: UUID, account_id: UUID) -> AccountLimits:
    """The limits of one account, used as the engine would judge at this moment.

    Raises:
        ProblemError: ``account_not_found``, also for another ledger's account.
    """
    account = account_get(ledger_id=ledger_id, account_id=account_id)
    usage = read_usage(ledger_id=ledger_id, account_ids=[account_id])
    windows = usage[account_id].windows if account_id in usage else []
    return AccountLimits(account.id, account.min_balance, windows)
