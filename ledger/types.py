"""What goes into the posting engine and what comes out of it.

What a batch has thousands of is a ``NamedTuple``, or not frozen: a frozen dataclass
takes five times as long to make, and twice as long as one that only nobody changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from ledger.enums import TransferKind
from payflow.ids import new_id

#: The most postings of one transfer.
MAX_POSTINGS = 500


class PostingRequest(NamedTuple):
    """``from_account_id`` is debited, ``to_account_id`` is credited.

    ``amount`` is in minor units, 1 to ``payflow.money.MAX_AMOUNT``.
    """

    from_account_id: UUID
    to_account_id: UUID
    amount: int


@dataclass(slots=True)
class TransferRequest:
    """One transfer to be posted; see :class:`ledger.models.Transfer`. Not changed.

    Attributes:
        effective_at: ``None`` means: when it is recorded.
        reverses_transfer_id, hold_id: what it reverses or captures.
        source_postings: with one of these, for each posting the number of the posting
            there that it comes from.
        reason: a ``ReversalReason``, of reversals.
        permission: the one without which it would be refused.
        exchange_rate: of exchanges: units of the bought currency for one of the sold.
        idempotency_key: its own, where a batch's items have some.
    """

    postings: tuple[PostingRequest, ...]
    kind: TransferKind = TransferKind.TRANSFER
    reference: str | None = None
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    effective_at: datetime | None = None
    reverses_transfer_id: UUID | None = None
    hold_id: UUID | None = None
    source_postings: tuple[int, ...] | None = None
    reason: str | None = None
    permission: str | None = None
    exchange_rate: Decimal | None = None
    idempotency_key: str | None = None
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """One hold to be placed; see :class:`ledger.models.Hold`.

    ``expires_at`` or ``lifetime`` say when it lapses; without either the ledger's
    settings do. ``idempotency_key`` is its request's, for the record.
    """

    postings: tuple[PostingRequest, ...]
    reference: str | None = None
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None
    lifetime: timedelta | None = None
    idempotency_key: str | None = None
    id: UUID = field(default_factory=new_id)


class Posting(NamedTuple):
    """One posting of a transfer that is in the books.

    ``amount_reversible`` is what of ``amount`` can still be reversed.
    """

    from_account_id: UUID
    to_account_id: UUID
    amount: int
    currency: str
    amount_reversible: int = 0


class BalanceAfter(NamedTuple):
    """An account's posted balance right after a transfer, in minor units."""

    account_id: UUID
    currency: str
    posted: int
    version: int


class PostedTransfer(NamedTuple):
    """A transfer that is in the books, with everything that its resource shows."""

    ledger_id: UUID
    id: UUID
    kind: str
    postings: tuple[Posting, ...]
    balances: tuple[BalanceAfter, ...]
    reference: str | None
    description: str
    metadata: Mapping[str, Any]
    effective_at: datetime
    created_at: datetime
    reverses_transfer_id: UUID | None = None
    hold_id: UUID | None = None
    reason: str | None = None
    permission: str | None = None
    exchange_rate: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who an API request acts for: a client of one ledger, by one of its keys."""

    ledger_id: UUID
    client_id: UUID
    client_name: str
    key_id: UUID | None
    permissions: frozenset[str] = frozenset()
    is_authenticated: bool = True
