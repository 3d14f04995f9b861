"""Reading entries of one account."""

from uuid import UUID

from ledger.models import Entry


def entry_list(
    *, ledger_id: UUID, account_id: UUID, limit: int, before: int | None
) -> list[Entry]:
    """An account's entries, newest first, ``limit + 1`` of them.

    Args:
        ledger_id, account_id: the account.
        limit: the page size.
        before: only entries with a smaller ``account_version``.
    """
    rows = Entry.objects.filter(ledger_id=ledger_id, account_id=account_id)
    if before is not None:
        rows = rows.filter(account_version__lt=before)
    return list(rows.order_by("-account_version")[: limit + 1])
