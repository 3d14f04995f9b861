"""Reading holds of one ledger, and what lapsed ones still seem to reserve."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from django.db import connection
from django.db.models import BooleanField, ExpressionWrapper, F, Q, QuerySet, Sum
from django.db.models.functions import Least, Now
from django.db.models.lookups import LessThan

from ledger.enums import HoldStatus
from ledger.locks import LockedHold, LockedHoldPosting
from ledger.models import Account, Hold, HoldPosting
from ledger.selectors.finding import (
    ANY_TIME,
    EQUAL_PROBE,
    FoundPage,
    Key,
    Metadata,
    Range,
    amount_conditions,
    equal_conditions,
    find,
    metadata_parts,
    prefix_parts,
    range_conditions,
    search_by_id,
)
from payflow.errors import ProblemError
from payflow.statements import run_prepared, uuids

# PostgreSQL's clock decides whether a hold has lapsed, and nobody else's.
_HAS_LAPSED = Q(expires_at__lte=Now())
#: About the most postings of lapsed holds that are ended at once, under their locks.
SWEPT_POSTINGS = 2_000
#: Postings that still hold something, in the words of the index on them.
IS_OPEN = LessThan(Least("captured", "amount") + F("released"), F("amount"))

# From one ledger to the next by index, however many holds each has.
_LEDGERS = """
WITH RECURSIVE found (ledger_id, expires_at) AS (
    (SELECT ledger_id, expires_at FROM ledger_hold
     WHERE status = 'active' ORDER BY ledger_id, expires_at LIMIT 1)
    UNION ALL
    SELECT n.ledger_id, n.expires_at FROM found f CROSS JOIN LATERAL (
        SELECT h.ledger_id, h.expires_at FROM ledger_hold h
        WHERE h.status = 'active' AND h.ledger_id > f.ledger_id
        ORDER BY h.ledger_id, h.expires_at LIMIT 1) n
)
SELECT ledger_id FROM found WHERE expires_at <= statement_timestamp()
"""


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold as it stands now. One that has lapsed is expired, swept or not.

    Attributes:
        status: a ``HoldStatus``, by PostgreSQL's clock.
        row: the hold's row, or what of it is known under its lock.
        postings: its postings, by number; of a lapsed one nothing is held any more.
    """

    status: str
    row: Hold | LockedHold
    postings: Sequence[HoldPosting] | Sequence[LockedHoldPosting]

    @classmethod
    def of(cls, hold: LockedHold) -> "HoldView":
        """A hold that this transaction has just placed or changed."""
        return cls(hold.status, hold, hold.postings)

    @property
    def id(self) -> UUID:
        """The hold's id."""
        return self.row.id

    @property
    def is_lapsed(self) -> bool:
        """True if it has lapsed and nobody has recorded that yet."""
        return self.status != self.row.status

    def held(self, posting: HoldPosting | LockedHoldPosting) -> int:
        """What a posting still holds, in minor units."""
        return posting.held if self.status == HoldStatus.ACTIVE else 0


def hold_get(*, ledger_id: UUID, hold_id: UUID) -> HoldView:
    """One hold.

    Raises:
        ProblemError: ``hold_not_found``, also for another ledger's hold.
    """
    found = holds_with_postings(
        ledger_id=ledger_id, holds=Hold.objects.filter(ledger_id=ledger_id, id=hold_id)
    )
    if not found:
        raise hold_missing(hold_id)
    return found[0]


def hold_missing(hold_id: object) -> ProblemError:
    """The problem of a hold that this ledger does not have."""
    return ProblemError(
        "hold_not_found",
        f"There is no hold {hold_id} in this ledger.",
        hold_id=str(hold_id),
    )


