"""Holds: what they reserve, how they end, and what refuses them, in which order."""

from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from ledger.audit import audit_run
from ledger.enums import AccountKind, AccountStatus, HoldStatus, Permission
from ledger.models import Account, Hold, HoldEvent, Ledger, Transfer
from ledger.selectors.accounts import account_get, account_list
from ledger.selectors.holds import HoldView, hold_get, hold_list
from ledger.services.accounts import account_update
from ledger.services.holds import (
    CaptureRequest,
    VoidRequest,
    hold_extend,
    holds_expire,
)
from ledger.services.operations import operation_run
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    move,
    post,
    transfer_request,
)
from ledger.tests.holds import capture, extend, lapse, place, void
from ledger.types import HoldRequest, PostedTransfer, PostingRequest
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import now
from payflow.db import constraint_name, retry_on_conflict
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id
from payflow.money import MAX_AMOUNT

pytestmark = pytest.mark.django_db


def code(outcome: object) -> str:
    assert isinstance(outcome, Problem), outcome
    return outcome.code


def pair(balance: int = 1_000, **fields: Any) -> tuple[Account, Account]:
    ledger = LedgerFactory()
    return (
        AccountFactory(ledger=ledger, balance=balance, **fields),
        AccountFactory(ledger=ledger),
    )


def balances(account: Account) -> tuple[int, int, int, int]:
    found = account_get(ledger_id=account.ledger_id, account_id=account.id)
    return found.posted, found.available, found.pending_in, found.pending_out


def test_a_hold_makes_money_unavailable_at_once_and_moves_none():
    source, target = pair()

    hold = place(source, target, 300, reference="booking-1", metadata={"room": 7})

    assert isinstance(hold, HoldView)
    assert (hold.status, hold.row.reference) == ("active", "booking-1")
    assert balances(source) == (1_000, 700, 0, 300)
    assert balances(target) == (0, 0, 300, 0)
    assert code(move(source, target, 701)) == "insufficient_funds"
    assert isinstance(move(source, target, 700), PostedTransfer)
    assert [e.kind for e in HoldEvent.objects.filter(hold_id=hold.id)] == ["placed"]


def test_holds_on_the_same_money_are_refused_like_transfers():
    source, target = pair()
    place(source, target, 600)

    refused = place(source, target, 401)

    assert code(refused) == "insufficient_funds"
    assert refused.fields["available"] == 400
    assert Hold.objects.filter(ledger_id=source.ledger_id).count() == 1


def test_a_hold_on_an_asset_lowers_what_the_receiving_side_has_available():
    ledger = LedgerFactory()
    cash = AccountFactory(ledger=ledger, kind=AccountKind.ASSET, balance=500)
    customer = AccountFactory(ledger=ledger, balance=500)

    # Paying a customer out of cash: the customer's liability and the asset both fall.
    hold = place(customer, cash, 400)

    assert isinstance(hold, HoldView)
    assert balances(cash) == (500, 100, 0, 400)
    assert balances(customer) == (500, 100, 0, 400)
    assert code(place(customer, cash, 200)) == "insufficient_funds"


def test_capturing_all_moves_the_money_and_ends_the_hold():
    source, target = pair()
    hold = place(source, target, 300)

    moved = capture(hold, reference="stay-1")

    assert isinstance(moved, PostedTransfer)
    assert (moved.kind, moved.hold_id) == ("capture", hold.id)
    assert balances(source) == (700, 700, 0, 0)
    assert balances(target) == (300, 300, 0, 0)
    ended = hold_get(ledger_id=source.ledger_id, hold_id=hold.id)
    assert (ended.status, ended.row.ended_at) == ("captured", moved.created_at)
    assert OutboxTask.objects.filter(transfer_id=moved.id).count() == 1


def test_a_hold_is_captured_in_parts_until_it_is_used_up():
    source, target = pair()
    hold = place(source, target, 300)

    assert isinstance(capture(hold, 100), PostedTransfer)
    assert balances(source) == (900, 700, 0, 200)
    assert isinstance(capture(hold, 150), PostedTransfer)
    assert code(capture(hold, 51)) == "capture_exceeds_hold"
    assert isinstance(capture(hold, 50), PostedTransfer)

    assert hold_get(ledger_id=source.ledger_id, hold_id=hold.id).status == "captured"
    assert code(capture(hold, 1)) == "hold_not_active"
    assert balances(source) == (700, 700, 0, 0)
    assert balances(target) == (300, 300, 0, 0)


