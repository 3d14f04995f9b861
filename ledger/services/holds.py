"""The life of a hold: placed, captured, extended, voided, expired.

The engine writes it all. Locks are taken as everywhere: the hold's accounts, then the
hold, so of a capture, a void and an expiry that meet, one wins, and the others find the
hold ended. A hold that has lapsed by PostgreSQL's clock is expired in fact, whether a
sweep has recorded it or not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ledger.engine.batch import Batch
from ledger.enums import HoldStatus, Permission, TransferKind
from ledger.locks import LockedHold, lock_holds
from ledger.selectors.holds import (
    HoldView,
    hold_accounts,
    hold_get,
    hold_missing,
    lapsed_holds,
)
from ledger.selectors.ledgers import hold_settings
from ledger.services.parts import Parts, amounts_of
from ledger.services.posting import Outcome
from ledger.types import HoldRequest, PostingRequest, TransferRequest
from payflow.actors import Actor
from payflow.clock import format_instant
from payflow.errors import Problem

#: The most lapsed holds that one transaction of the sweep ends.
SWEEP_BATCH = 200
SWEEPER = Actor("sweeper")


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What of a hold is to be captured.

    Attributes:
        hold_id: the hold.
        parts: how much of which postings.
        is_final: release what is left of the hold.
    """

    hold_id: UUID
    parts: Parts = None
    is_final: bool = False
    reference: str | None = None
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def hold_place(
    *,
    ledger_id: UUID,
    request: HoldRequest,
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> HoldView | Problem:
    """Reserves money, which is unavailable from then on, and moves none.

    Refused for the first of: ``expires_at_in_past``, ``hold_too_long``, and then as a
    transfer of its postings would be (``ledger.engine.refusals``).

    Args:
        ledger_id: the ledger that all accounts must belong to.
        request: what is held, and until when.
        actor, now, idempotency_key: for the record.

    Raises:
        RuntimeError: no transaction is open.
    """
    batch = Batch(
        ledger_id=ledger_id, actor=actor, now=now, idempotency_key=idempotency_key
    )
    settings = hold_settings(ledger_id=ledger_id)
    lifetime = None if request.expires_at else request.lifetime
    if request.expires_at is None and lifetime is None:
        lifetime = min(settings.default_lifetime, settings.max_lifetime)
    problem = _expiry_forbids(
        request.expires_at or now + (lifetime or timedelta()),
        now=now,
        latest=now + settings.max_lifetime,
    )
    if problem is not None:
        return problem
    batch.lock(
        account_id
        for posting in request.postings
        for account_id in (posting.from_account_id, posting.to_account_id)
    )
    batch.prepare([request])
    problem = batch.refusal(request)
    if problem is None:
        batch.add_hold(
            request,
            lifetime=lifetime,
            over_capture_basis_points=settings.over_capture_basis_points,
        )
    batch.write()
    return problem or hold_get(ledger_id=ledger_id, hold_id=request.id)


def _expiry_forbids(
    expires_at: datetime, *, now: datetime, latest: datetime
) -> Problem | None:
    if expires_at <= now:
        return Problem("expires_at_in_past", "The hold would have lapsed already.")
    if expires_at > latest:
        return Problem(
            "hold_too_long",
            f"This ledger's holds lapse by {format_instant(latest)} at the latest.",
            {"latest_expires_at": format_instant(latest)},
        )
    return None


def hold_capture(
    *,
    ledger_id: UUID,
    request: CaptureRequest,
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> Outcome:
    """Moves what a hold holds, or a part of it: a transfer of kind ``capture``.

    A hold can be captured several times, until nothing of it is held. The last capture
    may take more than is held, up to the allowance that the hold was made with. With
    the permission ``capture_frozen`` it works on frozen accounts.

    Refused for the first of: ``hold_expired``, ``hold_not_active``,
    ``capture_exceeds_hold``, and then as any transfer (``ledger.engine.refusals``).

    Raises:
        ProblemError: ``hold_not_found``; ``invalid_request`` (no such posting).
        RuntimeError: no transaction is open.
    """
    batch = Batch(
        ledger_id=ledger_id, actor=actor, now=now, idempotency_key=idempotency_key
    )
    hold = _lock(batch, request.hold_id)
    if (problem := _not_active(hold)) is not None:
        return problem
    amounts = _amounts(request, hold)
    if isinstance(amounts, Problem):
        return amounts
    wanted = [posting for posting in hold.postings if amounts.get(posting.number)]
    capture = TransferRequest(
        postings=tuple(
            PostingRequest(p.from_account_id, p.to_account_id, amounts[p.number])
            for p in wanted
        ),
        kind=TransferKind.CAPTURE,
        reference=request.reference,
        description=request.description,
        metadata=request.metadata,
        hold_id=hold.id,
        source_postings=tuple(posting.number for posting in wanted),
    )
    batch.prepare([capture])
    problem = batch.refusal(capture, hold=hold, is_final=request.is_final)
    if (
        problem is not None
        and problem.code == "account_frozen"
        and Permission.CAPTURE_FROZEN in actor.permissions
    ):
        capture = replace(capture, permission=Permission.CAPTURE_FROZEN)
        problem = batch.refusal(capture, hold=hold, is_final=request.is_final)
    if problem is None:
        batch.add_capture(hold, capture, is_final=request.is_final)
    posted = batch.write()
    return problem or posted[0]


def _amounts(request: CaptureRequest, hold: LockedHold) -> dict[int, int] | Problem:
    """What is captured, by posting number, or the refusal of too much."""
    postings = {posting.number: posting for posting in hold.postings}
    amounts = amounts_of(request.parts, postings)
    if amounts is None:
        return {number: posting.held for number, posting in postings.items()}
    for number, amount in sorted(amounts.items()):
        posting = postings[number]
        left = posting.capture_limit - posting.captured if posting.held else 0
        if amount > left:
            return Problem(
                "capture_exceeds_hold",
                f"Of posting {number}, {left} can be captured; {amount} is required.",
                {"posting_number": number, "capturable": left, "required": amount},
            )
    return dict(amounts)


def hold_void(
    *,
    ledger_id: UUID,
    hold_id: UUID,
    reason: str,
    actor: Actor,
    now: datetime,
) -> HoldView | Problem:
    """Gives up what a hold still holds. Works on frozen accounts too.

    Refused for the first of: ``hold_expired``, ``hold_not_active``.

    Raises:
        ProblemError: ``hold_not_found``.
        RuntimeError: no transaction is open.
    """
    batch = Batch(ledger_id=ledger_id, actor=actor, now=now)
    hold = _lock(batch, hold_id)
    if (problem := _not_active(hold)) is not None:
        return problem
    batch.end_hold(hold, HoldStatus.VOIDED, reason=reason)
    batch.write()
    return hold_get(ledger_id=ledger_id, hold_id=hold_id)


def hold_extend(
    *,
    ledger_id: UUID,
    hold_id: UUID,
    expires_at: datetime,
    actor: Actor,
    now: datetime,
) -> HoldView | Problem:
    """Lets a hold lapse later than it would.

    The ledger's longest lifetime counts from when the hold was placed. Refused for the
    first of: ``hold_expired``, ``hold_not_active``, ``expires_at_not_later``,
    ``hold_too_long``.

    Raises:
        ProblemError: ``hold_not_found``.
        RuntimeError: no transaction is open.
    """
    batch = Batch(ledger_id=ledger_id, actor=actor, now=now)
    hold = _lock(batch, hold_id)
    if (problem := _not_active(hold)) is not None:
        return problem
    if expires_at <= hold.expires_at:
        return Problem(
            "expires_at_not_later",
            f"The hold lapses at {format_instant(hold.expires_at)} already.",
            {"expires_at": format_instant(hold.expires_at)},
        )
    settings = hold_settings(ledger_id=ledger_id)
    problem = _expiry_forbids(
        expires_at, now=now, latest=hold.created_at + settings.max_lifetime
    )
    if problem is not None:
        return problem
    batch.extend_hold(hold, expires_at)
    batch.write()
    return hold_get(ledger_id=ledger_id, hold_id=hold_id)


def holds_expire(*, ledger_id: UUID, now: datetime) -> int:
    """Records up to :data:`SWEEP_BATCH` lapsed holds as expired.

    Returns:
        How many; call again until it is 0.

    Raises:
        RuntimeError: no transaction is open.
    """
    found = lapsed_holds(ledger_id=ledger_id, limit=SWEEP_BATCH)
    if not found:
        return 0
    batch = Batch(ledger_id=ledger_id, actor=SWEEPER, now=now)
    batch.lock(account_id for _, accounts in found for account_id in accounts)
    lapsed = [
        hold
        for hold in lock_holds(
            ledger_id=ledger_id, hold_ids=(hold_id for hold_id, _ in found)
        )
        # Somebody else may have ended or extended it before we had the lock.
        if hold.status == HoldStatus.ACTIVE and hold.is_lapsed
    ]
    for hold in lapsed:
        batch.end_hold(hold, HoldStatus.EXPIRED)
    batch.write()
    return len(lapsed)


def _lock(batch: Batch, hold_id: UUID) -> LockedHold:
    """The hold, locked after its accounts."""
    batch.lock(hold_accounts(ledger_id=batch.ledger_id, hold_id=hold_id))
    found = lock_holds(ledger_id=batch.ledger_id, hold_ids=[hold_id])
    if not found:
        raise hold_missing(hold_id)
    return found[0]


def _not_active(hold: LockedHold) -> Problem | None:
    """Why nothing can be done with the hold any more."""
    is_active = hold.status == HoldStatus.ACTIVE
    if hold.status == HoldStatus.EXPIRED or (is_active and hold.is_lapsed):
        return Problem(
            "hold_expired",
            f"The hold lapsed at {format_instant(hold.expires_at)}.",
            {"hold_id": str(hold.id), "expires_at": format_instant(hold.expires_at)},
        )
    if not is_active:
        return Problem(
            "hold_not_active",
            f"The hold is {hold.status}.",
            {"hold_id": str(hold.id), "hold_status": hold.status},
        )
    return None
