"""What the end of a payout does to the books.

A transfer into a payout account makes a payout task per posting (the engine writes
them). The dispatcher learns the bank's decision and calls the handler here, inside the
transaction that ends the task: the money leaves the payout account exactly once, for
the bank or for where it came from.
"""

from typing import Any, TypeVar
from uuid import UUID

from ledger.enums import TransferKind
from ledger.services.accounts import system_account_id
from ledger.services.posting import Outcome
from ledger.services.reversals import payout_give_back
from ledger.services.transfers import transfer_post
from ledger.types import PostingRequest, TransferRequest
from outbox.handlers import CompensationRefused, PayoutTaskHandler
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import now
from payflow.errors import Problem

DISPATCHER = "dispatcher"
T = TypeVar("T")


class PayoutHandler(PayoutTaskHandler):
    """The dispatcher's handler for tasks of kind ``payout``."""

    def settle(self, *, task: OutboxTask) -> UUID:
        """Posts the settlement: payout account to ``system:bank-settlement``.

        Raises:
            CompensationRefused: the engine refused it.
        """
        bank_id = system_account_id(
            ledger_id=task.ledger_id,
            name="bank-settlement",
            currency=_of_payout(task.currency),
        )
        outcome = transfer_post(
            ledger_id=task.ledger_id,
            request=TransferRequest(
                postings=(
                    PostingRequest(
                        from_account_id=_of_payout(task.account_id),
                        to_account_id=bank_id,
                        amount=_of_payout(task.amount),
                    ),
                ),
                kind=TransferKind.SETTLEMENT,
                description="Payout settled by the bank",
                metadata=_metadata(task),
            ),
            actor=_actor(task),
            now=now(),
        )
        return _posted_id(outcome)

    def reject(self, *, task: OutboxTask, reason: str) -> UUID:
        """Posts the reversal: payout account back to where the money came from.

        Raises:
            CompensationRefused: the engine refused it, for instance because the
                account of origin is closed by now.
        """
        outcome = payout_give_back(
            task=task,
            description=f"Payout rejected by the bank: {reason}"[:1000],
            metadata=_metadata(task),
            actor=_actor(task),
            now=now(),
        )
        return _posted_id(outcome)


def _actor(task: OutboxTask) -> Actor:
    return Actor(DISPATCHER, request_id=task.request_id)


def _metadata(task: OutboxTask) -> dict[str, Any]:
    return {
        "payout_task_id": str(task.id),
        "payout_transfer_id": str(task.transfer_id),
        "payout_posting_number": task.posting_number,
    }


def _posted_id(outcome: Outcome) -> UUID:
    if isinstance(outcome, Problem):
        raise CompensationRefused(outcome.code, outcome.detail)
    return outcome.id


def _of_payout(value: T | None) -> T:
    """A field that every payout task has: the table's CHECK says so."""
    if value is None:
        raise RuntimeError("a payout task lacks a field that its CHECK demands")
    return value
