"""A batch: operations judged and applied one after the other, written all at once."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, cast
from uuid import UUID

from django.db import connection, transaction

from ledger.engine import refusals, writing
from ledger.engine.velocity import Movements, Velocity
from ledger.enums import (
    COUNTED_KINDS,
    REVERSIBLE_KINDS,
    HoldEventKind,
    HoldStatus,
)
from ledger.locks import (
    LockedAccount,
    LockedHold,
    LockedHoldPosting,
    lock_accounts,
    lock_holds,
    lock_period,
)
from ledger.types import (
    BalanceAfter,
    HoldRequest,
    PostedTransfer,
    Posting,
    PostingRequest,
    TransferRequest,
)
from outbox.enums import TaskKind
from outbox.handlers import kinds_to_wake_for
from outbox.wakeup import wake_dispatcher
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem
from payflow.ids import new_id, new_id_bytes
from payflow.metrics import transfers_posted, transfers_refused
from payflow.money import MAX_AMOUNT
from payflow.statements import run_prepared, texts

#: The most lapsed holds of one account that one look ends, and about the most postings
#: that they have; there are several looks, until what lacks is there.
LAPSED_AT_ONCE = 50
LAPSED_POSTINGS_AT_ONCE = 2_000

# An account's holds that have lapsed and nobody has ended yet, and their accounts.
_LAPSED = """
SELECT p.hold_id, array_agg(DISTINCT x.account_id)
FROM (
    SELECT f.hold_id FROM (
        SELECT p.hold_id, sum(h.posting_count) OVER (
            ORDER BY p.expires_at, p.hold_id) - h.posting_count AS postings_before
        FROM (
            SELECT p.hold_id, p.expires_at FROM ledger_hold_posting p
            WHERE p.ledger_id = %(ledger_id)s AND p.{column} = %(account_id)s
              AND p.expires_at <= statement_timestamp()
              AND least(p.captured, p.amount) + p.released < p.amount
              AND p.hold_id <> ALL (%(known)s)
            ORDER BY p.expires_at LIMIT %(limit)s
        ) p
        JOIN ledger_hold h ON h.ledger_id = %(ledger_id)s AND h.id = p.hold_id
    ) f
    WHERE f.postings_before < %(postings)s
) found
JOIN ledger_hold_posting p
    ON p.ledger_id = %(ledger_id)s AND p.hold_id = found.hold_id
CROSS JOIN LATERAL (
    VALUES (p.from_account_id), (p.to_account_id)) AS x (account_id)
