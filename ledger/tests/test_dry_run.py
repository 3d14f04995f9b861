"""Dry runs: the answer of a request of which nothing is kept."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import redis
from django.apps import apps
from django.conf import settings
from django.db import connections, transaction

from idempotency.models import IdempotencyKey
from ledger.tests.factories import (
    AccountFactory,
    ApiClientFactory,
    LedgerFactory,
    fresh,
    move,
)
from ledger.tests.test_api import Api, field_codes, problem
from ledger.tests.test_as_of import wait_for_blocked_reader
from payflow.db import transaction_owner
from payflow.errors import Problem
from payflow.execution import Rendered, execute
from payflow.ids import new_id
from payflow.tests.processes import database_url

BATCH = "/v1/transfers/batch"


class Books(Api):
    """A source with 1,000 and a target."""

    def __init__(self) -> None:
        super().__init__()
        self.source = AccountFactory(ledger=self.ledger, balance=1_000)
        self.target = AccountFactory(ledger=self.ledger)

    def body(self, amount: int = 10, **fields: Any) -> dict[str, Any]:
        return {
            "from_account_id": str(self.source.id),
            "to_account_id": str(self.target.id),
            "amount": amount,
            **fields,
        }

    def contents(self) -> dict[str, list[str]]:
        """Every row of every table, of this ledger where the table has ledgers."""
        found = {}
        for app in ("ledger", "outbox", "idempotency"):
            for model in apps.get_app_config(app).get_models():
                rows = model._default_manager.all()
                if any(f.attname == "ledger_id" for f in model._meta.fields):
                    rows = rows.filter(ledger_id=self.ledger.id)
                found[model._meta.db_table] = sorted(map(str, rows.values_list()))
        return found


@pytest.fixture
def books(db: None) -> Books:
    return Books()


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """A transfer's resource without what no two requests have in common."""
    return document | {"id": None, "created_at": None, "effective_at": None}


@pytest.mark.parametrize("path", ["/transfer", "/v1/transfers"])
def test_a_dry_run_answers_as_in_earnest_and_writes_nothing(
    books, path, django_capture_on_commit_callbacks
):
    body = books.body(reference="r", description="d", metadata={"a": 1})
    before = books.contents()

    with django_capture_on_commit_callbacks() as callbacks:
        dry = books.send(path, {**body, "dry_run": True}, key=None)
    after = books.contents()
    earnest = books.send(path, body)

    assert dry.status_code == 200
    assert "Location" not in dry
    assert after == before
    assert callbacks == []
    document = dry.json()
    assert (document["id"], document.pop("dry_run")) == (None, True)
    assert [b["posted"] for b in document["balances"]] == [990, 10]
    assert comparable(document) == comparable(earnest.json())
    assert earnest.status_code == 201


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": 5_000}, "insufficient_funds"),
        ({"to_account_id": str(new_id())}, "account_not_found"),
        ({"amount": 0}, "invalid_request"),
    ],
)
def test_a_refusal_is_the_same_document_as_in_earnest(books, change, code):
    body = books.body() | change

    dry = books.send("/transfer", {**body, "dry_run": True}, key="dry")
    earnest = books.send("/transfer", body, key="earnest")

    assert problem(dry)["code"] == code
    assert (dry.status_code, dry.content) == (earnest.status_code, earnest.content)
    assert not IdempotencyKey.objects.filter(key="dry").exists()


def test_a_key_that_is_sent_is_neither_looked_up_nor_taken(books):
    done = books.send("/v1/transfers", books.body(), key="used")
    with redis.Redis.from_url(settings.REDIS_URL) as valkey:
        before = set(valkey.keys())

        for key in ("used", "never-used", "n,o key", "x" * 300):
            dry = books.send("/v1/transfers", books.body(7, dry_run=True), key=key)
            assert (dry.status_code, dry.json()["id"]) == (200, None)
            assert "Idempotent-Replayed" not in dry

        assert set(valkey.keys()) <= before
    assert IdempotencyKey.objects.filter(ledger_id=books.ledger.id).count() == 1
    replayed = books.send("/v1/transfers", books.body(), key="used")
    assert replayed.content == done.content
    assert (
        books.send("/v1/transfers", books.body(), key="never-used").status_code == 201
    )


