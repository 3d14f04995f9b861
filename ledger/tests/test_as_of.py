"""Balances at an instant as recorded at an instant: what they are, and by which way."""

import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, connections

from ledger.days import TICK, day_end, day_start
from ledger.models import Account, Entry, Ledger
from ledger.selectors import as_of
from ledger.selectors.as_of import (
    TOTALS_SQL,
    balance_as_of,
    clock_read,
    totals_as_of,
)
from ledger.selectors.statements import Statement, statement_get
from ledger.tests.factories import (
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

HOUR = timedelta(hours=1)


def posted(account: Account, **moments: Any) -> int:
    return balance_as_of(
        ledger_id=account.ledger_id, account_id=account.id, **moments
    ).posted


def send(source: Account, target: Account, amount: int, **fields: Any) -> datetime:
    """Posts a transfer and tells when it was recorded."""
    outcome = move(source, target, amount, **fields)
    assert isinstance(outcome, PostedTransfer), outcome
    return outcome.created_at


def wide_open(ledger: Ledger, **fields: Any) -> Account:
    return AccountFactory(ledger=ledger, min_balance=None, **fields)


@pytest.mark.django_db
def test_a_balance_is_what_was_true_then_and_what_was_believed_then():
    ledger = LedgerFactory()
    source, target = wide_open(ledger), wide_open(ledger)
    first = send(source, target, 100)
    happened = first - 10 * HOUR
    second = send(source, target, 30, effective_at=happened)

    def at(t: datetime, r: datetime) -> int:
        return posted(target, at=t, as_recorded_at=r)

    assert at(second, second) == 130
    assert at(first, second) == 130
    assert at(first, first) == 100
    assert at(second, first) == 100
    assert at(first - TICK, second) == 30
    assert at(happened, second) == 30
    assert at(happened - TICK, second) == 0
    assert at(happened, second - TICK) == 0
    assert posted(target) == 130
    assert posted(source) == -130


@pytest.mark.django_db
def test_a_debit_normal_account_is_shown_by_its_own_side():
    ledger = LedgerFactory()
    asset, equity = wide_open(ledger, kind="asset"), wide_open(ledger, kind="equity")
    recorded = send(asset, equity, 70)

    assert posted(asset, at=recorded) == 70
    assert posted(equity, at=recorded) == 70
    assert posted(asset, at=recorded - TICK) == 0


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(4))
def test_every_balance_is_the_sum_that_a_scan_of_all_entries_gives(seed):
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    ledger = LedgerFactory()
    accounts = [wide_open(ledger) for _ in range(4)]
    for _ in range(30):
        requests = [
            transfer_request(
                *chance.sample(accounts, 2),
                chance.randint(1, 500),
                effective_at=now() - timedelta(minutes=chance.randint(1, 60))
                if chance.random() < 0.5
                else None,
            )
            for _ in range(chance.randint(1, 4))
        ]
        assert all(
            isinstance(o, PostedTransfer) for o in post(*requests, ledger=ledger)
        )
    entries = list(Entry.objects.filter(ledger_id=ledger.id))
    instants = sorted(
        {e.effective_at for e in entries} | {e.created_at for e in entries}
    )

    for t in chance.sample(instants, 12):
        for r in chance.sample(instants, 12):
            totals = totals_as_of(
                ledger_id=ledger.id,
                account_ids=[account.id for account in accounts],
                at=t,
                as_recorded_at=r,
            )
            for account in accounts:
                seen = [
                    e
                    for e in entries
                    if e.account_id == account.id
                    and e.effective_at <= t
                    and e.created_at <= r
                ]
                expected = tuple(
                    sum(e.amount for e in seen if e.direction == direction)
                    for direction in ("debit", "credit")
                )
                found = totals[account.id]
                assert (found.debits, found.credits) == expected
                assert found.version + found.backdated_entry_count == len(seen)


@pytest.mark.django_db
def test_an_account_without_entries_has_nothing_at_any_time():
    account = AccountFactory()

    balance = balance_as_of(ledger_id=account.ledger_id, account_id=account.id)

    assert (balance.posted, balance.totals.version) == (0, 0)
    assert balance.at == balance.as_recorded_at


@pytest.mark.django_db
def test_the_balance_of_another_ledgers_account_is_not_found():
    account, other = AccountFactory(), LedgerFactory()

    with pytest.raises(ProblemError) as caught:
        balance_as_of(ledger_id=other.id, account_id=account.id)

    assert caught.value.problem.code == "account_not_found"


