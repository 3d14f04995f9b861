"""The one place that locks accounts, and what hangs on them.

Order of locks in every transaction: a scheduled transfer, then accounts in ascending
id, then holds, then reversal totals, then outbox tasks. Two transactions that follow it
cannot deadlock on them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Lookup, UUIDField
from django.db.models.functions import Now

from ledger.enums import AccountKind, ScheduledStatus
from ledger.models import (
    Account,
    Ledger,
    ReversalTotal,
    ScheduledTransfer,
)
from ledger.types import PostingRequest
from payflow.db import require_transaction
from payflow.money import MAX_AMOUNT, MAX_COUNTER
from payflow.statements import run_prepared, uuids


@UUIDField.register_lookup
class _Any(Lookup):
    """``field__any=ids``: one array instead of a placeholder for each."""

    lookup_name = "any"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        column, parameters = self.process_lhs(compiler, connection)
        return f"{column} = ANY (%s)", (*parameters, self.rhs)


@dataclass(slots=True, eq=False)
class LockedAccount:
    """An account's state under its lock, on which the engine computes.

    Amounts are minor units; the counters are the account's lifetime totals.
    """

    id: UUID
    currency: str
    is_debit_normal: bool
    status: str
    min_balance: int | None
    payout_destination: str | None
    version: int
    debits_posted: int
    credits_posted: int
    debits_pending: int
    credits_pending: int
    last_entry_at: datetime | None
    has_velocity_limits: bool

    @property
    def is_plain(self) -> bool:
        """Whether its status and role forbid nothing."""
        return self.status == "open" and self.payout_destination is None

    def bears(self, *, debit: int, credit: int) -> bool:
        """Whether its floor and its range allow what is moved; one of both is 0."""
        debits, credits = self.debits_posted + debit, self.credits_posted + credit
        net = credits - debits
        if self.is_debit_normal:
            available, falls = -net - self.credits_pending, credit
        else:
            available, falls = net - self.debits_pending, debit
        return (
            -MAX_AMOUNT <= net <= MAX_AMOUNT
            and -MAX_AMOUNT <= available <= MAX_AMOUNT
            and debits <= MAX_COUNTER
            and credits <= MAX_COUNTER
            and (not falls or self.min_balance is None or available >= self.min_balance)
        )

    @property
    def posted(self) -> int:
        """The posted balance."""
        net = self.credits_posted - self.debits_posted
        return -net if self.is_debit_normal else net

    @property
    def pending_out(self) -> int:
        """What the account's own holds would take."""
        return self.credits_pending if self.is_debit_normal else self.debits_pending

    @property
    def available(self) -> int:
        """The posted balance less what is held."""
        return self.posted - self.pending_out


_FIELDS = (
    "id",
    "currency",
    "kind",
    "status",
    "min_balance",
    "payout_destination",
    "version",
    "debits_posted",
    "credits_posted",
    "debits_pending",
    "credits_pending",
    "last_entry_at",
    "has_velocity_limits",
)
_ANY_ID = UUID(int=0)
_DEBIT_NORMAL = {kind.value: kind.is_debit_normal for kind in AccountKind}


def lock_accounts(
    *, ledger_id: UUID, account_ids: Iterable[UUID], hold_ids: Sequence[UUID] = ()
) -> dict[UUID, LockedAccount]:
    """Locks accounts of one ledger until the transaction ends.

    Args:
        ledger_id: the ledger; accounts and holds of others are not found.
        account_ids: any order, with repetitions.
        hold_ids: their accounts too, which never change and so are found before any
            lock is taken.

    Returns:
        The accounts that exist, by id. NO KEY UPDATE is enough, because keys never
        change, and lets others' foreign keys refer to the account meanwhile.
    """
    require_transaction()
    ids = uuids(list({account_id.bytes for account_id in account_ids}))
    rows = (
        run_prepared(_accounts_query(_NAMED_OR_HELD), [ledger_id, ids, uuids(hold_ids)])
        if hold_ids
        else run_prepared(_accounts_query(_NAMED), [ledger_id, ids])
    )
    return {
        row[0]: LockedAccount(row[0], row[1], _DEBIT_NORMAL[row[2]], *row[3:])
        for row in rows
    }


