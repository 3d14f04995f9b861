"""The posting engine: the only code that writes transfers, entries and counters.

It posts any number of transfers of one ledger in the caller's transaction with a
constant number of statements: one locks the accounts, one looks for used references
(only if any were given), one writes everything. Reading it from top to bottom:

1. lock every account that occurs, in ascending id;
2. judge each transfer in the given order, on the balances that the earlier ones leave,
   and either note a refusal or apply it to the locked state in memory;
3. write transfers, entries, outbox tasks and account counters in one statement, whose
   triggers check the result once more (``migrations/sql/0002_invariants_up.sql``).

A transfer is refused for the first of these reasons that holds (precedence order):
``account_not_found``, ``same_account``, ``currency_mismatch``, ``account_closed``,
``account_frozen``, ``payout_account_cannot_send``, ``effective_at_in_future``,
``reference_taken``, ``insufficient_funds``, ``balance_out_of_range``.

A refusal of one transfer leaves the others of the list alone; whoever wants all or
nothing raises when it sees one.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from ledger.enums import (
    PAYOUT_COMPLETIONS,
    AccountStatus,
)
from ledger.locks import LockedAccount, lock_accounts
from ledger.models import Transfer
from ledger.types import (
    BalanceAfter,
    PostedTransfer,
    Posting,
    TransferRequest,
)
from outbox.enums import TaskKind
from outbox.wakeup import wake_dispatcher
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem
from payflow.ids import new_id
from payflow.money import MAX_AMOUNT

#: The most transfers of one call; the callers slice longer work.
MAX_TRANSFERS = 10_000
#: The most postings of one call, well within the statement's time limit.
MAX_BATCH_POSTINGS = 25_000
#: A transfer this little ahead of our clock is taken as happening now.
CLOCK_TOLERANCE = timedelta(seconds=5)
#: From so many entries on, what the connection remembers of plans is thrown away first.
#: Foreign keys and triggers keep theirs, and one that was made on nearly empty tables
#: may read a whole table for each row, until autovacuum has noticed that they grew.
REPLAN_ENTRIES = 200
#: The largest lifetime total of a counter: what the database's CHECK allows.
MAX_COUNTER = 9_000_000_000_000_000_000

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
    """Posts transfers of one ledger; see the module's text.

    Args:
        ledger_id: the ledger that all accounts must belong to.
        requests: up to :data:`MAX_TRANSFERS`, judged and numbered in this order.
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
    require_transaction()
    if len(requests) > MAX_TRANSFERS:
        raise ValueError(f"at most {MAX_TRANSFERS} transfers at once")
    if sum(len(request.postings) for request in requests) > MAX_BATCH_POSTINGS:
        raise ValueError(f"at most {MAX_BATCH_POSTINGS} postings at once")
    accounts = lock_accounts(
        ledger_id=ledger_id,
        account_ids=(
            account_id
            for request in requests
            for posting in request.postings
            for account_id in (posting.from_account_id, posting.to_account_id)
        ),
    )
    used_references = _references_in_use(ledger_id, requests)

    batch = _Batch(ledger_id, actor, idempotency_key, accounts)
    problems: list[Problem | None] = []
    for request in requests:
        problem = _refusal(request, accounts, used_references, now)
        if problem is None:
            # From here on this transfer must succeed.
            batch.add(request)
            if request.reference is not None:
                used_references.add(request.reference)
        problems.append(problem)

    posted = iter(batch.write(tasks_are_done=tasks_are_done))
    if batch.has_tasks and not tasks_are_done:
        transaction.on_commit(wake_dispatcher, robust=True)
    return [problem or next(posted) for problem in problems]


def _references_in_use(
    ledger_id: UUID, requests: Sequence[TransferRequest]
) -> set[str]:
    wanted = [r.reference for r in requests if r.reference is not None]
    if not wanted:
        return set()
    rows = Transfer.objects.filter(ledger_id=ledger_id, reference__in=wanted)
    return {reference for (reference,) in rows.values_list("reference") if reference}


# --- Refusals ---------------------------------------------------------------------


