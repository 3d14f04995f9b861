"""The life of a hold: placed, captured, extended, voided, expired.

The engine writes it all. Locks are taken as everywhere: the hold's accounts, then the
hold, so of a capture, a void and an expiry that meet, one wins, and the others find the
hold ended. A hold that has lapsed by PostgreSQL's clock is expired in fact, whether a
sweep has recorded it or not.

Holds are placed, captured and voided by ``ledger.services.operations``, several in one
transaction; the first three functions judge one of them and add it to the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ledger.engine.batch import Batch
from ledger.enums import HoldStatus, Permission, TransferKind
from ledger.locks import LockedHold
from ledger.selectors.holds import HoldView, hold_missing, lapsed_holds
from ledger.selectors.ledgers import HoldSettings, hold_settings
from ledger.services.parts import Parts, amounts_of
from ledger.types import HoldRequest, TransferRequest
from payflow.actors import Actor
from payflow.clock import format_instant
from payflow.errors import Problem, ProblemError

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
        idempotency_key: of the request, for the record.
    """

    hold_id: UUID
    parts: Parts = None
    is_final: bool = False
    reference: str | None = None
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class VoidRequest:
    """Which hold is to be given up, and why."""

    hold_id: UUID
    reason: str = ""


def hold_place(
    batch: Batch, *, request: HoldRequest, settings: HoldSettings, now: datetime
) -> Problem | None:
    """Reserves money, which is unavailable from then on, and moves none.

    Refused for the first of: ``expires_at_in_past``, ``hold_too_long``, and then as a
    transfer of its postings would be (``ledger.engine.refusals``).

    Args:
        batch: has locked the accounts.
        request: what is held, and until when.
        settings: the ledger's.
        now: the interface's clock.
    """
    lifetime = None if request.expires_at else request.lifetime
    if request.expires_at is None and lifetime is None:
        lifetime = min(settings.default_lifetime, settings.max_lifetime)
    problem = _expiry_forbids(
        request.expires_at or now + (lifetime or timedelta()),
        now=now,
        latest=now + settings.max_lifetime,
    ) or batch.refusal(request)
    if problem is None:
        batch.add_hold(
            request,
            lifetime=lifetime,
            over_capture_basis_points=settings.over_capture_basis_points,
        )
    return problem


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
    batch: Batch, *, request: CaptureRequest, actor: Actor
) -> Problem | ProblemError | None:
    """Moves what a hold holds, or a part of it: a transfer of kind ``capture``.

    A hold can be captured several times, until nothing of it is held. The last capture
    may take more than is held, up to the allowance that the hold was made with. With
    the permission ``capture_frozen`` it works on frozen accounts.

    Refused for the first of: ``hold_expired``, ``hold_not_active``,
    ``capture_exceeds_hold``, and then as any transfer (``ledger.engine.refusals``).
    The request itself is wrong (``ProblemError``) with ``hold_not_found``, and with
    ``invalid_request`` if the hold has no such posting.

    Args:
        batch: has locked the hold.
        request: what is captured.
        actor: who asks, with the permissions.
    """
    hold = batch.holds.get(request.hold_id)
    if hold is None:
        return hold_missing(request.hold_id)
    if (problem := _not_active(hold)) is not None:
        return problem
    try:
        amounts = _amounts(request, hold)
    except ProblemError as error:
        return error
    if isinstance(amounts, Problem):
        return amounts
    wanted = [posting for posting in hold.postings if amounts.get(posting.number)]
    capture = TransferRequest(
        postings=tuple(posting.part(amounts[posting.number]) for posting in wanted),
        kind=TransferKind.CAPTURE,
        reference=request.reference,
        description=request.description,
        metadata=request.metadata,
        idempotency_key=request.idempotency_key,
        hold_id=hold.id,
        source_postings=tuple(posting.number for posting in wanted),
    )
    problem = batch.refusal(capture, hold=hold, is_final=request.is_final)
    if (
        problem is not None
        and problem.code == "account_frozen"
        and Permission.CAPTURE_FROZEN in actor.permissions
    ):
        capture = replace(capture, permission=Permission.CAPTURE_FROZEN)
        problem = batch.refusal(capture, hold=hold, is_final=request.is_final)
    # Its time may come while it is judged: whoever lacks funds ends what has lapsed.
    problem = _not_active(hold) or problem
    if problem is None:
        batch.add_capture(hold, capture, is_final=request.is_final)
    return problem


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


def hold_void(batch: Batch, *, request: VoidRequest) -> Problem | ProblemError | None:
    """Gives up what a hold still holds. Works on frozen accounts too.

    Refused for the first of: ``hold_expired``, ``hold_not_active``. The request itself
    is wrong (``ProblemError``) with ``hold_not_found``.

    Args:
        batch: has locked the hold.
        request: which hold.
    """
    hold = batch.holds.get(request.hold_id)
    if hold is None:
        return hold_missing(request.hold_id)
    if (problem := _not_active(hold)) is not None:
        return problem
    batch.end_hold(hold, HoldStatus.VOIDED, reason=request.reason)
    return None


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
    batch.lock(hold_ids=[hold_id])
    hold = batch.holds.get(hold_id)
    if hold is None:
        raise hold_missing(hold_id)
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
    return HoldView.of(hold)


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
    batch.lock(hold_ids=found)
    ended = batch.end_lapsed(found)
    batch.write()
    return ended


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