# Note [Lengths]. PostgreSQL plans a statement anew each time while it sees how long an
# array is, since short ones look cheap. Behind a SELECT it does not see it and keeps
# the plan; planning cost more than running.
_NAMED = "ARRAY(SELECT unnest($2::uuid[]))"
# LATERAL and OFFSET 0: each hold is looked up by itself, whatever the planner believes
# of the table's size.
_NAMED_OR_HELD = """
$2::uuid[] || ARRAY(
    SELECT a.id FROM unnest($3::uuid[]) AS hold (id)
    CROSS JOIN LATERAL (
        SELECT p.from_account_id, p.to_account_id FROM ledger_hold_posting p
        WHERE p.ledger_id = $1 AND p.hold_id = hold.id OFFSET 0) p
    CROSS JOIN LATERAL (VALUES (p.from_account_id), (p.to_account_id)) AS a (id))
"""


@cache
def _accounts_query(ids: str) -> str:
    """Django's query as a text to prepare: making it costs more than running it.

    Args:
        ids: SQL for the array of the accounts' ids.
    """
    query = (
        Account.objects.filter(ledger_id=_ANY_ID)
        .filter(id__any=[_ANY_ID])
        .order_by("id")
        .select_for_update(of=("self",), no_key=True)
        .values_list(*_FIELDS)
    )
    sql, parameters = query.query.sql_with_params()
    assert parameters == (_ANY_ID, [_ANY_ID]), "the ledger first, then the accounts"
    return sql % ("$1", ids)


def accounts_in_use(*, ledger_id: UUID, account_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the accounts whose locks somebody else has now, or that do not exist.

    It waits for nobody; the locks that it gets go with the caller's transaction.
    """
    require_transaction()
    wanted = set(account_ids)
    rows = Account.objects.filter(ledger_id=ledger_id, id__in=sorted(wanted))
    free = rows.select_for_update(of=("self",), no_key=True, skip_locked=True)
    return wanted - set(free.values_list("id", flat=True))


def lock_account_row(*, ledger_id: UUID, account_id: UUID) -> Account | None:
    """Locks one account for a change of its own fields; ``None`` if there is none."""
    require_transaction()
    return (
        Account.objects.filter(ledger_id=ledger_id, id=account_id)
        .select_for_update(of=("self",), no_key=True)
        .first()
    )


@dataclass(slots=True)
class LockedHoldPosting:
    """A posting of a locked hold; amounts in minor units."""

    id: UUID
    number: int
    from_account_id: UUID
    to_account_id: UUID
    currency: str
    amount: int
    capture_limit: int
    captured: int = 0
    released: int = 0

    @property
    def held(self) -> int:
        """What is still held."""
        return self.amount - min(self.captured, self.amount) - self.released

    def part(self, amount: int) -> PostingRequest:
        """So much of it, moved."""
        return PostingRequest(self.from_account_id, self.to_account_id, amount)


@dataclass(slots=True)
class LockedHold:
    """A hold's state under its lock. PostgreSQL's clock says whether it has lapsed."""

    ledger_id: UUID
    id: UUID
    status: str
    reference: str | None
    description: str
    metadata: Mapping[str, Any]
    expires_at: datetime
    created_at: datetime
    ended_at: datetime | None
    is_lapsed: bool
    postings: list[LockedHoldPosting] = field(default_factory=list)


# The postings are locked with their hold, so both are as their last owner left them,
# even if he was waited for. Each hold is looked up by itself, in the order of the ids.
# See Note [Lengths].
_LOCK_HOLDS = """
SELECT locked.* FROM unnest(ARRAY(SELECT unnest($2::uuid[]))) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT h.ledger_id, h.id, h.status, h.reference, h.description, h.metadata,
        h.expires_at, h.created_at, h.ended_at,
        h.expires_at <= statement_timestamp() AS is_lapsed,
        p.id AS posting_id, p.number, p.from_account_id, p.to_account_id, p.currency,
        p.amount, p.capture_limit, p.captured, p.released
    FROM ledger_hold h
    JOIN ledger_hold_posting p ON p.ledger_id = h.ledger_id AND p.hold_id = h.id
    WHERE h.ledger_id = $1 AND h.id = wanted.id
    ORDER BY p.number
    FOR NO KEY UPDATE OF h, p) locked
