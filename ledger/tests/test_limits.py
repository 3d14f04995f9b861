"""Limits: floors, and windows at their edges."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from ledger.audit import audit_run
from ledger.engine import velocity
from ledger.engine.velocity import read_usage
from ledger.enums import Permission, ReversalReason
from ledger.models import Account, Change, Ledger, Usage, VelocityLimit
from ledger.selectors.limits import limits_get
from ledger.services.accounts import system_account_id
from ledger.services.holds import holds_expire
from ledger.services.limits import limits_set
from ledger.services.operations import operation_run
from ledger.services.payouts import PayoutHandler
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.tests.books import Books
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    move,
    post,
    transfer_request,
)
from ledger.tests.holds import capture, lapse, place, void
from ledger.tests.limits import BOSS, age, limit, set_limits, used
from ledger.types import HoldRequest, PostedTransfer, PostingRequest, TransferRequest
from outbox.enums import Delivery
from outbox.models import OutboxTask
from payflow.actors import Actor
from payflow.clock import now
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

DAY = ("out", "day")
ROLLING = ("out", "rolling_day")
MONTH = ("out", "month")
HUGE = 1_000_000_000


def pair(balance: int = 10_000, **fields: Any) -> tuple[Account, Account]:
    ledger = fields.pop("ledger", None) or LedgerFactory()
    return (
        AccountFactory(ledger=ledger, balance=balance, **fields),
        AccountFactory(ledger=ledger),
    )


def everything(account: Account) -> None:
    """Limits of every kind that refuse nothing."""
    limit(
        account,
        *[
            (direction, period, HUGE, HUGE)
            for direction in ("in", "out")
            for period in ("rolling_day", "day", "month")
        ],
    )


def refused(outcome: object) -> dict[str, Any]:
    assert isinstance(outcome, Problem), outcome
    assert outcome.code == "limit_exceeded"
    return {
        name: outcome.fields[name]
        for name in ("direction", "period", "measure", "used", "headroom", "required")
    }


def posted(outcome: object) -> PostedTransfer:
    assert isinstance(outcome, PostedTransfer), outcome
    return outcome


# --- Setting ----------------------------------------------------------------------


def test_limits_are_replaced_as_a_whole_and_the_history_has_each_change():
    account, _ = pair()
    first = {"direction": "out", "period": "day", "max_amount": 100, "max_count": None}
    second = {"direction": "in", "period": "month", "max_amount": None, "max_count": 7}

    limit(account, ("out", "day", 100, None), min_balance=-500)
    limit(account, ("out", "day", 100, None), ("in", "month", None, 7))
    limit(account, ("in", "month", None, 7), ("out", "day", 100, None))
    limit(account)

    assert not fresh(account).has_velocity_limits
    assert fresh(account).min_balance == -500
    assert VelocityLimit.objects.filter(account_id=account.id).count() == 0
    changes = Change.objects.filter(account_id=account.id).order_by("id")
    assert [(c.fields, c.old, c.new) for c in changes] == [
        (
            ["min_balance", "velocity_limits"],
            {"min_balance": 0, "velocity_limits": []},
            {"min_balance": -500, "velocity_limits": [first]},
        ),
        (
            ["velocity_limits"],
            {"velocity_limits": [first]},
            {"velocity_limits": [second, first]},
        ),
        (
            ["velocity_limits"],
            {"velocity_limits": [second, first]},
            {"velocity_limits": []},
        ),
    ]
    assert {c.actor for c in changes} == {"boss"}


def test_what_is_not_given_stays_as_it_is():
    account, _ = pair()
    limit(account, ("out", "day", 100, 5))

    outcome = limits_set(
        ledger_id=account.ledger_id,
        account_id=account.id,
        changes={"min_balance": None},
        actor=BOSS,
    )

    assert not isinstance(outcome, Problem)
    assert outcome.min_balance is None
    assert [(w.max_amount, w.max_count) for w in outcome.windows] == [(100, 5)]
    assert fresh(account).has_velocity_limits


def test_a_floor_above_what_is_available_only_refuses_further_falls():
    source, target = pair(balance=100)

    limit(source, min_balance=500)

    outcome = move(source, target, 1)
    assert isinstance(outcome, Problem)
    assert outcome.code == "insufficient_funds"
    assert outcome.fields["min_balance"] == 500
    posted(move(target_with(target, 50), source, 50))
    assert fresh(source).posted == 150


def target_with(account: Account, amount: int) -> Account:
    other = AccountFactory(ledger=account.ledger, balance=amount)
    posted(move(other, account, amount))
    return account


def test_a_credit_line_can_be_used_and_taken_back():
    source, target = pair(balance=100)
    limit(source, min_balance=-300)
    posted(move(source, target, 400))

    limit(source, min_balance=0)

    assert fresh(source).posted == -300
    assert isinstance(move(source, target, 1), Problem)
    posted(move(target, source, 100))


def test_a_payout_account_keeps_its_floor_of_zero():
    account = AccountFactory(payout_destination="DE00")

    for floor in (None, -1, 1):
        outcome = set_limits(account, min_balance=floor)
        assert isinstance(outcome, Problem)
        assert outcome.code == "payout_account_floor_must_be_zero"
    limit(account, ("in", "day", 100, None), min_balance=0)


def test_system_accounts_are_not_limited():
    ledger = LedgerFactory()
    for name in ("opening-balances", "bank-settlement", "receivables"):
        account = Account.objects.get(
            id=system_account_id(ledger_id=ledger.id, name=name, currency="USD")
        )
        for changes in ({"velocity_limits": []}, {"min_balance": 5}):
            outcome = limits_set(
                ledger_id=ledger.id,
                account_id=account.id,
                changes=changes,
                actor=BOSS,
            )
            assert isinstance(outcome, Problem)
            assert outcome.code == "system_account_protected"


def test_setting_needs_the_permission_and_an_account_of_the_ledger():
    account, _ = pair()
    others = Actor("client", permissions=frozenset(Permission.values) - {MANAGE})

    def set_by(actor: Actor, ledger: Ledger, account_id: object) -> str:
        with pytest.raises(ProblemError) as caught:
            limits_set(
                ledger_id=ledger.id,
                account_id=account_id,
                changes={"min_balance": 1},
                actor=actor,
            )
        return caught.value.problem.code

    assert set_by(others, account.ledger, account.id) == "permission_denied"
    assert set_by(BOSS, account.ledger, new_id()) == "account_not_found"
    assert set_by(BOSS, LedgerFactory(), account.id) == "account_not_found"
    assert fresh(account).min_balance == 0


MANAGE = Permission.MANAGE_ACCOUNTS


def test_limits_that_make_no_sense_are_bad_requests():
    account, _ = pair()

    for rows in (
        [("out", "day", None, None)],
        [("out", "day", 1, None), ("out", "day", None, 1)],
    ):
        with pytest.raises(ProblemError) as caught:
            set_limits(account, *rows)
        assert caught.value.problem.code == "invalid_request"
    with pytest.raises(ValueError, match="only"):
        limits_set(
            ledger_id=account.ledger_id,
            account_id=account.id,
            changes={"status": "closed"},
            actor=BOSS,
        )


# --- What counts ------------------------------------------------------------------


def test_an_amount_up_to_the_limit_moves_and_one_more_unit_does_not():
    source, target = pair()
    limit(source, ("out", "day", 100, None))

    posted(move(source, target, 60))
    too_much = move(source, target, 41)
    posted(move(source, target, 40))

    assert refused(too_much) == {
        "direction": "out",
        "period": "day",
        "measure": "amount",
        "used": 60,
        "headroom": 40,
        "required": 41,
    }
    assert refused(move(source, target, 1))["headroom"] == 0


def test_a_count_up_to_the_limit_moves_and_one_more_does_not():
    source, target = pair()
    limit(source, ("out", "rolling_day", None, 2))

    posted(move(source, target, 5_000))
    posted(move(source, target, 1))

    assert refused(move(source, target, 1)) == {
        "direction": "out",
        "period": "rolling_day",
        "measure": "count",
        "used": 2,
        "headroom": 0,
        "required": 1,
    }


def test_a_limit_of_zero_lets_nothing_through_and_none_lets_everything():
    source, target = pair()

    limit(source, ("out", "month", 0, None))
    assert refused(move(source, target, 1))["headroom"] == 0
    limit(source, ("out", "month", None, 0))
    assert refused(move(source, target, 1))["measure"] == "count"
    limit(source)
    posted(move(source, target, 1))


def test_what_comes_in_counts_for_itself():
    source, target = pair()
    limit(target, ("in", "day", 100, 2), ("out", "day", 30, None))

    posted(move(source, target, 50))
    posted(move(target, source, 30))
    posted(move(source, target, 50))

    assert used(target) == {("in", "day"): (100, 2), ("out", "day"): (30, 1)}
    assert refused(move(source, target, 1))["direction"] == "in"
    assert refused(move(target, source, 1))["direction"] == "out"


def test_out_is_what_lowers_the_balance_also_of_an_asset():
    ledger = LedgerFactory()
    vault = AccountFactory(ledger=ledger, kind="asset", min_balance=None)
    customer = AccountFactory(ledger=ledger, balance=1_000)
    limit(vault, ("out", "day", 100, None), ("in", "day", 70, None))

    posted(move(customer, vault, 100))
    posted(move(vault, customer, 70))

    assert used(vault) == {("out", "day"): (100, 1), ("in", "day"): (70, 1)}
    assert refused(move(customer, vault, 1))["direction"] == "out"
    assert refused(move(vault, customer, 1))["direction"] == "in"


def test_a_transfer_counts_once_with_the_sum_of_its_postings():
    source, target = pair(0, min_balance=None)
    other = AccountFactory(ledger=source.ledger)
    target_with(target, 3)
    everything(source)
    postings = (
        PostingRequest(source.id, target.id, 10),
        PostingRequest(source.id, other.id, 20),
        PostingRequest(target.id, source.id, 3),
    )

    (outcome,) = post(TransferRequest(postings), ledger=source.ledger)

    posted(outcome)
    assert used(source)[DAY] == (30, 1)
    assert used(source)["in", "day"] == (3, 1)


def test_a_batch_counts_item_by_item():
    source, target = pair()
    limit(source, ("out", "day", 100, 3))

    outcomes = post(
        *[transfer_request(source, target, amount) for amount in (60, 50, 30, 10, 1)],
        ledger=source.ledger,
    )

    assert [isinstance(o, PostedTransfer) for o in outcomes] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert refused(outcomes[1])["headroom"] == 40
    assert refused(outcomes[4])["measure"] == "amount"
    assert used(source)[DAY] == (100, 3)
    assert Usage.objects.filter(account_id=source.id, out_amount=100).count() == 1


def test_the_first_of_several_limits_is_named():
    source, target = pair()
    limit(
        source,
        ("out", "rolling_day", 50, None),
        ("out", "month", 70, 1),
        ("out", "day", 60, None),
    )

    assert refused(move(source, target, 71))["period"] == "day"
    assert refused(move(source, target, 55))["period"] == "rolling_day"
    posted(move(source, target, 10))
    assert refused(move(source, target, 5))["measure"] == "count"
    assert refused(move(source, target, 45))["period"] == "month"


def test_the_refusal_says_when_the_window_ends():
    source, target = pair()

    limit(source, ("out", "day", 0, None))
    by_day = move(source, target, 1)
    limit(source, ("out", "rolling_day", 0, None))
    rolling = move(source, target, 1)

    assert isinstance(by_day, Problem)
    assert isinstance(rolling, Problem)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    assert by_day.fields["resets_at"] == f"{tomorrow}T00:00:00.000000Z"
    assert rolling.fields["resets_at"] is None


def test_backdating_neither_evades_nor_consumes():
    source, target = pair()
    limit(source, ("out", "day", 100, None))
    last_year = now() - timedelta(days=365)

    posted(move(source, target, 100, effective_at=last_year))

    assert used(source)[DAY] == (100, 1)
    assert refused(move(source, target, 1, effective_at=last_year))["headroom"] == 0
    age(source.ledger_id, timedelta(days=2))
    posted(move(source, target, 1, effective_at=now() - timedelta(days=2)))
    assert used(source)[DAY] == (1, 1)


def test_a_limit_comes_after_a_taken_reference_and_before_missing_funds():
    source, target = pair(balance=50)
    limit(source, ("out", "day", 10, None))
    posted(move(source, target, 5, reference="used"))

    def code(outcome: object) -> str:
        assert isinstance(outcome, Problem)
        return outcome.code

    assert code(move(source, target, 500, reference="used")) == "reference_taken"
    assert code(move(source, target, 500)) == "limit_exceeded"
    limit(source)
    assert code(move(source, target, 500)) == "insufficient_funds"


def test_accounts_without_limits_write_no_usage():
    source, target = pair()

    posted(move(source, target, 5))
    limit(source, ("out", "day", 10, None))
    posted(move(source, target, 5))

    assert not Usage.objects.filter(account_id=target.id).exists()


# --- Windows ----------------------------------------------------------------------


def shift(account: Account, to: datetime) -> None:
    """Moves the account's only usage to an instant."""
    assert Usage.objects.filter(account_id=account.id).update(created_at=to) == 1


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Auckland"])
def test_a_calendar_window_begins_at_its_first_instant(period, zone):
    source, target = pair(0, ledger=LedgerFactory(time_zone=zone), min_balance=None)
    limits = limit(source, ("out", period, 100, None))
    starts_at = limits.windows[0].starts_at
    posted(move(source, target, 100))

    shift(source, starts_at)
    assert refused(move(source, target, 1))["used"] == 100
    shift(source, starts_at - timedelta(microseconds=1))
    posted(move(source, target, 100))
    assert used(source)["out", period] == (100, 1)


