"""Posting one transfer: the engine with a list of one."""

from datetime import datetime
from uuid import UUID

from ledger.enums import TransferKind
from ledger.models import Account
from ledger.services.accounts import system_account_id
from ledger.services.posting import Outcome, transfers_post
from ledger.types import PostingRequest, TransferRequest
from payflow.actors import Actor


def transfer_post(
    *,
    ledger_id: UUID,
    request: TransferRequest,
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> Outcome:
    """Posts one transfer in the caller's transaction.

    Returns:
        The posted transfer, or the problem that refused it (nothing was written).

    Raises:
        RuntimeError: no transaction is open.
    """
    (outcome,) = transfers_post(
        ledger_id=ledger_id,
        requests=[request],
        actor=actor,
        now=now,
        idempotency_key=idempotency_key,
    )
    return outcome


def opening_balance_request(*, account: Account, amount: int) -> TransferRequest:
    """The transfer that gives ``account`` an opening balance.

    Its counterpart is the equity account ``system:opening-balances:<currency>``, made
    on first use. The account's normal side is raised, whichever it is.

    Args:
        account: any account but a payout account.
        amount: minor units, greater than zero.

    Raises:
        RuntimeError: no transaction is open.
    """
    equity_id = system_account_id(
        ledger_id=account.ledger_id, name="opening-balances", currency=account.currency
    )
    posting = (
        PostingRequest(account.id, equity_id, amount)
        if account.is_debit_normal
        else PostingRequest(equity_id, account.id, amount)
    )
    return TransferRequest(
        postings=(posting,),
        kind=TransferKind.OPENING_BALANCE,
        description="Opening balance",
    )
