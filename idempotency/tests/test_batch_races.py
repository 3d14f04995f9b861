"""Batches that race for the keys of their items, and processes that die with one."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.db import connections
from django.test import Client

from idempotency.batches import BatchClaim
from idempotency.tests.conftest import Shop
from ledger.audit import audit_run
from ledger.models import Account
from ledger.tests.factories import AccountFactory, fresh
from payflow.db import transaction_owner
from payflow.tests.processes import HTTP, Web, wait_until

BATCH = "/v1/transfers/batch"


def items(shop: Shop, keys: list[str]) -> list[dict[str, Any]]:
    return [shop.body(idempotency_key=key) for key in keys]


def headers(shop: Shop, key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {shop.key}", "Idempotency-Key": key}


def send_batch(
    web: Web, shop: Shop, key: str, body: list[dict[str, Any]], **fields: Any
) -> httpx2.Response:
    return HTTP.post(
        web.url + BATCH,
        json={"transfers": body, **fields},
        headers=headers(shop, key),
        timeout=30,
    )


def call(shop: Shop, path: str, body: Any, key: str) -> Any:
    """The same inside of this process and thread."""
    return Client(raise_request_exception=False).post(
        path,
        json.dumps(body),
        content_type="application/json",
        headers=headers(shop, key),
    )


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Runs ``work`` to its end on a connection of its own."""

    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_batches_and_single_requests_with_one_set_of_keys_execute_each_once(
    shop, key, web
):
    keys = [f"{key}-{n}" for n in range(12)]
    barrier = threading.Barrier(8)

    def batch(number: int) -> httpx2.Response:
        mine = items(shop, keys if number % 2 else keys[::-1])
        barrier.wait()
        return send_batch(web, shop, f"{key}-batch-{number}", mine, atomic=number > 1)

    def single(number: int) -> httpx2.Response:
        barrier.wait()
        return shop.send(web, idempotency_key=keys[number])

    with ThreadPoolExecutor(8) as pool:
        batches = [pool.submit(batch, number) for number in range(4)]
        singles = [pool.submit(single, number) for number in range(4)]
        answers = [future.result() for future in [*batches, *singles]]

    assert {r.status_code for r in answers} <= {200, 201, 409, 503}
    # Who was told to wait asks again, and then everybody has the same transfers.
    again = [
        send_batch(web, shop, f"{key}-again-{n}", items(shop, keys)).json()["data"]
        for n in range(2)
    ]
    ids = [transfer["id"] for transfer in again[0]]
    assert [transfer["id"] for transfer in again[1]] == ids
    assert all(transfer["replayed"] for transfer in again[1])
    for number, name in enumerate(keys):
        assert shop.send(web, idempotency_key=name).json()["id"] == ids[number]
    for response in answers[:4]:
        made = response.json().get("data", [])
        made = [item.get("transfer", item) for item in made]
        assert {t["id"] for t in made if "id" in t} <= set(ids)
    assert shop.transfer_count() == len(keys)
    assert shop.moved() == 100 * len(keys)
    assert audit_run(ledger_slug=shop.ledger.slug).is_sound


@pytest.mark.parametrize("atomic", [True, False])
def test_a_single_request_that_is_faster_is_replayed_by_the_batch(
    shop, key, monkeypatch, atomic
):
    find = BatchClaim._find
    singles: list[Any] = []

    def find_and_lose(claim: BatchClaim) -> Any:
        found = find(claim)
        if not singles:
            # The batch has looked and seen nothing; now somebody commits the key.
            body = shop.body()
            singles.append(
                in_a_thread(lambda: call(shop, "/v1/transfers", body, f"{key}-1"))
            )
        return found

    monkeypatch.setattr(BatchClaim, "_find", find_and_lose)
    body = {"transfers": items(shop, [f"{key}-1", f"{key}-2"]), "atomic": atomic}
    response = call(shop, BATCH, body, key)

    [single] = singles
    assert single.status_code == 201
    assert response.status_code == (201 if atomic else 200)
    lost, posted = response.json()["data"]
    assert (lost["replayed"], "replayed" in posted) == (True, False)
    assert (lost if atomic else lost["transfer"])["id"] == single.json()["id"]
    assert shop.transfer_count() == 2
    assert shop.moved() == 200


@pytest.mark.parametrize("atomic", [True, False])
def test_a_key_that_is_taken_while_the_batch_posts_rolls_it_back(
    shop, key, monkeypatch, atomic
):
    with transaction_owner():
        other = AccountFactory(ledger=shop.ledger, balance=50)
        third = AccountFactory(ledger=shop.ledger)
    store = BatchClaim.store
    singles: list[Any] = []

    def lose_and_store(claim: BatchClaim, rendered: Any) -> None:
        if not singles:
            # Everything is posted; now somebody commits the key for other accounts.
            body = shop.body(
                from_account_id=str(other.id), to_account_id=str(third.id), amount=5
            )
            singles.append(
                in_a_thread(lambda: call(shop, "/v1/transfers", body, f"{key}-1"))
            )
        store(claim, rendered)

    monkeypatch.setattr(BatchClaim, "store", lose_and_store)
    body = {"transfers": items(shop, [f"{key}-1", f"{key}-2"]), "atomic": atomic}
    response = call(shop, BATCH, body, key)

    assert [single.status_code for single in singles] == [201]
    if atomic:
        assert response.status_code == 422
        assert response.json()["problem"]["code"] == "idempotency_key_reused"
    else:
        lost, posted = response.json()["data"]
        assert lost["problem"]["code"] == "idempotency_key_reused"
        assert posted["status"] == 201
    assert shop.moved() == (0 if atomic else 100)
    assert fresh(third).posted == 5
    assert audit_run(ledger_slug=shop.ledger.slug).is_sound


