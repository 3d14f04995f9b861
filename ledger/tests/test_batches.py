"""Batches: all or none, or each alone, and the keys of their items."""

import json
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from idempotency.models import IdempotencyKey
from idempotency.services import lock_number
from ledger.models import Account, Entry, Transfer
from ledger.services.batches import BatchRefusal, batch_post
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    transfer_request,
)
from ledger.tests.test_api import Api, field_codes, problem
from ledger.types import PostedTransfer, TransferRequest
from outbox.models import OutboxTask
from outbox.wakeup import wake_dispatcher
from payflow.api.rendering import ENCODED_AT_ONCE
from payflow.clock import now
from payflow.errors import Problem
from payflow.ids import new_id
from payflow.tests.processes import database_url

pytestmark = pytest.mark.django_db

BATCH = "/v1/transfers/batch"


# --- The service ------------------------------------------------------------------


@pytest.fixture
def accounts(db: None) -> list[Account]:
    """Three accounts of one ledger; the first has 100."""
    ledger = LedgerFactory()
    first = AccountFactory(ledger=ledger, balance=100)
    return [first, AccountFactory(ledger=ledger), AccountFactory(ledger=ledger)]


def post_batch(
    *requests: TransferRequest,
    ledger_id: Any,
    is_atomic: bool = True,
    decided: dict[int, bool] | None = None,
) -> Any:
    return batch_post(
        ledger_id=ledger_id,
        requests=requests,
        is_atomic=is_atomic,
        decided=decided or {},
        actor=ACTOR,
        now=now(),
    )


@pytest.mark.parametrize("is_atomic", [True, False])
def test_that_later_items_see_the_balances_that_earlier_ones_leave(accounts, is_atomic):
    a, b, c = accounts

    outcomes = post_batch(
        transfer_request(a, b, 100),
        transfer_request(b, c, 100),
        ledger_id=a.ledger_id,
        is_atomic=is_atomic,
    )

    assert all(isinstance(outcome, PostedTransfer) for outcome in outcomes)
    assert [fresh(x).posted for x in accounts] == [0, 0, 100]


def test_that_an_atomic_batch_names_its_first_refusal_and_writes_nothing(
    accounts, django_capture_on_commit_callbacks
):
    a, b, _ = accounts
    before = [fresh(x).version for x in accounts]

    with django_capture_on_commit_callbacks() as callbacks:
        outcome = post_batch(
            transfer_request(a, b, 60),
            transfer_request(a, b, 60),
            transfer_request(a, a, 1),
            ledger_id=a.ledger_id,
        )

    assert isinstance(outcome, BatchRefusal)
    assert outcome.index == 1
    assert outcome.problem.code == "insufficient_funds"
    assert outcome.problem.fields["available"] == 40
    assert [fresh(x).version for x in accounts] == before
    assert Transfer.objects.filter(ledger_id=a.ledger_id, kind="transfer").count() == 0
    assert wake_dispatcher not in callbacks


def test_that_each_item_stands_alone_in_a_batch_that_is_not_atomic(accounts):
    a, b, c = accounts

    first, refused, last = post_batch(
        transfer_request(a, b, 60),
        transfer_request(a, c, 60),
        transfer_request(a, c, 40),
        ledger_id=a.ledger_id,
        is_atomic=False,
    )

    assert isinstance(first, PostedTransfer)
    assert isinstance(refused, Problem)
    assert isinstance(last, PostedTransfer)
    assert [fresh(x).posted for x in accounts] == [0, 60, 40]


def test_that_items_that_are_decided_are_not_posted(accounts):
    a, b, _ = accounts

    outcomes = post_batch(
        transfer_request(a, b, 1),
        transfer_request(a, b, 2),
        ledger_id=a.ledger_id,
        decided={0: True},
    )

    assert outcomes[0] is None
    assert isinstance(outcomes[1], PostedTransfer)
    assert fresh(b).posted == 2


@pytest.mark.parametrize(("refused_before", "first"), [(0, 0), (1, 1), (3, 2)])
def test_that_refusals_by_rule_and_by_key_are_in_one_order(
    accounts, refused_before, first
):
    a, b, _ = accounts
    requests = [transfer_request(a, b, amount) for amount in (1, 1, 1_000, 1)]

    outcome = post_batch(
        *requests, ledger_id=a.ledger_id, decided={refused_before: False}
    )

    assert isinstance(outcome, BatchRefusal)
    assert outcome.index == first
    assert (outcome.problem is None) == (first == refused_before)
    assert fresh(b).posted == 0