@pytest.mark.django_db
@pytest.mark.parametrize("field", ["at", "as_recorded_at"])
@pytest.mark.parametrize(
    "moment", [datetime(2999, 1, 1, tzinfo=UTC), date(2999, 1, 1)], ids=str
)
def test_the_future_is_refused(field, moment):
    account = AccountFactory()

    with pytest.raises(ProblemError) as caught:
        posted(account, **{field: moment})

    assert caught.value.problem.code == "instant_in_future"
    assert caught.value.problem.fields["field"] == field


@pytest.mark.django_db
def test_a_day_means_its_end_and_today_means_now():
    ledger = LedgerFactory(time_zone="Pacific/Auckland")
    account = wide_open(ledger)
    today = clock_read().astimezone(ZoneInfo("Pacific/Auckland")).date()

    past = balance_as_of(
        ledger_id=ledger.id, account_id=account.id, at=date(2026, 1, 31)
    )
    running = balance_as_of(ledger_id=ledger.id, account_id=account.id, at=today)

    assert past.at == datetime(2026, 1, 31, 10, 59, 59, 999999, tzinfo=UTC)
    assert running.at == running.as_recorded_at


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 28), 24),
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),  # no midnight: 00:00 is 01:00
        ("America/Havana", date(2026, 11, 1), 25),  # two midnights
        ("Pacific/Apia", date(2011, 12, 29), 24),
    ],
)
def test_a_day_has_as_many_hours_as_clocks_give_it(zone, day, hours):
    start, end = (f(day, zone=ZoneInfo(zone)) for f in (day_start, day_end))

    assert end - start == timedelta(hours=hours)
    assert start.astimezone(ZoneInfo(zone)).date() == day
    assert (start - TICK).astimezone(ZoneInfo(zone)).date() == day - timedelta(days=1)


# --- Readers and posters at the same moment -----------------------------------------


@contextmanager
def poster_in_flight(
    source: Account, target: Account
) -> Iterator[tuple[datetime, threading.Event]]:
    """A transfer of 40 that is recorded and not yet committed, in a thread.

    Yields its recording time and the event that lets it commit.
    """
    written, release = threading.Event(), threading.Event()
    recorded: list[datetime] = []

    def run() -> None:
        try:
            with transaction_owner():
                recorded.append(send(source, target, 40))
                written.set()
                release.wait(30)
        finally:
            written.set()
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    assert written.wait(30)
    try:
        yield recorded[0], release
    finally:
        release.set()
        thread.join(30)


def wait_for_blocked_reader() -> None:
    """Returns once a session of this database waits for another one's lock."""
    with connection.cursor() as cursor:
        for _ in range(100_000):
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                " AND cardinality(pg_blocking_pids(pid)) > 0"
            )
            if cursor.fetchone()[0]:
                return
    raise AssertionError("nobody waits")


def in_thread(read: Callable[[], int]) -> tuple[threading.Thread, list[int]]:
    results: list[int] = []

    def run() -> None:
        try:
            with transaction_owner():
                results.append(read())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize("is_included", [True, False])
def test_a_reader_waits_for_a_transfer_in_flight_and_its_answer_stays(
    committed_db, is_included
):
    with transaction_owner():
        ledger = LedgerFactory()
        source, target = wide_open(ledger), wide_open(ledger)
    with poster_in_flight(source, target) as (recorded_at, release):
        r = recorded_at if is_included else recorded_at - TICK
        # What a reader would see who does not wait.
        hasty = totals_as_of(
            ledger_id=ledger.id, account_ids=[target.id], at=r, as_recorded_at=r
        )
        thread, results = in_thread(lambda: posted(target, at=r, as_recorded_at=r))
        wait_for_blocked_reader()
        assert results == []
        release.set()
        thread.join(30)
    with transaction_owner():
        again = posted(target, at=r, as_recorded_at=r)

    assert hasty[target.id].credits == 0
    assert results == [again] == [40 if is_included else 0]


def test_the_default_instant_is_one_whose_answer_stays(committed_db):
    with transaction_owner():
        ledger = LedgerFactory()
        source, target = wide_open(ledger), wide_open(ledger)
    seen: list[as_of.BalanceAsOf] = []

    def read() -> int:
        seen.append(balance_as_of(ledger_id=ledger.id, account_id=target.id))
        return seen[0].posted

    with poster_in_flight(source, target) as (_, release):
        thread, results = in_thread(read)
        wait_for_blocked_reader()
        release.set()
        thread.join(30)
    with transaction_owner():
        later = send(source, target, 1)
    with transaction_owner():
        again = posted(target, at=seen[0].at, as_recorded_at=seen[0].as_recorded_at)

    assert results == [again] == [40]
    assert later > seen[0].as_recorded_at


