"""Why an operation is refused: the first reason that holds, in this order.

``account_not_found``, ``same_account``, ``currency_mismatch``, ``account_closed``,
``account_frozen``, ``payout_account_cannot_send``,
``payout_account_takes_no_refund``, ``effective_at_in_future``, ``period_closed``,
``reference_taken``, ``limit_exceeded``, ``insufficient_funds``,
``balance_out_of_range``.

These functions judge and change nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from ledger.enums import PAYOUT_COMPLETIONS, AccountStatus, Permission
from ledger.locks import LockedAccount
from ledger.types import HoldRequest, PostingRequest, TransferRequest
from payflow.clock import format_instant
from payflow.errors import Problem
from payflow.money import MAX_AMOUNT, MAX_COUNTER

#: A transfer this little ahead of our clock is taken as happening now.
CLOCK_TOLERANCE = timedelta(seconds=5)
#: A period is closed an hour after its end at the earliest, so what is younger than
#: this is in an open one, also by a clock that is some minutes off.
ALWAYS_OPEN = timedelta(minutes=15)

Accounts = Mapping[UUID, LockedAccount]


class HasCurrency(Protocol):
    """An account of which only the currency matters."""

    @property
    def currency(self) -> str:
        """The code of its currency."""


class Effect:
    """What an operation adds to an account's counters, in minor units."""

    __slots__ = ("credits", "credits_pending", "debits", "debits_pending")

    def __init__(self) -> None:
        self.debits = 0
        self.credits = 0
        self.debits_pending = 0
        self.credits_pending = 0


Effects = dict[UUID, Effect]


def effects_of_postings(postings: Sequence[PostingRequest]) -> Effects:
    """What moving the postings does to the accounts."""
    effects: Effects = {}
    for posting in postings:
        source, target = posting.from_account_id, posting.to_account_id
        if source not in effects:
            effects[source] = Effect()
        if target not in effects:
            effects[target] = Effect()
        effects[source].debits += posting.amount
        effects[target].credits += posting.amount
    return effects


def add_pending(
    effects: Effects, from_account_id: UUID, to_account_id: UUID, amount: int
) -> None:
    """Adds what holding ``amount`` does, or, if it is negative, releasing it."""
    effects.setdefault(from_account_id, Effect()).debits_pending += amount
    effects.setdefault(to_account_id, Effect()).credits_pending += amount


def form_forbids(
    request: TransferRequest | HoldRequest, accounts: Accounts
) -> Problem | None:
    """Judges the accounts: that they exist, differ, fit, and may move money.

    Raises:
        ValueError: there are no postings.
    """
    if not request.postings:
        raise ValueError("at least one posting is needed")
    is_completion = False
    is_permitted = False
    if isinstance(request, TransferRequest):
        is_completion = request.kind in PAYOUT_COMPLETIONS
        is_permitted = request.permission == Permission.CAPTURE_FROZEN
    return (
        postings_forbid(request.postings, accounts)
        or _account_closed(request.postings, accounts)
        or (
            None
            if is_completion or is_permitted
            else _account_frozen(request.postings, accounts)
        )
        or (None if is_completion else _payout_account_sends(request, accounts))
        or _payout_account_is_refunded(request, accounts)
    )


def postings_forbid(
    postings: Sequence[PostingRequest], accounts: Mapping[UUID, HasCurrency]
) -> Problem | None:
    """Judges what never changes: that accounts exist, differ, and share a currency."""
    return (
        _account_missing(postings, accounts)
        or _same_account(postings)
        or _currency_mismatch(postings, accounts)
    )


def is_backdated(request: TransferRequest, now: datetime) -> bool:
    """Whether its time can lie in a closed period, so that that must be locked."""
    return request.effective_at is not None and request.effective_at < (
        now - ALWAYS_OPEN
    )


def time_forbids(
    request: TransferRequest, *, now: datetime, closed_before: datetime | None
) -> Problem | None:
    """Judges ``effective_at`` against the clock and the closed periods."""
    if request.effective_at is None:
        return None
    if request.effective_at > now + CLOCK_TOLERANCE:
        return Problem(
            "effective_at_in_future",
            f"effective_at is more than {CLOCK_TOLERANCE.seconds} seconds ahead.",
        )
    if closed_before is not None and request.effective_at < closed_before:
        return Problem(
            "period_closed",
            f"Everything before {format_instant(closed_before)} is closed.",
            {"closed_before": format_instant(closed_before)},
        )
    return None


def reference_taken(reference: str) -> Problem:
    """The refusal of a reference that something else of the ledger has."""
    return Problem(
        "reference_taken",
        f"The reference {reference!r} is in use.",
        {"reference": reference},
    )


