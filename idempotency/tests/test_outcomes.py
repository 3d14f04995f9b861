"""Every row of the table in DESIGN section 5 that needs no process of its own."""

import json
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.utils import IntegrityError
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from idempotency import store
from idempotency.fingerprint import differing_fields, request_digests
from idempotency.models import IdempotencyKey
from idempotency.services import ledgers_with_responses, responses_purge
from idempotency.tests.conftest import Shop, make_shop
from ledger.models import Account
from payflow.db import constraint_name
from payflow.ids import new_id


@pytest.fixture
def books(db: None) -> Shop:
    return make_shop()


def send(
    shop: Shop,
    body: Any = None,
    *,
    path: str = "/v1/transfers",
    method: str = "post",
    **headers: str,
) -> Any:
    return getattr(Client(raise_request_exception=False), method)(
        path,
        body if isinstance(body, str) else json.dumps(body or shop.body()),
        content_type="application/json",
        headers={
            "Authorization": f"Bearer {shop.key}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


def code(response: Any) -> str:
    return str(response.json()["code"])


def test_a_money_moving_post_without_a_key_is_refused(books):
    for path in ("/transfer", "/v1/transfers"):
        response = send(books, path=path)

        assert (response.status_code, code(response)) == (
            400,
            "idempotency_key_missing",
        )
    assert books.transfer_count() == 0


@pytest.mark.parametrize(
    "bad", ["", " ", "x" * 256, "tab\there", "nul\x00", "ümlaut", '""', "a,b"]
)
def test_a_key_of_the_wrong_form_is_refused(books, bad):
    response = send(books, Idempotency_Key=bad)

    assert (response.status_code, code(response)) == (400, "idempotency_key_invalid")


def test_two_headers_that_differ_are_refused_and_equal_ones_are_one(books):
    differ = send(books, Idempotency_Key="one", X_Idempotency_Key="two")
    assert code(differ) == "idempotency_key_invalid"

    first = send(books, Idempotency_Key="same", X_Idempotency_Key="same")
    second = send(books, X_Idempotency_Key="same")
    quoted = send(books, Idempotency_Key='"same"')

    assert first.status_code == 201
    assert first.content == second.content == quoted.content


def test_the_longest_legal_key_works(books):
    assert send(books, Idempotency_Key="k" * 255).status_code == 201


def test_a_finished_request_is_replayed_byte_for_byte(books, key):
    first = send(books, Idempotency_Key=key)
    second = send(books, Idempotency_Key=key)

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert second["Location"] == first["Location"]
    assert second["Content-Type"] == first["Content-Type"]
    assert "Idempotent-Replayed" not in first
    assert second["Idempotent-Replayed"] == "true"
    assert books.transfer_count() == 1


def test_both_paths_are_one_operation_and_the_order_of_fields_means_nothing(books, key):
    first = send(books, Idempotency_Key=key)
    turned = dict(reversed(books.body().items()))
    second = send(books, turned, path="/transfer", Idempotency_Key=key)

    assert second.content == first.content


def test_a_key_with_another_request_names_the_fields_that_differ(books, key):
    send(books, Idempotency_Key=key)

    response = send(books, books.body(amount=7, description=None), Idempotency_Key=key)

    assert (response.status_code, code(response)) == (422, "idempotency_key_reused")
    assert response.json()["differing_fields"] == ["amount", "description"]
    assert books.transfer_count() == 1


def test_a_key_with_another_operation_or_path_is_a_reuse(books, key):
    account = f"/v1/accounts/{books.source.id}"
    other = f"/v1/accounts/{books.target.id}"
    body = {"owner_name": "New"}

    first = send(books, body, path=account, method="patch", Idempotency_Key=key)
    again = send(books, body, path=account, method="patch", Idempotency_Key=key)
    elsewhere = send(books, body, path=other, method="patch", Idempotency_Key=key)
    transfer = send(books, Idempotency_Key=key)

    assert first.status_code == 200
    assert again["Idempotent-Replayed"] == "true"
    assert elsewhere.json()["differing_fields"] == ["(path) account_id"]
    assert "(operation)" in transfer.json()["differing_fields"]


def test_a_refusal_by_a_rule_is_the_outcome_and_is_replayed(books, key):
    body = books.body(amount=10**9)
    first = send(books, body, Idempotency_Key=key)
    assert code(first) == "insufficient_funds"
    Account.objects.filter(ledger_id=books.ledger.id, id=books.source.id).update(
        min_balance=None
    )

    second = send(books, body, Idempotency_Key=key)

    assert (second.status_code, second.content) == (422, first.content)
    assert second["Idempotent-Replayed"] == "true"
    assert second["Content-Type"] == "application/problem+json"
    assert books.transfer_count() == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"amount": 0}, 400),
        ({"to_account_id": str(new_id())}, 404),
    ],
)
def test_a_first_try_that_was_not_understood_leaves_the_key_free(
    books, key, body, status
):
    first = send(books, books.body(**body), Idempotency_Key=key)
    assert first.status_code == status
    assert books.key_row(key) is None

    assert send(books, Idempotency_Key=key).status_code == 201


