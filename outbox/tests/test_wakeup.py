"""The wake-up, on real Valkey and on dead, silent and busy servers."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, current_app
from django.conf import settings
from django.db import DatabaseError
from redis import Redis
from structlog.testing import capture_logs

from ledger.services.posting import transfers_post
from ledger.types import PostingRequest, TransferRequest
from outbox import tasks, wakeup
from outbox.dispatcher import Dispatcher, DrainReport
from outbox.enums import TaskKind
from outbox.tests.factories import (
    ACTOR,
    DESTINATION,
    make_account,
    make_task,
)
from payflow.clock import now
from payflow.db import transaction_owner
from payflow.ids import new_id


@pytest.fixture
def valkey(monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """The run's Valkey, and a Celery application with a queue of its own on it."""
    client = Redis.from_url(settings.REDIS_URL)
    use_broker(monkeypatch, settings.REDIS_URL)
    client.delete(wakeup.WAKE_KEY)
    yield client
    client.delete(wakeup.WAKE_KEY, wakeup.current_app.conf.task_default_queue)
    client.close()


def use_broker(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    app = Celery("wake-up-test", broker=url, set_as_current=False)
    app.conf.task_default_queue = f"test-{new_id()}"
    monkeypatch.setattr(wakeup, "current_app", app)
    monkeypatch.setattr(wakeup._Quiet, "until", 0.0)


def use_valkey(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    client = Redis(
        port=port, socket_timeout=0.1, socket_connect_timeout=0.1, retry=None
    )
    monkeypatch.setattr(wakeup, "_raw_client", lambda: client)


def queued(client: Redis) -> Any:
    return client.llen(wakeup.current_app.conf.task_default_queue)


def test_many_commits_publish_one_wake_up(valkey: Redis) -> None:
    for _ in range(20):
        wakeup.wake_dispatcher()

    assert queued(valkey) == 1


def test_commits_of_many_threads_publish_one_wake_up(valkey: Redis) -> None:
    start = threading.Barrier(8)

    def commit() -> None:
        start.wait()
        wakeup.wake_dispatcher()

    threads = [threading.Thread(target=commit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert queued(valkey) == 1


def test_a_commit_after_a_drain_started_publishes_anew(valkey: Redis) -> None:
    wakeup.wake_dispatcher()
    wakeup.wakeup_received()
    wakeup.wake_dispatcher()

    assert queued(valkey) == 2


@pytest.mark.usefixtures("committed_db")
@pytest.mark.parametrize(("destination", "wake_ups"), [(None, 0), (DESTINATION, 1)])
def test_a_transfer_wakes_the_dispatcher_only_for_its_payouts(
    valkey: Redis, ledger_id: UUID, destination: str | None, wake_ups: int
) -> None:
    make_task(ledger_id=ledger_id, kind=TaskKind.TRANSFER_POSTED)

    with transaction_owner():
        source = make_account(ledger_id, kind="equity", min_balance=None)
        target = make_account(ledger_id, payout_destination=destination)
        transfers_post(
            ledger_id=ledger_id,
            requests=[TransferRequest((PostingRequest(source.id, target.id, 1),))],
            actor=ACTOR,
            now=now(),
        )

    assert queued(valkey) == wake_ups


def test_a_lost_wake_up_is_forgotten_in_time(valkey: Redis) -> None:
    wakeup.wake_dispatcher()

    assert 0 < valkey.pttl(wakeup.WAKE_KEY) <= wakeup.WAKE_KEY_MS


def test_a_dead_valkey_costs_one_short_try_and_one_log_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    use_broker(monkeypatch, f"redis://127.0.0.1:{port}/0")
    use_valkey(monkeypatch, port)

    with capture_logs() as logs:
        for _ in range(100):
            wakeup.wake_dispatcher()

    assert [entry["event"] for entry in logs] == ["wake_up_failed"]


def test_a_silent_valkey_delays_a_request_by_a_fraction_of_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        use_broker(monkeypatch, f"redis://127.0.0.1:{port}/0")
        use_valkey(monkeypatch, port)
        started = time.monotonic()

        for _ in range(100):
            wakeup.wake_dispatcher()

        assert time.monotonic() - started < 1


@pytest.mark.parametrize("is_silent", [False, True], ids=["refused", "silent"])
def test_a_dead_broker_delays_nobody(
    monkeypatch: pytest.MonkeyPatch, valkey: Redis, is_silent: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not is_silent:
            listener.close()
        use_broker(monkeypatch, f"redis://127.0.0.1:{port}/0")
        started = time.monotonic()

        with capture_logs() as logs:
            wakeup.wake_dispatcher()

        assert time.monotonic() - started < 2
    assert [entry["event"] for entry in logs] == ["wake_up_failed"]
    valkey.delete(wakeup.WAKE_KEY)


def test_a_drain_starts_without_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    use_valkey(monkeypatch, port)

    with capture_logs() as logs:
        wakeup.wakeup_received()

    assert [entry["event"] for entry in logs] == ["wake_up_not_cleared"]


def test_every_thread_publishes_by_the_projects_application() -> None:
    from payflow.celery import app

    seen = []

    thread = threading.Thread(target=lambda: seen.append(current_app.main))
    thread.start()
    thread.join()

    assert seen == [app.main]


# --- the task ---------------------------------------------------------------------


def test_the_task_clears_the_wake_up_before_it_looks_at_the_table(
    valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def drain(_self: Dispatcher) -> DrainReport:
        seen.append(valkey.exists(wakeup.WAKE_KEY))
        return DrainReport()

    monkeypatch.setattr(Dispatcher, "drain", drain)
    monkeypatch.setattr(
        tasks,
        "dispatcher_from_settings",
        lambda **options: Dispatcher(provider=None, handlers={}, **options),
    )
    wakeup.wake_dispatcher()

    tasks.drain()

    assert seen == [0]


def test_the_task_says_in_one_line_that_the_database_is_gone(
    valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drain(_self: Dispatcher) -> DrainReport:
        raise DatabaseError("gone")

    monkeypatch.setattr(Dispatcher, "drain", drain)
    monkeypatch.setattr(
        tasks,
        "dispatcher_from_settings",
        lambda **options: Dispatcher(provider=None, handlers={}, **options),
    )

    with capture_logs() as logs:
        tasks.drain()

    assert [entry["event"] for entry in logs] == ["drain_failed"]


def test_a_worker_that_shuts_down_stops_its_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = tasks._should_stop()

    tasks._stop_drains()
    after = tasks._should_stop()

    tasks._stopping.value = False
    assert (before, after) == (False, True)


def test_the_time_limits_nest() -> None:
    from outbox.dispatcher import DRAIN_SECONDS, LEASE_SECONDS
    from outbox.providers.http import TOTAL_TIMEOUT_SECONDS

    # The last task may inquire and then send; each round of booking has a lock's
    # longest wait in it.
    calls_seconds = 2 * TOTAL_TIMEOUT_SECONDS
    booking_seconds = 5

    assert (
        DRAIN_SECONDS + calls_seconds + booking_seconds
        < tasks.SOFT_TIME_LIMIT_SECONDS
        < tasks.TIME_LIMIT_SECONDS
        < LEASE_SECONDS
    )
