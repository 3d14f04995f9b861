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

    ``exchange`` moves one currency in and another one out at a recorded rate;
    ``capture`` moves what a hold held; ``reversal`` moves back what another transfer
    moved; ``settlement`` ends a payout that the bank paid; ``payout_reversal`` gives
    the money of a payout that the bank rejected (or that never left) back to where it
    came from.
    """

    TRANSFER = "transfer"
    OPENING_BALANCE = "opening_balance", "opening balance"
    EXCHANGE = "exchange"
    CAPTURE = "capture"
    REVERSAL = "reversal"
    SETTLEMENT = "settlement"
    PAYOUT_REVERSAL = "payout_reversal", "payout reversal"


#: The kinds that complete a payout: they alone may take money out of a payout account,
#: and they post on frozen accounts too, because freezing cannot undo what a bank did.
PAYOUT_COMPLETIONS = (TransferKind.SETTLEMENT, TransferKind.PAYOUT_REVERSAL)


#: The kinds that count against velocity limits. A capture was counted when its hold was
#: placed; the others undo or complete something that was counted.
COUNTED_KINDS = (
    TransferKind.TRANSFER,
    TransferKind.OPENING_BALANCE,
    TransferKind.EXCHANGE,
)

#: The kinds that can be reversed: all but those that end something themselves.
REVERSIBLE_KINDS = (
    TransferKind.TRANSFER,
    TransferKind.OPENING_BALANCE,
    TransferKind.EXCHANGE,
    TransferKind.CAPTURE,
)


class ReversalReason(models.TextChoices):
    """Why a transfer is reversed."""

    DUPLICATE = "duplicate"
    FRAUD = "fraud"
    CUSTOMER_REQUEST = "customer_request", "customer request"
    ERROR = "error"
    OTHER = "other"


class Permission(models.TextChoices):
    """What an API client may do beyond the ordinary; given by ``create_api_key``."""

    CAPTURE_FROZEN = "capture_frozen", "capture holds on frozen accounts"
    FORCE_REVERSAL = "force_reversal", "force reversals beyond what is available"
    MANAGE_ACCOUNTS = "manage_accounts", "freeze, close and limit accounts"
    CLOSE_PERIOD = "close_period", "close periods"
    REOPEN_PERIOD = "reopen_period", "reopen periods"


class HoldStatus(models.TextChoices):
    """The life of a hold. All but ``active`` are final."""

    ACTIVE = "active"
    CAPTURED = "captured"
    VOIDED = "voided"
    EXPIRED = "expired"


class HoldEventKind(models.TextChoices):
    """What happened to a hold."""

    PLACED = "placed"
    EXTENDED = "extended"
    CAPTURED = "captured"
    VOIDED = "voided"
    EXPIRED = "expired"


class LimitDirection(models.TextChoices):
    """What a velocity limit counts: ``out`` lowers the account's balance."""

    IN = "in"
    OUT = "out"


class LimitPeriod(models.TextChoices):
    """A velocity limit's window; days and months are the ledger's time zone's."""

    ROLLING_DAY = "rolling_day", "rolling day"
    DAY = "day"
    MONTH = "month"


class ScheduledStatus(models.TextChoices):
    """The life of a scheduled transfer. All but ``scheduled`` are final."""

    SCHEDULED = "scheduled"
    POSTED = "posted"
    REFUSED = "refused"
    CANCELLED = "cancelled"
