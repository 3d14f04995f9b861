"""Sound books with a bit of everything, for tests that look at them or damage them."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models.functions import Now

from ledger.enums import (
    AccountKind,
    AccountStatus,
    LimitDirection,
    LimitPeriod,
    Permission,
    ReversalReason,
)
from ledger.models import Account, Entry, Ledger
from ledger.selectors.holds import HoldView
from ledger.selectors.ledgers import OVER_CAPTURE
from ledger.services.exchanges import ExchangeRequest, exchange_post
from ledger.services.holds import holds_expire
from ledger.services.limits import Limit, limits_set
from ledger.services.payouts import PayoutHandler
from ledger.services.periods import period_close
from ledger.services.posting import Outcome
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.services.scheduled import (
    ScheduleRequest,
    scheduled_create,
    scheduled_post,
)
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, move
from ledger.tests.holds import capture, place, void
from ledger.types import PostedTransfer, PostingRequest
from outbox.enums import Delivery, TaskKind, TaskState
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import now

#: Somebody who may do everything.
OFFICER = Actor("officer", permissions=frozenset(Permission.values))


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

    def move(
        self, source: Account, target: Account, amount: int, **fields: Any
    ) -> UUID:
        return posted(move(source, target, amount, **fields)).id

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


class FullBooks(Books):
    """Sound books with more: Carol's and Dave's holds in every state, reversals,
    exchanges, a limit and a scheduled transfer; a closed account and a closed period.
    """

    def __init__(self) -> None:
        super().__init__()
        self.carol = AccountFactory(ledger=self.ledger, balance=10_000)
        self.dave = AccountFactory(ledger=self.ledger)
        self.euros = AccountFactory(ledger=self.ledger, currency="EUR")
        self._hold()
        self._undo()
        self._end()

    def _hold(self) -> None:
        """Holds in every state. Nobody has noticed yet that ``lapsed`` has lapsed."""
        Ledger.objects.filter(id=self.ledger.id).update(settings={OVER_CAPTURE: 5_000})
        cash = AccountFactory(ledger=self.ledger, kind=AccountKind.ASSET)
        self.active = self.hold(400)
        self.partly = self.hold(300)
        self.partly_capture = posted(capture(self.partly, 120)).id
        self.captured = self.hold(200)
        self.first_capture = posted(capture(self.captured, 50)).id
        self.last_capture = posted(capture(self.captured)).id
        self.exceeded = self.hold(100)
        capture(self.exceeded, 150)
        self.released = self.hold(100)
        capture(self.released, 60, is_final=True)
        self.voided = self.hold(80)
        void(self.voided, "changed their mind")
        self.expired = self.hold(70, lifetime=timedelta(microseconds=1))
        assert holds_expire(ledger_id=self.ledger.id, now=now()) == 1
        self.lapsed = self.hold(60, lifetime=timedelta(microseconds=1))
        assert isinstance(place(cash, self.carol, 10), HoldView)

    def _undo(self) -> None:
        """Reversals, whole, in parts and forced, and one of an exchange."""
        self.undone = self.move(self.carol, self.dave, 500)
        self.reverse(self.undone)
        self.half_undone = self.move(self.carol, self.dave, 500)
        self.first_reversal = self.reverse(self.half_undone, parts=100).id
        self.reverse(self.half_undone, parts=150)
        self.reverse(self.last_capture)
        eve = AccountFactory(ledger=self.ledger)
        self.forced = self.move(self.carol, eve, 300)
        self.move(eve, self.carol, 200)
        self.forced_reversal = self.reverse(self.forced, is_forced=True).id
        self.kept_exchange, self.undone_exchange = self.exchange(), self.exchange()
        self.reverse(self.undone_exchange)

    def _end(self) -> None:
        """A limit and its usage, a scheduled transfer, a closed account and period."""
        limits_set(
            ledger_id=self.ledger.id,
            account_id=self.carol.id,
            changes={
                "velocity_limits": [
                    Limit(LimitDirection.OUT, LimitPeriod.MONTH, max_amount=1_000_000)
                ]
            },
            actor=OFFICER,
        )
        self.move(self.carol, self.dave, 5)
        self.move(self.carol, self.dave, 6)
        self.backdated = self.move(
            self.carol, self.dave, 7, effective_at=now() - timedelta(hours=1)
        )
        self.scheduled = self.schedule(self.carol, self.dave, 8)
        self.closed = AccountFactory(ledger=self.ledger)
        Account.objects.filter(ledger_id=self.ledger.id, id=self.closed.id).update(
            status=AccountStatus.CLOSED
        )
        period_close(
            ledger_id=self.ledger.id, end=now() - timedelta(hours=2), actor=OFFICER
        )

    def hold(self, amount: int, **fields: Any) -> HoldView:
        held = place(self.carol, self.dave, amount, **fields)
        assert isinstance(held, HoldView), held
        return held

    def reverse(
        self, transfer_id: UUID, parts: int | None = None, *, is_forced: bool = False
    ) -> PostedTransfer:
        return posted(
            transfer_reverse(
                ledger_id=self.ledger.id,
                request=ReversalRequest(
                    transfer_id, ReversalReason.ERROR, parts=parts, is_forced=is_forced
                ),
                actor=OFFICER,
                now=now(),
            )
        )

    def exchange(self) -> UUID:
        request = ExchangeRequest(self.carol.id, self.euros.id, 100, Decimal("0.9"))
        return posted(
            exchange_post(
                ledger_id=self.ledger.id, request=request, actor=ACTOR, now=now()
            )
        ).id

    def schedule(self, source: Account, target: Account, amount: int) -> UUID:
        """Schedules a transfer an hour ago, for half an hour ago, and posts it."""
        long_ago = now() - timedelta(hours=1)
        request = ScheduleRequest(
            (PostingRequest(source.id, target.id, amount),),
            due_at=long_ago + timedelta(minutes=30),
        )
        scheduled_create(
            ledger_id=self.ledger.id, request=request, actor=ACTOR, now=long_ago
        )
        status = scheduled_post(ledger_id=self.ledger.id, scheduled_id=request.id)
        assert status == "posted", status
        return request.id


def posted(outcome: Outcome) -> PostedTransfer:
    assert isinstance(outcome, PostedTransfer), outcome
    return outcome