def test_a_final_capture_releases_the_rest():
    source, target = pair()
    hold = place(source, target, 300)

    capture(hold, 120, is_final=True)

    view = hold_get(ledger_id=source.ledger_id, hold_id=hold.id)
    assert view.status == "captured"
    assert (view.postings[0].captured, view.postings[0].released) == (120, 180)
    assert balances(source) == (880, 880, 0, 0)
    assert balances(target) == (120, 120, 0, 0)


def test_capturing_more_than_the_hold_needs_the_ledgers_allowance():
    source, target = pair()
    strict = place(source, target, 200)
    settings(source.ledger, hold_over_capture_basis_points=1_500)
    generous = place(source, target, 200)
    settings(source.ledger, hold_over_capture_basis_points=0)

    assert code(capture(strict, 201)) == "capture_exceeds_hold"
    # The allowance is the one of the day on which the hold was made.
    refused = capture(generous, 231)
    assert code(refused) == "capture_exceeds_hold"
    assert refused.fields["capturable"] == 230
    assert isinstance(capture(generous, 230), PostedTransfer)
    assert balances(source) == (770, 570, 0, 200)


def test_the_part_beyond_a_hold_needs_money_like_any_other():
    source, target = pair(balance=200)
    settings(source.ledger, hold_over_capture_basis_points=10_000)
    hold = place(source, target, 200)

    refused = capture(hold, 201)

    assert code(refused) == "insufficient_funds"
    assert (refused.fields["available"], refused.fields["required"]) == (0, 1)
    assert isinstance(capture(hold, 200), PostedTransfer)


def settings(ledger: Ledger, **values: Any) -> None:
    Ledger.objects.filter(id=ledger.id).update(settings=values)


def test_several_postings_are_held_as_a_unit_and_captured_one_by_one():
    ledger = LedgerFactory()
    buyer = AccountFactory(ledger=ledger, balance=1_000)
    seller, fees = AccountFactory(ledger=ledger), AccountFactory(ledger=ledger)
    request = HoldRequest(
        (
            PostingRequest(buyer.id, seller.id, 900),
            PostingRequest(buyer.id, fees.id, 100),
        )
    )
    hold = operation_run(ledger_id=ledger.id, request=request, actor=ACTOR, now=now())
    assert isinstance(hold, HoldView)
    assert balances(buyer) == (1_000, 0, 0, 1_000)

    moved = capture(hold, {2: 60})
    assert isinstance(moved, PostedTransfer)
    assert Transfer.objects.get(id=moved.id).source_postings == [2]
    assert balances(fees) == (60, 60, 40, 0)
    capture(hold, {1: 900}, is_final=True)

    assert balances(buyer) == (40, 40, 0, 0)
    assert [(p.captured, p.released) for p in view(hold).postings] == [
        (900, 0),
        (60, 40),
    ]
    with pytest.raises(ProblemError, match="There are 2 postings"):
        capture(hold_of(request, ledger), 5)


def hold_of(request: HoldRequest, ledger: Ledger) -> HoldView:
    again = HoldRequest(
        tuple(
            PostingRequest(p.from_account_id, p.to_account_id, 10)
            for p in request.postings
        )
    )
    hold = operation_run(ledger_id=ledger.id, request=again, actor=ACTOR, now=now())
    assert isinstance(hold, HoldView)
    return hold


def view(hold: HoldView) -> HoldView:
    return hold_get(ledger_id=hold.row.ledger_id, hold_id=hold.id)


def test_a_posting_that_the_hold_does_not_have_is_a_bad_request():
    source, target = pair()
    hold = place(source, target, 10)

    with pytest.raises(ProblemError, match=r"postings\[0\].number"):
        capture(hold, {2: 1})


def test_voiding_gives_the_money_back_with_its_reason():
    source, target = pair()
    hold = place(source, target, 300)
    capture(hold, 100)

    ended = void(hold, reason="guest left")

    assert isinstance(ended, HoldView)
    assert ended.status == "voided"
    assert balances(source) == (900, 900, 0, 0)
    assert balances(target) == (100, 100, 0, 0)
    assert code(void(hold)) == "hold_not_active"
    event = HoldEvent.objects.get(hold_id=hold.id, kind="voided")
    assert (event.released, event.reason, event.actor) == (200, "guest left", "test")


