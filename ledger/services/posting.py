"""Posting transfers: any number of one ledger's, each judged for itself.

The engine (``ledger.engine``) does the work. A refusal of one transfer leaves the
others of the list alone; whoever wants all or nothing raises when it sees one. The
refusals and their order are those of ``ledger.engine.refusals``.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from ledger.engine.batch import Batch
from ledger.types import PostedTransfer, TransferRequest
from payflow.actors import Actor
from payflow.errors import Problem
from payflow.greenlets import giving_way

#: The most transfers of one call; the callers slice longer work.
MAX_TRANSFERS = 10_000
#: The most postings of one call, well within the statement's time limit.
MAX_BATCH_POSTINGS = 25_000

Outcome = PostedTransfer | Problem


def transfers_post(
    *,
    ledger_id: UUID,
    requests: Sequence[TransferRequest],
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
    tasks_are_done: bool = False,
) -> list[Outcome]:
    """Posts transfers of one ledger, in the caller's transaction.

    Args:
        ledger_id: the ledger that all accounts must belong to.
        requests: up to :data:`MAX_TRANSFERS`, judged and numbered in this order. They
            capture and reverse nothing: ``holds`` and ``reversals`` do that.
        actor: who asks, for the record.
        now: the interface's clock, against which ``effective_at`` is judged.
        idempotency_key: the key of the request, for the record.
        tasks_are_done: write ``transfer.posted`` tasks as done already; for bulk books
            that nobody is to be told of.

    Returns:
        For each request, in order, the posted transfer or the problem that refused it.

    Raises:
        RuntimeError: no transaction is open.
        ValueError: too many requests, or one without postings.
    """
    batch = _locked_batch(ledger_id, requests, actor, now, idempotency_key)
    problems = [batch.post(request) for request in giving_way(requests)]
    posted = iter(batch.write(tasks_are_done=tasks_are_done))
    return [problem or next(posted) for problem in problems]


def transfers_post_atomically(
    *,
    ledger_id: UUID,
    requests: Sequence[TransferRequest],
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> list[PostedTransfer] | tuple[int, Problem]:
    """Posts all of the transfers or none, in the caller's transaction.

    Arguments and exceptions are those of :func:`transfers_post`.

    Returns:
        The posted transfers, in order; or the index of the first that is refused and
        why. Then nothing was written, and what comes after it was not judged.
    """
    batch = _locked_batch(ledger_id, requests, actor, now, idempotency_key)
    return _add_all(batch, requests) or batch.write()


def transfers_first_refusal(
    *,
    ledger_id: UUID,
    requests: Sequence[TransferRequest],
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> tuple[int, Problem] | None:
    """What would refuse the transfers together first; nothing is written.

    Arguments and exceptions are those of :func:`transfers_post`.
    """
    batch = _locked_batch(ledger_id, requests, actor, now, idempotency_key)
    return _add_all(batch, requests)


def _add_all(
    batch: Batch, requests: Sequence[TransferRequest]
) -> tuple[int, Problem] | None:
    """Adds the requests up to the first that is refused, and says which and why."""
    for index, request in enumerate(giving_way(requests)):
        problem = batch.post(request)
        if problem is not None:
            return index, problem
    return None


def _locked_batch(
    ledger_id: UUID,
    requests: Sequence[TransferRequest],
    actor: Actor,
    now: datetime,
    idempotency_key: str | None,
) -> Batch:
    """A batch with everything locked and read that the requests are judged by."""
    if len(requests) > MAX_TRANSFERS:
        raise ValueError(f"at most {MAX_TRANSFERS} transfers at once")
    if sum(len(request.postings) for request in requests) > MAX_BATCH_POSTINGS:
        raise ValueError(f"at most {MAX_BATCH_POSTINGS} postings at once")
    batch = Batch(
        ledger_id=ledger_id, actor=actor, now=now, idempotency_key=idempotency_key
    )
    batch.lock(
        account_id
        for request in requests
        for posting in request.postings
        for account_id in (posting.from_account_id, posting.to_account_id)
    )
    batch.prepare(requests)
    return batch