# --- The API ----------------------------------------------------------------------


class Books(Api):
    """A source with 1,000, a target, and bodies of transfers between them."""

    def __init__(self) -> None:
        super().__init__()
        self.source = AccountFactory(ledger=self.ledger, balance=1_000)
        self.target = AccountFactory(ledger=self.ledger)

    def item(self, amount: int = 10, **fields: Any) -> dict[str, Any]:
        return {
            "from_account_id": str(self.source.id),
            "to_account_id": str(self.target.id),
            "amount": amount,
            **fields,
        }

    def batch(self, *items: Any, key: str = "", **fields: Any) -> Any:
        return self.send(BATCH, {"transfers": items, **fields}, key=key)

    def single(self, key: str, amount: int = 10, **fields: Any) -> Any:
        return self.send("/v1/transfers", self.item(amount, **fields), key=key)

    def moved(self) -> int:
        return fresh(self.target).posted

    def row(self, key: str) -> IdempotencyKey | None:
        return IdempotencyKey.objects.filter(ledger_id=self.ledger.id, key=key).first()

    def purge(self, *keys: str) -> None:
        IdempotencyKey.objects.filter(ledger_id=self.ledger.id, key__in=keys).update(
            response_headers=None, response_body=None, purged_at=now()
        )


@pytest.fixture
def books(db: None) -> Books:
    return Books()


def test_an_atomic_batch_is_made_shown_and_replayed(books):
    items = [books.item(n, reference=f"r{n}") for n in (3, 1, 2)]

    first = books.batch(*items, key="batch-1")
    again = books.batch(*items, key="batch-1")

    assert first.status_code == 201
    made = first.json()
    assert made.keys() == {"atomic", "data"}
    assert made["atomic"] is True
    assert [t["reference"] for t in made["data"]] == ["r3", "r1", "r2"]
    assert [t["balances"][1]["posted"] for t in made["data"]] == [3, 4, 6]
    for transfer in made["data"]:
        assert books.get(f"/v1/transfers/{transfer['id']}").json() == transfer
    assert again.content == first.content
    assert again["Idempotent-Replayed"] == "true"
    assert books.moved() == 6
    rows = Transfer.objects.filter(ledger_id=books.ledger.id, kind="transfer")
    assert {row.idempotency_key for row in rows} == {"batch-1"}
    assert OutboxTask.objects.filter(transfer_id__in=[r.id for r in rows]).count() == 3


def test_a_batch_needs_a_key_and_a_list_of_transfers(books):
    assert problem(books.send(BATCH, {"transfers": [books.item()]}, key=None))[
        "code"
    ] == ("idempotency_key_missing")
    assert field_codes(books.send(BATCH, {})) == {"transfers": "missing"}
    assert field_codes(books.batch()) == {"transfers": "empty"}
    assert field_codes(books.send(BATCH, {"transfers": {}})) == {
        "transfers": "not_a_list"
    }
    assert field_codes(books.send(BATCH, [])) == {"": "not_an_object"}
    assert field_codes(books.batch(books.item(), atomic="true", x=1)) == {
        "atomic": "not_a_boolean",
        "x": "unknown_field",
    }


def test_errors_of_items_say_where_and_have_an_end(books):
    posting = books.item()
    bad = [
        books.item(0),
        5,
        {"postings": [posting, {**posting, "amount": "1"}]},
        {**posting, "postings": [posting]},
        books.item(dry_run=True, idempotency_key="ü"),
        books.item(idempotency_key=""),
    ]

    assert field_codes(books.batch(books.item(), *bad)) == {
        "transfers[1].amount": "not_positive",
        "transfers[2]": "not_an_object",
        "transfers[3].postings[1].amount": "not_an_integer",
        "transfers[4].postings": "two_forms",
        "transfers[5].dry_run": "unknown_field",
        "transfers[5].idempotency_key": "not_a_key",
        "transfers[6].idempotency_key": "empty",
    }
    assert len(field_codes(books.batch(*[books.item(0)] * 5_000))) == 100
    assert books.moved() == 0