"""


def lock_holds(*, ledger_id: UUID, hold_ids: Iterable[UUID]) -> list[LockedHold]:
    """Locks holds, whose accounts are locked already, until the transaction ends.

    Returns:
        The holds that exist, in ascending id.
    """
    require_transaction()
    holds: list[LockedHold] = []
    for row in run_prepared(_LOCK_HOLDS, [ledger_id, uuids(sorted(set(hold_ids)))]):
        if not holds or holds[-1].id != row[1]:
            holds.append(LockedHold(*row[:10]))
        holds[-1].postings.append(LockedHoldPosting(*row[10:]))
    return holds


def lock_reversal_totals(*, ledger_id: UUID, transfer_id: UUID) -> dict[int, int]:
    """Locks what is reversed of a transfer whose accounts are locked already.

    Returns:
        Minor units by posting number; what is not in it was never reversed.
    """
    require_transaction()
    rows = (
        ReversalTotal.objects.filter(ledger_id=ledger_id, transfer_id=transfer_id)
        .order_by("posting_number")
        .select_for_update(of=("self",), no_key=True)
    )
    return dict(rows.values_list("posting_number", "reversed"))


def lock_period(*, ledger_id: UUID) -> datetime | None:
    """Keeps the ledger's periods as they are until the transaction ends.

    Backdated transfers share this lock; closing a period waits for all of them. It may
    be taken before or after accounts: nobody who holds it alone waits for an account.

    Returns:
        The instant before which everything is closed, or ``None``.
    """
    require_transaction()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT closed_before FROM ledger_ledger WHERE id = %s FOR SHARE",
            [ledger_id],
        )
        (closed_before,) = cursor.fetchone()
    return closed_before  # type: ignore[no-any-return]


def lock_ledger_row(*, ledger_id: UUID) -> Ledger:
    """Locks a ledger for a change of its periods; backdated transfers wait for it.

    Raises:
        Ledger.DoesNotExist: there is none.
    """
    require_transaction()
    return Ledger.objects.select_for_update().get(id=ledger_id)


def lock_scheduled(*, ledger_id: UUID, scheduled_id: UUID) -> ScheduledTransfer | None:
    """Locks a scheduled transfer before anything else; waits for whoever posts it."""
    require_transaction()
    rows = ScheduledTransfer.objects.filter(ledger_id=ledger_id, id=scheduled_id)
    return rows.select_for_update(of=("self",), no_key=True).first()


def lock_due_scheduled(
    *, ledger_id: UUID, scheduled_id: UUID
) -> ScheduledTransfer | None:
    """Locks a scheduled transfer if it is due and nobody else has it; never waits."""
    require_transaction()
    rows = ScheduledTransfer.objects.filter(
        ledger_id=ledger_id,
        id=scheduled_id,
        status=ScheduledStatus.SCHEDULED,
        next_attempt_at__lte=Now(),
    )
    return rows.select_for_update(of=("self",), no_key=True, skip_locked=True).first()


def lock_account_to_read(*, ledger_id: UUID, account_id: UUID) -> None:
    """Waits for the transfers that are being posted on an account, and holds up others.

    Whoever posts after this transaction reads PostgreSQL's clock later than now; so in
    the next statement everything is there that was recorded up to now, and stays all.
    """
    require_transaction()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT FROM ledger_account WHERE ledger_id = %s AND id = %s FOR SHARE",
            [ledger_id, account_id],
        )
