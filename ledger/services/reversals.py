"""Moving back what a transfer moved: reversals, and payouts that end in one."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from ledger.engine.batch import Batch
from ledger.enums import (
    REVERSIBLE_KINDS,
    AccountStatus,
    Direction,
    Permission,
    ReversalReason,
    TransferKind,
)
from ledger.locks import lock_reversal_totals
from ledger.models import Entry, Transfer
from ledger.selectors.transfers import transfer_missing
from ledger.services.accounts import system_account_id
from ledger.services.parts import Parts, amounts_of
from ledger.services.posting import Outcome
from ledger.types import PostingRequest, TransferRequest
from outbox.enums import Delivery, TaskKind
from outbox.models import OutboxTask
from outbox.services import task_cancel_unsent, task_lock_unsent
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem


@dataclass(frozen=True, slots=True)
class ReversalRequest:
    """What of a transfer is to be moved back.

    Attributes:
        transfer_id: the transfer.
        reason: why, for the record.
        parts: how much of which postings.
        is_forced: take what is available and debit the rest to receivables.
    """

    transfer_id: UUID
    reason: ReversalReason
    parts: Parts = None
    is_forced: bool = False
    reference: str | None = None
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Original:
    """A posting of the transfer that is reversed."""

    number: int
    from_account_id: UUID
    to_account_id: UUID
    amount: int
    currency: str

    @property
    def account_ids(self) -> tuple[UUID, UUID]:
        return self.from_account_id, self.to_account_id

    def back(self, amount: int) -> PostingRequest:
        return PostingRequest(self.to_account_id, self.from_account_id, amount)


def transfer_reverse(
    *,
    ledger_id: UUID,
    request: ReversalRequest,
    actor: Actor,
    now: datetime,
    idempotency_key: str | None = None,
) -> Outcome:
    """Posts the reversal of a transfer, or of a part of it.

    A posting into a payout account can be reversed only before its payout was ever
    attempted, whole and on its own; the payout is cancelled with it.

    Refused for the first of: ``transfer_not_reversible``,
    ``reversal_exceeds_transfer``, ``exchange_reversed_whole``,
    ``payout_reversed_whole``, ``payout_settled``, ``payout_in_progress``, and then as
    any transfer (``ledger.engine.refusals``); there stands
    ``payout_account_takes_no_refund`` too. A refused forced reversal may leave the
    receivables account newly made, and empty.

    Returns:
        The reversal, a transfer of its own, or the problem that refused it.

    Raises:
        ProblemError: ``transfer_not_found``; ``permission_denied`` (a forced one needs
            ``force_reversal``); ``invalid_request`` (no such posting).
        RuntimeError: no transaction is open.
    """
    require_transaction()
    if request.is_forced:
        actor.require(Permission.FORCE_REVERSAL)
    kind, originals = _originals(ledger_id, request.transfer_id)
    if kind not in REVERSIBLE_KINDS:
        return Problem(
            "transfer_not_reversible",
            f"A transfer of kind {kind} cannot be reversed.",
            {"kind": kind},
        )
    parts = amounts_of(request.parts, [original.number for original in originals])
    wanted = [o for o in originals if parts is None or o.number in parts]
    receivables = _receivables(ledger_id, wanted) if request.is_forced else {}
    batch = Batch(
        ledger_id=ledger_id, actor=actor, now=now, idempotency_key=idempotency_key
    )
    by_number = {original.number: original for original in wanted}
    of_postings = {i for original in wanted for i in original.account_ids}
    batch.lock(of_postings | set(receivables.values()))
    reversed_before = lock_reversal_totals(
        ledger_id=ledger_id, transfer_id=request.transfer_id
    )
    amounts = _amounts(parts, wanted, reversed_before)
    if isinstance(amounts, Problem):
        return amounts
    if kind == TransferKind.EXCHANGE and any(
        amounts.get(original.number) != original.amount for original in originals
    ):
        return Problem(
            "exchange_reversed_whole",
            "Both sides of an exchange are reversed together, and whole.",
        )
    payout = _payout_task(ledger_id, request.transfer_id, amounts)
    if payout is not None:
        problem = _payout_forbids(payout, amounts, wanted)
        if problem is not None:
            return problem

    sources, postings = _postings_back(batch, wanted, amounts, receivables)
    # Where somebody else pays than whom the money went to, receivables do.
    is_short = any(
        posting.from_account_id != to_account_id
        for posting, to_account_id in zip(
            postings, (by_number[n].to_account_id for n in sources), strict=True
        )
    )
    reversal = TransferRequest(
        postings=postings,
        kind=TransferKind.REVERSAL if payout is None else TransferKind.PAYOUT_REVERSAL,
        reference=request.reference,
        description=request.description,
        metadata=request.metadata,
        reverses_transfer_id=request.transfer_id,
        source_postings=sources,
        reason=request.reason,
        permission=Permission.FORCE_REVERSAL if is_short else None,
    )
    batch.prepare([reversal])
    problem = batch.refusal(reversal)
    if problem is None:
        batch.add(reversal)
        for original in (original for original in wanted if original.number in amounts):
            batch.add_reversal_total(
                transfer_id=request.transfer_id,
                posting_number=original.number,
                amount=original.amount,
                reversed=reversed_before.get(original.number, 0)
                + amounts[original.number],
            )
    posted = batch.write()
    if problem is not None:
        return problem
    if payout is not None and not task_cancel_unsent(
        ledger_id=ledger_id, task_id=payout.id, completion_transfer_id=posted[0].id
    ):
        raise RuntimeError("a payout was attempted although its task is locked")
    return posted[0]


def payout_give_back(
    *,
    task: OutboxTask,
    description: str,
    metadata: Mapping[str, Any],
    actor: Actor,
    now: datetime,
) -> Outcome:
    """Posts the reversal of a payout that the bank rejected, back to its origin.

    Args:
        task: the payout's task.
        description, metadata: of the reversal.
        actor, now: for the record.

    Raises:
        RuntimeError: no transaction is open.
    """
    transfer_id = task.transfer_id
    if transfer_id is None:
        raise ValueError("only a payout is given back, and it has a transfer")
    _, originals = _originals(task.ledger_id, transfer_id)
    (original,) = [o for o in originals if o.number == task.posting_number]
    batch = Batch(ledger_id=task.ledger_id, actor=actor, now=now)
    batch.lock(original.account_ids)
    reversal = TransferRequest(
        postings=(original.back(original.amount),),
        kind=TransferKind.PAYOUT_REVERSAL,
        description=description,
        metadata=metadata,
        reverses_transfer_id=transfer_id,
        source_postings=(original.number,),
    )
    problem = batch.refusal(reversal)
    if problem is not None:
        return problem
    batch.add(reversal)
    batch.add_reversal_total(
        transfer_id=transfer_id,
        posting_number=original.number,
        amount=original.amount,
        reversed=original.amount,
    )
    return batch.write()[0]


def _originals(ledger_id: UUID, transfer_id: UUID) -> tuple[str, list[_Original]]:
    """Kind and postings of a transfer; both never change, so no lock is needed."""
    kind = (
        Transfer.objects.filter(ledger_id=ledger_id, id=transfer_id)
        .values_list("kind", flat=True)
        .first()
    )
    if kind is None:
        raise transfer_missing(transfer_id)
    sides: dict[int, dict[str, Entry]] = {}
    for entry in Entry.objects.filter(ledger_id=ledger_id, transfer_id=transfer_id):
        sides.setdefault(entry.posting_number, {})[entry.direction] = entry
    return kind, [
        _Original(
            number,
            side[Direction.DEBIT].account_id,
            side[Direction.CREDIT].account_id,
            side[Direction.DEBIT].amount,
            side[Direction.DEBIT].currency,
        )
        for number, side in sorted(sides.items())
    ]


def _receivables(ledger_id: UUID, wanted: list[_Original]) -> dict[str, UUID]:
    """The accounts that pay for what is missing, by currency; made on first use.

    In the order of their codes, so that two who make them do not wait for each other.
    """
    return {
        currency: system_account_id(
            ledger_id=ledger_id, name="receivables", currency=currency
        )
        for currency in sorted({original.currency for original in wanted})
    }


def _amounts(
    parts: Mapping[int, int] | None,
    wanted: list[_Original],
    reversed_before: Mapping[int, int],
) -> dict[int, int] | Problem:
    """What is to be moved back, by posting number, or the refusal of too much."""
    amounts: dict[int, int] = {}
    for original in wanted:
        left = original.amount - reversed_before.get(original.number, 0)
        amount = left if parts is None else parts[original.number]
        if amount > left:
            return _exceeds(original.number, left, amount)
        if amount:
            amounts[original.number] = amount
    return amounts or _exceeds(wanted[0].number, 0, wanted[0].amount)


def _exceeds(number: int, left: int, amount: int) -> Problem:
    return Problem(
        "reversal_exceeds_transfer",
        f"Of posting {number}, {left} can still be reversed; {amount} is required.",
        {"posting_number": number, "amount_reversible": left, "required": amount},
    )


def _payout_task(
    ledger_id: UUID, transfer_id: UUID, amounts: Mapping[int, int]
) -> OutboxTask | None:
    """The first payout among what is to be reversed."""
    return (
        OutboxTask.objects.filter(
            ledger_id=ledger_id,
            transfer_id=transfer_id,
            kind=TaskKind.PAYOUT,
            posting_number__in=list(amounts),
        )
        .order_by("posting_number")
        .first()
    )


def _payout_forbids(
    task: OutboxTask, amounts: Mapping[int, int], wanted: list[_Original]
) -> Problem | None:
    """Judges the payout of what is to be reversed, and locks one that may be."""
    whole = {original.number: original.amount for original in wanted}
    if dict(amounts) != {task.posting_number: whole[task.posting_number]}:
        return Problem(
            "payout_reversed_whole",
            f"Posting {task.posting_number} is a payout: reverse it whole, on its own.",
            {"posting_number": task.posting_number},
        )
    if task_lock_unsent(ledger_id=task.ledger_id, task_id=task.id):
        return None
    # Read again: until the lock the bank may have decided.
    delivery = OutboxTask.objects.values_list("delivery", flat=True).get(
        ledger_id=task.ledger_id, id=task.id
    )
    fields = {"payout_task_id": str(task.id), "posting_number": task.posting_number}
    if delivery == Delivery.SETTLED:
        return Problem("payout_settled", "The bank has paid this out.", fields)
    return Problem(
        "payout_in_progress",
        "The payout is under way; wait until the bank has decided.",
        fields,
    )


def _postings_back(
    batch: Batch,
    wanted: list[_Original],
    amounts: Mapping[int, int],
    receivables: Mapping[str, UUID],
) -> tuple[tuple[int, ...], tuple[PostingRequest, ...]]:
    """The postings of the reversal, and where each comes from.

    With receivables (by currency), what an account cannot give is debited to them, but
    for what came from them. Who passed money on gets it back in the same transfer, and
    can give that, too.
    """
    sources: list[int] = []
    postings: list[PostingRequest] = []
    taken: Counter[UUID] = Counter()
    incoming: Counter[UUID] = Counter()
    # What came from receivables they cannot pay back to themselves.
    came_from_them = {
        o.number for o in wanted if o.from_account_id in receivables.values()
    }
    for original in wanted:
        amount = amounts.get(original.number, 0)
        incoming[original.from_account_id] += amount
        if original.number in came_from_them:
            taken[original.to_account_id] += amount
    for original in wanted:
        amount = given = amounts.get(original.number, 0)
        if receivables and original.number not in came_from_them:
            payer_id = original.to_account_id
            before = taken[payer_id]
            obtainable = _obtainable(
                batch, payer_id, before + amount, incoming=incoming[payer_id]
            )
            given = min(amount, max(0, obtainable - before))
            taken[payer_id] = before + given
        if given:
            sources.append(original.number)
            postings.append(original.back(given))
        if amount > given:
            sources.append(original.number)
            postings.append(
                PostingRequest(
                    receivables[original.currency],
                    original.from_account_id,
                    amount - given,
                )
            )
    return tuple(sources), tuple(postings)


def _obtainable(batch: Batch, account_id: UUID, amount: int, *, incoming: int) -> int:
    """What of ``amount`` debits can take from an account without breaking its floor.

    ``incoming`` is what the same transfer credits it with, in minor units.
    """
    account = batch.accounts[account_id]
    if account.status == AccountStatus.CLOSED:
        return 0
    floor = account.min_balance
    if account.is_debit_normal or floor is None:
        return amount
    lacking = amount - incoming
    while account.available - floor < lacking and batch.expire_lapsed(account_id):
        pass
    return min(amount, incoming + max(0, account.available - floor))
