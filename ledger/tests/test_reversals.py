"""Reversals: whole, in parts, forced; and payouts that are called back in time."""

from decimal import Decimal
from typing import Any

import pytest

from ledger.audit import audit_run
from ledger.enums import (
    AccountKind,
    AccountStatus,
    Permission,
    ReversalReason,
    TransferKind,
)
from ledger.models import Account, ReversalTotal, Transfer
from ledger.selectors.transfers import transfer_get
from ledger.services.accounts import account_update, system_account_id
from ledger.services.exchanges import ExchangeRequest, exchange_post
from ledger.services.payouts import PayoutHandler
from ledger.services.posting import Outcome
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    move,
    post,
)
from ledger.tests.holds import capture, lapse, place
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from outbox.enums import Delivery, TaskState
from outbox.handlers import CompensationRefused
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import now
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

BOSS = Actor("boss", permissions=frozenset({Permission.FORCE_REVERSAL}))


def code(outcome: object) -> str:
    assert isinstance(outcome, Problem), outcome
    return outcome.code


def reverse(
    transfer: Outcome, parts: Any = None, *, actor: Actor = ACTOR, **fields: Any
) -> Outcome:
    assert isinstance(transfer, PostedTransfer), transfer
    return transfer_reverse(
        ledger_id=transfer.ledger_id,
        request=ReversalRequest(
            transfer.id, ReversalReason.CUSTOMER_REQUEST, parts=parts, **fields
        ),
        actor=actor,
        now=now(),
    )


def pair(balance: int = 1_000) -> tuple[Account, Account]:
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=balance)
    return source, AccountFactory(ledger=ledger)


def left(transfer: Outcome) -> list[int]:
    assert isinstance(transfer, PostedTransfer)
    found = transfer_get(ledger_id=transfer.ledger_id, transfer_id=transfer.id)
    return [posting.amount_reversible for posting in found.postings]


def posted(*accounts: Account) -> list[int]:
    return [fresh(account).posted for account in accounts]


def receivables(account: Account) -> Account:
    return Account.objects.get(
        ledger_id=account.ledger_id, reference="system:receivables:USD"
    )


def test_a_transfer_is_reversed_whole():
    source, target = pair()
    sent = move(source, target, 300)

    back = reverse(sent, reference="refund-1", description="Broken", metadata={"a": 1})

    assert isinstance(back, PostedTransfer)
    assert isinstance(sent, PostedTransfer)
    assert (back.kind, back.reverses_transfer_id) == ("reversal", sent.id)
    assert back.reason == "customer_request"
    assert back.permission is None
    assert posted(source, target) == [1_000, 0]
    assert left(sent) == [0]
    assert left(back) == [0]
    assert Transfer.objects.get(id=back.id).source_postings == [1]


def test_a_transfer_is_reversed_in_parts_up_to_what_is_left():
    source, target = pair()
    sent = move(source, target, 300)

    assert isinstance(reverse(sent, 100), PostedTransfer)
    assert left(sent) == [200]
    refused = reverse(sent, 201)
    assert code(refused) == "reversal_exceeds_transfer"
    assert refused.fields == {
        "posting_number": 1,
        "amount_reversible": 200,
        "required": 201,
    }
    assert isinstance(reverse(sent), PostedTransfer)
    assert code(reverse(sent)) == "reversal_exceeds_transfer"

    assert posted(source, target) == [1_000, 0]
    total = ReversalTotal.objects.get(transfer_id=sent.id)
    assert (total.amount, total.reversed) == (300, 300)


def test_each_posting_is_reversed_for_itself():
    ledger = LedgerFactory()
    buyer = AccountFactory(ledger=ledger, balance=1_000)
    seller, fees = AccountFactory(ledger=ledger), AccountFactory(ledger=ledger)
    (sent,) = post(
        TransferRequest(
            (
                PostingRequest(buyer.id, seller.id, 900),
                PostingRequest(buyer.id, fees.id, 100),
            )
        ),
        ledger=ledger,
    )

    assert isinstance(reverse(sent, {2: 100}), PostedTransfer)
    assert left(sent) == [900, 0]
    assert code(reverse(sent, {1: 10, 2: 1})) == "reversal_exceeds_transfer"
    with pytest.raises(ProblemError, match="There are 2 postings: give"):
        reverse(sent, 5)
    with pytest.raises(ProblemError, match=r"postings\[0\].number"):
        reverse(sent, {3: 5})
    assert isinstance(reverse(sent), PostedTransfer)
    assert posted(buyer, seller, fees) == [1_000, 0, 0]