GROUP BY p.hold_id
"""

# Each is looked up by itself, whatever the planner believes of the table's size.
_USED_REFERENCES = """
SELECT used.reference FROM unnest($2::text[]) AS wanted (reference)
CROSS JOIN LATERAL (
    SELECT t.reference FROM {table} t
    WHERE t.ledger_id = $1 AND t.reference = wanted.reference OFFSET 0
) used
"""


class HasReference(Protocol):
    """What may name itself."""

    @property
    def reference(self) -> str | None:
        """Its name, which nothing else of its kind in the ledger has."""


class Batch:
    """Operations on one ledger in the caller's transaction; see ``ledger.engine``.

    Args:
        ledger_id: the ledger.
        actor: who asks, for the record; see :meth:`act_for`.
        now: the interface's clock, against which ``effective_at`` is judged.
        idempotency_key: the key of the request, for the record.

    Raises:
        RuntimeError: no transaction is open.
    """

    def __init__(
        self,
        *,
        ledger_id: UUID,
        actor: Actor,
        now: datetime,
        idempotency_key: str | None = None,
    ) -> None:
        require_transaction()
        self.ledger_id = ledger_id
        self._actors = [actor]
        self._now = now
        self._key = idempotency_key
        self.accounts: dict[UUID, LockedAccount] = {}
        self._velocity = Velocity(ledger_id, ())
        self._has_limits = False
        self._closed_before: datetime | None = None
        self._used_references: set[str] = set()
        self._used_hold_references: set[str] = set()
        #: Those that were locked, and once it is written those that were placed.
        self.holds: dict[UUID, LockedHold] = {}
        self._placed: list[
            tuple[HoldRequest, timedelta | None, list[LockedHoldPosting]]
        ] = []
        self._rows = writing.Rows()
        self._touched: dict[LockedAccount, None] = {}
        self._changed_holds: dict[UUID, LockedHold] = {}
        self._without_lapsed: set[UUID] = set()
        self._requests: list[TransferRequest] = []
        self._effects: list[tuple[tuple[Posting, ...], tuple[BalanceAfter, ...]]] = []
        self._refused: Counter[str] = Counter()

    def act_for(self, actor: Actor) -> None:
        """Says who asks for all that follows: requests of several share a batch."""
        if actor != self._actors[-1]:
            self._actors.append(actor)

    def lock(
        self, account_ids: Iterable[UUID] = (), *, hold_ids: Sequence[UUID] = ()
    ) -> None:
        """Locks the accounts and those of the holds, then the holds, in this order.

        Reads what limits the accounts, too. Once, before all else.
        """
        self.accounts = lock_accounts(
            ledger_id=self.ledger_id, account_ids=account_ids, hold_ids=hold_ids
        )
        self._velocity = Velocity(self.ledger_id, self.accounts.values())
        self._has_limits = bool(self._velocity)
        if hold_ids:
            self._lock_holds(hold_ids)

    def _lock_holds(self, hold_ids: Iterable[UUID]) -> None:
        for hold in lock_holds(ledger_id=self.ledger_id, hold_ids=hold_ids):
            self.holds[hold.id] = hold

    def prepare(self, requests: Sequence[HasReference]) -> None:
        """Reads what else these requests are judged by. Once, after ``lock``."""
        transfers = [r for r in requests if isinstance(r, TransferRequest)]
        if any(refusals.is_backdated(r, self._now) for r in transfers):
            self._closed_before = lock_period(ledger_id=self.ledger_id)
        wanted = [r for r in requests if r.reference is not None]
        if wanted:
            holds = [r for r in wanted if isinstance(r, HoldRequest)]
            others = [r for r in wanted if not isinstance(r, HoldRequest)]
            self._used_hold_references = self._used("ledger_hold", holds)
            self._used_references = self._used("ledger_transfer", others)

    def _used(self, table: str, requests: Sequence[HasReference]) -> set[str]:
        if not requests:
            return set()
        found = run_prepared(
            _USED_REFERENCES.format(table=table),
            [self.ledger_id, texts([request.reference for request in requests])],
        )
        return {reference for (reference,) in found}

    def post(self, request: TransferRequest) -> Problem | None:
        """Applies a transfer, unless something forbids it: then it says what."""
        problem = None if self._is_plain(request) else self.refusal(request)
        if problem is None:
            self.add(request)
        return problem

    def _is_plain(self, request: TransferRequest) -> bool:
        """Whether one look shows that nothing forbids the transfer.

        Most are so: one posting, now, between two ordinary accounts that bear it. It is
        true only where :meth:`refusal` finds nothing, and a test compares the two; all
        others are judged rule by rule, in the documented order.
        """
        if (
            request.effective_at is not None
            or self._has_limits
            or len(request.postings) != 1
            or (
                request.reference is not None
                and request.reference in self._used_references
            )
        ):
            return False
        ((source_id, target_id, amount),) = request.postings
        source, target = self.accounts.get(source_id), self.accounts.get(target_id)
        return (
            source is not None
            and target is not None
            and source is not target
            and source.currency == target.currency
            and source.is_plain
            and target.is_plain
            and source.bears(debit=amount, credit=0)
            and target.bears(debit=0, credit=amount)
        )

    # --- Judging ------------------------------------------------------------------

    def refusal(
        self,
        request: TransferRequest | HoldRequest,
        *,
        hold: LockedHold | None = None,
        is_final: bool = False,
    ) -> Problem | None:
        """The first reason to refuse, in the documented order, or ``None``.

        Where an account lacks funds that lapsed holds still reserve, those holds are
        ended first; they stay ended, whatever becomes of the request.

        Args:
            request: what is wanted.
            hold, is_final: the hold that a transfer captures, and whether it releases
                the rest.
        """
        problem = self._refusal(request, hold, is_final=is_final)
        if problem is not None:
            if not self._refused:
                transaction.on_commit(
                    lambda: transfers_refused(self._refused), robust=True
                )
            self._refused[problem.code] += 1
        return problem

    def _refusal(
        self,
        request: TransferRequest | HoldRequest,
        hold: LockedHold | None,
        *,
        is_final: bool,
    ) -> Problem | None:
        problem = refusals.form_forbids(request, self.accounts)
        if problem is None and isinstance(request, TransferRequest):
            problem = refusals.time_forbids(
                request, now=self._now, closed_before=self._closed_before
            )
        if problem is not None:
            return problem
        used = (
            self._used_hold_references
            if isinstance(request, HoldRequest)
            else self._used_references
        )
        if request.reference is not None and request.reference in used:
            return refusals.reference_taken(request.reference)
        if self._has_limits:
            problem = self._velocity.refusal(self._counted(request, hold))
            if problem is not None:
                return problem
        effects = _effects(request, hold, is_final=is_final)
        while True:
            problem = refusals.funds_forbid(
                effects, self.accounts
            ) or refusals.range_forbids(effects, self.accounts)
            if problem is None:
                return None
            if not self.expire_lapsed(UUID(problem.fields["account_id"])):
                return problem

    def _counted(
        self, request: TransferRequest | HoldRequest, hold: LockedHold | None
    ) -> Movements:
        """What the request counts against the accounts' velocity limits."""
        if hold is not None:
            beyond = self._velocity.movements(_beyond(hold, request))
            return {side: (amount, 0) for side, (amount, _) in beyond.items()}
        if isinstance(request, TransferRequest) and request.kind not in COUNTED_KINDS:
            return {}
        return self._velocity.movements(request.postings)

    def expire_lapsed(self, account_id: UUID) -> bool:
        """Ends lapsed holds that reserve this account's money; says whether it did."""
        account = self.accounts[account_id]
        if account.pending_out == 0 or account_id in self._without_lapsed:
            return False
        column = "to_account_id" if account.is_debit_normal else "from_account_id"
        with connection.cursor() as cursor:
            cursor.execute(
                _LAPSED.format(column=column),
                {
                    "ledger_id": self.ledger_id,
                    "account_id": account_id,
                    "known": list(self._changed_holds),
                    "limit": LAPSED_AT_ONCE,
                    "postings": LAPSED_POSTINGS_AT_ONCE,
                },
            )
            found = dict(cursor.fetchall())
        others = {i for ids in found.values() for i in ids} - self.accounts.keys()
        if others:
            # Out of the order of ids, for these accounts were not known before. Should
            # that meet somebody who waits for ours, PostgreSQL ends one of the two, and
            # the request is tried again.
            self.accounts |= lock_accounts(ledger_id=self.ledger_id, account_ids=others)
        for hold_id in found.keys() & self.holds.keys():
            # It is locked and unchanged: its time has come since.
            self.holds[hold_id].is_lapsed = True
        self._lock_holds(found.keys() - self.holds.keys())
        ended = self.end_lapsed(sorted(found))
        if not ended:
            # The next of a batch that lacks funds need not look again.
            self._without_lapsed.add(account_id)
        return bool(ended)

    def end_lapsed(self, hold_ids: Iterable[UUID]) -> int:
        """Ends those of the locked holds that have lapsed, and says how many."""
        lapsed = [
            hold
            for hold in [self.holds[hold_id] for hold_id in hold_ids]
            # Somebody else may have ended or extended it before we had the lock.
            if hold.status == HoldStatus.ACTIVE and hold.is_lapsed
        ]
        for hold in lapsed:
            self.end_hold(hold, HoldStatus.EXPIRED)
        return len(lapsed)

    # --- Applying -----------------------------------------------------------------

    def add(self, request: TransferRequest, *, hold: LockedHold | None = None) -> None:
        """Applies a transfer that is not refused; from here on it must succeed."""
        if self._has_limits:
            self._velocity.count(self._counted(request, hold))
        rows, by, transfer_id = self._rows, len(self._actors), request.id.bytes
        rows.tasks.append((new_id_bytes(), transfer_id, by))
        is_reversible = request.kind in REVERSIBLE_KINDS
        postings: list[Posting] = []
        moved: dict[LockedAccount, None] = {}
        for number, (source_id, target_id, amount) in enumerate(request.postings, 1):
            source, target = self.accounts[source_id], self.accounts[target_id]
            currency = source.currency
            reversible = amount if is_reversible else 0
            postings.append(Posting(source_id, target_id, amount, currency, reversible))
            source.debits_posted += amount
            source.version += 1
            target.credits_posted += amount
            target.version += 1
            moved[source] = moved[target] = None
            rows.postings.append(
                (
                    new_id_bytes(),
                    new_id_bytes(),
                    transfer_id,
                    number,
                    source_id.bytes,
                    target_id.bytes,
                    currency,
                    amount,
                    source.version,
                    source.debits_posted,
                    source.credits_posted,
                    target.version,
                    target.debits_posted,
                    target.credits_posted,
                    request.effective_at,
                )
            )
            if target.payout_destination is not None:
                rows.payouts.append(
                    (
                        new_id_bytes(),
                        transfer_id,
                        number,
                        target_id.bytes,
                        target.payout_destination,
                        amount,
                        target.currency,
                        by,
                    )
                )
        rows.transfers.append(
            (
                transfer_id,
                request.kind.value,
                len(request.postings),
                request.reference,
                request.description,
                _json(request.metadata),
                request.effective_at,
                request.idempotency_key,
                _origin(request),
                by,
            )
        )
        self._requests.append(request)
        balances = [BalanceAfter(a.id, a.currency, a.posted, a.version) for a in moved]
        self._effects.append((tuple(postings), tuple(balances)))
        self._touched.update(moved)
        if request.reference is not None:
            self._used_references.add(request.reference)

    def add_hold(
        self,
        request: HoldRequest,
        *,
        lifetime: timedelta | None,
        over_capture_basis_points: int,
    ) -> None:
        """Applies a hold that is not refused.

        Args:
            request: what is held.
            lifetime: from its recording on; ``None`` where ``expires_at`` is given.
            over_capture_basis_points: what captures may take beyond the hold, in
                hundredths of a percent of each posting.
        """
        if self._has_limits:
            self._velocity.count(self._counted(request, None))
        expiry = (request.expires_at, lifetime)
        self._rows.holds.append(
            (
                request.id,
                len(request.postings),
                request.reference,
                request.description,
                _json(request.metadata),
                *expiry,
                request.idempotency_key,
                len(self._actors),
            )
        )
        postings = []
        for number, posting in enumerate(request.postings, start=1):
            source_id, target_id, amount = posting
            allowance = amount * over_capture_basis_points // 10_000
            self._reserve(source_id, target_id, amount)
            placed = LockedHoldPosting(
                new_id(),
                number,
                source_id,
                target_id,
                self.accounts[source_id].currency,
                amount,
                min(amount + allowance, MAX_AMOUNT),
            )
            postings.append(placed)
            self._rows.hold_postings.append(
                (
                    placed.id,
                    request.id,
                    number,
                    source_id,
                    target_id,
                    placed.currency,
                    amount,
                    placed.capture_limit,
                    *expiry,
                )
            )
        self._event(request.id, HoldEventKind.PLACED, expiry=expiry)
        self._placed.append((request, lifetime, postings))
        if request.reference is not None:
            self._used_hold_references.add(request.reference)

    def add_capture(
        self, hold: LockedHold, request: TransferRequest, *, is_final: bool
    ) -> None:
        """Applies a capture that is not refused; ends the hold if nothing is left."""
        self.add(request, hold=hold)
        amounts = _amounts_by_source(request)
        for posting in hold.postings:
            held = posting.held
            posting.captured += amounts.get(posting.number, 0)
            self._reserve(
                posting.from_account_id, posting.to_account_id, posting.held - held
            )
        released = self._release(hold) if is_final else 0
        if not any(posting.held for posting in hold.postings):
            hold.status = HoldStatus.CAPTURED
        self._changed_holds[hold.id] = hold
        self._event(
            hold.id,
            HoldEventKind.CAPTURED,
            captured=sum(amounts.values()),
            released=released,
            transfer_id=request.id,
        )

    def end_hold(
        self, hold: LockedHold, status: HoldStatus, *, reason: str = ""
    ) -> None:
        """Ends a hold, voided or expired, and frees what it still holds."""
        released = self._release(hold)
        hold.status = status
        self._changed_holds[hold.id] = hold
        self._event(hold.id, HoldEventKind(status), released=released, reason=reason)

    def _release(self, hold: LockedHold) -> int:
        """Frees what a hold still holds; returns how much that is, in minor units."""
        if self._has_limits:
            self._velocity.give_back(hold)
        released = 0
        for posting in hold.postings:
            released += posting.held
            self._reserve(posting.from_account_id, posting.to_account_id, -posting.held)
            posting.released += posting.held
        return released

    def extend_hold(self, hold: LockedHold, expires_at: datetime) -> None:
        """Lets a hold lapse at another time."""
        hold.expires_at = expires_at
        self._changed_holds[hold.id] = hold
        self._event(hold.id, HoldEventKind.EXTENDED, expiry=(expires_at, None))

    def add_reversal_total(
        self, *, transfer_id: UUID, posting_number: int, amount: int, reversed: int
    ) -> None:
        """Notes what of a posting of ``amount`` is reversed by now, in minor units."""
        self._rows.reversals.append(
            (new_id(), transfer_id, posting_number, amount, reversed)
        )

    def _reserve(self, from_account_id: UUID, to_account_id: UUID, amount: int) -> None:
        """Reserves ``amount`` on both accounts, or frees it if it is negative."""
        source, target = self.accounts[from_account_id], self.accounts[to_account_id]
        source.debits_pending += amount
        target.credits_pending += amount
        self._touched[source] = self._touched[target] = None

    def _event(
        self,
        hold_id: UUID,
        kind: HoldEventKind,
        *,
        captured: int = 0,
        released: int = 0,
        transfer_id: UUID | None = None,
        expiry: tuple[datetime | None, timedelta | None] = (None, None),
        reason: str = "",
    ) -> None:
        event_id, by = new_id(), len(self._actors)
        self._rows.hold_tasks.append((new_id(), TaskKind(f"hold.{kind}"), event_id, by))
        self._rows.hold_events.append(
            (
                event_id,
                hold_id,
                str(kind),
                captured,
                released,
                transfer_id,
                *expiry,
                reason,
                by,
            )
        )

    # --- Writing ------------------------------------------------------------------

    def write(self, *, tasks_are_done: bool = False) -> list[PostedTransfer]:
        """Writes all that was added, in one statement.

        At commit it wakes the dispatcher, if there are tasks that it should call for.

        Args:
            tasks_are_done: write ``transfer.posted`` tasks as done already; for bulk
                books that nobody is to be told of.

        Returns:
            The transfers, in the order in which they were added.
        """
        if not self._touched and not self._changed_holds:
            return []
        kinds = {kind for _, kind, *_ in self._rows.hold_tasks}
        if self._rows.tasks:
            kinds.add(TaskKind.TRANSFER_POSTED)
        if self._rows.payouts:
            kinds.add(TaskKind.PAYOUT)
        recorded_at = self._write(tasks_are_done=tasks_are_done)
        self._date_holds(recorded_at)
        if self._requests:
            transaction.on_commit(
                lambda: transfers_posted(len(self._requests)), robust=True
            )
        if not tasks_are_done and not kinds.isdisjoint(kinds_to_wake_for()):
            transaction.on_commit(wake_dispatcher, robust=True)
        return [
            self._posted(request, postings, balances, recorded_at)
            for request, (postings, balances) in zip(
                self._requests, self._effects, strict=True
            )
        ]

    def _write(self, *, tasks_are_done: bool) -> datetime:
        rows = self._rows
        rows.accounts = [
            (
                a.id.bytes,
                a.version,
                a.debits_posted,
                a.credits_posted,
                a.debits_pending,
                a.credits_pending,
            )
            for a in self._touched
        ]
        rows.hold_changes = [
            (h.id, h.status, h.expires_at) for h in self._changed_holds.values()
        ]
        rows.hold_posting_changes = [
            (p.id, p.captured, p.released, h.expires_at)
            for h in self._changed_holds.values()
            for p in h.postings
        ]
        rows.usage = [(new_id(), *row) for row in self._velocity.rows()]
        times = [a.last_entry_at for a in self._touched if a.last_entry_at]
        if self._velocity.last_usage_at is not None:
            times.append(self._velocity.last_usage_at)
        return writing.write(
            rows,
            ledger_id=self.ledger_id,
            actors=self._actors,
            idempotency_key=self._key,
            not_before=max(times, default=None),
            tasks_are_done=tasks_are_done,
        )

    def _date_holds(self, recorded_at: datetime) -> None:
        """Makes ``holds`` say of those that were written what their rows say."""
        for hold in self._changed_holds.values():
            if hold.status != HoldStatus.ACTIVE:
                hold.ended_at = recorded_at
        for request, lifetime, postings in self._placed:
            given = cast("datetime", request.expires_at)
            self.holds[request.id] = LockedHold(
                ledger_id=self.ledger_id,
                id=request.id,
                status=HoldStatus.ACTIVE,
                reference=request.reference,
                description=request.description,
                metadata=request.metadata,
                expires_at=recorded_at + lifetime if lifetime else given,
                created_at=recorded_at,
                ended_at=None,
                is_lapsed=False,
                postings=postings,
            )

    def _posted(
        self,
        request: TransferRequest,
        postings: tuple[Posting, ...],
        balances: tuple[BalanceAfter, ...],
        recorded_at: datetime,
    ) -> PostedTransfer:
        return PostedTransfer(
            ledger_id=self.ledger_id,
            id=request.id,
            kind=request.kind,
            postings=postings,
            balances=balances,
            reference=request.reference,
            description=request.description,
            metadata=request.metadata,
            effective_at=min(request.effective_at or recorded_at, recorded_at),
            created_at=recorded_at,
            reverses_transfer_id=request.reverses_transfer_id,
            hold_id=request.hold_id,
            reason=request.reason,
            permission=request.permission,
            exchange_rate=request.exchange_rate,
        )


