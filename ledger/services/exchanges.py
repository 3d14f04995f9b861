"""Exchanges: one transfer that takes one currency in and gives another one out.

Both sides meet in the accounts ``system:fx:<currency>``, so that each currency balances
by itself. Such an account is equity without a floor: its balance is the position that
the exchanges left in that currency (``docs/adr/0016``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from ledger.enums import TransferKind
from ledger.locks import lock_accounts
from ledger.models import Account
from ledger.selectors.assets import exponents
from ledger.services.accounts import system_account_id
from ledger.services.posting import Outcome, transfers_post
from ledger.types import PostingRequest, TransferRequest
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem
from payflow.ids import new_id
from payflow.money import MAX_AMOUNT, convert_amount, format_rate


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """One exchange to be posted.

    Attributes:
        amount: what ``from_account_id`` gives, in its minor units.
        rate: units of the bought currency for one unit of the sold one, with at most
            20 digits before the point and 18 after it.
        to_amount: what the client expects ``to_account_id`` to get, if it says so.
    """

    from_account_id: UUID
    to_account_id: UUID
    amount: int
    rate: Decimal
    to_amount: int | None = None
    reference: str | None = None
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    effective_at: datetime | None = None
    id: UUID = field(default_factory=new_id)


def exchange_post(
    *,
    ledger_id: UUID,
    request: ExchangeRequest,
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> Outcome:
    """Posts one exchange in the caller's transaction.

    Refused for the first of: ``account_not_found``, ``exchange_same_currency``,
    ``currency_unknown``, ``exchange_amount_too_small``, ``balance_out_of_range``,
    ``exchange_amount_mismatch``, ``exchange_to_payout_account``, and then as any
    transfer (``ledger.engine.refusals``). From ``exchange_to_payout_account`` on, a
    refusal may leave the currencies' FX accounts behind, new and empty.

    Returns:
        The transfer of two postings, or the problem that refused it.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    # An account's currency never changes, so this needs no lock.
    currencies = dict(
        Account.objects.filter(
            ledger_id=ledger_id,
            id__in=[request.from_account_id, request.to_account_id],
        ).values_list("id", "currency")
    )
    for account_id in (request.from_account_id, request.to_account_id):
        if account_id not in currencies:
            return Problem(
                "account_not_found",
                f"There is no account {account_id} in this ledger.",
                {"account_id": str(account_id)},
            )
    sold = currencies[request.from_account_id]
    bought = currencies[request.to_account_id]
    to_amount = _to_amount(ledger_id, request, sold, bought)
    if isinstance(to_amount, Problem):
        return to_amount
    # Made in one order, so that of two who both make both, neither waits for the other.
    fx = {
        currency: system_account_id(ledger_id=ledger_id, name="fx", currency=currency)
        for currency in sorted((sold, bought))
    }
    accounts = lock_accounts(
        ledger_id=ledger_id, account_ids=[*currencies, *fx.values()]
    )
    if accounts[request.to_account_id].payout_destination is not None:
        return Problem(
            "exchange_to_payout_account",
            "A payout that the bank rejects goes back to where it came from, which"
            " would be the FX account.",
            {"account_id": str(request.to_account_id)},
        )
    (outcome,) = transfers_post(
        ledger_id=ledger_id,
        requests=[
            TransferRequest(
                postings=(
                    PostingRequest(request.from_account_id, fx[sold], request.amount),
                    PostingRequest(fx[bought], request.to_account_id, to_amount),
                ),
                kind=TransferKind.EXCHANGE,
                reference=request.reference,
                description=request.description,
                metadata=request.metadata,
                effective_at=request.effective_at,
                exchange_rate=request.rate,
                id=request.id,
            )
        ],
        actor=actor,
        now=now,
        idempotency_key=idempotency_key,
    )
    return outcome


def _to_amount(
    ledger_id: UUID, request: ExchangeRequest, sold: str, bought: str
) -> int | Problem:
    """What the rate gives, in minor units of the bought currency, or why it cannot."""
    if sold == bought:
        return Problem(
            "exchange_same_currency",
            f"Both accounts are of {sold}.",
            {"currency": sold},
        )
    decimals = exponents(ledger_id)
    for currency in (sold, bought):
        if currency not in decimals:
            return Problem(
                "currency_unknown",
                f"The minor unit of {currency!r} is not known.",
                {"currency": currency},
            )
    to_amount = convert_amount(
        request.amount,
        request.rate,
        from_exponent=decimals[sold],
        to_exponent=decimals[bought],
    )
    if to_amount == 0:
        return Problem(
            "exchange_amount_too_small",
            f"{request.amount} of {sold} at {format_rate(request.rate)} rounds to no"
            f" minor unit of {bought}.",
            {"amount": request.amount},
        )
    if to_amount > MAX_AMOUNT:
        return Problem(
            "balance_out_of_range",
            f"The balance of account {request.to_account_id} would be out of range.",
            {"account_id": str(request.to_account_id)},
        )
    if request.to_amount is not None and request.to_amount != to_amount:
        return Problem(
            "exchange_amount_mismatch",
            f"At {format_rate(request.rate)}, {request.amount} of {sold} are"
            f" {to_amount} of {bought}, and not {request.to_amount}.",
            {"to_amount": to_amount, "expected_to_amount": request.to_amount},
        )
    return to_amount