def test_a_batch_beyond_its_limits_is_too_large(books, settings):
    posting = books.item()
    limits = {"max_transfers": 10_000, "max_postings": 25_000}

    many = problem(books.batch(*[{}] * 10_001, key="large"))
    broad = problem(books.batch(*[{"postings": [posting] * 500}] * 51, key="large"))
    settings.BATCH_MAX_BYTES = 100
    long = problem(books.batch(posting, key="large"))

    assert (many["code"], broad["code"]) == ("batch_too_large", "batch_too_large")
    assert limits.items() <= many.items()
    assert limits.items() <= broad.items()
    assert (long["code"], long["max_bytes"]) == ("body_too_large", 100)
    assert books.row("large") is None


def test_a_batch_may_be_larger_than_other_bodies(books, settings):
    padded = " " * settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    body = padded + json.dumps({"transfers": [books.item()]})

    assert books.send(BATCH, body).status_code == 201
    assert books.send("/v1/transfers", body).status_code == 413


def test_an_atomic_refusal_is_the_outcome_and_leaves_the_items_keys_free(books):
    items = [
        books.item(1, idempotency_key="item-0"),
        books.item(5_000, idempotency_key="item-1"),
        books.item(0 + 2, idempotency_key="item-2"),
    ]

    first = books.batch(*items, key="batch")
    Account.objects.filter(id=books.source.id).update(min_balance=None)
    again = books.batch(*items, key="batch")

    document = problem(first)
    assert (document["code"], document["index"]) == ("batch_refused", 1)
    inner = document["problem"]
    assert (inner["code"], inner["status"]) == ("insufficient_funds", 422)
    assert (inner["required"], inner["available"]) == (5_000, 999)
    assert again.content == first.content
    assert again["Idempotent-Replayed"] == "true"
    assert books.moved() == 0
    assert [books.row(f"item-{n}") for n in range(3)] == [None] * 3
    assert books.single("item-0", 7).status_code == 201, "with any other body"


def test_each_item_has_its_own_outcome_when_the_batch_is_not_atomic(books):
    missing = str(new_id())
    items = [
        books.item(1, idempotency_key="good"),
        books.item(5_000, idempotency_key="poor"),
        books.item(1, to_account_id=missing, idempotency_key="lost"),
        books.item(1, to_account_id=str(books.source.id)),
        books.item(2),
    ]

    response = books.batch(*items, atomic=False, key="batch")

    assert response.status_code == 200
    made = response.json()
    assert made["atomic"] is False
    good, poor, lost, same, last = made["data"]
    assert (good["status"], last["status"]) == (201, 201)
    assert good["transfer"]["postings"][0]["amount"] == 1
    assert (poor["status"], poor["problem"]["code"]) == (422, "insufficient_funds")
    assert (lost["status"], lost["problem"]["code"]) == (404, "account_not_found")
    assert (same["status"], same["problem"]["code"]) == (422, "same_account")
    assert books.moved() == 3
    assert books.batch(*items, atomic=False, key="batch").content == response.content
    # Each key holds what a single request's would: the refusal, and nothing for a 404.
    assert books.row("good").status == 201
    assert books.row("poor").status == 422
    assert books.row("lost") is None


@pytest.mark.parametrize("atomic", [True, False])
def test_the_items_of_a_long_answer_are_in_order(books, atomic):
    # With keys here and there, for an item with one is encoded by itself.
    keys = {0: {"idempotency_key": "k0"}, ENCODED_AT_ONCE: {"idempotency_key": "k1"}}
    items = [
        books.item(1, reference=f"r{n}", **keys.get(n, {}))
        for n in range(2 * ENCODED_AT_ONCE + 5)
    ]

    data = books.batch(*items, atomic=atomic, key="long").json()["data"]

    transfers = data if atomic else [item["transfer"] for item in data]
    assert [t["reference"] for t in transfers] == [i["reference"] for i in items]
    single = {k: v for k, v in items[ENCODED_AT_ONCE].items() if k != "idempotency_key"}
    replayed = books.send("/v1/transfers", single, key="k1")
    assert replayed.json() == transfers[ENCODED_AT_ONCE]
    other = transfers[ENCODED_AT_ONCE + 1]
    assert books.get(f"/v1/transfers/{other['id']}").json() == other


