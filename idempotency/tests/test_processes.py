"""Idempotency when processes die, race and lose each other: all of them real."""

import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psycopg
import redis
from django.conf import settings
from django.db import connection, connections

from ledger.services.clients import api_key_create
from ledger.tests.factories import ApiClientFactory
from payflow.db import transaction_owner
from payflow.ids import new_id
from payflow.tests.processes import Valkey, Web, database_url, wait_until


def test_a_kill_before_the_commit_stores_nothing_and_a_retry_executes(
    shop, key, tmp_path
):
    marker = tmp_path / "killed"
    with Web(
        tmp_path, PAYFLOW_FAILPOINT=f"before_commit:kill:{marker}", WEB_WORKERS="1"
    ) as web:
        try:
            shop.send(web, idempotency_key=key)
            raise AssertionError("the worker was to die")
        except httpx2.TransportError:
            pass
        assert marker.exists()
        wait_until(lambda: shop.key_row(key) is None and shop.transfer_count() == 0)

        def answered() -> bool:
            # The dead worker's lock goes when PostgreSQL notices the closed socket.
            try:
                response = shop.send(web, idempotency_key=key)
            except httpx2.TransportError:
                return False
            assert response.status_code in {201, 409}
            return response.status_code == 201

        wait_until(answered)

    assert shop.transfer_count() == 1
    assert shop.moved() == 100


def test_a_kill_after_the_commit_is_replayed_from_postgresql(shop, key, tmp_path):
    marker = tmp_path / "killed"
    with Web(
        tmp_path, PAYFLOW_FAILPOINT=f"after_commit:kill:{marker}", WEB_WORKERS="1"
    ) as web:
        try:
            shop.send(web, idempotency_key=key)
            raise AssertionError("the worker was to die")
        except httpx2.TransportError:
            pass
        wait_until(web.is_ready)
        response = shop.send(web, idempotency_key=key)

    assert response.status_code == 201
    assert response.headers["Idempotent-Replayed"] == "true"
    assert response.content == bytes(shop.key_row(key).response_body)
    assert shop.transfer_count() == 1
    assert shop.moved() == 100


def test_the_same_key_while_the_first_runs_is_refused_at_once(shop, key, tmp_path):
    marker = tmp_path / "running"
    with (
        Web(tmp_path, PAYFLOW_FAILPOINT=f"before_commit:block:{marker}") as web,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(shop.send, web, idempotency_key=key)
        wait_until(marker.exists)

        second = shop.send(web, idempotency_key=key)
        assert second.status_code == 409
        assert second.json()["code"] == "idempotency_in_progress"
        assert second.headers["Retry-After"] == "1"
        assert not first.done()

        marker.unlink()
        assert first.result().status_code == 201


def test_twenty_identical_requests_at_once_execute_once(shop, key, web):
    barrier = threading.Barrier(20)

    def send(_: int) -> httpx2.Response:
        barrier.wait()
        return shop.send(web, idempotency_key=key)

    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(send, range(20)))

    statuses = Counter(r.status_code for r in responses)
    assert set(statuses) <= {201, 409}
    created = [r for r in responses if r.status_code == 201]
    assert len({r.content for r in created}) == 1
    assert sum("Idempotent-Replayed" not in r.headers for r in created) == 1
    assert all(
        r.json()["code"] == "idempotency_in_progress"
        for r in responses
        if r.status_code == 409
    )
    assert shop.transfer_count() == 1
    assert shop.moved() == 100


def test_two_clients_with_one_key_are_independent(shop, key, web):
    with transaction_owner():
        other = api_key_create(client=ApiClientFactory(ledger=shop.ledger))

    first = shop.send(web, idempotency_key=key)
    second = shop.send(web, idempotency_key=key, api_key=other)

    assert [first.status_code, second.status_code] == [201, 201]
    assert first.json()["id"] != second.json()["id"]
    assert "Idempotent-Replayed" not in second.headers
    assert shop.moved() == 200


def test_a_second_key_of_the_same_client_replays_after_rotation(shop, key, web):
    from ledger.models import ApiClient

    with transaction_owner():
        client = ApiClient.objects.get(ledger_id=shop.ledger.id, id=shop.client_id)
        rotated = api_key_create(client=client)

    first = shop.send(web, idempotency_key=key)
    second = shop.send(web, idempotency_key=key, api_key=rotated)

    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.content == first.content


