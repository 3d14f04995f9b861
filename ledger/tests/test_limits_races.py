"""Limits and status changes that meet transfers."""

import pytest

from ledger.audit import audit_run
from ledger.enums import AccountStatus
from ledger.models import Account
from ledger.services.account_status import account_close
from ledger.tests.factories import AccountFactory, LedgerFactory, fresh, move
from ledger.tests.holds import place, void
from ledger.tests.limits import BOSS, limit, used
from ledger.tests.test_races import at_once
from ledger.types import PostedTransfer
from payflow.clock import now
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import Problem

pytestmark = pytest.mark.usefixtures("committed_db")


def pair() -> tuple[Account, Account]:
    with transaction_owner():
        ledger = LedgerFactory()
        return (
            AccountFactory(ledger=ledger, balance=10_000),
            AccountFactory(ledger=ledger),
        )


def code(outcome: object) -> str:
    return outcome.code if isinstance(outcome, Problem) else "done"


@pytest.mark.parametrize("row", [("out", "day", 150, None), ("out", "month", None, 1)])
def test_of_two_transfers_at_once_a_limit_lets_as_many_through_as_fit(row):
    source, target = pair()
    with transaction_owner():
        limit(source, row)

    def send() -> str:
        with transaction_owner():
            return code(move(source, target, 100))

    assert sorted(at_once([send, send])) == ["done", "limit_exceeded"]
    assert fresh(target).posted == 100


def test_holds_and_transfers_share_one_limit():
    source, target = pair()
    with transaction_owner():
        limit(source, ("out", "day", 500, None))

    def send() -> str:
        with transaction_owner():
            return code(move(source, target, 100))

    def hold() -> str:
        with transaction_owner():
            return code(place(source, target, 100))

    outcomes = at_once([send, hold] * 4)

    assert sorted(outcomes) == ["done"] * 5 + ["limit_exceeded"] * 3
    assert used(source)["out", "day"] == (500, 5)


def test_what_is_given_back_at_once_can_be_used_once():
    source, target = pair()
    with transaction_owner():
        limit(source, ("out", "day", 100, 1))
        hold = place(source, target, 100)

    def send() -> str:
        with transaction_owner():
            return code(move(source, target, 100))

    def give_back() -> str:
        with transaction_owner():
            return code(void(hold))

    outcomes = at_once([send, give_back, send, send])

    done = [outcomes[0], *outcomes[2:]].count("done")
    assert outcomes[1] == "done"
    assert done <= 1
    assert used(source)["out", "day"] == (100 * done, done)


def test_a_first_limit_misses_no_transfer_that_is_posted_meanwhile():
    source, target = pair()

    def send() -> object:
        with transaction_owner():
            return isinstance(move(source, target, 10), PostedTransfer)

    def set_limit() -> object:
        with transaction_owner():
            return bool(limit(source, ("out", "day", 1_000_000, None)))

    assert all(at_once([send, send, set_limit, send, send, set_limit, send]))
    assert used(source)["out", "day"] == (50, 5)


def test_an_account_that_is_closed_while_money_comes_is_empty_or_open():
    source, target = pair()

    def send() -> str:
        with transaction_owner():
            return code(move(source, target, 10))

    def close() -> str:
        def run() -> object:
            with transaction_owner():
                return account_close(
                    ledger_id=target.ledger_id,
                    account_id=target.id,
                    reason="race",
                    actor=BOSS,
                    now=now(),
                )

        return code(retry_on_conflict(run))

    sent, closed, *others = at_once([send, close, send, send])

    is_closed = fresh(target).status == AccountStatus.CLOSED
    assert closed == ("done" if is_closed else "account_not_empty")
    assert {sent, *others} == ({"account_closed"} if is_closed else {"done"})
    assert (fresh(target).posted == 0) == is_closed
    assert audit_run(ledger_slug=source.ledger.slug).is_sound