def test_a_single_request_replays_an_item_byte_for_byte(books):
    made = books.batch(
        books.item(1, idempotency_key="good", metadata={"b": 1, "a": "ü"}),
        books.item(5_000, idempotency_key="poor"),
        atomic=False,
    )
    good, poor = made.json()["data"]

    again = books.single("good", 1, metadata={"a": "ü", "b": 1})
    refused = books.single("poor", 5_000)
    other = books.single("good", 2)

    assert (again.status_code, refused.status_code) == (201, 422)
    assert again["Idempotent-Replayed"] == refused["Idempotent-Replayed"] == "true"
    assert again["Location"] == f"/v1/transfers/{good['transfer']['id']}"
    assert again.json() == good["transfer"]
    assert again.content in made.content
    assert refused["Content-Type"] == "application/problem+json"
    assert refused.content in made.content
    assert refused.json() == poor["problem"]
    assert problem(other)["differing_fields"] == ["amount", "metadata"]
    assert books.moved() == 1
    transfer = Transfer.objects.get(id=good["transfer"]["id"])
    assert transfer.idempotency_key == "good"


def test_an_item_replays_a_single_request_and_another_batch(books):
    single = books.single("one", 1)
    refused = books.single("two", 5_000)
    books.batch(books.item(3, idempotency_key="three"))
    items = [
        books.item(1, idempotency_key="one"),
        books.item(5_000, idempotency_key="two"),
        books.item(3, idempotency_key="three"),
        books.item(4, idempotency_key="four"),
    ]

    response = books.batch(*items, atomic=False)

    one, two, three, four = response.json()["data"]
    assert one == {"status": 201, "replayed": True, "transfer": single.json()}
    assert two == {"status": 422, "replayed": True, "problem": refused.json()}
    assert three["replayed"] is True
    assert four.keys() == {"status", "transfer"}
    assert single.content in response.content
    assert books.moved() == 8


def test_a_replayed_success_is_part_of_an_atomic_batch(books):
    single = books.single("one", 1)

    response = books.batch(books.item(1, idempotency_key="one"), books.item(2))

    assert response.status_code == 201
    replayed, made = response.json()["data"]
    assert replayed == {**single.json(), "replayed": True}
    assert "replayed" not in made
    assert books.moved() == 3


def test_a_replayed_refusal_refuses_an_atomic_batch(books):
    refused = books.single("poor", 5_000)

    response = books.batch(
        books.item(1, idempotency_key="free"),
        books.item(5_000, idempotency_key="poor"),
        key="batch",
    )

    document = problem(response)
    assert (document["code"], document["index"]) == ("batch_refused", 1)
    assert document["problem"] == refused.json()
    assert books.row("batch").status == 422
    assert books.row("free") is None
    assert books.moved() == 0


def test_a_key_of_another_request_refuses_its_item_or_the_atomic_batch(books):
    books.single("used", 1)
    items = [books.item(2), books.item(2, idempotency_key="used")]

    atomic = problem(books.batch(*items, key="atomic"))
    alone = books.batch(*items, atomic=False).json()["data"]

    assert (atomic["code"], atomic["index"]) == ("batch_refused", 1)
    assert atomic["problem"]["code"] == "idempotency_key_reused"
    assert atomic["problem"]["differing_fields"] == ["amount"]
    assert books.row("atomic") is None, "as with a single request, nothing is stored"
    assert [item["status"] for item in alone] == [201, 422]
    assert alone[1]["problem"]["code"] == "idempotency_key_reused"
    assert "replayed" not in alone[1]
    assert books.moved() == 3


def test_a_key_in_progress_gives_up_the_batch_at_once_and_stores_nothing(books):
    items = [books.item(1, idempotency_key="busy"), books.item(2)]
    number = lock_number(
        ledger_id=books.ledger.id, client_id=books.client.id, key="busy"
    )
    with psycopg.connect(database_url()) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        atomic = books.batch(*items, key="atomic")
        alone = books.batch(*items, key="alone", atomic=False)

    for response, key in ((atomic, "atomic"), (alone, "alone")):
        document = problem(response)
        assert (document["code"], document["index"]) == ("idempotency_in_progress", 0)
        assert response["Retry-After"] == "1"
        assert books.row(key) is None
    assert books.moved() == 0
    # The lock is gone.
    again = books.batch(*items, key="alone", atomic=False).json()["data"]
    assert [item["status"] for item in again] == [201, 201]
    assert books.moved() == 3


