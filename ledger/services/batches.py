"""Posting a batch: many transfers in one transaction, all or none, or each alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ledger.services.posting import (
    transfers_first_refusal,
    transfers_post,
    transfers_post_atomically,
)
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

    open_items = [index for index in range(len(requests)) if index not in decided]
    common: dict[str, Any] = {
        "ledger_id": ledger_id,
        "actor": actor,
        "now": now,
        "idempotency_key": idempotency_key,
    }
    if not is_atomic:
        outcomes = transfers_post(
            requests=[requests[index] for index in open_items], **common
        )
        alone = dict(zip(open_items, outcomes, strict=True))
        return [alone.get(index) for index in range(len(requests))]

    refused_before = min(
        (i for i, success in decided.items() if not success), default=None
    )
    if refused_before is not None:
        # It may be that one before it is refused first; none of them is posted.
        before = [index for index in open_items if index < refused_before]
        found = transfers_first_refusal(
            requests=[requests[index] for index in before], **common
        )
        if found is None:
            return BatchRefusal(refused_before, None)
        return BatchRefusal(before[found[0]], found[1])
    posted = transfers_post_atomically(
        requests=[requests[index] for index in open_items], **common
    )
    if isinstance(posted, tuple):
        index, problem = posted
        return BatchRefusal(open_items[index], problem)
    together = dict(zip(open_items, posted, strict=True))
    return [together.get(index) for index in range(len(requests))]