def test_extending_lets_a_hold_lapse_later_up_to_the_longest_lifetime():
    source, target = pair()
    hold = place(source, target, 300, lifetime=timedelta(hours=1))
    later = hold.row.created_at + timedelta(days=30)

    extended = extend(hold, later)

    assert isinstance(extended, HoldView)
    assert extended.row.expires_at == later
    assert view(extended).postings[0].expires_at == later
    assert code(extend(hold, later)) == "expires_at_not_later"
    too_late = hold.row.created_at + timedelta(days=31, seconds=1)
    refused = extend(hold, too_late)
    assert code(refused) == "hold_too_long"


def test_a_hold_lives_as_long_as_the_request_or_else_the_ledger_says():
    source, target = pair()
    settings(
        source.ledger,
        hold_default_lifetime_seconds=3_600,
        hold_max_lifetime_seconds=7_200,
    )

    by_default = place(source, target, 1)
    by_lifetime = place(source, target, 1, lifetime=timedelta(seconds=7_200))

    assert lifetime(by_default) == timedelta(hours=1)
    assert lifetime(by_lifetime) == timedelta(hours=2)
    too_long = place(source, target, 1, lifetime=timedelta(seconds=7_201))
    assert code(too_long) == "hold_too_long"
    past = place(source, target, 1, expires_at=now() - timedelta(seconds=1))
    assert code(past) == "expires_at_in_past"


def lifetime(hold: object) -> timedelta:
    assert isinstance(hold, HoldView), hold
    return hold.row.expires_at - hold.row.created_at


def test_a_lapsed_hold_is_expired_before_any_sweep():
    source, target = pair()
    hold = place(source, target, 300)
    lapse(hold)

    assert Hold.objects.get(id=hold.id).status == HoldStatus.ACTIVE
    assert view(hold).status == "expired"
    assert hold_list(ledger_id=source.ledger_id, limit=5, before=None)[0].status == (
        "expired"
    )
    assert balances(source) == (1_000, 1_000, 0, 0)
    assert balances(target) == (0, 0, 0, 0)
    listed = account_list(ledger_id=source.ledger_id, limit=5, before=None)
    assert {a.available for a in listed if a.id == source.id} == {1_000}
    assert code(capture(hold, 1)) == "hold_expired"
    assert code(void(hold)) == "hold_expired"
    assert code(extend(hold, now() + timedelta(days=1))) == "hold_expired"


def test_a_sweep_records_what_has_lapsed_and_leaves_the_rest():
    source, target = pair()
    lapsed, living = place(source, target, 300), place(source, target, 200)
    lapse(lapsed)

    assert holds_expire(ledger_id=source.ledger_id, now=now()) == 1
    assert holds_expire(ledger_id=source.ledger_id, now=now()) == 0

    row = Hold.objects.get(id=lapsed.id)
    assert (row.status, row.ended_at is not None) == (HoldStatus.EXPIRED, True)
    assert Hold.objects.get(id=living.id).status == HoldStatus.ACTIVE
    assert fresh(source).debits_pending == fresh(target).credits_pending == 200
    assert audit_run(ledger_slug=source.ledger.slug).is_sound


def test_a_posting_that_lacks_funds_first_ends_the_lapsed_holds_of_its_account():
    source, target = pair()
    third = AccountFactory(ledger=source.ledger)
    lapsed = [place(source, account, 400) for account in (target, third)]
    for hold in lapsed:
        lapse(hold)

    moved = move(source, target, 900)

    assert isinstance(moved, PostedTransfer)
    assert [Hold.objects.get(id=h.id).status for h in lapsed] == ["expired"] * 2
    assert fresh(source).debits_pending == fresh(third).credits_pending == 0
    assert audit_run(ledger_slug=source.ledger.slug).is_sound


def test_a_refusal_for_funds_stands_when_the_lapsed_holds_do_not_suffice():
    source, target = pair()
    lapsed, living = place(source, target, 300), place(source, target, 300)
    lapse(lapsed)

    refused = move(source, target, 701)

    assert code(refused) == "insufficient_funds"
    assert refused.fields["available"] == 700
    assert view(living).status == "active"
    assert fresh(source).debits_pending == 300