def hold_get_by_reference(*, ledger_id: UUID, reference: str) -> HoldView:
    """The hold with this reference.

    Raises:
        ProblemError: ``hold_not_found``.
    """
    found = holds_with_postings(
        ledger_id=ledger_id,
        holds=Hold.objects.filter(ledger_id=ledger_id, reference=reference),
    )
    if not found:
        raise ProblemError(
            "hold_not_found",
            f"There is no hold with the reference {reference!r} in this ledger.",
            reference=reference,
        )
    return found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldFilters:
    """Which holds are looked for; ``None`` means any. See ``docs/finding.md``.

    ``status`` is a ``HoldStatus`` by PostgreSQL's clock: one that has lapsed is
    expired, swept or not. One posting must meet ``account_id``, ``currency`` and
    ``amounts`` (the least and the greatest, in minor units) together, as it was placed:
    also one that holds nothing any more.
    """

    key_type: ClassVar[type[UUID]] = UUID

    reference: str | None = None
    reference_prefix: str | None = None
    status: str | None = None
    account_id: UUID | None = None
    currency: str | None = None
    amounts: tuple[int | None, int | None] = (None, None)
    created: Range = ANY_TIME
    expires: Range = ANY_TIME
    metadata: Metadata = ()


def hold_list(
    *,
    ledger_id: UUID,
    limit: int,
    before: Key | None,
    filters: HoldFilters = HoldFilters(),
) -> FoundPage[HoldView]:
    """A page of holds, newest first.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: the last id that the page before looked at.
        filters: which ones.
    """
    parameters: dict[str, Any] = {}
    conditions = [
        *equal_conditions({"reference": filters.reference}, parameters),
        *range_conditions("r.created_at", "created", filters.created, parameters),
        *range_conditions("r.expires_at", "expires", filters.expires, parameters),
        *_posting_conditions(filters, parameters),
    ]
    quick: list[str] = []
    slow: list[str] = []
    if filters.reference is not None:
        quick.append(EQUAL_PROBE.format(table=_TABLE, column="reference"))
    if filters.status is not None:
        parameters["status"] = filters.status
        conditions.append(_STATUS_TESTS.get(filters.status, "r.status = %(status)s"))
    if filters.status == HoldStatus.ACTIVE:
        slow.append(_ACTIVE)
    for found, probes in (
        prefix_parts(_TABLE, filters.reference_prefix, parameters),
        metadata_parts(_TABLE, filters.metadata, parameters),
    ):
        conditions += found
        slow += probes
    keys, after = find(
        search_by_id(
            table=_TABLE,
            ledger_id=ledger_id,
            before=before,
            conditions=conditions,
            parameters=parameters,
            id_range=filters.created,
            quick_probes=quick,
            slow_probes=slow,
        ),
        limit=limit,
    )
    holds = Hold.objects.filter(ledger_id=ledger_id, id__in=keys).order_by("-id")
    return FoundPage(holds_with_postings(ledger_id=ledger_id, holds=holds), after=after)


def _posting_conditions(filters: HoldFilters, parameters: dict[str, Any]) -> list[str]:
    """What one posting of the hold must meet."""
    tests = amount_conditions(filters.amounts, parameters, of="p")
    if filters.currency is not None:
        parameters["currency"] = filters.currency
        tests.append("p.currency = %(currency)s")
    if filters.account_id is not None:
        parameters["account_id"] = filters.account_id
        tests.append(_OF_ACCOUNT)
    return [_OF_POSTING.format(tests=" AND ".join(tests))] if tests else []


_TABLE = "ledger_hold"
_STATUS_TESTS: Mapping[str, str] = {
    HoldStatus.ACTIVE: "r.status = 'active' AND r.expires_at > statement_timestamp()",
    HoldStatus.EXPIRED: "(r.status = 'expired' OR (r.status = 'active'"
    " AND r.expires_at <= statement_timestamp()))",
}
_OF_POSTING = """
EXISTS (SELECT FROM ledger_hold_posting p
    WHERE p.ledger_id = %(ledger_id)s AND p.hold_id = r.id AND {tests} OFFSET 0)
"""
# Not an equality: the account may have any number of postings, the hold has few.
_OF_ACCOUNT = """
(p.from_account_id IS NOT DISTINCT FROM %(account_id)s
    OR p.to_account_id IS NOT DISTINCT FROM %(account_id)s)
"""
# In the index's order, so that PostgreSQL has nothing cheaper than the index.
_ACTIVE = """
    SELECT h.id FROM ledger_hold h
    WHERE h.ledger_id = %(ledger_id)s AND h.status = 'active'
        AND h.expires_at > statement_timestamp()
    ORDER BY h.expires_at
"""


