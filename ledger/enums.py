"""The closed sets of values that ledger rows take."""

from django.db import models


class AccountKind(models.TextChoices):
    """The five kinds of account; the kind fixes which side raises the balance."""

    ASSET = "asset"
    LIABILITY = "liability"
    EQUITY = "equity"
    INCOME = "income"
    EXPENSE = "expense"

    @property
    def is_debit_normal(self) -> bool:
        """True where debits raise the balance (asset, expense)."""
        return self in (AccountKind.ASSET, AccountKind.EXPENSE)


class AccountStatus(models.TextChoices):
    """What an account may do. ``frozen_out`` still receives."""

    OPEN = "open"
    FROZEN_OUT = "frozen_out", "frozen for outgoing"
    FROZEN = "frozen"
    CLOSED = "closed"


class Direction(models.TextChoices):
    """The side of an entry."""

    DEBIT = "debit"
    CREDIT = "credit"


class TransferKind(models.TextChoices):
    """Why a transfer exists.

    ``settlement`` ends a payout that the bank paid; ``payout_reversal`` gives the money
    of a payout that the bank rejected (or that never left) back to where it came from.
    """

    TRANSFER = "transfer"
    OPENING_BALANCE = "opening_balance", "opening balance"
    SETTLEMENT = "settlement"
    PAYOUT_REVERSAL = "payout_reversal", "payout reversal"


#: The kinds that complete a payout: they alone may take money out of a payout account,
#: and they post on frozen accounts too, because freezing cannot undo what a bank did.
PAYOUT_COMPLETIONS = (TransferKind.SETTLEMENT, TransferKind.PAYOUT_REVERSAL)