def test_a_capture_is_reversed_and_its_hold_stays_ended():
    source, target = pair()
    hold = place(source, target, 300)
    taken = capture(hold, 200, is_final=True)

    back = reverse(taken, 50)

    assert isinstance(back, PostedTransfer)
    assert posted(source, target) == [850, 150]
    assert left(taken) == [150]
    assert fresh(source).available == 850


def test_what_ends_something_itself_cannot_be_reversed():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100)
    target = AccountFactory(ledger=ledger)
    payout = AccountFactory(ledger=ledger, payout_destination="DE00")
    bank = AccountFactory(ledger=ledger, kind=AccountKind.ASSET, min_balance=None)
    back = reverse(move(source, target, 10))
    move(source, payout, 20)
    settled = move(payout, bank, 20, kind=TransferKind.SETTLEMENT)

    assert code(reverse(back)) == "transfer_not_reversible"
    assert code(reverse(settled)) == "transfer_not_reversible"


def test_a_reversal_is_refused_when_the_money_is_gone():
    source, target = pair()
    other = AccountFactory(ledger=source.ledger)
    sent = move(source, target, 300)
    move(target, other, 200)

    refused = reverse(sent)

    assert code(refused) == "insufficient_funds"
    assert refused.fields["available"] == 100
    assert left(sent) == [300]
    assert isinstance(reverse(sent, 100), PostedTransfer)


def test_lapsed_holds_do_not_stand_in_the_way_of_a_reversal():
    source, target = pair()
    other = AccountFactory(ledger=source.ledger)
    sent = move(source, target, 300)
    lapse(place(target, other, 300))

    assert isinstance(reverse(sent), PostedTransfer)


def test_forcing_needs_the_permission():
    source, target = pair()
    sent = move(source, target, 300)

    with pytest.raises(ProblemError) as caught:
        reverse(sent, is_forced=True)

    assert caught.value.problem.code == "permission_denied"


def test_a_forced_reversal_takes_what_is_there_and_books_the_rest_as_receivable():
    source, target = pair()
    other = AccountFactory(ledger=source.ledger)
    sent = move(source, target, 300)
    move(target, other, 200)

    back = reverse(sent, actor=BOSS, is_forced=True)

    assert isinstance(back, PostedTransfer)
    assert back.permission == "force_reversal"
    assert [(p.from_account_id, p.amount) for p in back.postings] == [
        (target.id, 100),
        (receivables(source).id, 200),
    ]
    assert posted(source, target, receivables(source)) == [1_000, 0, 200]
    assert left(sent) == [0]
    assert Transfer.objects.get(id=back.id).source_postings == [1, 1]
    assert audit_run(ledger_slug=source.ledger.slug).is_sound


def test_forcing_what_needs_no_force_is_an_ordinary_reversal():
    source, target = pair()
    sent = move(source, target, 300)

    back = reverse(sent, actor=BOSS, is_forced=True)

    assert isinstance(back, PostedTransfer)
    assert (back.permission, len(back.postings)) == (None, 1)


def test_a_forced_reversal_respects_the_floor_and_what_is_held():
    source, target = pair()
    other = AccountFactory(ledger=source.ledger)
    sent = move(source, target, 300)
    place(target, other, 50)
    Account.objects.filter(ledger_id=target.ledger_id, id=target.id).update(
        min_balance=30
    )

    back = reverse(sent, actor=BOSS, is_forced=True)

    assert isinstance(back, PostedTransfer)
    assert [p.amount for p in back.postings] == [220, 80]
    assert fresh(target).available == 30


def test_a_forced_reversal_of_several_postings_shares_what_the_account_has():
    source, target = pair()
    other = AccountFactory(ledger=source.ledger)
    (sent,) = post(
        TransferRequest(
            (
                PostingRequest(source.id, target.id, 100),
                PostingRequest(source.id, target.id, 100),
            )
        ),
        ledger=source.ledger,
    )
    move(target, other, 50)

    back = reverse(sent, actor=BOSS, is_forced=True)

    assert isinstance(back, PostedTransfer)
    assert [p.amount for p in back.postings] == [100, 50, 50]
    assert posted(source, target, receivables(source)) == [1_000, 0, 50]


