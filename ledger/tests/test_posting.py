"""The posting engine: what it writes, what it refuses, and in which order."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.engine.batch import Batch
from ledger.enums import AccountKind, AccountStatus, TransferKind
from ledger.locks import LockedAccount
from ledger.models import Account, Entry, Transfer
from ledger.services.operations import operations_run
from ledger.services.posting import (
    MAX_TRANSFERS,
    transfers_post,
)
from ledger.services.reversals import payout_give_back
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    move,
    post,
    transfer_request,
)
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from outbox.enums import TaskKind, TaskState
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import now
from payflow.errors import Problem
from payflow.ids import new_id
from payflow.money import MAX_AMOUNT

pytestmark = pytest.mark.django_db


def set_status(account: Account, status: AccountStatus) -> None:
    Account.objects.filter(ledger_id=account.ledger_id, id=account.id).update(
        status=status
    )


def code(outcome: object) -> str:
    assert isinstance(outcome, Problem), outcome
    return outcome.code


def test_a_transfer_moves_money_between_two_accounts():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=10_000)
    target = AccountFactory(ledger=ledger)

    outcome = move(source, target, 2_500, reference="order-1", metadata={"a": 1})

    assert isinstance(outcome, PostedTransfer)
    assert fresh(source).posted == 7_500
    assert fresh(target).posted == 2_500
    assert [(b.account_id, b.posted, b.version) for b in outcome.balances] == [
        (source.id, 7_500, 2),
        (target.id, 2_500, 1),
    ]
    row = Transfer.objects.get(ledger_id=ledger.id, id=outcome.id)
    assert (row.kind, row.posting_count, row.reference, row.metadata) == (
        "transfer",
        1,
        "order-1",
        {"a": 1},
    )
    assert row.effective_at == row.created_at == outcome.created_at


def test_entries_carry_running_totals_and_versions_without_gaps():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    target = AccountFactory(ledger=ledger)

    for amount in (100, 200, 300):
        move(source, target, amount)

    rows = Entry.objects.filter(ledger_id=ledger.id, account_id=source.id)
    assert list(
        rows.order_by("account_version").values_list(
            "account_version", "direction", "amount", "debits_after", "credits_after"
        )
    ) == [
        (1, "credit", 1_000, 0, 1_000),
        (2, "debit", 100, 100, 1_000),
        (3, "debit", 200, 300, 1_000),
        (4, "debit", 300, 600, 1_000),
    ]


def test_each_later_transfer_is_judged_on_what_the_earlier_ones_leave():
    ledger = LedgerFactory()
    first = AccountFactory(ledger=ledger, balance=100)
    second = AccountFactory(ledger=ledger)
    third = AccountFactory(ledger=ledger)

    outcomes = post(
        transfer_request(second, third, 50),
        transfer_request(first, second, 80),
        transfer_request(second, third, 50),
        transfer_request(first, second, 21),
        transfer_request(first, second, 20),
        ledger=ledger,
    )

    assert [isinstance(o, PostedTransfer) for o in outcomes] == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert code(outcomes[0]) == code(outcomes[3]) == "insufficient_funds"
    assert (fresh(first).posted, fresh(second).posted, fresh(third).posted) == (
        0,
        50,
        50,
    )


def test_funds_are_judged_after_all_postings_of_a_transfer():
    ledger = LedgerFactory()
    a = AccountFactory(ledger=ledger, balance=100)
    b = AccountFactory(ledger=ledger)
    c = AccountFactory(ledger=ledger)

    # b passes on what it only gets in the second posting of the same transfer.
    request = TransferRequest(
        postings=(PostingRequest(b.id, c.id, 100), PostingRequest(a.id, b.id, 100))
    )
    (outcome,) = post(request, ledger=ledger)

    assert isinstance(outcome, PostedTransfer)
    assert [fresh(x).posted for x in (a, b, c)] == [0, 0, 100]
    assert [b.posted for b in outcome.balances] == [0, 100, 0]


@pytest.mark.parametrize("size", [1, 7, 400])
def test_the_number_of_statements_does_not_depend_on_the_batch(size):
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000_000)
    targets = [AccountFactory(ledger=ledger) for _ in range(3)]
    requests = [
        transfer_request(source, targets[i % 3], 1 + i, reference=f"r{i}")
        for i in range(size)
    ]

    with CaptureQueriesContext(
        connection,
    ) as queries:
        outcomes = post(*requests, ledger=ledger)

    assert all(isinstance(o, PostedTransfer) for o in outcomes)
    statements = [q["sql"].split()[0] for q in queries]
    assert statements == ["SELECT", "SELECT", "WITH"] or (
        size >= 100 and statements == ["SELECT", "SELECT", "DISCARD", "WITH"]
    )


def test_an_asset_account_rises_by_debits_and_its_floor_guards_credits():
    ledger = LedgerFactory()
    cash = AccountFactory(ledger=ledger, kind=AccountKind.ASSET, balance=500)
    owed = AccountFactory(ledger=ledger)

    assert isinstance(move(cash, owed, 100), PostedTransfer)
    assert fresh(cash).posted == 600

    problem = move(owed, cash, 700)
    assert code(problem) == "insufficient_funds"
    assert problem.fields["account_id"] == str(owed.id)


def test_a_refusal_for_funds_says_what_there_is_and_what_was_needed():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100, min_balance=30)
    target = AccountFactory(ledger=ledger)

    problem = move(source, target, 71)

    assert isinstance(problem, Problem)
    assert problem.code == "insufficient_funds"
    assert problem.fields == {
        "account_id": str(source.id),
        "available": 100,
        "required": 71,
        "min_balance": 30,
    }
    assert isinstance(move(source, target, 70), PostedTransfer)


def test_an_account_without_a_floor_goes_below_zero_and_one_with_credit_to_its_line():
    ledger = LedgerFactory()
    free = AccountFactory(ledger=ledger, min_balance=None)
    credit_line = AccountFactory(ledger=ledger, min_balance=-500)
    target = AccountFactory(ledger=ledger)

    assert isinstance(move(free, target, 10**12), PostedTransfer)
    assert isinstance(move(credit_line, target, 500), PostedTransfer)
    assert code(move(credit_line, target, 1)) == "insufficient_funds"


def test_refusals_come_in_the_documented_order():
    ledger = LedgerFactory()
    broke = AccountFactory(ledger=ledger)
    target = AccountFactory(ledger=ledger)
    other_ledgers = AccountFactory()
    euros = AccountFactory(ledger=ledger, currency="EUR")
    payout = AccountFactory(ledger=ledger, payout_destination="bank")
    closed = AccountFactory(ledger=ledger)
    set_status(closed, AccountStatus.CLOSED)
    frozen = AccountFactory(ledger=ledger)
    set_status(frozen, AccountStatus.FROZEN)
    funded = AccountFactory(ledger=ledger, balance=100)
    move(funded, target, 1, reference="used")
    late = now() + timedelta(minutes=1)

    def of(*pairs: tuple[Account, Account], **fields: object) -> str:
        request = TransferRequest(
            postings=tuple(PostingRequest(a.id, b.id, 1_000) for a, b in pairs),
            **fields,
        )
        (outcome,) = post(request, ledger=ledger)
        return code(outcome)

    every = [
        (broke, other_ledgers),
        (broke, broke),
        (broke, euros),
        (broke, closed),
        (broke, frozen),
        (payout, target),
        (broke, target),
    ]
    rest = {"effective_at": late, "reference": "used"}
    assert of(*every, **rest) == "account_not_found"
    assert of(*every[1:], **rest) == "same_account"
    assert of(*every[2:], **rest) == "currency_mismatch"
    assert of(*every[3:], **rest) == "account_closed"
    assert of(*every[4:], **rest) == "account_frozen"
    assert of(*every[5:], **rest) == "payout_account_cannot_send"
    assert of(*every[6:], **rest) == "effective_at_in_future"
    assert of(*every[6:], reference="used") == "reference_taken"
    assert of(*every[6:]) == "insufficient_funds"


SOME = st.sampled_from([0, 1, 2, 99, MAX_AMOUNT - 1, MAX_AMOUNT])


@st.composite
def locked_accounts(draw: st.DrawFn) -> LockedAccount:
    """An account in any state that can be in the books."""
    is_debit_normal = draw(st.booleans())
    debits, credits = draw(SOME), draw(SOME)
    return LockedAccount(
        id=new_id(),
        currency=draw(st.sampled_from(["USD", "USD", "EUR"])),
        is_debit_normal=is_debit_normal,
        status=draw(st.sampled_from(["open", "open", *AccountStatus.values])),
        min_balance=draw(st.sampled_from([None, 0, -5, 5])),
        payout_destination=draw(st.sampled_from([None, None, "DE00"])),
        version=7,
        debits_posted=debits,
        credits_posted=credits,
        debits_pending=draw(SOME),
        credits_pending=draw(SOME),
        last_entry_at=None,
        has_velocity_limits=False,
    )


@given(
    accounts=st.lists(locked_accounts(), min_size=2, max_size=2),
    is_missing=st.booleans(),
    is_same=st.booleans(),
    amount=st.sampled_from([1, 2, 100, MAX_AMOUNT]),
    reference=st.sampled_from([None, "used", "free"]),
    effective_at=st.sampled_from([None, now() + timedelta(hours=1)]),
)
@settings(max_examples=500, suppress_health_check=list(HealthCheck))
def test_what_passes_at_one_look_passes_every_rule(
    db, accounts, is_missing, is_same, amount, reference, effective_at
):
    batch = Batch(ledger_id=new_id(), actor=ACTOR, now=now())
    batch.accounts = {account.id: account for account in accounts}
    batch._used_references = {"used"}
    batch._without_lapsed = {account.id for account in accounts}
    source, target = (account.id for account in accounts)
    request = TransferRequest(
        postings=(
            PostingRequest(
                source,
                source if is_same else new_id() if is_missing else target,
                amount,
            ),
        ),
        reference=reference,
        effective_at=effective_at,
    )

    looked, judged = batch._is_plain(request), batch.refusal(request)

    assert not looked or judged is None, judged
    # And of what passes every rule, all that is ordinary passes at one look.
    is_ordinary = effective_at is None and all(a.is_plain for a in accounts)
    assert looked or judged is not None or not is_ordinary


def test_a_frozen_out_account_receives_and_does_not_send():
    ledger = LedgerFactory()
    account = AccountFactory(ledger=ledger, balance=100)
    other = AccountFactory(ledger=ledger, balance=100)
    set_status(account, AccountStatus.FROZEN_OUT)

    assert code(move(account, other, 1)) == "account_frozen"
    assert isinstance(move(other, account, 1), PostedTransfer)


def test_a_frozen_out_asset_may_be_debited_and_not_credited():
    ledger = LedgerFactory()
    cash = AccountFactory(ledger=ledger, kind=AccountKind.ASSET, balance=100)
    other = AccountFactory(ledger=ledger, balance=100)
    set_status(cash, AccountStatus.FROZEN_OUT)

    assert code(move(other, cash, 1)) == "account_frozen"
    assert isinstance(move(cash, other, 1), PostedTransfer)


def test_a_balance_stays_within_what_json_carries():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, min_balance=None)
    target = AccountFactory(ledger=ledger)

    assert isinstance(move(source, target, MAX_AMOUNT), PostedTransfer)
    assert code(move(source, target, 1)) == "balance_out_of_range"


def test_references_are_unique_within_a_batch_too():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100)
    target = AccountFactory(ledger=ledger)

    outcomes = post(
        transfer_request(source, target, 1, reference="x"),
        transfer_request(source, target, 1, reference="x"),
        ledger=ledger,
    )

    assert isinstance(outcomes[0], PostedTransfer)
    assert code(outcomes[1]) == "reference_taken"


def test_an_instant_a_little_ahead_counts_as_now_and_a_past_one_is_kept():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100)
    target = AccountFactory(ledger=ledger)
    past = now() - timedelta(days=40)

    ahead = move(source, target, 1, effective_at=now() + timedelta(seconds=3))
    behind = move(source, target, 1, effective_at=past)

    assert isinstance(ahead, PostedTransfer)
    assert ahead.effective_at == ahead.created_at
    assert isinstance(behind, PostedTransfer)
    assert behind.effective_at == past
    assert set(
        Entry.objects.filter(ledger_id=ledger.id, transfer_id=behind.id).values_list(
            "effective_at", flat=True
        )
    ) == {past}


def test_recording_times_never_decrease_along_an_account():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    target = AccountFactory(ledger=ledger)

    for _ in range(20):
        move(source, target, 1)

    times = list(
        Entry.objects.filter(ledger_id=ledger.id, account_id=source.id)
        .order_by("account_version")
        .values_list("created_at", flat=True)
    )
    assert times == sorted(times)


def test_every_transfer_has_one_posted_task_and_one_payout_per_payout_posting():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    payout = AccountFactory(ledger=ledger, payout_destination="iban-1")
    plain = AccountFactory(ledger=ledger)

    request = TransferRequest(
        postings=(
            PostingRequest(source.id, plain.id, 10),
            PostingRequest(source.id, payout.id, 20),
            PostingRequest(source.id, payout.id, 30),
        )
    )
    (outcome,) = post(request, ledger=ledger)

    assert isinstance(outcome, PostedTransfer)
    tasks = OutboxTask.objects.filter(ledger_id=ledger.id, transfer_id=outcome.id)
    assert sorted(
        tasks.values_list("kind", "posting_number", "amount", "destination", "state"),
        key=str,
    ) == [
        ("payout", 2, 20, "iban-1", "pending"),
        ("payout", 3, 30, "iban-1", "pending"),
        ("transfer.posted", 0, None, None, "pending"),
    ]


def test_transfers_of_several_actors_each_record_their_own():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100)
    bank = AccountFactory(ledger=ledger, payout_destination="DE00")
    shop = Actor("client:shop", new_id(), new_id(), "request-1")
    app = Actor("client:app", new_id(), new_id(), "request-2")
    requests = [
        transfer_request(source, bank, amount, idempotency_key=f"key-{amount}")
        for amount in (1, 101, 2, 3)
    ]

    outcomes = operations_run(
        ledger_id=ledger.id,
        requests=list(zip(requests, (shop, app, app, shop), strict=True)),
        now=now(),
    )

    assert [isinstance(outcome, Problem) for outcome in outcomes] == [0, 1, 0, 0]
    for request, actor in zip(
        (requests[0], requests[2], requests[3]), (shop, app, shop), strict=True
    ):
        transfer = Transfer.objects.get(ledger_id=ledger.id, id=request.id)
        assert transfer.actor == actor.label
        assert (transfer.client_id, transfer.key_id) == (actor.client_id, actor.key_id)
        assert transfer.request_id == actor.request_id
        assert transfer.idempotency_key == request.idempotency_key
        tasks = OutboxTask.objects.filter(ledger_id=ledger.id, transfer_id=request.id)
        assert [task.request_id for task in tasks] == [actor.request_id] * 2


def test_bulk_books_write_their_posted_tasks_as_done_and_their_payouts_as_due():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    payout = AccountFactory(ledger=ledger, payout_destination="iban-1")

    (outcome,) = transfers_post(
        ledger_id=ledger.id,
        requests=[transfer_request(source, payout, 10)],
        actor=ACTOR,
        now=now(),
        tasks_are_done=True,
    )

    assert isinstance(outcome, PostedTransfer)
    states = dict(
        OutboxTask.objects.filter(
            ledger_id=ledger.id, transfer_id=outcome.id
        ).values_list("kind", "state")
    )
    assert states == {
        TaskKind.TRANSFER_POSTED: TaskState.DONE,
        TaskKind.PAYOUT: TaskState.PENDING,
    }


def test_payout_completions_post_on_frozen_accounts_and_never_on_closed_ones():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100)
    payout = AccountFactory(ledger=ledger, payout_destination="iban")
    bank = AccountFactory(ledger=ledger, kind=AccountKind.ASSET, min_balance=None)
    closed = AccountFactory(ledger=ledger, balance=20)
    tasks = [
        OutboxTask.objects.get(ledger_id=ledger.id, transfer_id=sent.id, kind="payout")
        for sent in (move(source, payout, 20), move(closed, payout, 20))
    ]
    move(source, payout, 20)
    set_status(source, AccountStatus.FROZEN)
    set_status(payout, AccountStatus.FROZEN)
    set_status(closed, AccountStatus.CLOSED)

    settled = move(payout, bank, 20, kind=TransferKind.SETTLEMENT)
    returned, to_closed = (
        payout_give_back(
            task=task, description="rejected", metadata={}, actor=ACTOR, now=now()
        )
        for task in tasks
    )

    assert isinstance(settled, PostedTransfer)
    assert isinstance(returned, PostedTransfer)
    assert code(to_closed) == "account_closed"
    assert fresh(source).posted == 80


def test_too_many_transfers_and_a_transfer_without_postings_are_programming_errors():
    ledger = LedgerFactory()
    request = TransferRequest(postings=())

    with pytest.raises(ValueError, match="at least one posting"):
        post(request, ledger=ledger)
    with pytest.raises(ValueError, match="at most"):
        post(*[request] * (MAX_TRANSFERS + 1), ledger=ledger)


def test_an_unknown_account_is_named():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1)
    unknown = new_id()

    (problem,) = post(
        TransferRequest(postings=(PostingRequest(source.id, unknown, 1),)),
        ledger=ledger,
    )

    assert code(problem) == "account_not_found"
    assert problem.fields == {"account_id": str(unknown)}
