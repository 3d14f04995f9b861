"""Stand-ins for the ledger and the bank that do exactly as they are told."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from ledger.services.payouts import PayoutHandler
from outbox.dispatcher import Dispatcher
from outbox.handlers import NoEndpointHandler, PayoutTaskHandler
from outbox.models import OutboxTask
from outbox.providers.base import (
    PayoutInstruction,
    PayoutProvider,
    ProviderAnswer,
    ProviderResult,
)
from payflow.db import require_transaction


def nothing(*_: object) -> None:
    """Does nothing."""


@dataclass
class RecordingHandler(PayoutTaskHandler):
    """Remembers what it booked; ``hook`` runs in the finishing transaction.

    It books as the ledger does, because the database lets a payout end no other way.
    """

    hook: Callable[[OutboxTask], None] = nothing
    settled: list[UUID] = field(default_factory=list)
    rejected: list[tuple[UUID, str]] = field(default_factory=list)

    def settle(self, *, task: OutboxTask) -> UUID:
        require_transaction()
        self.hook(task)
        self.settled.append(task.id)
        return PayoutHandler().settle(task=task)

    def reject(self, *, task: OutboxTask, reason: str) -> UUID:
        require_transaction()
        self.hook(task)
        self.rejected.append((task.id, reason))
        return PayoutHandler().reject(task=task, reason=reason)


class ScriptedProvider:
    """Gives the answers of a script, in order, and remembers the calls.

    A step is an answer, a result, or a function that is run at the moment of the call
    and returns one of these: what happens in the middle of a call happens there.
    """

    def __init__(self, steps: Iterable[object]) -> None:
        self.steps = list(steps)
        self.calls: list[tuple[str, UUID]] = []

    def send(self, instruction: PayoutInstruction) -> ProviderAnswer:
        return self._next("send", instruction)

    def inquire(self, instruction: PayoutInstruction) -> ProviderAnswer:
        return self._next("inquire", instruction)

    def _next(self, action: str, instruction: PayoutInstruction) -> ProviderAnswer:
        self.calls.append((action, instruction.key))
        step = self.steps.pop(0)
        if callable(step):
            step = step()
        if isinstance(step, ProviderAnswer):
            return step
        return ProviderAnswer(
            result=ProviderResult(str(step)), detail=f"it said {step}"
        )

    @property
    def actions(self) -> list[str]:
        """What was asked, in order."""
        return [action for action, _ in self.calls]


def make_dispatcher(
    provider: PayoutProvider,
    handler: PayoutTaskHandler | None = None,
    **options: object,
) -> Dispatcher:
    """A dispatcher with a handler for each kind."""
    return Dispatcher(
        provider=provider,
        handlers={
            "payout": handler or RecordingHandler(),
            "transfer.posted": NoEndpointHandler(),
        },
        **options,  # type: ignore[arg-type]
    )
