"""Making and changing accounts. Balances are not among what can be changed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from ledger.enums import AccountKind, Direction
from ledger.locks import lock_account_row
from ledger.models import Account, Asset, Change, Entry
from ledger.selectors.accounts import account_get
from outbox.enums import IN_FLIGHT_STATES, TaskKind
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem
from payflow.ids import new_id
from payflow.money import currency_exponent

#: References that the system keeps for its own accounts.
SYSTEM_PREFIX = "system:"
#: The fields of an account that may change, apart from its status and its limits.
EDITABLE_FIELDS = ("owner_name", "metadata", "code", "payout_destination")


@dataclass(frozen=True, slots=True)
class _SystemAccount:
    kind: AccountKind
    min_balance: int | None


# The equity that opening balances come from and the bank account that settlements pay
# from both go below zero by their nature; receivables only grow by debits; an FX
# account's balance is the position in its currency, which may be short.
_SYSTEM_ACCOUNTS = {
    "opening-balances": _SystemAccount(AccountKind.EQUITY, None),
    "bank-settlement": _SystemAccount(AccountKind.ASSET, None),
    "receivables": _SystemAccount(AccountKind.ASSET, 0),
    "fx": _SystemAccount(AccountKind.EQUITY, None),
}


@dataclass(frozen=True, slots=True)
class AccountRequest:
    """A new account; see :class:`ledger.models.Account`."""

    currency: str
    kind: AccountKind = AccountKind.LIABILITY
    reference: str | None = None
    owner_name: str = ""
    code: str = ""
    min_balance: int | None = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    payout_destination: str | None = None
    id: UUID = field(default_factory=new_id)


def account_create(*, ledger_id: UUID, request: AccountRequest) -> Account | Problem:
    """Makes an empty account.

    Refused for the first of: ``currency_unknown``, ``reference_reserved``,
    ``payout_account_must_be_liability``, ``payout_account_floor_must_be_zero``,
    ``reference_taken``.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    if not _is_currency(ledger_id, request.currency):
        return Problem(
            "currency_unknown",
            f"{request.currency!r} is neither a current ISO 4217 currency with a minor"
            " unit nor an asset of this ledger.",
            {"currency": request.currency},
        )
    if (request.reference or "").startswith(SYSTEM_PREFIX):
        return Problem(
            "reference_reserved", f"{SYSTEM_PREFIX!r} references are the system's own."
        )
    if request.payout_destination is not None and request.kind != AccountKind.LIABILITY:
        return Problem(
            "payout_account_must_be_liability",
            f"This account would be of kind {request.kind}.",
        )
    if request.payout_destination is not None and request.min_balance != 0:
        return floor_forbidden(request.min_balance)
    account = _insert(ledger_id, request)
    if account is None:
        return Problem(
            "reference_taken",
            f"Another account has the reference {request.reference!r}.",
            {"reference": request.reference},
        )
    return account


def _is_currency(ledger_id: UUID, code: str) -> bool:
    if currency_exponent(code) is not None:
        return True
    return Asset.objects.filter(ledger_id=ledger_id, code=code).exists()