def test_a_forced_reversal_counts_what_it_brings_to_who_passed_the_money_on():
    ledger = LedgerFactory()
    buyer = AccountFactory(ledger=ledger, balance=1_000)
    shop, seller, other = (AccountFactory(ledger=ledger) for _ in range(3))
    (sent,) = post(
        TransferRequest(
            (
                PostingRequest(buyer.id, shop.id, 100),
                PostingRequest(shop.id, seller.id, 90),
            )
        ),
        ledger=ledger,
    )
    move(shop, other, 4)

    whole = reverse(sent, {1: 96, 2: 90}, actor=BOSS, is_forced=True)

    # The shop has 6, and gets 90 in the same transfer: nothing is missing.
    assert isinstance(whole, PostedTransfer)
    assert (whole.permission, [p.amount for p in whole.postings]) == (None, [96, 90])

    rest = reverse(sent, actor=BOSS, is_forced=True)

    assert isinstance(rest, PostedTransfer)
    assert (rest.permission, rest.postings[0].from_account_id) == (
        "force_reversal",
        receivables(buyer).id,
    )
    assert posted(buyer, shop, seller, receivables(buyer)) == [1_000, 0, 0, 4]
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_a_forced_reversal_from_a_closed_account_is_all_receivable():
    source, target = pair()
    other = AccountFactory(ledger=source.ledger)
    sent = move(source, target, 300)
    move(target, other, 300)
    set_status(target, AccountStatus.CLOSED)

    assert code(reverse(sent)) == "account_closed"
    back = reverse(sent, actor=BOSS, is_forced=True)

    assert isinstance(back, PostedTransfer)
    assert posted(source, receivables(source)) == [1_000, 300]


def test_force_does_not_help_against_a_freeze():
    source, target = pair()
    sent = move(source, target, 300)
    set_status(target, AccountStatus.FROZEN)

    assert code(reverse(sent, actor=BOSS, is_forced=True)) == "account_frozen"


def set_status(account: Account, status: AccountStatus) -> None:
    Account.objects.filter(ledger_id=account.ledger_id, id=account.id).update(
        status=status
    )


def test_the_reversal_of_an_asset_transfer_is_refused_if_the_asset_would_fall_short():
    ledger = LedgerFactory()
    cash = AccountFactory(ledger=ledger, kind=AccountKind.ASSET)
    equity = AccountFactory(ledger=ledger, kind=AccountKind.EQUITY, min_balance=None)
    expense = AccountFactory(ledger=ledger, kind=AccountKind.EXPENSE)
    paid_in = move(cash, equity, 100)
    assert isinstance(move(expense, cash, 80), PostedTransfer)

    # Moving the capital back would credit cash that is spent.
    assert code(reverse(paid_in)) == "insufficient_funds"
    assert code(reverse(paid_in, actor=BOSS, is_forced=True)) == "insufficient_funds"


def payout(amount: int = 100) -> tuple[Account, Account, PostedTransfer, OutboxTask]:
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    bank = AccountFactory(ledger=ledger, payout_destination="DE00")
    sent = move(source, bank, amount)
    assert isinstance(sent, PostedTransfer)
    task = OutboxTask.objects.get(
        ledger_id=ledger.id, transfer_id=sent.id, kind="payout"
    )
    return source, bank, sent, task


def test_a_payout_that_was_never_attempted_is_cancelled_with_its_reversal():
    source, bank, sent, task = payout()

    back = reverse(sent)

    assert isinstance(back, PostedTransfer)
    assert (back.kind, back.reason) == ("payout_reversal", "customer_request")
    assert Transfer.objects.get(id=back.id).reason == "customer_request"
    task = OutboxTask.objects.get(id=task.id)
    assert (task.state, task.completion_transfer_id) == ("cancelled", back.id)
    assert posted(source, bank) == [1_000, 0]
    assert left(sent) == [0]
    assert audit_run(ledger_slug=source.ledger.slug).is_sound