def test_batches_with_the_same_keys_in_opposite_order_do_not_deadlock(
    shop, key, monkeypatch, caplog
):
    with transaction_owner():
        pair = (
            AccountFactory(ledger=shop.ledger, balance=100_000),
            AccountFactory(ledger=shop.ledger),
        )
    other = {"from_account_id": str(pair[0].id), "to_account_id": str(pair[1].id)}
    keys = [f"{key}-{n}" for n in range(400)]
    store = BatchClaim.store
    barrier = threading.Barrier(2)
    arrived: set[int] = set()

    def meet_and_store(claim: BatchClaim, rendered: Any) -> None:
        if threading.get_ident() not in arrived:
            arrived.add(threading.get_ident())
            barrier.wait(30)
        store(claim, rendered)

    def send(name: str, body: list[dict[str, Any]]) -> Any:
        try:
            return call(shop, BATCH, {"transfers": body, "atomic": False}, name)
        finally:
            connections.close_all()

    monkeypatch.setattr(BatchClaim, "store", meet_and_store)
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(send, f"{key}-a", items(shop, keys))
        theirs = [shop.body(idempotency_key=name, **other) for name in keys[::-1]]
        answers = [ours.result, pool.submit(send, f"{key}-b", theirs).result]
        statuses = [
            {item["status"] for item in answer().json()["data"]} for answer in answers
        ]

    assert sorted(statuses, key=min) == [{201}, {422}]
    assert "transaction_conflict_retried" not in caplog.text
    assert sorted([shop.moved(), fresh(pair[1]).posted]) == [0, 40_000]


def test_whoever_loses_every_time_is_told_to_wait(shop, key, monkeypatch):
    with transaction_owner():
        other: Account = AccountFactory(ledger=shop.ledger, balance=50)
        third = AccountFactory(ledger=shop.ledger)
    keys = [f"{key}-{n}" for n in range(9)]
    store = BatchClaim.store
    taken = iter(keys)

    def lose_and_store(claim: BatchClaim, rendered: Any) -> None:
        body = shop.body(from_account_id=str(other.id), to_account_id=str(third.id))
        name = next(taken)
        in_a_thread(lambda: call(shop, "/v1/transfers", body | {"amount": 5}, name))
        store(claim, rendered)

    monkeypatch.setattr(BatchClaim, "store", lose_and_store)
    body = {"transfers": items(shop, keys), "atomic": False}
    response = call(shop, BATCH, body, key)

    assert response.status_code == 409
    assert response.json()["code"] == "idempotency_in_progress"
    assert response["Retry-After"] == "1"
    assert shop.key_row(key) is None
    assert shop.moved() == 0
    assert fresh(third).posted == 15, "three tries"


def test_a_single_request_waits_for_a_batch_and_then_replays_its_item(
    shop, key, tmp_path
):
    marker = tmp_path / "running"
    with (
        Web(
            tmp_path,
            PAYFLOW_FAILPOINT=f"before_commit:block:{marker}",
            DATABASE_LOCK_TIMEOUT_MS="300",
        ) as web,
        ThreadPoolExecutor(1) as pool,
    ):
        batch = pool.submit(send_batch, web, shop, key, items(shop, [f"{key}-1"]))
        wait_until(marker.exists)

        busy = shop.send(web, idempotency_key=f"{key}-1")
        assert (busy.status_code, busy.json()["code"]) == (503, "ledger_busy")
        assert not batch.done()

        marker.unlink()
        [made] = batch.result().json()["data"]
        again = shop.send(web, idempotency_key=f"{key}-1")

    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == made
    assert shop.moved() == 100


def kill_in_a_batch(point: str, shop: Shop, key: str, folder: Path) -> Web:
    """A server whose worker has died at ``point`` of a batch of two items."""
    web = Web(
        folder, PAYFLOW_FAILPOINT=f"{point}:kill:{folder / 'killed'}", WEB_WORKERS="1"
    ).start()
    with pytest.raises(httpx2.TransportError):
        send_batch(web, shop, key, items(shop, [f"{key}-1", f"{key}-2"]))
    assert (folder / "killed").exists()
    wait_until(web.is_ready)
    return web


def test_a_batch_that_is_killed_before_its_commit_leaves_all_keys_free(
    shop, key, tmp_path
):
    web = kill_in_a_batch("before_commit", shop, key, tmp_path)
    try:
        assert shop.transfer_count() == 0
        assert [shop.key_row(f"{key}{end}") for end in ("", "-1", "-2")] == [None] * 3

        def answered() -> bool:
            # The dead worker's lock goes when PostgreSQL notices the closed socket.
            body = items(shop, [f"{key}-1", f"{key}-2"])
            response = send_batch(web, shop, key, body)
            assert response.status_code in {201, 409, 503}
            return response.status_code == 201

        wait_until(answered)
    finally:
        web.stop()

    assert shop.transfer_count() == 2


def test_a_batch_that_is_killed_after_its_commit_is_replayed_whole_and_by_item(
    shop, key, tmp_path
):
    web = kill_in_a_batch("after_commit", shop, key, tmp_path)
    try:
        body = items(shop, [f"{key}-1", f"{key}-2"])
        whole = send_batch(web, shop, key, body)
        single = shop.send(web, idempotency_key=f"{key}-2")
    finally:
        web.stop()

    assert whole.headers["Idempotent-Replayed"] == "true"
    assert single.headers["Idempotent-Replayed"] == "true"
    assert single.json() == whole.json()["data"][1]
    assert shop.transfer_count() == 2
