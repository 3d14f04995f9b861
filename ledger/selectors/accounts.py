"""Reading accounts of one ledger."""

from uuid import UUID

from ledger.models import Account
from ledger.selectors.holds import without_lapsed
from payflow.errors import ProblemError


def account_get(*, ledger_id: UUID, account_id: UUID) -> Account:
    """One account.

    Raises:
        ProblemError: ``account_not_found``, also for another ledger's account.
    """
    account = Account.objects.filter(ledger_id=ledger_id, id=account_id).first()
    if account is None:
        raise ProblemError(
            "account_not_found",
            f"There is no account {account_id} in this ledger.",
            account_id=str(account_id),
        )
    without_lapsed(ledger_id=ledger_id, accounts=[account])
    return account


def account_list(
    *, ledger_id: UUID, limit: int, before: UUID | None, reference: str | None = None
) -> list[Account]:
    """Accounts, newest first, ``limit + 1`` of them so that the caller sees the end.

    Args:
        ledger_id: the ledger.
        limit: the page size.
        before: only accounts with a smaller id: the last one of the page before.
        reference: only the account with this reference.
    """
    rows = Account.objects.filter(ledger_id=ledger_id).order_by("-id")
    if before is not None:
        rows = rows.filter(id__lt=before)
    if reference is not None:
        rows = rows.filter(reference=reference)
    accounts = list(rows[: limit + 1])
    without_lapsed(ledger_id=ledger_id, accounts=accounts)
    return accounts
