"""The life of an account: who may freeze and close it, when, and what is kept."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from ledger.audit import audit_run
from ledger.enums import AccountStatus, Permission, ReversalReason
from ledger.models import Account, Change, HoldEvent
from ledger.services.account_status import (
    account_close,
    account_freeze,
    account_unfreeze,
)
from ledger.services.accounts import account_update, system_account_id
from ledger.services.payouts import PayoutHandler
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.tests.books import Books
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, fresh, move
from ledger.tests.holds import capture, lapse, place, void
from ledger.tests.limits import BOSS
from ledger.types import PostedTransfer
from outbox.enums import Delivery
from payflow.actors import Actor
from payflow.clock import now
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id

pytestmark = pytest.mark.django_db


def freeze(account: Account, **fields: Any) -> Account | Problem:
    return account_freeze(**{**_of(account), **fields})


def unfreeze(account: Account, **fields: Any) -> Account | Problem:
    return account_unfreeze(**{**_of(account), **fields})


def close(account: Account, **fields: Any) -> Account | Problem:
    return account_close(**{**_of(account), "now": now(), **fields})


def _of(account: Account) -> dict[str, Any]:
    return {
        "ledger_id": account.ledger_id,
        "account_id": account.id,
        "reason": "case 7",
        "actor": BOSS,
    }


def code(outcome: object) -> str:
    assert isinstance(outcome, Problem), outcome
    return outcome.code


def status(outcome: object) -> str:
    assert isinstance(outcome, Account), outcome
    assert fresh(outcome).status == outcome.status
    return outcome.status


def history(account: Account) -> list[tuple[Any, Any]]:
    rows = Change.objects.filter(account_id=account.id).order_by("id")
    return [(row.old, row.new) for row in rows]


def pair(balance: int = 1_000) -> tuple[Account, Account]:
    ledger = LedgerFactory()
    return (
        AccountFactory(ledger=ledger, balance=balance),
        AccountFactory(ledger=ledger),
    )


def test_a_frozen_account_moves_nothing_until_it_is_unfrozen():
    source, target = pair()

    assert status(freeze(source)) == AccountStatus.FROZEN
    assert code(move(source, target, 1)) == "account_frozen"
    assert code(place(target, source, 1)) == "account_frozen"
    assert status(unfreeze(source)) == AccountStatus.OPEN
    assert isinstance(move(source, target, 1), PostedTransfer)


def test_an_account_frozen_for_outgoing_still_receives():
    source, target = pair()
    move(source, target, 500)

    freeze(target, outgoing_only=True)

    assert isinstance(move(source, target, 1), PostedTransfer)
    assert code(move(target, source, 1)) == "account_frozen"


def test_each_change_is_kept_with_its_reason_and_actor():
    account, _ = pair()
    actor = Actor(
        "client:ops",
        client_id=uuid.uuid4(),
        key_id=uuid.uuid4(),
        request_id="request-1",
        permissions=frozenset({Permission.MANAGE_ACCOUNTS}),
    )

    freeze(account, reason="court order 12", actor=actor)
    freeze(account, reason="again")
    freeze(account, outgoing_only=True, reason="salary may come in")
    unfreeze(account, reason="lifted")
    unfreeze(account, reason="again")

    assert history(account) == [
        ({"status": "open"}, {"status": "frozen", "reason": "court order 12"}),
        (
            {"status": "frozen"},
            {"status": "frozen_out", "reason": "salary may come in"},
        ),
        ({"status": "frozen_out"}, {"status": "open", "reason": "lifted"}),
    ]
    first = Change.objects.filter(account_id=account.id).earliest("id")
    assert first.fields == ["reason", "status"]
    assert (first.actor, first.client_id, first.key_id, first.request_id) == (
        "client:ops",
        actor.client_id,
        actor.key_id,
        "request-1",
    )


def test_the_reason_can_be_erased_and_that_there_was_a_change_stays():
    account, _ = pair()
    freeze(account, reason="told us that Ada Lovelace is ill")

    Change.objects.filter(account_id=account.id).update(
        old=None, new=None, erased_at=Now()
    )

    (row,) = Change.objects.filter(account_id=account.id)
    assert (row.fields, row.old, row.new) == (["reason", "status"], None, None)


def test_metadata_changes_are_in_the_same_history():
    account, _ = pair()

    account_update(
        ledger_id=account.ledger_id,
        account_id=account.id,
        changes={"metadata": {"tier": "gold"}, "owner_name": account.owner_name},
        actor=ACTOR,
    )
    freeze(account)

    assert history(account) == [
        ({"metadata": {}}, {"metadata": {"tier": "gold"}}),
        ({"status": "open"}, {"status": "frozen", "reason": "case 7"}),
    ]


def test_only_who_may_manage_accounts_changes_their_status():
    account, _ = pair(0)
    others = frozenset(Permission.values) - {Permission.MANAGE_ACCOUNTS}
    actor = Actor("client", permissions=others)

    for change in (freeze, unfreeze, close):
        with pytest.raises(ProblemError) as caught:
            change(account, actor=actor)
        assert caught.value.problem.code == "permission_denied"
        assert caught.value.problem.fields["permission"] == "manage_accounts"


def test_accounts_of_nobody_and_of_other_ledgers_are_not_found():
    account, _ = pair(0)
    elsewhere = LedgerFactory()

    for change in (freeze, unfreeze, close):
        for fields in ({"account_id": new_id()}, {"ledger_id": elsewhere.id}):
            with pytest.raises(ProblemError) as caught:
                change(account, **fields)
            assert caught.value.problem.code == "account_not_found"


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1_001])
def test_a_change_needs_a_reason(reason):
    account, _ = pair(0)

    for change in (freeze, unfreeze, close):
        with pytest.raises(ValueError, match="reason"):
            change(account, reason=reason)


def test_system_accounts_are_neither_frozen_nor_closed():
    ledger = LedgerFactory()
    account = Account.objects.get(
        id=system_account_id(ledger_id=ledger.id, name="receivables", currency="USD")
    )

    for change in (freeze, unfreeze, close):
        assert code(change(account)) == "system_account_protected"


# --- Closing ----------------------------------------------------------------------


def test_an_empty_account_is_closed_for_good():
    source, target = pair()

    assert status(close(target)) == AccountStatus.CLOSED
    assert status(close(target)) == AccountStatus.CLOSED

    assert code(freeze(target)) == "account_status_final"
    assert code(unfreeze(target)) == "account_status_final"
    assert code(move(source, target, 1)) == "account_closed"
    assert history(target) == [
        ({"status": "open"}, {"status": "closed", "reason": "case 7"})
    ]


def test_a_frozen_account_can_be_closed():
    _, account = pair()
    freeze(account)

    assert status(close(account)) == AccountStatus.CLOSED


def test_refusals_to_close_come_in_the_documented_order():
    books = Books()
    alice = books.alice
    hold = place(alice, books.bob, 200)
    incoming = place(books.bob, alice, 50)

    not_empty = close(alice)
    move(alice, books.bob, fresh(alice).available)
    still_not_empty = close(alice)
    capture(hold)
    with_holds = close(alice)
    void(incoming)
    with_payouts = close(alice)
    books.finish(books.in_flight, Delivery.SETTLED)

    assert code(not_empty) == code(still_not_empty) == "account_not_empty"
    assert still_not_empty.fields["posted"] == 200
    assert code(with_holds) == "account_has_holds"
    assert with_holds.fields["pending_in"] == 50
    assert code(with_payouts) == "account_has_payouts"
    assert status(close(alice)) == AccountStatus.CLOSED
    assert audit_run(ledger_slug=books.ledger.slug).is_sound


def test_a_rejected_payout_finds_its_account_open():
    books = Books()
    move(books.alice, books.bob, fresh(books.alice).available)
    assert code(close(books.alice)) == "account_has_payouts"

    books.finish(books.in_flight, Delivery.REJECTED)

    assert fresh(books.alice).posted == 700
    assert code(close(books.alice)) == "account_not_empty"


def test_others_payouts_do_not_keep_an_account_open():
    books = Books()
    move(books.bob, books.alice, fresh(books.bob).available)

    assert status(close(books.bob)) == AccountStatus.CLOSED
    assert PayoutHandler().settle(task=books.in_flight)


def test_a_payout_account_closes_when_nothing_is_in_flight():
    books = Books()

    assert code(close(books.bank)) == "account_not_empty"
    books.finish(books.in_flight, Delivery.SETTLED)
    assert status(close(books.bank)) == AccountStatus.CLOSED


def test_lapsed_holds_on_both_sides_are_ended_before_closing():
    source, target = pair()
    sent, wanted = place(source, target, 400), place(source, target, 300)
    lapse(sent)
    assert code(close(target)) == "account_has_holds"
    assert HoldEvent.objects.filter(hold_id=sent.id, kind="expired").exists()
    lapse(wanted)

    assert status(close(target)) == AccountStatus.CLOSED
    move(source, AccountFactory(ledger=source.ledger), 1_000)
    assert status(close(source)) == AccountStatus.CLOSED
    assert fresh(source).debits_pending == fresh(target).credits_pending == 0
    assert audit_run(ledger_slug=source.ledger.slug).is_sound


def test_what_came_from_a_closed_account_cannot_be_reversed_into_it():
    source, target = pair(100)
    transfer = move(source, target, 100)
    assert isinstance(transfer, PostedTransfer)
    close(source)

    outcome = transfer_reverse(
        ledger_id=source.ledger_id,
        request=ReversalRequest(transfer.id, ReversalReason.ERROR),
        actor=ACTOR,
        now=now() + timedelta(seconds=1),
    )

    assert code(outcome) == "account_closed"