def _insert(ledger_id: UUID, request: AccountRequest) -> Account | None:
    """The new account, or ``None`` if its reference is taken; it waits for a racer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_account (ledger_id, id, reference, owner_name, kind,"
            " code, currency, min_balance, metadata, payout_destination)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s)"
            " ON CONFLICT (ledger_id, reference) WHERE reference IS NOT NULL"
            " DO NOTHING",
            [
                ledger_id,
                request.id,
                request.reference,
                request.owner_name,
                str(request.kind),
                request.code,
                request.currency,
                request.min_balance,
                json.dumps(dict(request.metadata)),
                request.payout_destination,
            ],
        )
        if cursor.rowcount == 0:
            return None
    return Account.objects.get(ledger_id=ledger_id, id=request.id)


def account_update(
    *, ledger_id: UUID, account_id: UUID, changes: Mapping[str, Any], actor: Actor
) -> Account | Problem:
    """Changes some of :data:`EDITABLE_FIELDS` and writes the change to the history.

    What is already as wanted is not written, so a repeated request changes nothing.
    Refused for the first of: ``account_not_found``,
    ``payout_account_must_be_liability``, ``payout_account_floor_must_be_zero``,
    ``account_not_empty`` (a payout destination is set or removed only at a balance of
    zero and without holds), ``account_has_payouts``.

    Raises:
        RuntimeError: no transaction is open.
        ValueError: a field is not editable.
    """
    require_transaction()
    if not set(changes) <= set(EDITABLE_FIELDS):
        raise ValueError(f"only {', '.join(EDITABLE_FIELDS)} can be changed")
    account = lock_account_row(ledger_id=ledger_id, account_id=account_id)
    if account is None:
        return Problem(
            "account_not_found",
            f"There is no account {account_id} in this ledger.",
            {"account_id": str(account_id)},
        )
    old = {name: getattr(account, name) for name in changes}
    new = {
        name: value
        for name, value in changes.items()
        # As JSON, because for Python 1 and true are the same.
        if json.dumps(value, sort_keys=True) != json.dumps(old[name], sort_keys=True)
    }
    if not new:
        return account_get(ledger_id=ledger_id, account_id=account_id)
    if "payout_destination" in new:
        if account.kind != AccountKind.LIABILITY:
            return Problem(
                "payout_account_must_be_liability",
                f"This account is of kind {account.kind}.",
            )
        if new["payout_destination"] is not None and account.min_balance != 0:
            return floor_forbidden(account.min_balance)
        changes_role = (new["payout_destination"] is None) != (
            account.payout_destination is None
        )
        pending = account.debits_pending + account.credits_pending
        if changes_role and (account.posted != 0 or pending != 0):
            return Problem(
                "account_not_empty",
                "The account still has money or holds.",
                {
                    "account_id": str(account_id),
                    "posted": account.posted,
                    "pending": pending,
                },
            )
        if changes_role and (problem := payouts_forbid(account)) is not None:
            return problem
    Account.objects.filter(ledger_id=ledger_id, id=account_id).update(**new)
    change_record(
        ledger_id=ledger_id,
        account_id=account_id,
        old={name: old[name] for name in new},
        new=new,
        actor=actor,
    )
    return account_get(ledger_id=ledger_id, account_id=account_id)


def floor_forbidden(floor: int | None) -> Problem:
    """The refusal of a payout account with another floor than zero."""
    return Problem(
        "payout_account_floor_must_be_zero",
        f"This account's floor is {floor}; money in flight must be free to leave.",
        {"min_balance": floor},
    )


def payouts_forbid(account: Account) -> Problem | None:
    """Refuses while payouts are in flight that came from the account.

    A rejected one must find it as it was. (Those that lie on a payout account are in
    its balance.) Whoever makes another one waits for the account's lock.
    """
    sent = Entry.objects.filter(
        ledger_id=OuterRef("ledger_id"),
        transfer_id=OuterRef("transfer_id"),
        posting_number=OuterRef("posting_number"),
        direction=Direction.DEBIT,
        account_id=account.id,
    )
    payouts = OutboxTask.objects.filter(
        Exists(sent),
        ledger_id=account.ledger_id,
        kind=TaskKind.PAYOUT,
        state__in=IN_FLIGHT_STATES,
    )
    if not payouts.exists():
        return None
    return Problem(
        "account_has_payouts",
        f"Payouts from account {account.id} are not finished.",
        {"account_id": str(account.id)},
    )


def system_account_forbids(account: Account) -> Problem | None:
    """Refuses to limit, freeze or close a system account.

    Settlements and reversals, which complete what has happened elsewhere, depend on
    them.
    """
    if not (account.reference or "").startswith(SYSTEM_PREFIX):
        return None
    return Problem(
        "system_account_protected",
        f"{account.reference} is an account of the system.",
        {"account_id": str(account.id), "reference": account.reference},
    )


def change_record(
    *,
    ledger_id: UUID,
    account_id: UUID | None,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    actor: Actor,
) -> None:
    """Appends one change to the history of an account, or of the ledger itself.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    Change.objects.create(
        ledger_id=ledger_id,
        account_id=account_id,
        fields=sorted(new),
        old=dict(old),
        new=dict(new),
        actor=actor.label,
        client_id=actor.client_id,
        key_id=actor.key_id,
        request_id=actor.request_id,
        created_at=Now(),
    )


def system_account_id(*, ledger_id: UUID, name: str, currency: str) -> UUID:
    """The id of ``system:<name>:<currency>``, which is made on first use.

    Args:
        ledger_id: the ledger.
        name: ``opening-balances``, ``bank-settlement``, ``receivables`` or ``fx``.
        currency: of ISO 4217, or an asset of the ledger.

    Raises:
        RuntimeError: no transaction is open.
        KeyError: there is no such system account.
    """
    require_transaction()
    reference = f"{SYSTEM_PREFIX}{name}:{currency}"
    kind = _SYSTEM_ACCOUNTS[name]
    rows = Account.objects.filter(ledger_id=ledger_id, reference=reference)
    found = rows.values_list("id", flat=True).first()
    if found is None:
        _insert(
            ledger_id,
            AccountRequest(
                currency=currency,
                kind=kind.kind,
                reference=reference,
                owner_name=f"{name.replace('-', ' ').capitalize()} ({currency})",
                min_balance=kind.min_balance,
            ),
        )
        found = rows.values_list("id", flat=True).get()
    return found