def test_a_payout_under_way_or_settled_is_not_reversed():
    _, _, sent, task = payout()
    attempted = OutboxTask.objects.filter(ledger_id=task.ledger_id, id=task.id)

    attempted.update(attempt_count=1, delivery=Delivery.UNKNOWN)
    refused = reverse(sent)
    assert code(refused) == "payout_in_progress"
    assert refused.fields["payout_task_id"] == str(task.id)
    attempted.update(delivery=Delivery.SETTLED)
    assert code(reverse(sent)) == "payout_settled"
    attempted.update(state=TaskState.NEEDS_ATTENTION, finished_at=now())
    assert code(reverse(sent)) == "payout_settled"


def test_a_payout_is_reversed_whole_and_on_its_own():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    bank = AccountFactory(ledger=ledger, payout_destination="DE00")
    fees = AccountFactory(ledger=ledger)
    (sent,) = post(
        TransferRequest(
            (
                PostingRequest(source.id, bank.id, 100),
                PostingRequest(source.id, fees.id, 3),
            )
        ),
        ledger=ledger,
    )

    assert code(reverse(sent)) == "payout_reversed_whole"
    assert code(reverse(sent, {1: 50})) == "payout_reversed_whole"
    assert isinstance(reverse(sent, {1: 100}), PostedTransfer)
    # What is left holds no payout any more.
    assert isinstance(reverse(sent), PostedTransfer)
    assert posted(source, bank, fees) == [1_000, 0, 0]
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_refusals_of_its_own_come_in_the_documented_order():
    source, _, sent, task = payout()
    euros = AccountFactory(ledger=source.ledger, currency="EUR")
    exchanged = exchange_post(
        ledger_id=source.ledger_id,
        request=ExchangeRequest(source.id, euros.id, 100, Decimal("0.9")),
        actor=ACTOR,
        now=now(),
    )
    undone = reverse(move(source, AccountFactory(ledger=source.ledger), 5))
    move(source, AccountFactory(ledger=source.ledger), 1, reference="taken")
    attempted = OutboxTask.objects.filter(ledger_id=task.ledger_id, id=task.id)

    def refusal(transfer: Outcome, parts: Any = None) -> str:
        return code(reverse(transfer, parts, reference="taken"))

    # Each is refused for what comes later, too: at the end, the reference.
    assert refusal(undone, 6) == "transfer_not_reversible"
    assert refusal(exchanged, {1: 101}) == "reversal_exceeds_transfer"
    assert refusal(exchanged, {1: 100}) == "exchange_reversed_whole"
    assert refusal(exchanged) == "reference_taken"
    attempted.update(attempt_count=1, delivery=Delivery.UNKNOWN)
    assert refusal(sent, 101) == "reversal_exceeds_transfer"
    assert refusal(sent, 50) == "payout_reversed_whole"
    assert refusal(sent) == "payout_in_progress"
    attempted.update(delivery=Delivery.SETTLED)
    assert refusal(sent, 50) == "payout_reversed_whole"
    assert refusal(sent) == "payout_settled"


def test_refusals_like_a_transfers_come_in_its_order():
    source, target = pair(balance=300)
    sent = move(source, target, 300)
    move(target, AccountFactory(ledger=source.ledger), 300, reference="taken")

    def refusal() -> str:
        return code(reverse(sent, reference="taken"))

    def change(account: Account, **fields: Any) -> None:
        Account.objects.filter(ledger_id=account.ledger_id, id=account.id).update(
            **fields
        )

    change(source, payout_destination="DE00")
    set_status(target, AccountStatus.FROZEN)
    set_status(source, AccountStatus.CLOSED)
    assert refusal() == "account_closed"
    set_status(source, AccountStatus.OPEN)
    assert refusal() == "account_frozen"
    set_status(target, AccountStatus.OPEN)
    assert refusal() == "payout_account_takes_no_refund"
    change(source, payout_destination=None)
    assert refusal() == "reference_taken"
    assert code(reverse(sent)) == "insufficient_funds"


def test_transfers_of_other_ledgers_and_of_nobody_are_not_found():
    source, target = pair()
    sent = move(source, target, 10)
    assert isinstance(sent, PostedTransfer)

    for ledger_id, transfer_id in (
        (LedgerFactory().id, sent.id),
        (source.ledger_id, new_id()),
    ):
        with pytest.raises(ProblemError) as caught:
            transfer_reverse(
                ledger_id=ledger_id,
                request=ReversalRequest(transfer_id, ReversalReason.ERROR),
                actor=ACTOR,
                now=now(),
            )
        assert caught.value.problem.code == "transfer_not_found"


