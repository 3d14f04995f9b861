"""Single transfers of requests that wait at the same time, posted in one transaction.

Each is judged for itself, has its own idempotency key, actor and answer, and is refused
alone; see ``payflow.coalescing`` for what happens when the shared transaction fails.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from idempotency.services import KeyClaim, KeyClaims, in_progress_problem
from ledger.locks import accounts_in_use
from ledger.services.posting import Outcome, transfers_post_together
from ledger.types import TransferRequest
from payflow.actors import Actor
from payflow.clock import now
from payflow.coalescing import Coalescer
from payflow.db import transaction_owner
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


def post_coalesced(wanted: Wanted, *, alone: Callable[[], Rendered]) -> Rendered:
    """Posts a transfer, with others if there are any and it may join them.

    One with a time of its own may have to wait for the closing of a period, which the
    others need not wait for. One whose key is in use in another process joins nobody:
    PostgreSQL tells it so at once, or has its answer.

    Args:
        wanted: what is asked.
        alone: posts it in a transaction of its own.

    Raises:
        ProblemError: ``idempotency_in_progress`` if its key waits or runs here; as
            ``payflow.execution.execute``.
    """
    claim = wanted.claim
    identity = (claim.client_id, claim.key)
    if _coalescer.has(identity):
        raise in_progress_problem()
    if claim.is_contested or wanted.transfer.effective_at is not None:
        return alone()
    answer = _coalescer.submit(
        wanted,
        identity=identity,
        group=claim.ledger_id,
        resources=frozenset(_accounts_of(wanted)),
        alone=alone,
    )
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
    return answers


def _delivered(requests: Sequence[Wanted], answers: Sequence[Answer]) -> None:
    requests_coalesced(together=len(requests), waiting=_coalescer.waiting)
    KeyClaims([wanted.claim for wanted in requests]).publish(answers)


def _contended(requests: Sequence[Wanted]) -> set[UUID]:
    with transaction_owner():
        return accounts_in_use(
            ledger_id=requests[0].claim.ledger_id,
            account_ids=(i for wanted in requests for i in _accounts_of(wanted)),
        )


def _accounts_of(wanted: Wanted) -> Iterator[UUID]:
    for posting in wanted.transfer.postings:
        yield posting.from_account_id
        yield posting.to_account_id


_coalescer: Coalescer[Wanted, Answer] = Coalescer(
    _post, delivered=_delivered, contended=_contended
)
