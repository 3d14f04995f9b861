"""Posting a batch: many transfers in one transaction, all or none, or each alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction

from ledger.services.posting import transfers_post
from ledger.types import PostedTransfer, TransferRequest
from payflow.actors import Actor
from payflow.errors import Problem


@dataclass(frozen=True, slots=True)
class BatchRefusal:
    """Why an atomic batch posted nothing: its first refusal.

    ``problem`` is ``None`` where that was decided before, by the item's own key.
    """

    index: int
    problem: Problem | None


def batch_post(
    *,
    ledger_id: UUID,
    requests: Sequence[TransferRequest],
    is_atomic: bool,
    decided: Mapping[int, bool],
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> list[PostedTransfer | Problem | None] | BatchRefusal:
    """Posts a batch in the caller's transaction; later items see earlier ones' effects.

    Args:
        ledger_id: the ledger of all items.
        requests: the items, within the engine's limits.
        is_atomic: post all of them or none.
        decided: by index, the items that are not to be posted, because their own
            idempotency keys have outcomes: true for a success, false for a refusal.
        actor, now: as of the engine.
        idempotency_key: the batch's key, for the record of items without their own.

    Returns:
        For each item, in order, the posted transfer, the problem that refused it, or
        ``None`` if it was decided before. Or, of an atomic batch, its first refusal:
        then nothing was written.

    Raises:
        RuntimeError: no transaction is open.
        ValueError: the batch is beyond the engine's limits.
    """

    def post(indexes: Sequence[int]) -> list[PostedTransfer | Problem]:
        return transfers_post(
            ledger_id=ledger_id,
            requests=[requests[index] for index in indexes],
            actor=actor,
            now=now,
            idempotency_key=idempotency_key,
        )

    open_items = [index for index in range(len(requests)) if index not in decided]
    if not is_atomic:
        posted = dict(zip(open_items, post(open_items), strict=True))
        return [posted.get(index) for index in range(len(requests))]

    refused_before = min(
        (i for i, success in decided.items() if not success), default=None
    )
    if refused_before is not None:
        # What comes after the first refusal need not be judged.
        open_items = [index for index in open_items if index < refused_before]
    # The engine writes what it accepts, so a refusal takes back what was written: the
    # batch's own key must still commit, with the refusal as its outcome.
    with transaction.atomic():
        posted = dict(zip(open_items, post(open_items), strict=True))
        refusal = _first_refusal(posted, refused_before)
        if refusal is not None:
            transaction.set_rollback(True)
    return refusal or [posted.get(index) for index in range(len(requests))]


def _first_refusal(
    posted: Mapping[int, PostedTransfer | Problem], refused_before: int | None
) -> BatchRefusal | None:
    for index, outcome in posted.items():
        if isinstance(outcome, Problem):
            return BatchRefusal(index, outcome)
    return None if refused_before is None else BatchRefusal(refused_before, None)