def test_a_refused_reversal_with_a_taken_reference_writes_nothing():
    source, target = pair()
    sent = move(source, target, 10, reference="taken")
    before = Transfer.objects.count()

    assert code(reverse(sent, reference="taken")) == "reference_taken"

    assert Transfer.objects.count() == before
    assert left(sent) == [10]


def test_receivables_are_made_only_when_force_is_used():
    source, target = pair()
    reverse(move(source, target, 10))

    assert not Account.objects.filter(
        ledger_id=source.ledger_id, reference__startswith="system:receivables"
    ).exists()
    assert system_account_id(
        ledger_id=source.ledger_id, name="receivables", currency="USD"
    )


def test_what_has_become_a_payout_account_takes_no_refund():
    source, target = pair(balance=300)
    sent = move(source, target, 300)
    Account.objects.filter(ledger_id=source.ledger_id, id=source.id).update(
        payout_destination="DE00"
    )

    assert code(reverse(sent)) == "payout_account_takes_no_refund"
    assert code(reverse(sent, actor=BOSS, is_forced=True)) == (
        "payout_account_takes_no_refund"
    )
    assert left(sent) == [300]
    assert not OutboxTask.objects.filter(
        ledger_id=source.ledger_id, kind="payout"
    ).exists()


def test_an_account_keeps_its_role_while_a_payout_from_it_may_come_back():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100)
    bank = AccountFactory(ledger=ledger, payout_destination="DE00")
    sent = move(source, bank, 100)
    assert isinstance(sent, PostedTransfer)

    def become_payout_account() -> object:
        return account_update(
            ledger_id=ledger.id,
            account_id=source.id,
            changes={"payout_destination": "DE01"},
            actor=ACTOR,
        )

    assert code(become_payout_account()) == "account_has_payouts"
    # Should it have happened all the same, the money does not leave a second time.
    Account.objects.filter(ledger_id=ledger.id, id=source.id).update(
        payout_destination="DE01"
    )
    task = OutboxTask.objects.get(ledger_id=ledger.id, kind="payout")
    with pytest.raises(CompensationRefused, match="payout_account_takes_no_refund"):
        PayoutHandler().reject(task=task, reason="unknown account")


def test_a_forced_reversal_of_a_transfer_that_paid_receivables_too_is_one():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    target, other = AccountFactory(ledger=ledger), AccountFactory(ledger=ledger)
    owed = Account.objects.get(
        id=system_account_id(ledger_id=ledger.id, name="receivables", currency="USD")
    )
    funding = AccountFactory(ledger=ledger, kind=AccountKind.EQUITY, min_balance=None)
    move(owed, funding, 50)
    (sent,) = post(
        TransferRequest(
            (
                PostingRequest(source.id, target.id, 500),
                PostingRequest(source.id, owed.id, 10),
            )
        ),
        ledger=ledger,
    )
    move(target, other, 400)

    back = reverse(sent, actor=BOSS, is_forced=True)

    assert isinstance(back, PostedTransfer)
    assert back.permission == "force_reversal"
    assert [p.amount for p in back.postings] == [100, 400, 10]
    assert posted(source) == [1_000]
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_force_does_not_help_where_the_money_came_from_receivables():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    target, other = AccountFactory(ledger=ledger), AccountFactory(ledger=ledger)
    owed = Account.objects.get(
        id=system_account_id(ledger_id=ledger.id, name="receivables", currency="USD")
    )
    (lent,) = post(
        TransferRequest(
            (
                PostingRequest(source.id, target.id, 500),
                PostingRequest(owed.id, target.id, 100),
            )
        ),
        ledger=ledger,
    )
    move(target, other, 550)

    refused = reverse(lent, actor=BOSS, is_forced=True)
    assert code(refused) == "insufficient_funds"
    assert refused.fields["account_id"] == str(target.id)
    # What the account has goes there first, where nobody stands in for it.
    move(other, target, 70)
    back = reverse(lent, actor=BOSS, is_forced=True)

    assert isinstance(back, PostedTransfer)
    assert [p.amount for p in back.postings] == [20, 480, 100]
    assert posted(source, target, owed) == [1_000, 0, 480]
    assert left(lent) == [0, 0]
    assert audit_run(ledger_slug=ledger.slug).is_sound
