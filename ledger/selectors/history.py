"""Reading the history of changes."""

from uuid import UUID

from ledger.models import Change


def account_changes(
    *, ledger_id: UUID, account_id: UUID, limit: int, before: UUID | None
) -> list[Change]:
    """An account's history, newest first, ``limit + 1`` rows of it.

    Args:
        ledger_id, account_id: the account.
        limit: the page size.
        before: only changes with a smaller id: the last one of the page before.
    """
    rows = Change.objects.filter(ledger_id=ledger_id, account_id=account_id)
    if before is not None:
        rows = rows.filter(id__lt=before)
    return list(rows.order_by("-id")[: limit + 1])