def _refusal(
    request: TransferRequest,
    accounts: dict[UUID, LockedAccount],
    used_references: set[str],
    now: datetime,
) -> Problem | None:
    """The first reason to refuse, in the documented order, or ``None``."""
    if not request.postings:
        raise ValueError("a transfer has at least one posting")
    for check in (_account_missing, _same_account, _currency_mismatch):
        if (problem := check(request, accounts)) is not None:
            return problem
    if (problem := _status_forbids(request, accounts)) is not None:
        return problem
    if (problem := _payout_account_sends(request, accounts)) is not None:
        return problem
    if request.effective_at is not None and request.effective_at > now + (
        CLOCK_TOLERANCE
    ):
        return Problem(
            "effective_at_in_future",
            f"effective_at is more than {CLOCK_TOLERANCE.seconds} seconds ahead.",
        )
    if request.reference in used_references:
        return Problem(
            "reference_taken",
            f"Another transfer has the reference {request.reference!r}.",
            {"reference": request.reference},
        )
    return _balances_forbid(request, accounts)


def _account_missing(
    request: TransferRequest, accounts: dict[UUID, LockedAccount]
) -> Problem | None:
    for posting in request.postings:
        for account_id in (posting.from_account_id, posting.to_account_id):
            if account_id not in accounts:
                return Problem(
                    "account_not_found",
                    f"There is no account {account_id} in this ledger.",
                    {"account_id": str(account_id)},
                )
    return None


def _same_account(
    request: TransferRequest, _accounts: dict[UUID, LockedAccount]
) -> Problem | None:
    for posting in request.postings:
        if posting.from_account_id == posting.to_account_id:
            return Problem(
                "same_account",
                "A posting moves money between two different accounts.",
                {"account_id": str(posting.from_account_id)},
            )
    return None


def _currency_mismatch(
    request: TransferRequest, accounts: dict[UUID, LockedAccount]
) -> Problem | None:
    for posting in request.postings:
        source = accounts[posting.from_account_id].currency
        target = accounts[posting.to_account_id].currency
        if source != target:
            return Problem(
                "currency_mismatch",
                f"A posting cannot move {source} into an account of {target}.",
                {"from_currency": source, "to_currency": target},
            )
    return None


def _status_forbids(
    request: TransferRequest, accounts: dict[UUID, LockedAccount]
) -> Problem | None:
    sides = [
        side
        for posting in request.postings
        for side in (
            (accounts[posting.from_account_id], True),
            (accounts[posting.to_account_id], False),
        )
    ]
    for account, _ in sides:
        if account.status == AccountStatus.CLOSED:
            return Problem(
                "account_closed",
                f"Account {account.id} is closed.",
                {"account_id": str(account.id)},
            )
    if request.kind in PAYOUT_COMPLETIONS:
        return None
    for account, is_debit in sides:
        falls = is_debit != account.is_debit_normal
        if account.status == AccountStatus.FROZEN or (
            account.status == AccountStatus.FROZEN_OUT and falls
        ):
            return Problem(
                "account_frozen",
                f"Account {account.id} is frozen.",
                {"account_id": str(account.id), "status": account.status},
            )
    return None


def _payout_account_sends(
    request: TransferRequest, accounts: dict[UUID, LockedAccount]
) -> Problem | None:
    if request.kind in PAYOUT_COMPLETIONS:
        return None
    for posting in request.postings:
        if accounts[posting.from_account_id].payout_destination is not None:
            return Problem(
                "payout_account_cannot_send",
                f"Account {posting.from_account_id} holds money on its way to a bank.",
                {"account_id": str(posting.from_account_id)},
            )
    return None


def _balances_forbid(
    request: TransferRequest, accounts: dict[UUID, LockedAccount]
) -> Problem | None:
    """Judges every touched account after all postings of the transfer."""
    debits: dict[UUID, int] = {}
    credits: dict[UUID, int] = {}
    for posting in request.postings:
        source, target = posting.from_account_id, posting.to_account_id
        debits[source] = debits.get(source, 0) + posting.amount
        credits[target] = credits.get(target, 0) + posting.amount
    touched = dict.fromkeys((*debits, *credits))
    for account_id in touched:
        account = accounts[account_id]
        change = credits.get(account_id, 0) - debits.get(account_id, 0)
        if account.is_debit_normal:
            change = -change
        if change >= 0 or account.min_balance is None:
            continue
        available = account.posted - account.pending_out
        if available + change < account.min_balance:
            return Problem(
                "insufficient_funds",
                f"Account {account_id} has {available} available and its floor is "
                f"{account.min_balance}; {-change} is required.",
                {
                    "account_id": str(account_id),
                    "available": available,
                    "required": -change,
                    "min_balance": account.min_balance,
                },
            )
    for account_id in touched:
        account = accounts[account_id]
        debit_total = account.debits_posted + debits.get(account_id, 0)
        credit_total = account.credits_posted + credits.get(account_id, 0)
        if (
            abs(credit_total - debit_total) > MAX_AMOUNT
            or max(debit_total, credit_total) > MAX_COUNTER
        ):
            return Problem(
                "balance_out_of_range",
                f"The balance of account {account_id} would be out of range.",
                {"account_id": str(account_id)},
            )
    return None


