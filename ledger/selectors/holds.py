"""Reading holds of one ledger, and what lapsed ones still seem to reserve."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import BooleanField, ExpressionWrapper, F, Q, QuerySet, Sum
from django.db.models.functions import Least, Now
from django.db.models.lookups import LessThan

from ledger.enums import HoldStatus
from ledger.models import Account, Hold, HoldPosting
from payflow.errors import ProblemError

# PostgreSQL's clock decides whether a hold has lapsed, and nobody else's.
_HAS_LAPSED = Q(expires_at__lte=Now())
#: Postings that still hold something, in the words of the index on them.
IS_OPEN = LessThan(Least("captured", "amount") + F("released"), F("amount"))


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold as it stands now. One that has lapsed is expired, swept or not.

    Attributes:
        status: a ``HoldStatus``, by PostgreSQL's clock.
        row: the hold's row.
        postings: its postings, by number; of a lapsed one nothing is held any more.
    """

    status: str
    row: Hold
    postings: Sequence[HoldPosting]

    @property
    def id(self) -> UUID:
        """The hold's id."""
        return self.row.id

    @property
    def is_lapsed(self) -> bool:
        """True if it has lapsed and nobody has recorded that yet."""
        return self.status != self.row.status

    def held(self, posting: HoldPosting) -> int:
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


def hold_list(
    *, ledger_id: UUID, limit: int, before: UUID | None, reference: str | None = None
) -> list[HoldView]:
    """Holds, newest first, ``limit + 1`` of them, in two statements.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: only holds with a smaller id: the last one of the page before.
        reference: only the hold with this reference.
    """
    rows = Hold.objects.filter(ledger_id=ledger_id).order_by("-id")
    if before is not None:
        rows = rows.filter(id__lt=before)
    if reference is not None:
        rows = rows.filter(reference=reference)
    return holds_with_postings(ledger_id=ledger_id, holds=rows[: limit + 1])


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


def lapsed_holds(*, ledger_id: UUID, limit: int) -> list[tuple[UUID, list[UUID]]]:
    """Holds that have lapsed and nobody has ended, with their accounts.

    Args:
        ledger_id: whose.
        limit: at most so many, the oldest first.
    """
    ids = list(
        Hold.objects.filter(_HAS_LAPSED, ledger_id=ledger_id, status=HoldStatus.ACTIVE)
        .order_by("expires_at")
        .values_list("id", flat=True)[:limit]
    )
    accounts: dict[UUID, list[UUID]] = {hold_id: [] for hold_id in ids}
    for hold_id, *pair in HoldPosting.objects.filter(
        ledger_id=ledger_id, hold_id__in=ids
    ).values_list("hold_id", "from_account_id", "to_account_id"):
        accounts[hold_id].extend(pair)
    return list(accounts.items())


def hold_accounts(*, ledger_id: UUID, hold_id: UUID) -> list[UUID]:
    """The accounts of a hold, which never change.

    Raises:
        ProblemError: ``hold_not_found``.
    """
    pairs = HoldPosting.objects.filter(
        ledger_id=ledger_id, hold_id=hold_id
    ).values_list("from_account_id", "to_account_id")
    found = [account_id for pair in pairs for account_id in pair]
    if not found:
        raise hold_missing(hold_id)
    return found