def funds_forbid(effects: Effects, accounts: Accounts) -> Problem | None:
    """Judges every account whose available balance falls, after the whole operation."""
    for account_id, effect in effects.items():
        account = accounts[account_id]
        change = effect.credits - effect.debits
        if account.is_debit_normal:
            change = -change - effect.credits_pending
        else:
            change -= effect.debits_pending
        if change >= 0 or account.min_balance is None:
            continue
        available = account.available
        if available + change < account.min_balance:
            return Problem(
                "insufficient_funds",
                f"Account {account_id} has {available} available and its floor is "
                f"{account.min_balance}; {-change} is required.",
                {
                    "account_id": str(account_id),
                    "available": available,
                    "required": -change,
                    "min_balance": account.min_balance,
                },
            )
    return None


def range_forbids(effects: Effects, accounts: Accounts) -> Problem | None:
    """Judges whether every counter and balance stays within what can be stored."""
    for account_id, effect in effects.items():
        account = accounts[account_id]
        debits = account.debits_posted + effect.debits
        credits = account.credits_posted + effect.credits
        debits_pending = account.debits_pending + effect.debits_pending
        credits_pending = account.credits_pending + effect.credits_pending
        net = credits - debits
        available = (
            -net - credits_pending if account.is_debit_normal else net - debits_pending
        )
        if (
            max(abs(net), abs(available), debits_pending, credits_pending) > MAX_AMOUNT
            or max(debits, credits) > MAX_COUNTER
        ):
            return Problem(
                "balance_out_of_range",
                f"The balance of account {account_id} would be out of range.",
                {"account_id": str(account_id)},
            )
    return None


def _account_missing(
    postings: Sequence[PostingRequest], accounts: Mapping[UUID, HasCurrency]
) -> Problem | None:
    for posting in postings:
        for account_id in (posting.from_account_id, posting.to_account_id):
            if account_id not in accounts:
                return Problem(
                    "account_not_found",
                    f"There is no account {account_id} in this ledger.",
                    {"account_id": str(account_id)},
                )
    return None


def _same_account(postings: Sequence[PostingRequest]) -> Problem | None:
    for posting in postings:
        if posting.from_account_id == posting.to_account_id:
            return Problem(
                "same_account",
                "A posting moves money between two different accounts.",
                {"account_id": str(posting.from_account_id)},
            )
    return None


def _currency_mismatch(
    postings: Sequence[PostingRequest], accounts: Mapping[UUID, HasCurrency]
) -> Problem | None:
    for posting in postings:
        source = accounts[posting.from_account_id].currency
        target = accounts[posting.to_account_id].currency
        if source != target:
            return Problem(
                "currency_mismatch",
                f"A posting cannot move {source} into an account of {target}.",
                {"from_currency": source, "to_currency": target},
            )
    return None


def _account_closed(
    postings: Sequence[PostingRequest], accounts: Accounts
) -> Problem | None:
    for posting in postings:
        for account_id in (posting.from_account_id, posting.to_account_id):
            if accounts[account_id].status == AccountStatus.CLOSED:
                return Problem(
                    "account_closed",
                    f"Account {account_id} is closed.",
                    {"account_id": str(account_id)},
                )
    return None


def _account_frozen(
    postings: Sequence[PostingRequest], accounts: Accounts
) -> Problem | None:
    for posting in postings:
        for account, is_debit in (
            (accounts[posting.from_account_id], True),
            (accounts[posting.to_account_id], False),
        ):
            falls = is_debit != account.is_debit_normal
            if account.status == AccountStatus.FROZEN or (
                account.status == AccountStatus.FROZEN_OUT and falls
            ):
                return Problem(
                    "account_frozen",
                    f"Account {account.id} is frozen.",
                    {"account_id": str(account.id), "account_status": account.status},
                )
    return None


def _payout_account_sends(
    request: TransferRequest | HoldRequest, accounts: Accounts
) -> Problem | None:
    for posting in request.postings:
        if accounts[posting.from_account_id].payout_destination is not None:
            return Problem(
                "payout_account_cannot_send",
                f"Account {posting.from_account_id} holds money on its way to a bank.",
                {"account_id": str(posting.from_account_id)},
            )
    return None


def _payout_account_is_refunded(
    request: TransferRequest | HoldRequest, accounts: Accounts
) -> Problem | None:
    """Refuses to give money back to what has become a payout account since.

    It would leave for a bank that nobody named when it was sent, and could not come
    back: a reversal is not reversed.
    """
    if isinstance(request, HoldRequest) or request.reverses_transfer_id is None:
        return None
    for posting in request.postings:
        if accounts[posting.to_account_id].payout_destination is not None:
            return Problem(
                "payout_account_takes_no_refund",
                f"Account {posting.to_account_id} has become a payout account: what is "
                "given back to it would be paid out.",
                {"account_id": str(posting.to_account_id)},
            )
    return None