# --- Writing ----------------------------------------------------------------------


class _Batch:
    """Applies accepted transfers to the locked accounts and writes them as arrays."""

    def __init__(
        self,
        ledger_id: UUID,
        actor: Actor,
        idempotency_key: str | None,
        accounts: dict[UUID, LockedAccount],
    ) -> None:
        self._ledger_id = ledger_id
        self._actor = actor
        self._key = idempotency_key
        self._accounts = accounts
        self._requests: list[TransferRequest] = []
        self._balances: list[tuple[BalanceAfter, ...]] = []
        self._touched: dict[UUID, LockedAccount] = {}
        self._entries: list[tuple[Any, ...]] = []
        self._tasks: list[tuple[Any, ...]] = []

    @property
    def has_tasks(self) -> bool:
        return bool(self._tasks)

    def add(self, request: TransferRequest) -> None:
        """Applies one transfer that is not refused."""
        touched: dict[UUID, LockedAccount] = {}
        self._tasks.append(
            (new_id(), TaskKind.TRANSFER_POSTED, request.id, 0, None, None, None, None)
        )
        for number, posting in enumerate(request.postings, start=1):
            source = self._accounts[posting.from_account_id]
            target = self._accounts[posting.to_account_id]
            source.debits_posted += posting.amount
            target.credits_posted += posting.amount
            for account, direction in ((source, "debit"), (target, "credit")):
                account.version += 1
                touched[account.id] = account
                self._entries.append(
                    (
                        new_id(),
                        request.id,
                        number,
                        direction,
                        account.id,
                        account.currency,
                        posting.amount,
                        account.version,
                        account.debits_posted,
                        account.credits_posted,
                        request.effective_at,
                    )
                )
            if target.payout_destination is not None:
                self._tasks.append(
                    (
                        new_id(),
                        TaskKind.PAYOUT,
                        request.id,
                        number,
                        target.id,
                        target.payout_destination,
                        posting.amount,
                        target.currency,
                    )
                )
        self._requests.append(request)
        self._balances.append(
            tuple(
                BalanceAfter(a.id, a.currency, a.posted, a.version)
                for a in touched.values()
            )
        )
        self._touched.update(touched)

    def write(self, *, tasks_are_done: bool) -> list[PostedTransfer]:
        """Writes what was added, in one statement."""
        if not self._requests:
            return []
        recorded_at = self._execute(tasks_are_done=tasks_are_done)
        return [
            PostedTransfer(
                ledger_id=self._ledger_id,
                id=request.id,
                kind=request.kind,
                postings=tuple(
                    Posting(
                        p.from_account_id,
                        p.to_account_id,
                        p.amount,
                        self._accounts[p.from_account_id].currency,
                    )
                    for p in request.postings
                ),
                balances=balances,
                reference=request.reference,
                description=request.description,
                metadata=request.metadata,
                effective_at=min(request.effective_at or recorded_at, recorded_at),
                created_at=recorded_at,
                reverses_transfer_id=request.reverses_transfer_id,
            )
            for request, balances in zip(self._requests, self._balances, strict=True)
        ]

    def _execute(self, *, tasks_are_done: bool) -> datetime:
        accounts = list(self._touched.values())
        last_entries = [a.last_entry_at for a in accounts if a.last_entry_at]
        transfers = [
            (
                r.id,
                str(r.kind),
                len(r.postings),
                r.reference,
                r.description,
                json.dumps(dict(r.metadata)),
                r.effective_at,
                r.reverses_transfer_id,
            )
            for r in self._requests
        ]
        parameters = {
            "ledger_id": self._ledger_id,
            "not_before": max(last_entries, default=None),
            "client_id": self._actor.client_id,
            "key_id": self._actor.key_id,
            "actor": self._actor.label,
            "request_id": self._actor.request_id,
            "idempotency_key": self._key,
            "posted_state": "done" if tasks_are_done else "pending",
            **_columns("t", 8, transfers),
            **_columns("e", 11, self._entries),
            **_columns("k", 8, self._tasks),
            **_columns(
                "a",
                4,
                [
                    (a.id, a.version, a.debits_posted, a.credits_posted)
                    for a in accounts
                ],
            ),
        }
        with connection.cursor() as cursor:
            if len(self._entries) >= REPLAN_ENTRIES:
                cursor.execute("DISCARD PLANS")
            cursor.execute(_WRITE, parameters)
            (recorded_at, updated) = cursor.fetchone()
        if updated != len(accounts):
            raise RuntimeError("a locked account disappeared: refusing to commit")
        return recorded_at  # type: ignore[no-any-return]


