"""A process does not start on a server that could lose money."""

from datetime import timedelta

import pytest
from django.db import connection

from ledger.models import IntegrityStatus
from payflow.clock import now
from payflow.db import database_refusals
from payflow.startup import REFUSE_TO_BOOT, prepare_web_worker

pytestmark = pytest.mark.django_db


def run(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def test_a_sound_server_is_accepted():
    assert database_refusals() == []


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("synchronous_commit", "off", "synchronous_commit is off"),
        ("default_transaction_isolation", "'repeatable read'", "repeatable read"),
    ],
)
def test_a_server_that_may_lose_commits_is_refused(
    setting, value, reason, client, monkeypatch
):
    run(f"SET LOCAL {setting} = {value}")
    monkeypatch.setattr("django.db.connections.close_all", lambda: None)

    assert any(reason in refusal for refusal in database_refusals())
    response = client.get("/readyz")
    assert response.status_code == 503
    assert reason in response.json()["reasons"][0]
    with pytest.raises(SystemExit) as caught:
        prepare_web_worker()
    assert caught.value.code == REFUSE_TO_BOOT


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (-90, "clock is 90 seconds behind PostgreSQL's"),
        (-55, None),
        (55, None),
        (90, "clock is 90 seconds ahead of PostgreSQL's"),
    ],
)
def test_a_process_whose_clock_is_not_postgresqls_is_refused(
    seconds, reason, client, monkeypatch
):
    shift = timedelta(seconds=seconds)
    monkeypatch.setattr("payflow.db.now", lambda: now() + shift)
    monkeypatch.setattr("django.db.connections.close_all", lambda: None)

    response = client.get("/readyz")

    if reason is None:
        assert response.status_code == 200
        assert database_refusals() == []
        return
    assert response.status_code == 503
    assert reason in response.json()["reasons"][0]
    with pytest.raises(SystemExit) as caught:
        prepare_web_worker()
    assert caught.value.code == REFUSE_TO_BOOT


def test_a_worker_brings_the_health_up_to_date(client, monkeypatch):
    monkeypatch.setattr("django.db.connections.close_all", lambda: None)
    run("DELETE FROM ledger_integrity_status")
    assert client.get("/health").status_code == 503

    prepare_web_worker()

    assert client.get("/health").json() == {
        "status": "healthy",
        "ledger_integrity_sum": 0,
    }


def test_health_is_unhealthy_when_the_number_is_stale_or_not_zero(client):
    run(
        "INSERT INTO ledger_integrity_status VALUES (1, 0, now() - interval '1 minute')"
        " ON CONFLICT (id) DO UPDATE SET computed_at = excluded.computed_at"
    )
    stale = client.get("/health")
    IntegrityStatus.objects.update(integrity_sum=7, computed_at="2999-01-01T00:00Z")
    broken = client.get("/health")

    assert (stale.status_code, stale.json()["status"]) == (503, "unhealthy")
    assert broken.status_code == 503
    assert broken.content == b'{"status":"unhealthy","ledger_integrity_sum":7}'


def test_liveness_asks_nobody(client, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert client.get("/livez").json() == {"status": "alive"}


def test_readiness_does_not_depend_on_valkey(client, settings, monkeypatch):
    from redis.exceptions import ConnectionError as ValkeyDown

    def down(_: str) -> None:
        raise ValkeyDown

    monkeypatch.setattr("payflow.health.get_redis_connection", down)

    response = client.get("/readyz")

    assert (response.status_code, response.json()["valkey"]) == (200, "down")
