"""The life of an account: frozen, unfrozen, closed.

Each change has a reason and an actor in the account's history. The reason is text about
people, so it stands among the values that can be erased (ADR 0009); that the status
changed, when and by whom stays for ever.
"""

from datetime import datetime
from uuid import UUID

from django.db.models.functions import Now

from ledger.engine.batch import Batch
from ledger.enums import AccountStatus, Permission
from ledger.locks import lock_account_row
from ledger.models import Account, HoldPosting
from ledger.selectors.accounts import account_get, account_missing
from ledger.selectors.holds import IS_OPEN
from ledger.services.accounts import (
    change_record,
    payouts_forbid,
    system_account_forbids,
)
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem

#: The longest reason, in characters.
MAX_REASON = 1_000
#: The most lapsed holds that closing an account ends; the sweep ends the others.
LAPSED_AT_ONCE = 50


def account_freeze(
    *,
    ledger_id: UUID,
    account_id: UUID,
    reason: str,
    actor: Actor,
    outgoing_only: bool = False,
) -> Account | Problem:
    """Lets nothing move on an account, or nothing leave it.

    Voids and expiries of holds and the ends of payouts still work: they complete what
    was begun before. Freezing a frozen account changes what it is frozen for; what is
    already as wanted is not written.

    Refused for the first of: ``system_account_protected``, ``account_status_final``.

    Args:
        ledger_id, account_id: the account.
        reason: why, for the history.
        actor: needs the permission ``manage_accounts``.
        outgoing_only: money may still come in.

    Raises:
        ProblemError: ``permission_denied``, ``account_not_found``.
        RuntimeError: no transaction is open.
        ValueError: the reason is empty or too long.
    """
    status = AccountStatus.FROZEN_OUT if outgoing_only else AccountStatus.FROZEN
    account = _lock(ledger_id, account_id, reason=reason, actor=actor)
    return _forbidden(account) or _set(account, status, reason=reason, actor=actor)


def account_unfreeze(
    *, ledger_id: UUID, account_id: UUID, reason: str, actor: Actor
) -> Account | Problem:
    """Opens a frozen account again. An open one stays as it is.

    Refused for the first of: ``system_account_protected``, ``account_status_final``.

    Args:
        ledger_id, account_id: the account.
        reason: why, for the history.
        actor: needs the permission ``manage_accounts``.

    Raises:
        ProblemError: ``permission_denied``, ``account_not_found``.
        RuntimeError: no transaction is open.
        ValueError: the reason is empty or too long.
    """
    account = _lock(ledger_id, account_id, reason=reason, actor=actor)
    return _forbidden(account) or _set(
        account, AccountStatus.OPEN, reason=reason, actor=actor
    )


def account_close(
    *, ledger_id: UUID, account_id: UUID, reason: str, actor: Actor, now: datetime
) -> Account | Problem:
    """Closes an empty account for good. A closed one stays as it is.

    Holds of it that have lapsed are ended first, and stay ended if it cannot be closed.
    Scheduled transfers do not keep it open; they are refused when they are due.

    Refused for the first of: ``system_account_protected``, ``account_not_empty``,
    ``account_has_holds`` (also of those who would pay into it), ``account_has_payouts``
    (a rejected one must have somewhere to go back to).

    Args:
        ledger_id, account_id: the account.
        reason: why, for the history.
        actor: needs the permission ``manage_accounts``.
        now: the interface's clock.

    Raises:
        ProblemError: ``permission_denied``, ``account_not_found``.
        RuntimeError: no transaction is open.
        ValueError: the reason is empty or too long.
    """
    require_transaction()
    actor.require(Permission.MANAGE_ACCOUNTS)
    _expire_lapsed(ledger_id, account_id, actor=actor, now=now)
    account = _lock(ledger_id, account_id, reason=reason, actor=actor)
    problem = system_account_forbids(account)
    if problem is None and account.status != AccountStatus.CLOSED:
        problem = _not_empty(account)
    return problem or _set(account, AccountStatus.CLOSED, reason=reason, actor=actor)


def _lock(ledger_id: UUID, account_id: UUID, *, reason: str, actor: Actor) -> Account:
    """The account under its lock, for an actor who may change it."""
    require_transaction()
    actor.require(Permission.MANAGE_ACCOUNTS)
    if not 1 <= len(reason.strip()) <= MAX_REASON:
        raise ValueError(f"a reason has 1 to {MAX_REASON} characters")
    account = lock_account_row(ledger_id=ledger_id, account_id=account_id)
    if account is None:
        raise account_missing(account_id)
    return account


def _forbidden(account: Account) -> Problem | None:
    problem = system_account_forbids(account)
    if problem is None and account.status == AccountStatus.CLOSED:
        problem = Problem(
            "account_status_final",
            f"Account {account.id} is closed.",
            {"account_id": str(account.id)},
        )
    return problem


def _set(
    account: Account, status: AccountStatus, *, reason: str, actor: Actor
) -> Account:
    if account.status != status:
        Account.objects.filter(ledger_id=account.ledger_id, id=account.id).update(
            status=status
        )
        change_record(
            ledger_id=account.ledger_id,
            account_id=account.id,
            old={"status": str(account.status)},
            new={"status": str(status), "reason": reason},
            actor=actor,
        )
    return account_get(ledger_id=account.ledger_id, account_id=account.id)


def _expire_lapsed(
    ledger_id: UUID, account_id: UUID, *, actor: Actor, now: datetime
) -> None:
    """Ends lapsed holds from and to the account; locks it with all their accounts."""
    found = HoldPosting.objects.filter(
        IS_OPEN, ledger_id=ledger_id, expires_at__lte=Now()
    )
    ids = {
        hold_id
        for column in ("from_account_id", "to_account_id")
        for hold_id in found.filter(**{column: account_id})
        .order_by("expires_at")
        .values_list("hold_id", flat=True)[:LAPSED_AT_ONCE]
    }
    if not ids:
        return
    batch = Batch(ledger_id=ledger_id, actor=actor, now=now)
    batch.lock(hold_ids=list(ids))
    batch.end_lapsed(ids)
    batch.write()


def _not_empty(account: Account) -> Problem | None:
    """Why the account cannot be closed, in the documented order."""
    account_id = str(account.id)
    if account.posted != 0:
        return Problem(
            "account_not_empty",
            f"Account {account_id} still has a balance of {account.posted}.",
            {"account_id": account_id, "posted": account.posted},
        )
    if account.pending_in or account.pending_out:
        return Problem(
            "account_has_holds",
            f"Holds would still move money of account {account_id}.",
            {
                "account_id": account_id,
                "pending_in": account.pending_in,
                "pending_out": account.pending_out,
            },
        )
    return payouts_forbid(account)