def holds_with_postings(*, ledger_id: UUID, holds: QuerySet[Hold]) -> list[HoldView]:
    """The holds of a query with their postings, and what the clock says of them."""
    lapsed = ExpressionWrapper(_HAS_LAPSED, output_field=BooleanField())
    rows = list(holds.annotate(has_lapsed=lapsed))
    postings: dict[UUID, list[HoldPosting]] = defaultdict(list)
    for posting in HoldPosting.objects.filter(
        ledger_id=ledger_id, hold_id__in=[row.id for row in rows]
    ).order_by("hold_id", "number"):
        postings[posting.hold_id].append(posting)
    return [
        HoldView(
            HoldStatus.EXPIRED
            if row.status == HoldStatus.ACTIVE and row.has_lapsed
            else row.status,
            row,
            postings[row.id],
        )
        for row in rows
    ]


def without_lapsed(*, ledger_id: UUID, accounts: Sequence[Account]) -> None:
    """Takes what lapsed holds reserve out of the accounts' pending counters.

    The rows in the database change when a sweep or a posting ends those holds; whoever
    reads sees the money as available before.
    """
    pending = {a.id: a for a in accounts if a.debits_pending or a.credits_pending}
    if not pending:
        return
    lapsed = HoldPosting.objects.filter(_HAS_LAPSED, IS_OPEN, ledger_id=ledger_id)
    held = F("amount") - Least("captured", "amount") - F("released")
    for column, counter in (
        ("from_account_id", "debits_pending"),
        ("to_account_id", "credits_pending"),
    ):
        sums = (
            lapsed.filter(**{f"{column}__in": list(pending)})
            .values(column)
            .annotate(total=Sum(held))
        )
        for row in sums.values_list(column, "total"):
            account = pending[row[0]]
            setattr(account, counter, getattr(account, counter) - int(row[1]))


def ledgers_with_lapsed_holds() -> list[UUID]:
    """The ids of the ledgers that have holds for a sweep."""
    with connection.cursor() as cursor:
        cursor.execute(_LEDGERS)
        return [ledger_id for (ledger_id,) in cursor.fetchall()]


def lapsed_holds(*, ledger_id: UUID, limit: int) -> list[UUID]:
    """Holds that have lapsed and nobody has ended.

    Args:
        ledger_id: whose.
        limit: at most so many, the oldest first, and of these no more than have about
            :data:`SWEPT_POSTINGS` postings.
    """
    rows = (
        Hold.objects.filter(_HAS_LAPSED, ledger_id=ledger_id, status=HoldStatus.ACTIVE)
        .order_by("expires_at")
        .values_list("id", "posting_count")[:limit]
    )
    ids: list[UUID] = []
    postings = 0
    for hold_id, posting_count in rows:
        if postings >= SWEPT_POSTINGS:
            break
        ids.append(hold_id)
        postings += posting_count
    return ids


_ACCOUNTS = """
SELECT hold_id, from_account_id, to_account_id FROM ledger_hold_posting
WHERE ledger_id = $1::uuid AND hold_id = ANY ($2::uuid[])
"""


def hold_accounts(
    *, ledger_id: UUID, hold_ids: Iterable[UUID]
) -> dict[UUID, set[UUID]]:
    """The accounts of holds, which never change; none of a hold that there is not."""
    accounts: dict[UUID, set[UUID]] = {hold_id: set() for hold_id in hold_ids}
    for hold_id, *pair in run_prepared(_ACCOUNTS, [ledger_id, uuids(list(accounts))]):
        accounts[hold_id].update(pair)
    return accounts