def test_a_rolling_day_is_the_last_24_hours():
    source, target = pair(0, min_balance=None)
    limit(source, ("out", "rolling_day", 100, None))
    first = posted(move(source, target, 100))

    shift(source, first.created_at - timedelta(hours=23, minutes=59))
    assert refused(move(source, target, 1))["used"] == 100
    shift(source, first.created_at - timedelta(hours=24))
    posted(move(source, target, 100))
    assert used(source)[ROLLING] == (100, 1)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the instant at which windows are looked at."""
    statement = velocity._LOAD

    def set_clock(instant: str) -> None:
        fixed = statement.replace("clock_timestamp()", f"'{instant}'::timestamptz")
        assert fixed != statement
        monkeypatch.setattr(velocity, "_LOAD", fixed)

    return set_clock


@pytest.mark.parametrize(
    ("zone", "instant", "day", "month"),
    [
        # Clocks go forward: a day of 23 hours, a month of an hour less.
        (
            "Europe/Berlin",
            "2026-03-29T12:00Z",
            ("2026-03-28T23:00", "2026-03-29T22:00"),
            ("2026-02-28T23:00", "2026-03-31T22:00"),
        ),
        # And back: a day of 25 hours.
        (
            "Europe/Berlin",
            "2026-10-25T12:00Z",
            ("2026-10-24T22:00", "2026-10-25T23:00"),
            ("2026-09-30T22:00", "2026-10-31T23:00"),
        ),
        # Midnight is skipped.
        (
            "Africa/Cairo",
            "2026-04-24T12:00Z",
            ("2026-04-23T22:00", "2026-04-24T21:00"),
            ("2026-03-31T22:00", "2026-04-30T21:00"),
        ),
        # Midnight comes twice: before the second one, and after.
        (
            "Atlantic/Azores",
            "2026-10-25T00:30Z",
            ("2026-10-25T00:00", "2026-10-26T01:00"),
            ("2026-10-01T00:00", "2026-11-01T01:00"),
        ),
        (
            "Atlantic/Azores",
            "2026-10-25T12:00Z",
            ("2026-10-25T00:00", "2026-10-26T01:00"),
            ("2026-10-01T00:00", "2026-11-01T01:00"),
        ),
        # The day before ends at the first of them.
        (
            "Atlantic/Azores",
            "2026-10-24T12:00Z",
            ("2026-10-24T00:00", "2026-10-25T00:00"),
            ("2026-10-01T00:00", "2026-11-01T01:00"),
        ),
        # A month that begins with a midnight that comes twice.
        (
            "America/Havana",
            "2026-11-01T04:30Z",
            ("2026-11-01T04:00", "2026-11-02T05:00"),
            ("2026-11-01T04:00", "2026-12-01T05:00"),
        ),
        # The last instant of a leap year's February, and the first of March.
        (
            "Asia/Kathmandu",
            "2028-02-29T18:14:59.999999Z",
            ("2028-02-28T18:15", "2028-02-29T18:15"),
            ("2028-01-31T18:15", "2028-02-29T18:15"),
        ),
        (
            "Asia/Kathmandu",
            "2028-02-29T18:15Z",
            ("2028-02-29T18:15", "2028-03-01T18:15"),
            ("2028-02-29T18:15", "2028-03-31T18:15"),
        ),
    ],
)
def test_days_and_months_are_the_ledgers(at, zone, instant, day, month):
    account, _ = pair(0, ledger=LedgerFactory(time_zone=zone))
    everything(account)

    at(instant)
    limits = limits_get(ledger_id=account.ledger_id, account_id=account.id)

    windows = {
        w.period: (w.starts_at, w.ends_at)
        for w in limits.windows
        if w.direction == "in"
    }
    assert windows["day"] == tuple(datetime.fromisoformat(f"{x}Z") for x in day)
    assert windows["month"] == tuple(datetime.fromisoformat(f"{x}Z") for x in month)
    moment = datetime.fromisoformat(instant)
    assert windows["rolling_day"] == (moment - timedelta(hours=24), None)


def test_a_rolling_day_counts_what_is_exactly_24_hours_old_and_nothing_older(at):
    source, target = pair(0, min_balance=None)
    everything(source)
    posted(move(source, target, 100))

    at("2026-06-15T12:00Z")
    shift(source, datetime(2026, 6, 14, 12, tzinfo=UTC))
    assert used(source)[ROLLING] == (100, 1)
    shift(source, datetime(2026, 6, 14, 11, 59, 59, 999999, tzinfo=UTC))
    assert used(source)[ROLLING] == (0, 0)


def test_a_time_zone_given_later_moves_the_windows():
    ledger = LedgerFactory()
    source, target = pair(ledger=ledger)
    everything(source)
    utc = {w.period: w.starts_at for w in windows(source)}
    posted(move(source, target, 100))

    Ledger.objects.filter(id=ledger.id).update(time_zone="Asia/Kolkata")

    moved = {w.period: w.starts_at for w in windows(source)}
    assert (moved["day"] - utc["day"]).total_seconds() % 86_400 == (24 - 5.5) * 3_600
    assert used(source)[DAY] == (100, 1)


def windows(account: Account) -> list[Any]:
    return list(limits_get(ledger_id=account.ledger_id, account_id=account.id).windows)


# --- Holds ------------------------------------------------------------------------


def test_a_hold_counts_when_it_is_placed_and_its_capture_does_not_again():
    source, target = pair()
    limit(source, ("out", "day", 100, 1))
    limit(target, ("in", "day", 100, 1))

    hold = place(source, target, 100)
    assert refused(place(source, target, 1))["used"] == 100
    posted(capture(hold, 60))
    posted(capture(hold))

    assert used(source) == {DAY: (100, 1)}
    assert used(target) == {("in", "day"): (100, 1)}


def test_what_a_capture_takes_beyond_the_hold_counts_as_amount_without_count():
    source, target = pair()
    Ledger.objects.filter(id=source.ledger_id).update(
        settings={"hold_over_capture_basis_points": 5_000}
    )
    limit(source, ("out", "day", 120, 1))
    hold = place(source, target, 100)

    beyond = capture(hold, 121)
    posted(capture(hold, 60))
    posted(capture(hold, 60))

    assert refused(beyond) == {
        "direction": "out",
        "period": "day",
        "measure": "amount",
        "used": 100,
        "headroom": 20,
        "required": 21,
    }
    assert used(source)[DAY] == (120, 1)


def test_a_void_gives_back_amount_and_count():
    source, target = pair()
    limit(source, ("out", "day", 100, 1), ("out", "month", 100, 1))
    hold = place(source, target, 100)
    assert isinstance(place(source, target, 1), Problem)

    void(hold)

    assert used(source) == {DAY: (0, 0), MONTH: (0, 0)}
    posted(move(source, target, 100))


def test_a_partly_captured_hold_gives_back_the_rest_and_keeps_its_count():
    source, target = pair()
    limit(source, ("out", "day", 100, None))
    voided, final = place(source, target, 60), place(source, target, 40)
    posted(capture(voided, 10))

    void(voided)
    posted(capture(final, 15, is_final=True))

    assert used(source)[DAY] == (25, 2)


def test_a_hold_counts_for_each_account_by_what_was_captured_of_its_own_postings():
    ledger = LedgerFactory()
    first, second = (AccountFactory(ledger=ledger, balance=500) for _ in range(2))
    shop = AccountFactory(ledger=ledger, min_balance=None)
    for account in (first, second, shop):
        everything(account)
    age(ledger.id, timedelta(days=40))
    hold = operation_run(
        ledger_id=ledger.id,
        request=HoldRequest(
            (
                PostingRequest(first.id, shop.id, 100),
                PostingRequest(second.id, shop.id, 200),
                PostingRequest(shop.id, first.id, 5),
            )
        ),
        actor=ACTOR,
        now=now(),
    )
    assert not isinstance(hold, Problem)
    assert used(shop)["in", "day"] == (300, 1)

    posted(capture(hold, {2: 150}))
    void(hold)

    assert used(first)[DAY] == (0, 0)
    assert used(first)["in", "day"] == (0, 0)
    assert used(second)[DAY] == (150, 1)
    assert used(shop)["in", "day"] == (150, 1)
    assert used(shop)[DAY] == (0, 0)


def test_a_lapsed_hold_gives_back_before_any_sweep_and_not_again_after_it():
    source, target = pair()
    limit(source, ("out", "day", 100, 1))
    hold = place(source, target, 100)

    lapse(hold)
    before = used(source)[DAY]
    holds_expire(ledger_id=source.ledger_id, now=now())

    assert before == used(source)[DAY] == (0, 0)
    posted(move(source, target, 100))


def test_a_hold_of_an_earlier_window_gives_back_to_that_one():
    source, target = pair()
    limit(source, ("out", "day", 100, None), ("out", "month", 1_000, None))
    held, lapsed = place(source, target, 40), place(source, target, 50)
    age(source.ledger_id, timedelta(days=40))
    posted(move(source, target, 10))

    void(held)
    lapse(lapsed)

    assert used(source) == {DAY: (10, 1), MONTH: (10, 1)}
    assert refused(move(source, target, 91))["headroom"] == 90


def test_a_hold_of_an_asset_gives_back_on_its_side():
    ledger = LedgerFactory()
    vault = AccountFactory(ledger=ledger, kind="asset", min_balance=None)
    customer = AccountFactory(ledger=ledger, balance=1_000)
    everything(vault)
    out, into = place(customer, vault, 100), place(vault, customer, 30)
    assert (used(vault)[DAY], used(vault)["in", "day"]) == ((100, 1), (30, 1))

    void(out)
    assert (used(vault)[DAY], used(vault)["in", "day"]) == ((0, 0), (30, 1))
    void(into)
    assert (used(vault)[DAY], used(vault)["in", "day"]) == ((0, 0), (0, 0))


# --- What does not count ----------------------------------------------------------


def test_reversals_do_not_count_and_give_nothing_back():
    source, target = pair()
    for account in (source, target):
        everything(account)
    age(source.ledger_id, timedelta(days=40))
    transfer = posted(move(source, target, 100))
    before = used(source), used(target)

    posted(
        transfer_reverse(
            ledger_id=source.ledger_id,
            request=ReversalRequest(transfer.id, ReversalReason.ERROR),
            actor=ACTOR,
            now=now(),
        )
    )

    assert (used(source), used(target)) == before
    assert used(source)["in", "day"] == (0, 0)


@pytest.mark.parametrize("delivery", [Delivery.SETTLED, Delivery.REJECTED])
def test_the_end_of_a_payout_does_not_count_and_no_limit_stops_it(delivery):
    books = Books()
    payout = books.payout(100)
    limit(books.bank, *[("out", "day", 0, 0), ("in", "day", HUGE, HUGE)])
    limit(books.alice, *[("in", "day", 0, 0), ("out", "day", HUGE, HUGE)])
    before = used(books.bank), used(books.alice)

    books.finish(payout, delivery)

    assert (used(books.bank), used(books.alice)) == before
    assert audit_run(ledger_slug=books.ledger.slug).is_sound


def test_a_payout_that_is_compensated_stays_used():
    books = Books()
    everything(books.alice)
    before, _ = used(books.alice)[DAY]
    task = books.payout(100)

    completion = PayoutHandler().reject(task=task, reason="no such account")

    assert completion is not None
    assert used(books.alice)[DAY][0] == before + 100
    assert OutboxTask.objects.filter(id=task.id).exists()


# --- The history of an account that gets its first limit --------------------------


def test_a_first_limit_counts_what_happened_before_it():
    source, target = pair()
    posted(move(source, target, 30))
    place(source, target, 20)
    void(place(source, target, 500))

    limit(source, ("out", "day", 100, None))

    assert used(source)[DAY] == (50, 2)
    assert refused(move(source, target, 51))["headroom"] == 50


def test_a_first_limit_counts_what_captures_took_beyond_their_holds():
    source, target = pair()
    Ledger.objects.filter(id=source.ledger_id).update(
        settings={"hold_over_capture_basis_points": 5_000}
    )
    hold = place(source, target, 100)
    posted(capture(hold, 70))
    posted(capture(hold, 80))
    posted(capture(place(source, target, 10), 4, is_final=True))

    for account in (source, target):
        everything(account)

    assert used(source)[DAY] == (154, 2)
    assert used(target)["in", "day"] == (154, 2)


def test_limits_that_were_removed_and_set_again_count_the_time_between():
    source, target = pair()
    limit(source, ("out", "day", 100, None))
    posted(move(source, target, 10))
    limit(source)
    posted(move(source, target, 20))
    place(source, target, 30)

    limit(source, ("out", "day", 100, None))

    assert used(source)[DAY] == (60, 3)
    posted(move(source, target, 40))
    assert used(source)[DAY] == (100, 4)


def test_totals_go_on_from_an_earlier_month():
    source, target = pair(0, min_balance=None)
    limit(source, ("out", "day", 100, None))
    posted(move(source, target, 10))
    limit(source)
    posted(move(source, target, 20))
    age(source.ledger_id, timedelta(days=100))

    limit(source, ("out", "day", 100, None))
    posted(move(source, target, 5))

    # Of the time between, nothing is counted that no window can contain any more.
    assert used(source)[DAY] == (5, 1)
    last = Usage.objects.filter(account_id=source.id).latest("created_at")
    assert (last.out_amount, last.out_count) == (15, 2)


def test_changing_limits_keeps_what_is_used():
    source, target = pair()
    limit(source, ("in", "day", 5, None))
    posted(move(source, target, 10))

    limit(source, ("out", "day", 100, None))

    assert used(source)[DAY] == (10, 1)


def test_a_long_history_is_counted_by_one_statement():
    source, target = pair(balance=1_000_000)
    post(
        *[transfer_request(source, target, 1) for _ in range(300)], ledger=source.ledger
    )
    for _ in range(3):
        posted(move(source, target, 7))

    limit(source, ("out", "day", HUGE, HUGE))

    assert used(source)[DAY] == (321, 303)
    assert Usage.objects.filter(account_id=source.id).count() == 5


# --- Cost -------------------------------------------------------------------------


def pages_read(account: Account) -> int:
    """The pages that reading the account's usage touches."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {velocity._LOAD}",
            {"ledger_id": account.ledger_id, "account_ids": [account.id]},
        )
        (document,) = cursor.fetchone()
    plan = document[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_reading_usage_costs_the_same_on_a_long_history():
    source, target = pair()
    everything(source)
    posted(move(source, target, 1))
    pages_read(source)
    short = pages_read(source)

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_usage (ledger_id, id, account_id, created_at,"
            " out_amount, out_count, in_amount, in_count)"
            " SELECT %s, gen_random_uuid(), %s,"
            " clock_timestamp() - (20001 - n) * interval '1 minute', n, n, 0, 0"
            " FROM generate_series(1, 20000) n",
            [source.ledger_id, source.id],
        )
    pages_read(source)
    long = pages_read(source)

    # Six limits, two probes each; an index of 20,000 rows is a level or two deeper.
    assert long <= short + 6 * 2 * 3, (short, long)
    usage = read_usage(ledger_id=source.ledger_id, account_ids=[source.id])
    assert usage[source.id].totals.out_count == 1