def _effects(
    request: TransferRequest | HoldRequest, hold: LockedHold | None, *, is_final: bool
) -> refusals.Effects:
    """What the request does to the counters of its accounts."""
    if isinstance(request, HoldRequest):
        effects: refusals.Effects = {}
        for wanted in request.postings:
            refusals.add_pending(
                effects, wanted.from_account_id, wanted.to_account_id, wanted.amount
            )
        return effects
    effects = refusals.effects_of_postings(request.postings)
    if hold is not None:
        amounts = _amounts_by_source(request)
        for held in hold.postings:
            freed = (
                held.held if is_final else min(amounts.get(held.number, 0), held.held)
            )
            refusals.add_pending(
                effects, held.from_account_id, held.to_account_id, -freed
            )
    return effects


def _amounts_by_source(request: TransferRequest) -> dict[int, int]:
    """What a capture takes of each posting of its hold, by number."""
    return {
        number: posting.amount
        for number, posting in zip(
            request.source_postings or (), request.postings, strict=True
        )
    }


def _beyond(
    hold: LockedHold, request: TransferRequest | HoldRequest
) -> list[PostingRequest]:
    """What of a capture is more than the hold holds, for it was not counted yet."""
    if not isinstance(request, TransferRequest):
        return []
    amounts = _amounts_by_source(request)
    return [
        PostingRequest(
            posting.from_account_id,
            posting.to_account_id,
            amounts[posting.number] - posting.held,
        )
        for posting in hold.postings
        if amounts.get(posting.number, 0) > posting.held
    ]


def _json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(dict(metadata)) if metadata else "{}"


def _origin(request: TransferRequest) -> str | None:
    """The columns that only some transfers have, as JSON; ``None`` if it has none."""
    if (
        request.reverses_transfer_id is None
        and request.hold_id is None
        and request.reason is None
        and request.permission is None
        and request.exchange_rate is None
    ):
        return None
    columns = {
        "reverses_transfer_id": request.reverses_transfer_id,
        "hold_id": request.hold_id,
        "reason": request.reason,
        "permission": request.permission,
        "exchange_rate": request.exchange_rate,
    }
    origin = {name: str(value) for name, value in columns.items() if value is not None}
    if request.source_postings is not None:
        numbers = ",".join(str(number) for number in request.source_postings)
        origin["source_postings"] = f"{{{numbers}}}"
    return json.dumps(origin)
