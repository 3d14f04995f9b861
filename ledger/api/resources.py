"""The JSON of accounts, transfers and entries, and the requests that make them."""

from typing import Any

from ledger.enums import AccountKind
from ledger.models import Account, Entry
from ledger.services.accounts import AccountRequest
from ledger.types import (
    MAX_POSTINGS,
    PostedTransfer,
    PostingRequest,
    TransferRequest,
)
from payflow.api.shapes import (
    MAX_DESCRIPTION,
    MAX_REFERENCE,
    Shape,
)
from payflow.clock import format_instant
from payflow.errors import shape_errors
from payflow.money import format_rate

MAX_OWNER_NAME = 255
MAX_CODE = 50
MAX_DESTINATION = 255
_SIMPLE_FORM = ("from_account_id", "to_account_id", "amount")


def transfer_json(transfer: PostedTransfer) -> dict[str, Any]:
    """A transfer's resource. Amounts are integers of minor units, instants UTC."""
    return {
        "id": transfer.id,
        "kind": transfer.kind,
        "postings": [
            {
                "from_account_id": p.from_account_id,
                "to_account_id": p.to_account_id,
                "amount": p.amount,
                "currency": p.currency,
                "amount_reversible": p.amount_reversible,
            }
            for p in transfer.postings
        ],
        "reference": transfer.reference,
        "description": transfer.description,
        "metadata": dict(transfer.metadata),
        "reverses_transfer_id": transfer.reverses_transfer_id,
        "hold_id": transfer.hold_id,
        "reason": transfer.reason,
        "permission": transfer.permission,
        "exchange_rate": (
            format_rate(transfer.exchange_rate) if transfer.exchange_rate else None
        ),
        "effective_at": format_instant(transfer.effective_at),
        "created_at": format_instant(transfer.created_at),
        "balances": [
            {
                "account_id": b.account_id,
                "currency": b.currency,
                "posted": b.posted,
                "version": b.version,
            }
            for b in transfer.balances
        ],
    }


def account_json(account: Account) -> dict[str, Any]:
    """An account's resource."""
    return {
        "id": account.id,
        "reference": account.reference,
        "owner_name": account.owner_name,
        "kind": account.kind,
        "code": account.code,
        "currency": account.currency,
        "status": account.status,
        "min_balance": account.min_balance,
        "balance": balance_json(account),
        "version": account.version,
        "metadata": account.metadata,
        "payout_destination": account.payout_destination,
        "created_at": format_instant(account.created_at),
    }


def balance_json(account: Account) -> dict[str, int]:
    """What an account has, and what is held of it, in minor units."""
    return {
        "posted": account.posted,
        "available": account.available,
        "pending_in": account.pending_in,
        "pending_out": account.pending_out,
    }


def entry_json(entry: Entry, *, account: Account) -> dict[str, Any]:
    """An entry's resource, with the account's posted balance after it."""
    net = entry.credits_after - entry.debits_after
    return {
        "id": entry.id,
        "transfer_id": entry.transfer_id,
        "posting_number": entry.posting_number,
        "direction": entry.direction,
        "amount": entry.amount,
        "currency": entry.currency,
        "account_version": entry.account_version,
        "balance_after": -net if account.is_debit_normal else net,
        "effective_at": format_instant(entry.effective_at),
        "created_at": format_instant(entry.created_at),
    }


def read_transfer(body: Any, *, idempotency_key: str | None) -> TransferRequest:
    """The transfer that a body asks for, in the simple or the ``postings`` form.

    Args:
        body: the parsed JSON.
        idempotency_key: of the request.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    shape.boolean("dry_run", default=False)
    request = read_transfer_fields(shape, idempotency_key=idempotency_key)
    shape.finish()
    return request


def read_transfer_fields(
    shape: Shape, *, idempotency_key: str | None = None
) -> TransferRequest:
    """The transfer that an object asks for; the caller finishes the shape."""
    postings = read_postings(shape)
    if shape.is_read:
        return TransferRequest(postings, idempotency_key=idempotency_key)
    return TransferRequest(
        postings=postings,
        reference=shape.text("reference", maximum=MAX_REFERENCE, empty=False),
        description=shape.text("description", maximum=MAX_DESCRIPTION) or "",
        metadata=shape.metadata("metadata"),
        effective_at=shape.instant("effective_at"),
        idempotency_key=idempotency_key,
    )


def read_postings(shape: Shape) -> tuple[PostingRequest, ...]:
    if not shape.has("postings"):
        simple = _read_posting(shape)
        return (simple,) if simple else ()
    if any(shape.has(name) for name in _SIMPLE_FORM):
        raise shape_errors(
            [
                (
                    shape.path_of("postings"),
                    "two_forms",
                    "Give either postings, or from_account_id, to_account_id, amount.",
                )
            ]
        )
    postings = shape.each("postings", _read_posting, maximum=MAX_POSTINGS)
    return tuple(posting for posting in postings if posting is not None)


def _read_posting(shape: Shape) -> PostingRequest | None:
    source = shape.id("from_account_id")
    target = shape.id("to_account_id")
    amount = shape.amount("amount")
    if source is None or target is None or amount is None:
        return None
    return PostingRequest(source, target, amount)


def read_account(body: Any) -> AccountRequest:
    """The account that a body asks for.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    currency = shape.text("currency", maximum=12, required=True, empty=False)
    request = AccountRequest(
        currency=currency or "",
        kind=AccountKind(
            shape.choice("kind", AccountKind.values, default=AccountKind.LIABILITY)
        ),
        reference=shape.text("reference", maximum=MAX_REFERENCE, empty=False),
        owner_name=shape.text("owner_name", maximum=MAX_OWNER_NAME) or "",
        code=shape.text("code", maximum=MAX_CODE) or "",
        min_balance=shape.balance("min_balance", default=0),
        metadata=shape.metadata("metadata"),
        payout_destination=shape.text(
            "payout_destination", maximum=MAX_DESTINATION, empty=False
        ),
    )
    shape.boolean("dry_run", default=False)
    shape.finish()
    return request


def read_account_changes(body: Any) -> dict[str, Any]:
    """The changes that a PATCH body asks for; absent fields stay as they are.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    changes: dict[str, Any] = {}
    if shape.has("owner_name"):
        changes["owner_name"] = shape.text("owner_name", maximum=MAX_OWNER_NAME) or ""
    if shape.has("code"):
        changes["code"] = shape.text("code", maximum=MAX_CODE) or ""
    if shape.has("metadata"):
        changes["metadata"] = shape.metadata("metadata")
    if shape.has("payout_destination"):
        changes["payout_destination"] = shape.text(
            "payout_destination", maximum=MAX_DESTINATION, empty=False
        )
    shape.boolean("dry_run", default=False)
    shape.finish()
    return changes
