"""Single transfers of requests that wait at the same time, posted in one transaction.

Each is judged for itself, has its own idempotency key, actor and answer, and is refused
alone; see ``payflow.coalescing`` for what happens when the shared transaction fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from idempotency.services import KeyClaim, KeyClaims, in_progress_problem
from ledger.services.posting import Outcome, transfers_post_together
from ledger.types import TransferRequest
from payflow import greenlets
from payflow.actors import Actor
from payflow.clock import now
from payflow.coalescing import AlreadyHereError, Coalescer
from payflow.errors import ProblemError
from payflow.execution import Rendered, execute_together
from payflow.metrics import requests_coalesced


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request's transfer, who asks for it, and the claim on its key."""

    transfer: TransferRequest
    actor: Actor
    claim: KeyClaim
    render: Callable[[Outcome], Rendered]


Answer = Rendered | ProblemError


def can_coalesce(transfer: TransferRequest, claim: KeyClaim | None) -> bool:
    """Whether a transfer may share a transaction, in this process.

    One with a time of its own may have to wait for the closing of a period, which the
    others need not wait for; one without a key is a dry run; and one whose key is in
    use elsewhere is told so at once by PostgreSQL, or gets its answer.
    """
    return (
        greenlets.are_in_use()
        and claim is not None
        and not claim.is_contested
        and transfer.effective_at is None
    )


def post_coalesced(wanted: Wanted, *, alone: Callable[[], Rendered]) -> Rendered:
    """Posts a transfer, with others if there are any.

    Args:
        wanted: what ``can_coalesce``.
        alone: posts it in a transaction of its own.

    Raises:
        ProblemError: as ``payflow.execution.execute``.
    """
    claim = wanted.claim
    try:
        answer = _coalescer.submit(
            wanted,
            identity=(claim.client_id, claim.key),
            group=claim.ledger_id,
            resources=frozenset(
                account_id
                for posting in wanted.transfer.postings
                for account_id in (posting.from_account_id, posting.to_account_id)
            ),
            alone=alone,
        )
    except AlreadyHereError:
        raise in_progress_problem() from None
    if isinstance(answer, ProblemError):
        raise answer
    return answer


def _post(requests: Sequence[Wanted]) -> list[Answer]:
    claims = KeyClaims([wanted.claim for wanted in requests])

    def command(free: Sequence[Wanted]) -> list[Outcome]:
        return transfers_post_together(
            ledger_id=claims.ledger_id,
            requests=[(wanted.transfer, wanted.actor) for wanted in free],
            now=now(),
        )

    answers = execute_together(
        requests,
        command,
        lambda wanted, outcome: wanted.render(outcome),
        claims=claims,
    )
    claims.settle(answers)
    requests_coalesced(together=len(requests), waiting=_coalescer.waiting)
    return answers


def _publish(requests: Sequence[Wanted], answers: Sequence[Answer]) -> None:
    KeyClaims([wanted.claim for wanted in requests]).publish(answers)


_coalescer: Coalescer[Wanted, Answer] = Coalescer(_post, delivered=_publish)