def test_an_item_that_is_not_found_refuses_an_atomic_batch_and_stores_nothing(books):
    missing = books.item(1, to_account_id=str(new_id()))

    document = problem(books.batch(books.item(), missing, key="batch"))

    assert (document["code"], document["index"]) == ("batch_refused", 1)
    assert document["problem"]["code"] == "account_not_found"
    assert document["problem"]["status"] == 404
    assert books.row("batch") is None
    assert books.batch(books.item(), key="batch").status_code == 201


def test_a_key_that_stands_twice_is_refused_with_both_places(books):
    twice = books.batch(
        books.item(1, idempotency_key="a"),
        books.item(2),
        books.item(3, idempotency_key="a"),
    )
    own = books.batch(books.item(1, idempotency_key="a"), key="a")

    assert field_codes(twice) == {"transfers[2].idempotency_key": "repeated"}
    assert "transfers[0]" in problem(twice)["errors"][0]["message"]
    assert field_codes(own) == {"transfers[0].idempotency_key": "repeated"}
    assert books.row("a") is None


def test_keys_cost_the_same_statements_for_few_items_and_for_many(books, settings):
    settings.API_KEY_CACHE_SECONDS = 0

    def statements(*items: Any) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert books.batch(*items).status_code == 201
        # The epoch of Valkey's keys is asked for once in a second.
        return sum("pg_control_system" not in query["sql"] for query in queries)

    few = [books.item(1, idempotency_key=f"few-{n}") for n in (2, 1)]
    many = [books.item(1, idempotency_key=f"many-{n}") for n in range(60)]

    statements(books.item(1))  # What a process remembers, it knows now.
    assert statements(*few) == statements(*many)
    assert statements(*few) == statements(*many), "all replayed"
    assert IdempotencyKey.objects.filter(ledger_id=books.ledger.id).count() == 67


@pytest.fixture
def no_valkey(monkeypatch):
    monkeypatch.setattr("idempotency.store.claim_or_find", lambda **_: None)


def test_a_purged_batch_is_said_to_have_been_carried_out(books, no_valkey):
    items = [books.item(1), books.item(2)]
    for is_atomic in (True, False):
        books.batch(*items, key=f"done-{is_atomic}", atomic=is_atomic)
        books.purge(f"done-{is_atomic}")

        document = problem(
            books.batch(*items, key=f"done-{is_atomic}", atomic=is_atomic)
        )

        assert document["code"] == "idempotency_response_expired"
        assert "carried out" in document["detail"]
        assert document["carried_out_at"].endswith("Z")
    assert books.moved() == 6


def test_a_purged_refusal_of_a_batch_did_not_happen(books, no_valkey):
    books.batch(books.item(5_000), key="refused")
    books.purge("refused")

    document = problem(books.batch(books.item(5_000), key="refused"))

    assert document["code"] == "idempotency_outcome_expired"


def test_a_purged_item_is_rebuilt_from_its_transfer(books, no_valkey):
    item = books.item(1, idempotency_key="item")
    made = books.batch(item).json()["data"][0]
    books.purge("item")

    single = books.single("item", 1)
    [again] = books.batch(item, atomic=False).json()["data"]

    assert single.json() == made
    assert again == {"status": 201, "replayed": True, "transfer": made}
    assert books.moved() == 1


def test_a_reference_is_taken_by_an_earlier_item(books):
    items = [books.item(1, reference="r"), books.item(2, reference="r")]

    document = problem(books.batch(*items))
    [first, second] = books.batch(*items, atomic=False).json()["data"]

    assert (document["index"], document["problem"]["code"]) == (1, "reference_taken")
    assert document["problem"]["status"] == 409
    assert (first["status"], second["status"]) == (201, 409)


def test_that_no_entries_are_left_of_a_batch_that_breaks(books, monkeypatch):
    def explode(*_: object) -> None:
        raise RuntimeError("after everything was written")

    items = [books.item(1, idempotency_key="item")]
    with monkeypatch.context() as patch:
        patch.setattr("ledger.api.batches.render_transfer", explode)
        assert books.batch(*items, key="batch").status_code == 500

    assert not Entry.objects.filter(account_id=books.target.id).exists()
    assert (books.row("item"), books.row("batch")) == (None, None)
    assert books.batch(*items, key="batch").status_code == 201
