"""Operations: transfers, holds, captures and voids, each judged for itself.

Any number of one ledger's share the caller's transaction, one lock statement for all
accounts and one for all holds, and the one statement that writes. They come out as if
each had been alone, in this order: later ones see what earlier ones leave of balances,
holds, references and limits. A refusal leaves the others alone.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache
from uuid import UUID

from ledger.engine.batch import Batch
from ledger.selectors.holds import HoldView
from ledger.selectors.ledgers import HoldSettings, hold_settings
from ledger.services.holds import (
    CaptureRequest,
    VoidRequest,
    hold_capture,
    hold_place,
    hold_void,
)
from ledger.services.posting import MAX_BATCH_POSTINGS
from ledger.types import (
    HoldRequest,
    PostedTransfer,
    PostingRequest,
    TransferRequest,
)
from payflow.actors import Actor
from payflow.errors import Problem, ProblemError

Operation = TransferRequest | HoldRequest | CaptureRequest | VoidRequest
#: What came of it: the transfer, which a capture is too; the hold as it was left; why
#: it was refused; or, not raised because others go on, why it cannot even be judged.
Outcome = PostedTransfer | HoldView | Problem | ProblemError


def operation_run(
    *, ledger_id: UUID, request: Operation, actor: Actor, now: datetime
) -> PostedTransfer | HoldView | Problem:
    """Carries out one operation, in the caller's transaction.

    Returns:
        What came of it, as of :func:`operations_run`.

    Raises:
        ProblemError: ``hold_not_found``; ``invalid_request`` (no such posting).
        RuntimeError: no transaction is open.
    """
    (outcome,) = operations_run(
        ledger_id=ledger_id, requests=[(request, actor)], now=now
    )
    if isinstance(outcome, ProblemError):
        raise outcome
    return outcome


def operations_run(
    *, ledger_id: UUID, requests: Sequence[tuple[Operation, Actor]], now: datetime
) -> list[Outcome]:
    """Carries out operations that several actors ask for, in the caller's transaction.

    Args:
        ledger_id: the ledger that all accounts and holds must belong to.
        requests: at least one, with who asks for each; their idempotency keys are
            their own. A hold that one of them places is not known to the others.
        now: the interface's clock.

    Returns:
        For each request, in order, what came of it.

    Raises:
        RuntimeError: no transaction is open.
        ValueError: too many postings at once.
    """
    postings: list[PostingRequest] = []
    hold_ids: list[UUID] = []
    for request, _ in requests:
        if isinstance(request, TransferRequest | HoldRequest):
            postings += request.postings
        else:
            hold_ids.append(request.hold_id)
    batch = Batch(ledger_id=ledger_id, actor=requests[0][1], now=now)
    batch.lock((i for p in postings for i in p[:2]), hold_ids=hold_ids)
    held = sum(len(hold.postings) for hold in batch.holds.values())
    if len(postings) + held > MAX_BATCH_POSTINGS:
        raise ValueError(f"at most {MAX_BATCH_POSTINGS} postings at once")
    batch.prepare([r for r, _ in requests if not isinstance(r, VoidRequest)])
    settings = cache(lambda: hold_settings(ledger_id=ledger_id))
    problems: list[Problem | ProblemError | None] = []
    for request, actor in requests:
        batch.act_for(actor)
        problems.append(_add(batch, request, actor, settings, now))
    posted = iter(batch.write())
    return [
        problem or _made(batch, request, posted)
        for (request, _), problem in zip(requests, problems, strict=True)
    ]


def _add(
    batch: Batch,
    request: Operation,
    actor: Actor,
    settings: Callable[[], HoldSettings],
    now: datetime,
) -> Problem | ProblemError | None:
    """Adds an operation, unless something forbids it: then it says what."""
    match request:
        case TransferRequest():
            return batch.post(request)
        case HoldRequest():
            return hold_place(batch, request=request, settings=settings(), now=now)
        case CaptureRequest():
            return hold_capture(batch, request=request, actor=actor)
        case VoidRequest():
            return hold_void(batch, request=request)


def _made(
    batch: Batch, request: Operation, posted: Iterator[PostedTransfer]
) -> PostedTransfer | HoldView:
    """What an operation that was not refused has made, once it is written."""
    match request:
        case TransferRequest() | CaptureRequest():
            return next(posted)
        case HoldRequest():
            return HoldView.of(batch.holds[request.id])
        case VoidRequest():
            return HoldView.of(batch.holds[request.hold_id])
