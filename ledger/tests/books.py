"""Sound books with a bit of everything, for tests that look at them or damage them."""

from uuid import UUID

from django.db.models.functions import Now

from ledger.models import Account, Entry
from ledger.services.payouts import PayoutHandler
from ledger.tests.factories import AccountFactory, LedgerFactory, move
from ledger.types import PostedTransfer
from outbox.enums import Delivery, TaskKind, TaskState
from outbox.models import OutboxTask


class Books:
    """Sound books: transfers, and payouts in flight, settled and rejected."""

    def __init__(self) -> None:
        self.ledger = LedgerFactory()
        self.alice = AccountFactory(ledger=self.ledger, balance=10_000)
        self.bob = AccountFactory(ledger=self.ledger, balance=10_000)
        self.bank = AccountFactory(ledger=self.ledger, payout_destination="DE00")
        self.transfer = self.move(self.alice, self.bob, 100)
        self.reply = self.move(self.bob, self.alice, 30)
        self.settled = self.payout(1_000)
        self.finish(self.settled, Delivery.SETTLED)
        self.rejected = self.payout(2_000)
        self.finish(self.rejected, Delivery.REJECTED)
        self.in_flight = self.payout(700)

    def move(self, source: Account, target: Account, amount: int) -> UUID:
        outcome = move(source, target, amount)
        assert isinstance(outcome, PostedTransfer), outcome
        return outcome.id

    def payout(self, amount: int) -> OutboxTask:
        transfer_id = self.move(self.alice, self.bank, amount)
        return OutboxTask.objects.get(transfer_id=transfer_id, kind=TaskKind.PAYOUT)

    def finish(self, task: OutboxTask, delivery: Delivery) -> None:
        handler = PayoutHandler()
        completion_id = (
            handler.settle(task=task)
            if delivery == Delivery.SETTLED
            else handler.reject(task=task, reason="no such account")
        )
        OutboxTask.objects.filter(ledger_id=task.ledger_id, id=task.id).update(
            state=TaskState.DONE,
            delivery=delivery,
            completion_transfer_id=completion_id,
            finished_at=Now(),
        )
        task.refresh_from_db()

    def last_entry(self, account: Account) -> Entry:
        return Entry.objects.filter(account_id=account.id).latest("account_version")
