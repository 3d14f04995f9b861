"""Payouts from the transfer to the books' last word, with the real bank simulator."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connections

from ledger.audit import audit_run
from ledger.enums import AccountStatus, TransferKind
from ledger.models import Account, Ledger, Transfer
from ledger.services.payouts import PayoutHandler
from ledger.tests.factories import AccountFactory, LedgerFactory, fresh, move
from outbox.models import OutboxTask
from outbox.providers.http import HttpPayoutProvider
from outbox.services import task_retry
from outbox.tests.bank import SimulatedBank
from outbox.tests.conftest import bank
from outbox.tests.fakes import ScriptedProvider, make_dispatcher
from payflow.db import transaction_owner

__all__ = ["bank"]

pytestmark = pytest.mark.usefixtures("committed_db")


@dataclass
class Payout:
    """A funded account, a payout account, and one payout of 400 on its way."""

    ledger: Ledger
    origin: Account
    payout_account: Account
    transfer_id: Any

    @property
    def task(self) -> OutboxTask:
        return OutboxTask.objects.get(
            ledger_id=self.ledger.id, transfer_id=self.transfer_id, kind="payout"
        )

    def drain(self, provider: Any) -> None:
        make_dispatcher(provider, PayoutHandler()).drain(ledger_id=self.ledger.id)

    def set_status(self, account: Account, status: AccountStatus) -> None:
        Account.objects.filter(ledger_id=self.ledger.id, id=account.id).update(
            status=status
        )

    def completion(self) -> Transfer:
        return Transfer.objects.get(
            ledger_id=self.ledger.id, id=self.task.completion_transfer_id
        )

    def balances(self) -> tuple[int, int]:
        return fresh(self.origin).posted, fresh(self.payout_account).posted

    def is_sound(self) -> bool:
        return audit_run(ledger_slug=self.ledger.slug).is_sound


def make_payout(destination: str) -> Payout:
    with transaction_owner():
        ledger = LedgerFactory()
        origin = AccountFactory(ledger=ledger, balance=1_000)
        payout_account = AccountFactory(ledger=ledger, payout_destination=destination)
        transfer = move(origin, payout_account, 400)
    return Payout(ledger, origin, payout_account, transfer.id)


def bank_settlement(payout: Payout) -> int:
    account = Account.objects.get(
        ledger_id=payout.ledger.id, reference="system:bank-settlement:USD"
    )
    return account.posted


def test_a_settled_payout_leaves_the_payout_account_for_the_bank(
    bank: SimulatedBank,
) -> None:
    payout = make_payout(bank.destination("settle"))
    assert payout.balances() == (600, 400)

    payout.drain(HttpPayoutProvider(bank.url))

    assert payout.balances() == (600, 0)
    assert bank_settlement(payout) == -400
    assert (payout.task.state, payout.task.delivery) == ("done", "settled")
    completion = payout.completion()
    assert (completion.kind, completion.actor) == (
        TransferKind.SETTLEMENT,
        "dispatcher",
    )
    assert completion.metadata["payout_task_id"] == str(payout.task.id)
    assert bank.payments(payout.task.id) == (1, 400)
    assert payout.is_sound()


def test_a_rejected_payout_gives_the_money_back(bank: SimulatedBank) -> None:
    payout = make_payout(bank.destination("reject"))

    payout.drain(HttpPayoutProvider(bank.url))

    assert payout.balances() == (1_000, 0)
    assert (payout.task.state, payout.task.delivery) == ("done", "rejected")
    completion = payout.completion()
    assert completion.kind == TransferKind.PAYOUT_REVERSAL
    assert completion.reverses_transfer_id == payout.transfer_id
    assert bank.payments(payout.task.id) == (0, 0)
    assert payout.is_sound()


@pytest.mark.parametrize("behaviour", ["settle", "reject"])
def test_a_freeze_does_not_stop_what_the_bank_has_decided(
    bank: SimulatedBank, behaviour: str
) -> None:
    payout = make_payout(bank.destination(behaviour))
    payout.set_status(payout.origin, AccountStatus.FROZEN)
    payout.set_status(payout.payout_account, AccountStatus.FROZEN)

    payout.drain(HttpPayoutProvider(bank.url))

    assert payout.task.state == "done"
    assert fresh(payout.payout_account).posted == 0


def test_a_refused_compensation_needs_attention_and_is_booked_on_retry(
    bank: SimulatedBank,
) -> None:
    payout = make_payout(bank.destination("reject"))
    elsewhere = None
    with transaction_owner():
        elsewhere = AccountFactory(ledger=payout.ledger)
        move(payout.origin, elsewhere, 600)
    payout.set_status(payout.origin, AccountStatus.CLOSED)

    payout.drain(HttpPayoutProvider(bank.url))

    assert (payout.task.state, payout.task.delivery) == ("needs_attention", "rejected")
    assert "account_closed" in payout.task.last_error
    assert fresh(payout.payout_account).posted == 400
    assert payout.is_sound()

    payout.set_status(payout.origin, AccountStatus.OPEN)
    with transaction_owner():
        assert task_retry(ledger_id=payout.ledger.id, task_id=payout.task.id)
    payout.drain(HttpPayoutProvider(bank.url))

    assert payout.task.state == "done"
    assert payout.balances() == (400, 0)
    assert bank.payments(payout.task.id) == (0, 0)
    assert payout.is_sound()


def test_first_payouts_of_a_currency_at_once_make_one_settlement_account(
    bank: SimulatedBank,
) -> None:
    payout = make_payout(bank.destination("settle"))
    with transaction_owner():
        others = [move(payout.origin, payout.payout_account, 10) for _ in range(5)]
    barrier = threading.Barrier(3)

    def drain() -> None:
        barrier.wait()
        try:
            payout.drain(HttpPayoutProvider(bank.url))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(drain) for _ in range(3)]:
            done.result()
    # A dispatcher skips what another one holds: what was skipped is due still.
    payout.drain(HttpPayoutProvider(bank.url))

    tasks = OutboxTask.objects.filter(ledger_id=payout.ledger.id, kind="payout")
    assert {task.state for task in tasks} == {"done"}
    assert len(tasks) == 1 + len(others)
    assert payout.balances() == (550, 0)
    assert bank_settlement(payout) == -450
    assert all(bank.payments(task.id)[0] == 1 for task in tasks)
    assert payout.is_sound()


def test_a_completion_whose_lease_is_lost_is_not_in_the_books() -> None:
    payout = make_payout("anywhere")

    def lose_the_lease() -> str:
        # As if another dispatcher had taken the task over in the middle of the call.
        OutboxTask.objects.filter(ledger_id=payout.ledger.id, id=payout.task.id).update(
            lease_token=payout.transfer_id
        )
        return "settled"

    payout.drain(ScriptedProvider([lose_the_lease]))

    assert payout.task.state == "leased"
    assert payout.balances() == (600, 400)
    assert not Transfer.objects.filter(
        ledger_id=payout.ledger.id, kind=TransferKind.SETTLEMENT
    ).exists()
    assert payout.is_sound()