def test_a_statement_waits_for_a_transfer_in_flight_and_stays(committed_db):
    with transaction_owner():
        ledger = LedgerFactory()
        source, target = wide_open(ledger), wide_open(ledger)
        start = clock_read()
    seen: list[Statement] = []

    def statement(as_recorded_at: datetime | None = None) -> Statement:
        return statement_get(
            ledger_id=ledger.id,
            account_id=target.id,
            start=start,
            as_recorded_at=as_recorded_at,
        )

    def read() -> int:
        seen.append(statement())
        return seen[0].closing_balance

    with poster_in_flight(source, target) as (_, release):
        thread, results = in_thread(read)
        wait_for_blocked_reader()
        release.set()
        thread.join(30)
    with transaction_owner():
        send(source, target, 1)
    with transaction_owner():
        again = statement(seen[0].as_recorded_at)

    assert results == [40]
    assert (again.closing, again.line_count) == (seen[0].closing, 1)


def test_a_reader_of_the_final_past_waits_for_nobody(committed_db):
    with transaction_owner():
        ledger = LedgerFactory()
        source, target = wide_open(ledger), wide_open(ledger)
    with poster_in_flight(source, target) as (recorded_at, _), transaction_owner():
        r = recorded_at - as_of.FINAL_AFTER - timedelta(seconds=1)

        assert posted(target, as_recorded_at=r) == 0


def test_a_reader_who_waits_too_long_is_told_that_the_ledger_is_busy(committed_db):
    with transaction_owner():
        ledger = LedgerFactory()
        source, target = wide_open(ledger), wide_open(ledger)

    def read() -> None:
        with transaction_owner():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '100ms'")
            posted(target)

    with (
        poster_in_flight(source, target),
        pytest.raises(ProblemError) as caught,
    ):
        retry_on_conflict(read)

    assert caught.value.problem.code == "ledger_busy"
    assert fresh(target).posted == 40


# --- By which way --------------------------------------------------------------------

ENTRIES = 20_000
BATCH = 1_000
DAYS_BACK = 100
MOST_BLOCKS = 600


def explain(account: Account, at: datetime, as_recorded_at: datetime) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF) {TOTALS_SQL}",
            {
                "ledger_id": account.ledger_id,
                "account_ids": [account.id],
                "at": at,
                "as_recorded_at": as_recorded_at,
                "both": min(at, as_recorded_at),
            },
        )
        return "\n".join(row[0] for row in cursor.fetchall())


def post_history(source: Account, target: Account) -> datetime:
    """Posts many entries between two accounts; every fourth is backdated.

    Returns:
        An instant before the first of them.
    """
    began = now()
    for first in range(0, ENTRIES, BATCH):
        requests = [
            transfer_request(
                source,
                target,
                1,
                effective_at=began - timedelta(days=number % DAYS_BACK + 1)
                if number % 4 == 0
                else None,
            )
            for number in range(first, first + BATCH)
        ]
        with transaction_owner():
            post(*requests, ledger=source.ledger)
    return began


def analyze() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE ledger_entry, ledger_account")


# Statistics that know other accounts only say of every further one that it has no
# entries to speak of: whichever index finds those would do.
@pytest.mark.parametrize("statistics", ["none", "of other entries", "of all entries"])
def test_a_long_history_with_many_backdated_entries_is_read_by_index(
    committed_db, statistics
):
    with transaction_owner():
        ledger = LedgerFactory()
        source, target = wide_open(ledger), wide_open(ledger)
        other = LedgerFactory()
        others = wide_open(other), wide_open(other)
    if statistics == "of other entries":
        post_history(*others)
        analyze()
    began = post_history(source, target)
    ended = clock_read()
    if statistics == "of all entries":
        analyze()
    middle = Entry.objects.get(
        ledger_id=ledger.id, account_id=target.id, account_version=ENTRIES // 2
    ).created_at

    plans = {
        "before all": explain(target, began - timedelta(days=DAYS_BACK + 2), ended),
        "long ago": explain(target, began - timedelta(days=95, hours=1), ended),
        "in the middle": explain(target, middle, middle),
        "now": explain(target, ended, ended),
    }

    for name, plan in plans.items():
        scans = re.findall(r"(\w+ Scan|Sort|\w+ Join)\b.*? on ledger_entry", plan)
        assert set(scans) <= {"Index Scan"}, (name, plan)
        assert "Sort" not in plan, (name, plan)
        # The account's entries alone fill more pages than this.
        buffers = next(line for line in plan.splitlines() if "Buffers: " in line)
        blocks = re.findall(r"(?:hit|read)=(\d+)", buffers)
        assert 0 < sum(map(int, blocks)) < MOST_BLOCKS, (name, plan)