def _columns(prefix: str, width: int, rows: list[tuple[Any, ...]]) -> dict[str, list]:  # type: ignore[type-arg]
    columns = zip(*rows, strict=True) if rows else [()] * width
    return {f"{prefix}{i}": list(column) for i, column in enumerate(columns)}


# One statement, so that its triggers see the whole. The recording time is PostgreSQL's
# clock, read after the accounts are locked and never below an account's last entry.
_WRITE = """
WITH clock AS MATERIALIZED (
    SELECT greatest(clock_timestamp(), %(not_before)s::timestamptz) AS at
), transfers AS (
    INSERT INTO ledger_transfer (
        ledger_id, id, kind, posting_count, reference, description, metadata,
        effective_at, created_at, reverses_transfer_id,
        actor, client_id, key_id, request_id, idempotency_key)
    SELECT %(ledger_id)s::uuid, t.id, t.kind, t.posting_count, t.reference,
        t.description, t.metadata::jsonb,
        least(coalesce(t.effective_at, clock.at), clock.at), clock.at,
        t.reverses_transfer_id, %(actor)s, %(client_id)s::uuid, %(key_id)s::uuid,
        %(request_id)s, %(idempotency_key)s
    FROM clock, unnest(
        %(t0)s::uuid[], %(t1)s::text[], %(t2)s::int[], %(t3)s::text[], %(t4)s::text[],
        %(t5)s::text[], %(t6)s::timestamptz[], %(t7)s::uuid[]
    ) AS t (id, kind, posting_count, reference, description, metadata, effective_at,
        reverses_transfer_id)
), entries AS (
    INSERT INTO ledger_entry (
        ledger_id, id, transfer_id, posting_number, direction, account_id, currency,
        amount, account_version, debits_after, credits_after, effective_at, created_at)
    SELECT %(ledger_id)s::uuid, e.id, e.transfer_id, e.posting_number, e.direction,
        e.account_id, e.currency, e.amount, e.account_version, e.debits_after,
        e.credits_after, least(coalesce(e.effective_at, clock.at), clock.at), clock.at
    FROM clock, unnest(
        %(e0)s::uuid[], %(e1)s::uuid[], %(e2)s::int[], %(e3)s::text[], %(e4)s::uuid[],
        %(e5)s::text[], %(e6)s::bigint[], %(e7)s::bigint[], %(e8)s::bigint[],
        %(e9)s::bigint[], %(e10)s::timestamptz[]
    ) AS e (id, transfer_id, posting_number, direction, account_id, currency, amount,
        account_version, debits_after, credits_after, effective_at)
), tasks AS (
    INSERT INTO outbox_task (
        ledger_id, id, kind, transfer_id, posting_number, account_id, destination,
        amount, currency, state, due_at, created_at, finished_at, request_id)
    SELECT %(ledger_id)s::uuid, k.id, k.kind, k.transfer_id, k.posting_number,
        k.account_id, k.destination, k.amount, k.currency,
        CASE k.kind WHEN 'transfer.posted' THEN %(posted_state)s ELSE 'pending' END,
        clock.at, clock.at,
        CASE WHEN k.kind = 'transfer.posted' AND %(posted_state)s = 'done'
            THEN clock.at END,
        %(request_id)s
    FROM clock, unnest(
        %(k0)s::uuid[], %(k1)s::text[], %(k2)s::uuid[], %(k3)s::int[], %(k4)s::uuid[],
        %(k5)s::text[], %(k6)s::bigint[], %(k7)s::text[]
    ) AS k (id, kind, transfer_id, posting_number, account_id, destination, amount,
        currency)
), accounts AS (
    UPDATE ledger_account a
    SET version = u.version, debits_posted = u.debits_posted,
        credits_posted = u.credits_posted, last_entry_at = clock.at
    FROM clock, unnest(
        %(a0)s::uuid[], %(a1)s::bigint[], %(a2)s::bigint[], %(a3)s::bigint[]
    ) AS u (id, version, debits_posted, credits_posted)
    WHERE a.ledger_id = %(ledger_id)s::uuid AND a.id = u.id
    RETURNING 1
)
SELECT clock.at, (SELECT count(*) FROM accounts) FROM clock
"""
