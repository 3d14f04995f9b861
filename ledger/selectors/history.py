"""Reading the history of changes."""

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from django.db.models import QuerySet

from ledger.models import Change
from ledger.selectors.finding import ANY_TIME, FoundPage, Key, Range, ids_made_in


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFilters:
    """Which changes are looked for: those that were made in a range of time."""

    key_type: ClassVar[type[UUID]] = UUID

    created: Range = ANY_TIME


ANY_CHANGE = ChangeFilters()


def account_changes(
    *,
    ledger_id: UUID,
    account_id: UUID,
    limit: int,
    before: Key | None,
    filters: ChangeFilters = ANY_CHANGE,
) -> FoundPage[Change]:
    """A page of an account's history, newest first.

    Args:
        ledger_id, account_id: the account.
        limit: the page size.
        before: the id of the last change of the page before.
        filters: which ones.
    """
    rows = Change.objects.filter(ledger_id=ledger_id, account_id=account_id)
    return changes_page(rows, limit=limit, before=before, filters=filters)


def changes_page(
    rows: QuerySet[Change], *, limit: int, before: Key | None, filters: ChangeFilters
) -> FoundPage[Change]:
    """A page of changes, newest first, by an index that is ordered by id.

    Args:
        rows: of what.
        limit, before, filters: as of :func:`account_changes`.
    """
    start, end = filters.created
    first_id, end_id = ids_made_in(filters.created)
    for condition, value in (
        ("created_at__gte", start),
        ("created_at__lt", end),
        ("id__gte", first_id),
        ("id__lt", end_id),
    ):
        if value is not None:
            rows = rows.filter(**{condition: value})
    if before is not None:
        rows = rows.filter(id__lt=before)
    found = list(rows.order_by("-id")[: limit + 1])
    return FoundPage(
        found[:limit], after=found[limit - 1].id if len(found) > limit else None
    )