@pytest.mark.parametrize("value", [1, "true", None, [True]])
def test_what_only_looks_like_a_dry_run_is_refused(books, value):
    for path, body in (
        ("/v1/transfers", books.body(dry_run=value)),
        (BATCH, {"transfers": [books.body()], "dry_run": value}),
    ):
        assert field_codes(books.send(path, body)) == {"dry_run": "not_a_boolean"}
        assert problem(books.send(path, body, key=None))["code"] == (
            "idempotency_key_missing"
        )


def test_a_dry_run_that_is_false_is_in_earnest_and_part_of_the_request(books):
    made = books.send("/v1/transfers", books.body(dry_run=False), key="k")
    other = books.send("/v1/transfers", books.body(), key="k")

    assert (made.status_code, "dry_run" in made.json()) == (201, False)
    assert problem(other)["differing_fields"] == ["dry_run"]


def test_making_and_changing_accounts_and_assets_can_be_tried(books):
    path = f"/v1/accounts/{books.source.id}"
    asset = {"code": "GOLD", "name": "Gold", "exponent": 3, "dry_run": True}
    before = books.contents()

    made = books.send("/v1/accounts", {"currency": "USD", "dry_run": True})
    changed = books.send(path, {"owner_name": "Ada", "dry_run": True}, method="patch")
    asset_made = books.send("/v1/assets", asset)

    assert [r.status_code for r in (made, changed, asset_made)] == [200] * 3
    assert (made.json()["id"], made.json()["currency"]) == (None, "USD")
    assert changed.json()["id"] == str(books.source.id)
    assert changed.json()["owner_name"] == "Ada"
    assert (asset_made.json()["id"], asset_made.json()["code"]) == (None, "GOLD")
    for response in (made, changed, asset_made):
        assert response.json()["dry_run"] is True
        assert "Location" not in response
    assert books.contents() == before


@pytest.mark.parametrize("atomic", [True, False])
def test_a_batch_is_tried_with_all_its_items_and_nothing_is_kept(books, atomic):
    items = [books.body(600, idempotency_key="a"), books.body(400)]
    body = {"atomic": atomic, "transfers": items}
    before = books.contents()

    dry = books.send(BATCH, {**body, "dry_run": True}, key=None)
    after = books.contents()
    earnest = books.send(BATCH, body)

    assert dry.status_code == 200
    assert after == before
    document = dry.json()
    assert document.pop("dry_run") is True
    real = earnest.json()
    if not atomic:
        assert [i.pop("status") for i in document["data"]] == [201, 201]
        document["data"] = [i["transfer"] for i in document["data"]]
        real["data"] = [i["transfer"] for i in real["data"]]
    assert [t["id"] for t in document["data"]] == [None, None]
    assert [t["balances"][0]["posted"] for t in document["data"]] == [400, 0]
    assert [comparable(t) for t in document["data"]] == [
        comparable(t) for t in real["data"]
    ]


def test_refusals_of_a_batch_that_is_tried_are_those_in_earnest(books):
    items = [books.body(600), books.body(600)]
    before = books.contents()

    dry = books.send(BATCH, {"transfers": items, "dry_run": True}, key=None)
    alone = books.send(
        BATCH, {"transfers": items, "atomic": False, "dry_run": True}, key=None
    )
    after = books.contents()
    earnest = books.send(BATCH, {"transfers": items})

    assert (dry.status_code, dry.content) == (422, earnest.content)
    assert [item["status"] for item in alone.json()["data"]] == [201, 422]
    assert after == before


def test_the_keys_of_a_tried_batch_s_items_are_ignored(books):
    books.send("/v1/transfers", books.body(1), key="used")
    items = [books.body(2, idempotency_key="used")]

    response = books.send(BATCH, {"transfers": items, "dry_run": True}, key=None)

    assert response.status_code == 200
    assert response.json()["data"][0]["balances"][1]["posted"] == 3


