"""Transfers that want the same accounts at the same moment."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.db import connection, connections

from ledger.audit import audit_run
from ledger.locks import lock_accounts
from ledger.models import Account
from ledger.services.accounts import account_update, system_account_id
from ledger.services.posting import Outcome
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    move,
    post,
    transfer_request,
)
from ledger.types import PostedTransfer
from payflow.clock import now
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import ProblemError

pytestmark = pytest.mark.usefixtures("committed_db")


def at_once(work: list[Callable[[], object]]) -> list[object]:
    """Runs functions in threads that start together, each with its own connection."""
    barrier = threading.Barrier(len(work))

    def run(function: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(work)) as pool:
        return [done.result() for done in [pool.submit(run, f) for f in work]]


def test_opposite_transfers_and_batches_in_any_order_do_not_deadlock():
    with transaction_owner():
        ledger = LedgerFactory()
        accounts = [AccountFactory(ledger=ledger, balance=10_000) for _ in range(4)]

    def deadlocks() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT deadlocks FROM pg_stat_database"
                " WHERE datname = current_database()"
            )
            return int(cursor.fetchone()[0])

    def work(seed: int) -> Callable[[], int]:
        chance = random.Random(seed)  # noqa: S311 - repeatable, not secret

        def run() -> int:
            posted = 0
            for _ in range(15):
                requests = [
                    transfer_request(*chance.sample(accounts, 2), chance.randint(1, 9))
                    for _ in range(chance.randint(1, 6))
                ]
                with transaction_owner():
                    outcomes = post(*requests, ledger=ledger)
                posted += sum(isinstance(o, PostedTransfer) for o in outcomes)
            return posted

        return run

    before = deadlocks()
    counts = at_once([work(seed) for seed in range(6)])

    assert all(counts)
    assert sum(fresh(a).posted for a in accounts) == 40_000
    assert deadlocks() == before
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_only_as_many_transfers_as_there_is_money_for():
    with transaction_owner():
        ledger = LedgerFactory()
        source = AccountFactory(ledger=ledger, balance=500)
        target = AccountFactory(ledger=ledger)

    def send() -> bool:
        with transaction_owner():
            return isinstance(move(source, target, 100), PostedTransfer)

    results = at_once([send] * 12)

    assert sorted(results) == [False] * 7 + [True] * 5
    assert (fresh(source).posted, fresh(target).posted) == (0, 500)


def test_a_reference_raced_for_is_used_once_and_the_losers_are_refused():
    with transaction_owner():
        ledger = LedgerFactory()
        pairs = [
            (AccountFactory(ledger=ledger, balance=5), AccountFactory(ledger=ledger))
            for _ in range(6)
        ]

    def send(source: Account, target: Account) -> Callable[[], str]:
        def run() -> str:
            # A refusal that is returned commits with its key; one that is raised does
            # not, and takes the rest of a batch with it.
            outcome = retry_on_conflict(post_once)
            return "posted" if isinstance(outcome, PostedTransfer) else outcome.code

        def post_once() -> Outcome:
            with transaction_owner():
                return move(source, target, 1, reference="raced")

        return run

    results = at_once([send(*pair) for pair in pairs])

    assert sorted(results) == ["posted"] + ["reference_taken"] * 5


def test_a_system_account_that_many_need_first_is_made_once():
    with transaction_owner():
        ledger = LedgerFactory()

    def make() -> object:
        with transaction_owner():
            return system_account_id(
                ledger_id=ledger.id, name="bank-settlement", currency="EUR"
            )

    assert len(set(at_once([make] * 8))) == 1


def test_a_lock_that_is_not_to_be_had_is_busy_and_nothing_waits_for_ever():
    with transaction_owner():
        ledger = LedgerFactory()
        source = AccountFactory(ledger=ledger, balance=500)
        target = AccountFactory(ledger=ledger)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction_owner():
            lock_accounts(ledger_id=ledger.id, account_ids=[source.id])
            held.set()
            release.wait(30)

    def send() -> str:
        def post_once() -> None:
            with transaction_owner():
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL lock_timeout = '100ms'")
                move(source, target, 1)

        held.wait(30)
        try:
            retry_on_conflict(post_once)
        except ProblemError as error:
            cause = error.__cause__.__cause__
            return f"{error.problem.code}: {type(cause).__name__}"
        finally:
            release.set()
        return "posted"

    assert at_once([hold, send]) == [None, "ledger_busy: LockNotAvailable"]
    assert fresh(source).posted == 500


def test_changes_of_an_account_and_transfers_on_it_do_not_lose_each_other():
    with transaction_owner():
        ledger = LedgerFactory()
        source = AccountFactory(ledger=ledger, balance=100)
        target = AccountFactory(ledger=ledger)

    def rename(name: str) -> Callable[[], None]:
        def run() -> None:
            with transaction_owner():
                account_update(
                    ledger_id=ledger.id,
                    account_id=source.id,
                    changes={"owner_name": name},
                    actor=ACTOR,
                )

        return run

    def send() -> None:
        with transaction_owner():
            move(source, target, 1)

    at_once([rename("a"), send, rename("b"), send, rename("c"), send])

    assert fresh(source).posted == 97
    assert fresh(source).owner_name in {"a", "b", "c"}
    assert source.changes.filter(ledger_id=ledger.id).count() == 3


def test_a_clock_that_fell_behind_the_books_is_said_to_be_so():
    with transaction_owner():
        ledger = LedgerFactory()
        source = AccountFactory(ledger=ledger, balance=100)
        target = AccountFactory(ledger=ledger)

    def send() -> None:
        with transaction_owner():
            # As after the clock was set back: the accounts have seen a later time.
            real = lock_accounts(
                ledger_id=ledger.id, account_ids=[source.id, target.id]
            )
            for account in real.values():
                account.last_entry_at = now() + timedelta(minutes=5)
            with patch("ledger.engine.batch.lock_accounts", return_value=real):
                move(source, target, 1)

    with pytest.raises(ProblemError) as caught:
        retry_on_conflict(send)

    assert caught.value.problem.code == "clock_behind"
    assert caught.value.retry_after_seconds == 60
    assert fresh(source).posted == 100