def test_an_unauthenticated_first_try_leaves_the_key_free(books, key):
    response = Client().post(
        "/v1/transfers",
        json.dumps(books.body()),
        content_type="application/json",
        headers={"Idempotency-Key": key},
    )
    assert response.status_code == 401

    assert send(books, Idempotency_Key=key).status_code == 201


def test_an_exception_after_the_work_leaves_nothing_behind(books, key, monkeypatch):
    def explode(*_: object) -> None:
        raise RuntimeError("after everything was written")

    with monkeypatch.context() as patch:
        patch.setattr("ledger.api.transfers.transfer_json", explode)
        response = send(books, Idempotency_Key=key)
        assert response.status_code == 500
    assert books.transfer_count() == 0
    assert books.key_row(key) is None

    assert send(books, Idempotency_Key=key).status_code == 201


def purge(shop: Shop, key: str) -> None:
    """As the retention would, and as if Valkey had forgotten by then."""
    IdempotencyKey.objects.filter(ledger_id=shop.ledger.id, key=key).update(
        response_headers=None, response_body=None, purged_at="2026-01-01T00:00:00Z"
    )


@pytest.fixture
def no_valkey(monkeypatch):
    monkeypatch.setattr("idempotency.store.claim_or_find", lambda **_: None)


def test_a_purged_response_is_rebuilt_from_its_resource(books, key, no_valkey):
    first = send(books, Idempotency_Key=key)
    purge(books, key)

    second = send(books, Idempotency_Key=key)

    assert (second.status_code, second.json()) == (201, first.json())
    assert second["Idempotent-Replayed"] == "true"
    assert second["Location"] == first["Location"]
    assert books.transfer_count() == 1
    assert code(send(books, books.body(amount=1), Idempotency_Key=key)) == (
        "idempotency_key_reused"
    )


def test_a_purged_refusal_is_expired_and_never_executes(books, key, no_valkey):
    body = books.body(amount=10**9)
    send(books, body, Idempotency_Key=key)
    purge(books, key)
    Account.objects.filter(ledger_id=books.ledger.id, id=books.source.id).update(
        min_balance=None
    )

    response = send(books, body, Idempotency_Key=key)

    assert (response.status_code, code(response)) == (
        409,
        "idempotency_outcome_expired",
    )
    assert books.transfer_count() == 0


def test_the_retention_empties_old_responses_and_keeps_the_keys(books, key):
    ledger_id = books.ledger.id
    send(books, Idempotency_Key=key)

    assert ledger_id in ledgers_with_responses()
    assert responses_purge(ledger_id=ledger_id, older_than=timedelta(days=1)) == 0
    assert books.key_row(key).response_body is not None
    assert responses_purge(ledger_id=ledger_id, older_than=timedelta(0)) == 1
    row = books.key_row(key)
    assert (row.response_body, row.response_headers) == (None, None)
    assert row.purged_at is not None
    assert row.digests
    assert ledger_id not in ledgers_with_responses()