def test_a_new_hold_too_ends_the_lapsed_ones_that_it_needs():
    source, target = pair()
    lapse(place(source, target, 1_000))

    assert isinstance(place(source, target, 1_000), HoldView)


def test_on_frozen_accounts_voids_and_expiries_work_and_captures_need_a_permission():
    source, target = pair()
    voided, expired, captured = (place(source, target, 100) for _ in range(3))
    for account in (source, target):
        Account.objects.filter(ledger_id=account.ledger_id, id=account.id).update(
            status=AccountStatus.FROZEN
        )
    lapse(expired)

    assert isinstance(void(voided), HoldView)
    assert holds_expire(ledger_id=source.ledger_id, now=now()) == 1
    assert code(capture(captured)) == "account_frozen"
    allowed = Actor("boss", permissions=frozenset({Permission.CAPTURE_FROZEN}))
    moved = capture(captured, actor=allowed)

    assert isinstance(moved, PostedTransfer)
    assert moved.permission == "capture_frozen"
    assert code(place(source, target, 1)) == "account_frozen"


def test_a_permission_that_was_not_needed_is_not_recorded():
    source, target = pair()
    hold = place(source, target, 100)
    allowed = Actor("boss", permissions=frozenset({Permission.CAPTURE_FROZEN}))

    moved = capture(hold, actor=allowed)

    assert isinstance(moved, PostedTransfer)
    assert moved.permission is None


def test_a_capture_into_a_payout_account_pays_out():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100)
    bank = AccountFactory(ledger=ledger, payout_destination="DE00")
    hold = place(source, bank, 60)

    moved = capture(hold)

    assert isinstance(moved, PostedTransfer)
    tasks = OutboxTask.objects.filter(transfer_id=moved.id, kind="payout")
    assert [(t.amount, t.destination) for t in tasks] == [(60, "DE00")]


def test_refusals_come_in_the_documented_order():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100)
    target = AccountFactory(ledger=ledger)
    payout = AccountFactory(ledger=ledger, payout_destination="DE00")
    euro = AccountFactory(ledger=ledger, currency="EUR")
    closed = AccountFactory(ledger=ledger)
    frozen = AccountFactory(ledger=ledger)
    for account, status in ((closed, "closed"), (frozen, "frozen")):
        Account.objects.filter(ledger_id=ledger.id, id=account.id).update(status=status)
    place(source, target, 1, reference="taken")

    def refusal(*postings: tuple[Account, Account, int], **fields: Any) -> str:
        request = HoldRequest(
            tuple(PostingRequest(s.id, t.id, a) for s, t, a in postings), **fields
        )
        outcome = operation_run(
            ledger_id=ledger.id, request=request, actor=ACTOR, now=now()
        )
        return code(outcome)

    stranger = AccountFactory()
    too_much = (source, target, 5_000)
    everything = [
        (source, stranger, 1),
        (source, source, 1),
        (source, euro, 1),
        (source, closed, 1),
        (source, frozen, 1),
        (payout, source, 1),
        too_much,
    ]
    past = {"expires_at": now() - timedelta(days=1), "reference": "taken"}
    late = {"lifetime": timedelta(days=300), "reference": "taken"}
    expected = [
        "account_not_found",
        "same_account",
        "currency_mismatch",
        "account_closed",
        "account_frozen",
        "payout_account_cannot_send",
        "reference_taken",
    ]
    assert refusal(*everything, **past) == "expires_at_in_past"
    assert refusal(*everything, **late) == "hold_too_long"
    for index, wanted in enumerate(expected):
        assert refusal(*everything[index:], reference="taken") == wanted
    assert refusal(too_much) == "insufficient_funds"
    rich = AccountFactory(ledger=ledger, min_balance=None)
    assert isinstance(place(rich, target, MAX_AMOUNT - 1), HoldView)
    assert refusal((rich, target, 2)) == "balance_out_of_range"


