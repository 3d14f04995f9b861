"""Metrics: who may read them, and that they are one whole over several processes."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from django.db import OperationalError, transaction
from django.db.backends.utils import CursorWrapper
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from ledger.services.posting import transfers_post
from ledger.types import PostingRequest, TransferRequest
from outbox.enums import TaskKind, TaskState
from outbox.tests.factories import ACTOR, make_account, make_task, make_tasks
from payflow import metrics
from payflow.clock import now
from payflow.ids import new_id
from payflow.tests.processes import Web, wait_until

TOKEN = "a token that is long enough"


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and label values, these in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def here() -> dict[tuple[str, ...], float]:
    """The samples of this process and its database."""
    return samples(metrics.metrics_text().decode())


# --- who may read -------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, 200),
        ({"REMOTE_ADDR": "::1"}, 200),
        ({"REMOTE_ADDR": "10.0.0.7"}, 401),
        ({"REMOTE_ADDR": ""}, 401),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 401),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "for=127.0.0.1"}, 401),
    ],
)
def test_without_a_token_only_this_host_reads(
    client: Client, headers: dict[str, Any], status: int
) -> None:
    response = client.get("/metrics", **headers)

    assert response.status_code == status


def test_a_page_that_calls_this_host_by_a_foreign_name_reads_nothing(
    client: Client, settings: Any
) -> None:
    settings.ALLOWED_HOSTS = ["localhost"]

    assert client.get("/metrics", HTTP_HOST="rebound.example").status_code == 400


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer é", 401),
        ("", 401),
    ],
)
def test_a_token_is_asked_of_everybody(
    client: Client, settings: Any, given: str, status: int
) -> None:
    settings.METRICS_TOKEN = TOKEN

    response = client.get("/metrics", HTTP_AUTHORIZATION=given)

    assert response.status_code == status


def test_metrics_that_are_switched_off_are_not_there(
    client: Client, settings: Any
) -> None:
    settings.METRICS_ENABLED = False

    assert client.get("/metrics").status_code == 404


# --- what they say ------------------------------------------------------------------


@pytest.mark.usefixtures("committed_db")
def test_posted_and_refused_transfers_count_once_they_are_committed() -> None:
    ledger_id = new_id()
    make_task(ledger_id=ledger_id, kind=TaskKind.TRANSFER_POSTED)
    with transaction.atomic():
        poor = make_account(ledger_id)
        rich = make_account(ledger_id, min_balance=None)

    def post(*, roll_back: bool) -> None:
        with transaction.atomic():
            transfers_post(
                ledger_id=ledger_id,
                requests=[
                    TransferRequest((PostingRequest(rich.id, poor.id, 5),)),
                    TransferRequest((PostingRequest(rich.id, poor.id, 7),)),
                    TransferRequest((PostingRequest(poor.id, rich.id, 100),)),
                ],
                actor=ACTOR,
                now=now(),
            )
            transaction.set_rollback(roll_back)

    before = here()
    post(roll_back=True)
    rolled_back = here()
    post(roll_back=False)
    after = here()

    posted = ("payflow_transfers_posted_total",)
    refused = ("payflow_transfers_refused_total", "insufficient_funds")
    assert rolled_back[posted] == before[posted]
    assert rolled_back.get(refused) == before.get(refused)
    assert after[posted] == before[posted] + 2
    assert after[refused] == before.get(refused, 0) + 1


@pytest.mark.django_db
def test_the_outbox_is_counted_as_it_is() -> None:
    ledger_id = new_id()
    before = here()

    make_tasks(ledger_id=ledger_id, count=3, due_at=now() - timedelta(hours=2))
    make_task(ledger_id=ledger_id, state=TaskState.DEAD, finished_at=now())

    after = here()
    tasks = "payflow_outbox_tasks"
    for state, more in (("pending", 3), ("dead", 1), ("leased", 0)):
        assert after[tasks, "payout", state] == before[tasks, "payout", state] + more
    assert after["payflow_outbox_oldest_due_seconds", "payout"] >= 3_600


@pytest.mark.django_db
def test_without_the_database_the_page_says_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(CursorWrapper, "execute", away)

    response = client.get("/metrics")

    assert response.status_code == 200
    found = samples(response.content.decode())
    assert found["payflow_database_up",] == 0
    assert "payflow_transfers_posted_total" in {name for name, *_ in found}


def test_an_unknown_method_and_path_make_no_label_of_their_own() -> None:
    metrics.request_finished(route=None, method="INVENTED", status=404, seconds=0.001)

    found = samples(metrics.generate_latest(metrics.REGISTRY).decode())
    assert found["payflow_http_requests_total", "other", "unmatched", "404"] >= 1
    assert not any("INVENTED" in labels for labels in found)


# --- over several processes ---------------------------------------------------------


@pytest.mark.usefixtures("committed_db")
def test_any_worker_tells_what_all_have_counted(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    environment = {"WEB_WORKERS": "2", "PROMETHEUS_MULTIPROC_DIR": str(directory)}

    def ask(path: str) -> httpx2.Response:
        # A connection of its own, so that either worker may get it.
        return httpx2.get(f"{web.url}{path}", timeout=10)

    def livez() -> float:
        found = samples(ask("/metrics").text)
        return found["payflow_http_requests_total", "GET", "/livez", "200"]

    def workers() -> dict[int, psutil.Process]:
        children = psutil.Process(web.pid).children()
        return {child.pid: child for child in children if child.is_running()}

    def counting() -> set[int]:
        files = directory.glob("counter_*.db")
        return {int(file.stem.removeprefix("counter_")) for file in files}

    with Web(tmp_path, **environment) as web:
        wait_until(lambda: counting() >= set(workers()) and len(workers()) == 2)
        for _ in range(40):
            assert ask("/livez").status_code == 200
        assert livez() == 40
        assert livez() == 40

        first = min(workers())
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(set(workers()) - {first}) == 2)
        wait_until(lambda: not (directory / f"gauge_livesum_{first}.db").exists())

        assert livez() == 40
        # One that is told to stop before it listens would not hear it.
        wait_until(lambda: counting() >= set(workers()))

    with Web(tmp_path, **environment) as web:
        ask("/livez")

        assert livez() == 1


@pytest.mark.usefixtures("committed_db")
def test_the_directory_that_gunicorn_makes_goes_with_it(tmp_path: Path) -> None:
    with Web(tmp_path, PROMETHEUS_MULTIPROC_DIR="") as web:
        files = {
            Path(file.path)
            for child in psutil.Process(web.pid).children()
            for file in child.memory_maps()
            if "payflow-metrics-" in file.path
        }
        assert files
        assert {file.parent.name.split("-")[2] for file in files} == {str(web.pid)}

    assert not any(file.parent.exists() for file in files)
