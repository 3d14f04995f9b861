"""Operations of requests that wait at the same time, carried out in one transaction.

Transfers, holds, captures and voids alike. Each is judged for itself, has its own
idempotency key, actor and answer, and is refused alone; see ``payflow.coalescing`` for
what happens when the shared transaction fails.
"""

from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from django.http import HttpResponse

from idempotency.services import KeyClaim, KeyClaims, in_progress_problem
from ledger.api.authentication import actor_of
from ledger.api.views import ApiView
from ledger.locks import accounts_in_use
from ledger.selectors.holds import hold_accounts
from ledger.services.operations import (
    Operation,
    Outcome,
    operation_run,
    operations_run,
)
from ledger.types import HoldRequest, TransferRequest
from payflow import greenlets
from payflow.actors import Actor
from payflow.api.rendering import http_response
from payflow.clock import now
from payflow.coalescing import Coalescer
from payflow.db import transaction_owner
from payflow.errors import ProblemError
from payflow.execution import Rendered, execute, execute_together
from payflow.metrics import requests_coalesced


class OperationView(ApiView):
    """A view whose POST carries out one operation, with others if there are any."""

    def operate(
        self,
        operation: Operation,
        resource: Callable[[Any], dict[str, Any]],
        *,
        status: int,
        resource_type: str,
        location: str,
    ) -> HttpResponse:
        """Carries out an operation and sends what came of it.

        Args:
            operation: what is asked.
            resource, status, resource_type, location: as of :meth:`ApiView.renderer`.
        """
        ledger_id = self.request.user.ledger_id
        actor = actor_of(self.request._request)
        claim: KeyClaim | None = self.claim
        render = self.renderer(
            resource, status=status, resource_type=resource_type, location=location
        )

        def command() -> Outcome:
            return operation_run(
                ledger_id=ledger_id, request=operation, actor=actor, now=now()
            )

        if claim is None or not greenlets.are_in_use():
            return self.send(command, render, claim=claim)
        rendered = run_coalesced(
            Wanted(operation, actor, claim, render),
            alone=lambda: execute(command, render, claim=claim),
        )
        return http_response(rendered)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request's operation, who asks for it, and the claim on its key."""

    operation: Operation
    actor: Actor
    claim: KeyClaim
    render: Callable[[Outcome], Rendered]


Answer = Rendered | ProblemError


def run_coalesced(wanted: Wanted, *, alone: Callable[[], Rendered]) -> Rendered:
    """Carries out an operation, with others if there are any and it may join them.

    A transfer with a time of its own may have to wait for the closing of a period,
    which the others need not wait for. A request whose key is in use in another process
    joins nobody: PostgreSQL tells it so at once, or has its answer.

    Args:
        wanted: what is asked.
        alone: carries it out in a transaction of its own.

    Raises:
        ProblemError: ``idempotency_in_progress`` if its key waits or runs here; as
            ``payflow.execution.execute``.
    """
    claim, operation = wanted.claim, wanted.operation
    identity = (claim.client_id, claim.key)
    if _coalescer.has(identity):
        raise in_progress_problem()
    if claim.is_contested or (
        isinstance(operation, TransferRequest) and operation.effective_at is not None
    ):
        return alone()
    answer = _coalescer.submit(
        wanted,
        identity=identity,
        group=claim.ledger_id,
        resources=_named_accounts(operation),
        alone=alone,
    )
    if isinstance(answer, ProblemError):
        raise answer
    return answer


def _run(requests: Sequence[Wanted]) -> list[Answer]:
    claims = KeyClaims([wanted.claim for wanted in requests])

    def command(free: Sequence[Wanted]) -> list[Outcome]:
        return operations_run(
            ledger_id=claims.ledger_id,
            requests=[(wanted.operation, wanted.actor) for wanted in free],
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


def _named_accounts(operation: Operation) -> frozenset[UUID] | None:
    """The accounts that an operation locks; ``None`` if only its hold names them."""
    if not isinstance(operation, TransferRequest | HoldRequest):
        return None
    return frozenset(i for posting in operation.postings for i in posting[:2])


def _held_accounts(ledger_id: Hashable, requests: Sequence[Wanted]) -> list[set[UUID]]:
    """The accounts of the holds that these requests of one ledger name."""
    hold_ids = [cast("Any", wanted.operation).hold_id for wanted in requests]
    found = hold_accounts(ledger_id=cast("UUID", ledger_id), hold_ids=hold_ids)
    return [found[hold_id] for hold_id in hold_ids]


def _contended(ledger_id: Hashable, accounts: Set[Hashable]) -> set[UUID]:
    with transaction_owner():
        return accounts_in_use(
            ledger_id=cast("UUID", ledger_id),
            account_ids=cast("Set[UUID]", accounts),
        )


_coalescer: Coalescer[Wanted, Answer] = Coalescer(
    _run, delivered=_delivered, contended=_contended, look_up=_held_accounts
)
