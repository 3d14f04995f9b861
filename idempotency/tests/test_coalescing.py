"""Requests that share a commit: each has its own outcome, whoever is beside it."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from django.db import connection
from django_redis import get_redis_connection

from idempotency import store
from idempotency.tests.conftest import Shop
from ledger.audit import audit_run
from ledger.models import Transfer
from ledger.selectors.holds import HoldView
from ledger.services.clients import api_key_create
from ledger.services.holds import holds_expire
from ledger.tests.factories import AccountFactory, ApiClientFactory, fresh
from ledger.tests.holds import place
from payflow.clock import now
from payflow.db import transaction_owner
from payflow.ids import new_id
from payflow.tests.processes import Web, database_url, wait_until

NO_POSTING = {"number": 7, "amount": 1}


class Crowd:
    """Requests that wait together, behind one that is held up before its commit."""

    def __init__(self, web: Web, shop: Shop, marker: Path) -> None:
        self._web, self._shop, self._marker = web, shop, marker
        self._pool = ThreadPoolExecutor(40)
        self._answers: list[Future[httpx2.Response]] = []
        self._first = self._send(idempotency_key=f"first-{new_id()}")
        wait_until(marker.exists)

    def send(self, key: str | None = None, **changes: Any) -> "Future[httpx2.Response]":
        """Sends a request that has to wait; returns when the server is about it."""
        key = key or f"key-{new_id()}"
        answer = self._send(idempotency_key=key, **changes)
        valkey = get_redis_connection("default")
        wait_until(
            lambda: answer.done() or bool(list(valkey.scan_iter(f"*:{key}", 1_000)))
        )
        return answer

    def _send(self, **request: Any) -> "Future[httpx2.Response]":
        answer = self._pool.submit(self._shop.send, self._web, **request)
        self._answers.append(answer)
        return answer

    def release(self) -> None:
        """Lets every commit go on until all have their answers."""

        def is_done() -> bool:
            self._marker.unlink(missing_ok=True)
            return all(answer.done() for answer in self._answers)

        wait_until(is_done)
        assert self._first.result().status_code == 201


@contextmanager
def crowd(shop: Shop, folder: Path) -> Iterator[Crowd]:
    marker = folder / "held-up"
    with Web(
        folder, WEB_WORKERS="1", PAYFLOW_FAILPOINT=f"before_commit:block:{marker}"
    ) as web:
        yield Crowd(web, shop, marker)


@contextmanager
def other_session() -> Iterator[psycopg.Connection[Any]]:
    """A session of somebody else, rolled back in the end."""
    with psycopg.connect(database_url()) as session:
        yield session
        session.rollback()


def commits_of(shop: Shop) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT xmin::text) FROM ("
            " SELECT xmin, ledger_id FROM ledger_transfer"
            " WHERE kind IN ('transfer', 'capture')"
            " UNION ALL SELECT xmin, ledger_id FROM ledger_hold_event"
            ") written WHERE ledger_id = %s",
            [shop.ledger.id],
        )
        (count,) = cursor.fetchone()
    return int(count)


def test_who_waits_together_is_committed_together_and_judged_alone(shop, tmp_path):
    with transaction_owner():
        colleague = ApiClientFactory(ledger=shop.ledger)
        colleagues_key = api_key_create(client=colleague)
    with crowd(shop, tmp_path) as waiting:
        fine = [waiting.send() for _ in range(20)]
        of_colleague = waiting.send(api_key=colleagues_key)
        too_much = waiting.send(amount=1_000_000)
        nowhere = waiting.send(to_account_id=str(new_id()))
        to_itself = waiting.send(to_account_id=str(shop.source.id))
        named = [waiting.send(reference="invoice-1") for _ in range(2)]
        waiting.release()

    assert [answer.result().status_code for answer in fine] == [201] * 20
    assert len({answer.result().json()["id"] for answer in fine}) == 20
    assert too_much.result().json()["code"] == "insufficient_funds"
    assert nowhere.result().json()["code"] == "account_not_found"
    assert to_itself.result().json()["code"] == "same_account"
    assert Counter(a.result().json().get("code", "made") for a in named) == {
        "made": 1,
        "reference_taken": 1,
    }
    made = Transfer.objects.get(
        ledger_id=shop.ledger.id, id=of_colleague.result().json()["id"]
    )
    assert made.client_id == colleague.id
    assert made.actor == f"client:{colleague.name}"
    assert made.request_id == of_colleague.result().headers["X-Request-ID"]
    assert shop.moved() == 23 * 100
    # The first was alone. What waited behind it need not be one batch only.
    assert 2 <= commits_of(shop) <= 8


def test_that_each_of_a_shared_commit_is_replayed_by_its_own_key(shop, tmp_path):
    keys = [f"key-{new_id()}" for _ in range(5)]
    with crowd(shop, tmp_path) as waiting:
        answers = [waiting.send(key) for key in keys]
        refused = waiting.send(f"{keys[0]}-refused", amount=1_000_000)
        waiting.release()
    get_redis_connection("default").flushdb()

    with Web(tmp_path) as web:
        for key, answer in zip(keys, answers, strict=True):
            again = shop.send(web, idempotency_key=key)
            assert again.headers["Idempotent-Replayed"] == "true"
            assert again.content == answer.result().content
            row = shop.key_row(key)
            assert row is not None
            assert str(row.resource_id) == answer.result().json()["id"]
        again = shop.send(web, idempotency_key=f"{keys[0]}-refused", amount=1_000_000)

    assert again.status_code == refused.result().status_code == 422
    assert again.headers["Idempotent-Replayed"] == "true"
    assert commits_of(shop) < 6


def test_a_key_that_waits_already_is_in_progress_for_whoever_comes_second(
    shop, key, tmp_path
):
    with crowd(shop, tmp_path) as waiting:
        first = waiting.send(key)
        second = waiting.send(key)
        wait_until(second.done)
        assert not first.done()
        waiting.release()

    assert first.result().status_code == 201
    assert second.result().json()["code"] == "idempotency_in_progress"


def test_the_same_without_valkey(shop, key, tmp_path):
    marker = tmp_path / "held-up"
    with (
        Web(
            tmp_path,
            WEB_WORKERS="1",
            PAYFLOW_FAILPOINT=f"before_commit:block:{marker}",
            REDIS_URL="redis://127.0.0.1:1/0",
        ) as web,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(shop.send, web, idempotency_key=key)
        wait_until(marker.exists)
        second = shop.send(web, idempotency_key=key)
        assert not first.done()
        marker.unlink()

    assert first.result().status_code == 201
    assert second.json()["code"] == "idempotency_in_progress"


def placed(shop: Shop, *amounts: int, **fields: Any) -> list[HoldView]:
    """Committed holds from source to target."""
    with transaction_owner():
        holds = [place(shop.source, shop.target, n, **fields) for n in amounts]
    assert all(isinstance(hold, HoldView) for hold in holds), holds
    return holds


def capture_of(hold: HoldView, **body: Any) -> dict[str, Any]:
    return {"path": f"/v1/holds/{hold.id}/capture", "body": body}


def void_of(hold: HoldView) -> dict[str, Any]:
    return {"path": f"/v1/holds/{hold.id}/void", "body": {}}


def results(*answers: "Future[httpx2.Response]") -> list[str]:
    """The codes of refusals; ``done`` where there is none."""
    bodies = [answer.result().json() for answer in answers]
    return [body.get("code", "done") for body in bodies]


def test_that_holds_captures_voids_and_transfers_share_commits(shop, tmp_path):
    whole, part, given_up, fought_for = placed(shop, 500, 500, 500, 500)
    before = commits_of(shop)
    sent: dict[str, tuple[dict[str, Any], Future[httpx2.Response]]] = {}
    with crowd(shop, tmp_path) as waiting:

        def send(name: str, **request: Any) -> "Future[httpx2.Response]":
            key = f"{name}-{new_id()}"
            sent[key] = (request, waiting.send(key, **request))
            return sent[key][1]

        fine = [send(f"transfer {n}") for n in range(5)]
        fine += [send(f"hold {n}", path="/v1/holds") for n in range(5)]
        fine += [send("whole", **capture_of(whole)), send("void", **void_of(given_up))]
        fine += [send(f"part {n}", **capture_of(part, amount=200)) for n in range(2)]
        too_much = send("too much", **capture_of(part, amount=501))
        poor = send("poor", path="/v1/holds", amount=1_000_000)
        nothing = send("nothing", path=f"/v1/holds/{new_id()}/capture", body={})
        no_posting = send("no posting", **capture_of(part, postings=[NO_POSTING]))
        fight = [
            send("one", **capture_of(fought_for)),
            send("two", **void_of(fought_for)),
        ]
        waiting.release()

    assert results(*fine) == ["done"] * len(fine)
    assert results(too_much, poor) == ["capture_exceeds_hold", "insufficient_funds"]
    assert results(nothing, no_posting) == ["hold_not_found", "invalid_request"]
    assert sorted(results(*fight)) == ["done", "hold_not_active"]
    taken = 500 if results(fight[0]) == ["done"] else 0
    assert shop.moved() == 6 * 100 + 500 + 400 + taken
    assert fresh(shop.source).debits_pending == 5 * 100 + 100
    # The first was alone. What waited behind it need not be one batch only.
    assert 2 <= commits_of(shop) - before <= 8
    assert audit_run(ledger_slug=shop.ledger.slug).is_sound
    get_redis_connection("default").flushdb()
    with Web(tmp_path) as web:
        for key, (request, answer) in sent.items():
            again = shop.send(web, idempotency_key=key, **request)
            assert again.content == answer.result().content
            is_stored = answer not in (nothing, no_posting)
            assert ("Idempotent-Replayed" in again.headers) == is_stored
    assert shop.moved() == 6 * 100 + 500 + 400 + taken


def test_that_a_hold_which_lapses_while_it_waits_is_captured_by_nobody(shop, tmp_path):
    (lapsing,) = placed(shop, 500, lifetime=timedelta(seconds=1))
    with crowd(shop, tmp_path) as waiting:
        late = [waiting.send(**capture_of(lapsing)), waiting.send(**void_of(lapsing))]
        needy = waiting.send(amount=99_900)
        wait_until(lambda: has_lapsed(lapsing))
        waiting.release()

    assert results(*late, needy) == ["hold_expired", "hold_expired", "done"]
    assert fresh(shop.source).debits_pending == 0
    assert audit_run(ledger_slug=shop.ledger.slug).is_sound


def has_lapsed(hold: HoldView) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp() >= %s", [hold.row.expires_at])
        (lapsed,) = cursor.fetchone()
    return bool(lapsed)


def test_that_of_all_who_meet_on_a_hold_one_wins(shop, tmp_path):
    holds = placed(shop, *[100] * 12)
    lapsing = placed(shop, *[100] * 6, lifetime=timedelta(seconds=1))
    with Web(tmp_path, WEB_WORKERS="2") as web, ThreadPoolExecutor(40) as pool:

        def send(**request: Any) -> "Future[httpx2.Response]":
            return pool.submit(
                shop.send, web, idempotency_key=f"key-{new_id()}", **request
            )

        wait_until(lambda: has_lapsed(lapsing[0]))
        of_each = [
            [send(**request) for request in (capture_of(hold), void_of(hold)) * 2]
            for hold in holds + lapsing
        ]
        transfers = [send() for _ in range(20)]
        with transaction_owner():
            holds_expire(ledger_id=shop.ledger.id, now=now())
        ends = [sorted(results(*answers)) for answers in of_each]

    assert ends[:12] == [["done", *["hold_not_active"] * 3]] * 12
    assert ends[12:] == [["hold_expired"] * 4] * 6
    assert results(*transfers) == ["done"] * 20
    captured = Transfer.objects.filter(ledger_id=shop.ledger.id, kind="capture").count()
    assert shop.moved() == 100 * (20 + captured)
    report = audit_run(ledger_slug=shop.ledger.slug)
    assert report.is_sound, report.findings


@pytest.fixture
def tripwire(committed_db: None) -> Iterator[None]:
    """A database in which a transfer with the description "boom" hits a bug."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION tripwire() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'boom'; END $$;
            CREATE TRIGGER tripwire BEFORE INSERT ON ledger_transfer
            FOR EACH ROW WHEN (new.description = 'boom') EXECUTE FUNCTION tripwire();
            """
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION tripwire CASCADE")


def test_that_ones_error_is_nobody_elses(shop, tmp_path, tripwire):
    taken, kept, given_up = placed(shop, 500, 500, 500)
    with crowd(shop, tmp_path) as waiting:
        fine = [waiting.send() for _ in range(5)]
        broken = [
            waiting.send(description="boom"),
            waiting.send(**capture_of(kept, description="boom")),
        ]
        of_holds = [
            waiting.send(path="/v1/holds"),
            waiting.send(**capture_of(taken)),
            waiting.send(**void_of(given_up)),
        ]
        fine += [waiting.send() for _ in range(5)]
        waiting.release()
        log = (waiting._web.log).read_text()

    assert [answer.result().status_code for answer in broken] == [500, 500]
    assert results(*of_holds) == ["done"] * 3
    assert [answer.result().status_code for answer in fine] == [201] * 10
    assert shop.moved() == 11 * 100 + 500
    assert fresh(shop.source).debits_pending == 500 + 100
    assert "coalesced_requests_failed" in log


def test_that_a_locked_account_holds_up_only_those_who_want_it(shop, tmp_path):
    with transaction_owner():
        locked = AccountFactory(ledger=shop.ledger)
        # Only PostgreSQL knows which accounts their captures want.
        holds = [place(shop.source, locked, 100) for _ in range(6)]
        others = [
            (
                AccountFactory(ledger=shop.ledger, balance=1_000),
                AccountFactory(ledger=shop.ledger),
            )
            for _ in range(20)
        ]
    with (
        Web(tmp_path, WEB_WORKERS="1") as web,
        ThreadPoolExecutor(40) as pool,
        other_session() as session,
    ):
        session.execute(
            "SELECT FROM ledger_account WHERE id = %s FOR UPDATE", [locked.id]
        )

        def send(**changes: Any) -> "Future[httpx2.Response]":
            key = f"key-{new_id()}"
            return pool.submit(shop.send, web, idempotency_key=key, **changes)

        stuck = [send(to_account_id=str(locked.id)) for _ in range(6)]
        stuck += [send(**capture_of(hold)) for hold in holds]
        free = [
            send(from_account_id=str(source.id), to_account_id=str(target.id))
            for source, target in others
        ]
        assert [answer.result().status_code for answer in free] == [201] * 20
        busy = [answer.result() for answer in stuck]
        session.rollback()
        again = send(to_account_id=str(locked.id)).result()
        captured = send(**capture_of(holds[0])).result()

    assert {answer.json()["code"] for answer in busy} == {"ledger_busy"}
    assert (again.status_code, captured.status_code) == (201, 201)
    assert fresh(locked).posted == 200


def test_that_sessions_which_postgresql_cut_cost_no_request(shop, tmp_path):
    with Web(tmp_path, WEB_WORKERS="1") as web:
        assert shop.send(web, idempotency_key=f"key-{new_id()}").status_code == 201
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'payflow'"
                " AND pid <> pg_backend_pid() AND state = 'idle'"
            )
            (cut,) = cursor.fetchone()
        answer = shop.send(web, idempotency_key=f"key-{new_id()}")

    assert cut > 0
    assert answer.status_code == 201, answer.text
    assert shop.moved() == 200


def test_that_nobody_waits_for_others_with_a_connection_in_hand(shop, tmp_path):
    # More requests than connections, all of which have to ask for the key at first.
    with (
        Web(tmp_path, WEB_WORKERS="1", DATABASE_POOL_SIZE="4") as web,
        ThreadPoolExecutor(40) as pool,
    ):
        answers = pool.map(
            lambda number: shop.send(web, idempotency_key=f"key-{number}"), range(40)
        )

        assert {answer.status_code for answer in answers} == {201}
        assert "ledger_busy" not in web.log.read_text()


@pytest.mark.django_db
def test_that_who_cannot_ask_valkey_in_a_crowd_goes_on_without_it(monkeypatch):
    monkeypatch.setattr("payflow.greenlets.are_in_use", lambda: True)
    monkeypatch.setattr("payflow.coalescing.MOST_WAITING", 0)

    found = store.claim_or_find(ledger_id=new_id(), client_id=new_id(), key="key")

    assert found is None