def test_a_flushed_valkey_changes_no_answer(shop, key, web):
    first = shop.send(web, idempotency_key=key)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushdb()

    second = shop.send(web, idempotency_key=key)
    reused = shop.send(web, idempotency_key=key, amount=5)

    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.content == first.content
    assert reused.json()["code"] == "idempotency_key_reused"
    assert shop.transfer_count() == 1


def test_a_stale_mark_of_a_dead_request_stops_nobody(shop, key, web):
    first_key = f"{key}-first"
    shop.send(web, idempotency_key=first_key)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        (name,) = client.keys(f"*{first_key}")
        client.set(name.replace(first_key.encode(), key.encode()), b"Pabandoned")

    response = shop.send(web, idempotency_key=key)

    assert response.status_code == 201
    assert "Idempotent-Replayed" not in response.headers


def test_valkey_killed_in_mid_flight_costs_nothing_but_speed(shop, key, tmp_path):
    marker = tmp_path / "running"
    valkey = Valkey(tmp_path).start()
    with Web(
        tmp_path,
        REDIS_URL=valkey.url,
        PAYFLOW_FAILPOINT=f"before_commit:block:{marker}",
    ) as web:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(shop.send, web, idempotency_key=key)
            wait_until(marker.exists)
            valkey.stop(signal.SIGKILL)
            marker.unlink()
            first = running.result()
        again = shop.send(web, idempotency_key=key)
        reused = shop.send(web, idempotency_key=key, amount=7)

    assert first.status_code == 201
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.content == first.content
    assert reused.json()["code"] == "idempotency_key_reused"
    assert shop.transfer_count() == 1
    assert "idempotency_cache_unavailable" in web.log.read_text()


def test_a_frozen_valkey_delays_and_changes_nothing(shop, tmp_path):
    with Valkey(tmp_path) as valkey, Web(tmp_path, REDIS_URL=valkey.url) as web:
        valkey.send(signal.SIGSTOP)
        keys = [f"frozen-{n}" for n in range(6)]
        first = [shop.send(web, idempotency_key=k) for k in keys]
        second = [shop.send(web, idempotency_key=k) for k in keys]
        valkey.send(signal.SIGCONT)

    assert {r.status_code for r in first + second} == {201}
    assert [r.content for r in first] == [r.content for r in second]
    assert all(r.headers["Idempotent-Replayed"] == "true" for r in second)
    assert shop.transfer_count() == 6


def test_what_the_database_has_lost_is_not_replayed_from_valkey(shop, key, tmp_path):
    template = connection.settings_dict["NAME"]
    name = f"{template}_{new_id().hex}"
    url = database_url().removesuffix(template) + name
    maintenance = database_url().removesuffix(template) + "postgres"

    def answers(server: psycopg.Connection, count: int) -> list[httpx2.Response]:
        """Restores the books as they were before the first request, and sends it."""
        connections.close_all()
        server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        with Web(tmp_path, DATABASE_URL=url) as web:
            return [shop.send(web, idempotency_key=key) for _ in range(count)]

    with psycopg.connect(maintenance, autocommit=True) as server:
        try:
            first, again = answers(server, 2)
            with redis.Redis.from_url(settings.REDIS_URL) as client:
                assert client.keys(f"*{key}"), "Valkey remembers what PostgreSQL lost"
            after, *_ = answers(server, 1)
        finally:
            server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    assert first.status_code == again.status_code == after.status_code == 201
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in after.headers
    assert after.json()["id"] != first.json()["id"]


def test_a_hundred_transfers_at_once_never_overdraw(shop, web: Web, tmp_path: Path):
    barrier = threading.Barrier(25)

    def send(number: int) -> int:
        if number < 25:
            barrier.wait()
        return shop.send(
            web, idempotency_key=f"overdraw-{number}", amount=1_900
        ).status_code

    with ThreadPoolExecutor(25) as pool:
        statuses = Counter(pool.map(send, range(100)))

    # 52 transfers of 1,900 fit into 100,000, and the 53rd does not.
    assert statuses == {201: 52, 422: 48}
    assert shop.moved() == 52 * 1_900