def test_holds_of_another_ledger_are_not_found():
    source, target = pair()
    hold = place(source, target, 10)
    other = LedgerFactory()

    for call in (
        lambda: hold_get(ledger_id=other.id, hold_id=hold.id),
        lambda: operation_run(
            ledger_id=other.id, request=VoidRequest(hold.id), actor=ACTOR, now=now()
        ),
        lambda: hold_extend(
            ledger_id=other.id,
            hold_id=hold.id,
            expires_at=now(),
            actor=ACTOR,
            now=now(),
        ),
        lambda: operation_run(
            ledger_id=other.id, request=CaptureRequest(hold.id), actor=ACTOR, now=now()
        ),
        lambda: hold_get(ledger_id=source.ledger_id, hold_id=new_id()),
    ):
        with pytest.raises(ProblemError) as caught:
            call()
        assert caught.value.problem.code == "hold_not_found"


def test_each_step_takes_a_constant_number_of_statements():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=10_000)
    targets = [AccountFactory(ledger=ledger) for _ in range(20)]

    def counts(size: int) -> list[int]:
        request = HoldRequest(
            tuple(PostingRequest(source.id, t.id, 10) for t in targets[:size])
        )
        found = []
        with CaptureQueriesContext(connection) as queries:
            hold = operation_run(
                ledger_id=ledger.id, request=request, actor=ACTOR, now=now()
            )
        found.append(len(queries))
        assert isinstance(hold, HoldView)
        with CaptureQueriesContext(connection) as queries:
            capture(hold, {1: 4})
        found.append(len(queries))
        with CaptureQueriesContext(connection) as queries:
            void(hold)
        return [*found, len(queries)]

    # The locks, the settings or the hold, and the one that writes.
    assert counts(1) == counts(20) == [3, 3, 3]


def test_the_books_of_all_of_this_are_sound():
    source, target = pair(balance=100_000)
    settings(source.ledger, hold_over_capture_basis_points=1_000)
    holds = [place(source, target, 1_000) for _ in range(6)]
    capture(holds[0])
    capture(holds[1], 400)
    capture(holds[2], 1_100)
    capture(holds[3], 10, is_final=True)
    void(holds[4])
    lapse(holds[5])

    report = audit_run(ledger_slug=source.ledger.slug)

    assert report.is_sound, report.findings


def test_an_account_with_holds_keeps_its_role():
    source, target = pair(balance=0, min_balance=0)
    rich = AccountFactory(ledger=source.ledger, balance=100)
    hold = place(rich, target, 60)

    def update() -> object:
        return account_update(
            ledger_id=target.ledger_id,
            account_id=target.id,
            changes={"payout_destination": "DE00"},
            actor=ACTOR,
        )

    refused = update()
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        Account.objects.filter(ledger_id=target.ledger_id, id=target.id).update(
            payout_destination="DE00"
        )
    void(hold)
    changed = update()

    assert code(refused) == "account_not_empty"
    assert constraint_name(caught.value) == "account_payout_role_changes_only_empty"
    assert isinstance(changed, Account)
    assert changed.payout_destination == "DE00"


def test_the_answer_to_a_change_shows_what_lapsed_holds_gave_back():
    source, target = pair()
    lapse(place(source, target, 300))

    changed = account_update(
        ledger_id=source.ledger_id,
        account_id=source.id,
        changes={"owner_name": "Ada"},
        actor=ACTOR,
    )

    assert isinstance(changed, Account)
    assert (changed.owner_name, changed.available) == ("Ada", 1_000)


def test_a_hold_that_would_lapse_before_it_is_recorded_is_refused():
    source, target = pair()
    with patch("ledger.services.holds._expiry_forbids", return_value=None):

        def attempt() -> object:
            with transaction.atomic():
                return place(source, target, 1, expires_at=now())

        with pytest.raises(ProblemError) as caught:
            retry_on_conflict(attempt)

    assert caught.value.problem.code == "expires_at_in_past"


def test_many_refusals_look_for_lapsed_holds_once():
    source, target = pair(balance=100)
    place(source, target, 100)

    ledger = source.ledger

    def statements(count: int) -> int:
        requests = [transfer_request(source, target, 1) for _ in range(count)]
        with CaptureQueriesContext(connection) as queries:
            outcomes = post(*requests, ledger=ledger)
        assert {code(outcome) for outcome in outcomes} == {"insufficient_funds"}
        return len(queries)

    assert statements(1) == statements(50)


def test_what_is_available_stays_within_what_json_carries():
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, min_balance=None)
    target = AccountFactory(ledger=ledger)
    move(source, target, MAX_AMOUNT)

    assert code(place(source, AccountFactory(ledger=ledger), 1)) == (
        "balance_out_of_range"
    )