def test_every_step_of_a_hold_and_a_reversal_can_be_tried(books):
    hold = books.send("/v1/holds", books.body(100)).json()
    moved = books.send("/v1/transfers", books.body(50)).json()
    path = f"/v1/holds/{hold['id']}"
    steps = [
        ("/v1/holds", books.body(10), None),
        (f"{path}/capture", {"amount": 40}, None),
        (f"{path}/extend", {"lifetime_seconds": 2_000_000}, hold["id"]),
        (f"{path}/void", {}, hold["id"]),
        (f"/v1/transfers/{moved['id']}/reverse", {"reason": "duplicate"}, None),
    ]

    for where, body, shown_id in steps:
        before = books.contents()
        dry = books.send(where, {**body, "dry_run": True}, key=None)

        assert (dry.status_code, "Location" in dry) == (200, False), dry.content
        assert (dry.json()["dry_run"], dry.json()["id"]) == (True, shown_id), where
        assert books.contents() == before, where


# --- The kernel -------------------------------------------------------------------


def rendered(outcome: object) -> Rendered:
    return Rendered(200, str(outcome).encode())


def test_that_a_dry_run_leaves_no_lock_no_row_and_no_hook(committed_db):
    with transaction_owner():
        ledger = LedgerFactory()
        source = AccountFactory(ledger=ledger, balance=100)
        target = AccountFactory(ledger=ledger)
    hooks: list[str] = []

    def command() -> str:
        move(source, target, 30)
        transaction.on_commit(lambda: hooks.append("ran"))
        return str(fresh(source).posted)

    answer = execute(command, rendered, dry_run=True)

    assert answer.body == b"70"
    assert hooks == []
    assert fresh(source).posted == 100
    with psycopg.connect(database_url()) as other:
        locked = other.execute(
            "SELECT id FROM ledger_account WHERE ledger_id = %s FOR UPDATE NOWAIT",
            [ledger.id],
        ).fetchall()
    assert {source.id, target.id} <= {account_id for (account_id,) in locked}
    # The connection goes on in earnest.
    assert execute(command, rendered).body == b"70"
    assert hooks == ["ran"]


def test_that_a_transfer_that_waits_for_a_dry_run_finds_nothing_of_it(committed_db):
    with transaction_owner():
        ledger = LedgerFactory()
        source = AccountFactory(ledger=ledger, balance=100)
        target = AccountFactory(ledger=ledger)
    tried, release = threading.Event(), threading.Event()

    def send() -> str:
        return type(move(source, target, 100)).__name__

    def send_and_wait() -> str:
        outcome = send()
        tried.set()
        assert release.wait(30)
        return outcome

    def run(command: Callable[[], str], *, dry_run: bool) -> bytes:
        try:
            return execute(command, rendered, dry_run=dry_run).body
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        dry = pool.submit(run, send_and_wait, dry_run=True)
        assert tried.wait(30)
        earnest = pool.submit(run, send, dry_run=False)
        wait_for_blocked_reader()
        release.set()

    # The money is there for both: what was tried was taken back first.
    assert (dry.result(), earnest.result()) == (b"PostedTransfer", b"PostedTransfer")
    assert (fresh(source).posted, fresh(target).posted) == (0, 100)
    assert fresh(target).version == 1


def test_that_a_refusal_in_a_dry_run_rolls_back_too(committed_db):
    name = f"client-{new_id()}"
    with transaction_owner():
        ledger = LedgerFactory()

    def command() -> Problem:
        ApiClientFactory(ledger=ledger, name=name)
        return Problem("insufficient_funds", "Refused after a write.")

    execute(command, rendered, dry_run=True)

    assert not apps.get_model("ledger", "ApiClient").objects.filter(name=name).exists()


def test_that_a_dry_run_takes_no_claim():
    with pytest.raises(ValueError, match="no idempotency key"):
        execute(lambda: 1, rendered, claim=object(), dry_run=True)  # type: ignore[arg-type]