def refusal(sql: str) -> str | None:
    with (
        pytest.raises(IntegrityError) as caught,
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
    return constraint_name(caught.value)


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        (
            "UPDATE idempotency_key SET status = 422",
            "idempotency_key_changes_only_by_purge",
        ),
        (
            "UPDATE idempotency_key SET response_body = NULL",
            "idempotency_key_body_until_purged",
        ),
        (
            "UPDATE idempotency_key SET response_body = NULL, response_headers = NULL,"
            " purged_at = now(), key = 'other'",
            "idempotency_key_changes_only_by_purge",
        ),
        (
            "INSERT INTO idempotency_key (ledger_id, id, client_id, key, operation,"
            " digests, status, response_headers, response_body)"
            " SELECT ledger_id, gen_random_uuid(), client_id, key, operation, digests,"
            " status, response_headers, response_body FROM idempotency_key",
            "idempotency_key_unique_per_client",
        ),
        (
            "INSERT INTO idempotency_key (ledger_id, id, client_id, key, operation,"
            " digests, status, response_headers, response_body)"
            " SELECT ledger_id, gen_random_uuid(), client_id, key || '2', operation,"
            " digests, 500, response_headers, response_body FROM idempotency_key",
            "idempotency_key_outcome_is_storable",
        ),
    ],
)
def test_the_database_guards_one_key_one_outcome(books, key, sql, rule):
    send(books, Idempotency_Key=key)

    assert refusal(sql) == rule


def test_a_reused_key_inside_an_open_transaction_is_still_one_transfer(books, key):
    send(books, Idempotency_Key=key)

    with transaction.atomic():
        assert send(books, Idempotency_Key=key)["Idempotent-Replayed"] == "true"
    assert books.transfer_count() == 1


def test_a_rebuilt_answer_is_not_kept_in_valkey(books, key):
    path = f"/v1/accounts/{books.source.id}"
    body = {"owner_name": "First"}
    send(books, body, path=path, method="patch", Idempotency_Key=key)
    purge(books, key)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(*client.keys(f"*{key}"))
    rebuilt = send(books, body, path=path, method="patch", Idempotency_Key=key)
    send(books, {"owner_name": "Second"}, path=path, method="patch")

    response = send(books, body, path=path, method="patch", Idempotency_Key=key)

    assert rebuilt["Idempotent-Replayed"] == response["Idempotent-Replayed"] == "true"
    assert rebuilt.json()["owner_name"] == "First"
    assert response.json()["owner_name"] == "Second", "the resource as it is now"


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_an_epoch_that_cannot_be_read_is_logged_and_stops_nobody(
    books, key, monkeypatch, caplog, error
):
    def fail() -> str:
        raise error("the connection is closed")

    monkeypatch.setattr("idempotency.store.current_epoch", fail)

    assert send(books, Idempotency_Key=key).status_code == 201
    assert "idempotency_epoch_unavailable" in caplog.text


def test_a_key_table_that_was_made_anew_has_another_epoch(db):
    def epoch() -> str:
        store._known.value = None
        return store.current_epoch()

    before = epoch()
    assert epoch() == before
    with connection.cursor() as cursor:
        # As pg_restore --clean does.
        cursor.execute("ALTER TABLE idempotency_key RENAME TO idempotency_key_lost")
        cursor.execute("CREATE TABLE idempotency_key (LIKE idempotency_key_lost)")

    assert epoch() != before
    store._known.value = None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
BODIES = st.dictionaries(st.text(min_size=1, max_size=4), JSON, max_size=5)


def digests(body: Any, operation: str = "op") -> dict[str, str]:
    return request_digests(operation=operation, path_parameters={}, body=body)


@given(body=BODIES)
def test_that_the_fingerprint_ignores_order_and_spaces(body):
    turned = json.loads(json.dumps(dict(reversed(body.items())), indent=3))

    assert differing_fields(digests(body), digests(turned)) == []


@given(first=BODIES, second=BODIES)
def test_that_exactly_the_fields_that_differ_are_named(first, second):
    def canonical(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    expected = {
        name
        for name in first.keys() | second.keys()
        if (name in first) != (name in second)
        or canonical(first[name]) != canonical(second[name])
    }

    assert set(differing_fields(digests(first), digests(second))) == expected


@pytest.mark.parametrize("name", ["(operation)", "(path) account_id", "(body)"])
def test_that_no_field_of_a_body_overwrites_what_is_not_one(name):
    def of(operation: str, account: str, body: Any) -> dict[str, str]:
        return request_digests(
            operation=operation, path_parameters={"account_id": account}, body=body
        )

    first = of("one", "a", {name: "x"})

    assert differing_fields(first, of("two", "a", {name: "x"})) == ["(operation)"]
    assert differing_fields(first, of("one", "b", {name: "x"})) == ["(path) account_id"]
    assert differing_fields(first, of("one", "a", {name: "y"})) == [name]
    assert differing_fields(first, of("one", "a", {})) == [name]
    assert differing_fields(of("one", "a", {"(field) x": 1}), of("one", "a", {"x": 1}))
