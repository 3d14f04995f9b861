"""Holds and reversals over HTTP: bodies, keys, dry runs, and what is replayed."""

from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.utils.module_loading import import_string

from ledger.models import Account, Hold, HoldEvent, Transfer
from ledger.services.clients import client_set_permissions
from ledger.tests.factories import ACTOR, AccountFactory, fresh
from ledger.tests.test_api import Api, field_codes, problem
from payflow.ids import new_id

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(db: None) -> Api:
    return Api()


@pytest.fixture
def pair(api: Api) -> tuple[Account, Account]:
    source = AccountFactory(ledger=api.ledger, balance=1_000)
    return source, AccountFactory(ledger=api.ledger)


def simple(source: Account, target: Account, amount: int, **fields: Any) -> Any:
    return {
        "from_account_id": str(source.id),
        "to_account_id": str(target.id),
        "amount": amount,
        **fields,
    }


def placed(api: Api, source: Account, target: Account, amount: int = 300) -> Any:
    response = api.send("/v1/holds", simple(source, target, amount))
    assert response.status_code == 201, response.content
    return response.json()


def test_a_hold_goes_through_its_life(api, pair):
    source, target = pair
    response = api.send(
        "/v1/holds",
        simple(source, target, 300, reference="stay", lifetime_seconds=3_600),
    )
    hold = response.json()
    path = f"/v1/holds/{hold['id']}"
    assert (response.status_code, response["Location"]) == (201, path)
    assert (hold["status"], hold["reference"]) == ("active", "stay")
    assert api.get(path).json() == hold
    assert api.get("/v1/holds").json()["data"] == [hold]

    captured = api.send(f"{path}/capture", {"amount": 100, "description": "a night"})
    assert captured.status_code == 201
    transfer = captured.json()
    assert (transfer["kind"], transfer["hold_id"]) == ("capture", hold["id"])
    assert captured["Location"] == f"/v1/transfers/{transfer['id']}"
    assert api.get(captured["Location"]).json() == transfer

    extended = api.send(f"{path}/extend", {"lifetime_seconds": 7_200}, key=None).json()
    assert extended["expires_at"] > hold["expires_at"]
    voided = api.send(f"{path}/void", {"reason": "left early"}, key=None).json()
    assert voided["status"] == "voided"
    assert voided["postings"][0] == {
        "number": 1,
        "from_account_id": str(source.id),
        "to_account_id": str(target.id),
        "currency": "USD",
        "amount": 300,
        "held": 0,
        "captured": 100,
        "released": 200,
        "capturable": 0,
    }
    assert api.get(path).json() == voided
    assert problem(api.send(f"{path}/void", {}))["code"] == "hold_not_active"
    balance = api.get(f"/v1/accounts/{source.id}").json()["balance"]
    assert balance == {
        "posted": 900,
        "available": 900,
        "pending_in": 0,
        "pending_out": 0,
    }


def test_each_step_is_idempotent(api, pair):
    source, target = pair
    body = simple(source, target, 300)
    first = api.send("/v1/holds", body, key="hold-1")
    again = api.send("/v1/holds", body, key="hold-1")
    path = f"/v1/holds/{first.json()['id']}/capture"
    moved = api.send(path, {"amount": 10}, key="capture-1")
    moved_again = api.send(path, {"amount": 10}, key="capture-1")
    other = api.send(path, {"amount": 11}, key="capture-1")

    assert (again.content, again["Idempotent-Replayed"]) == (first.content, "true")
    assert moved_again.content == moved.content
    assert problem(other)["code"] == "idempotency_key_reused"
    assert Hold.objects.filter(ledger_id=api.ledger.id).count() == 1
    assert fresh(target).posted == 10
    row = Hold.objects.get(ledger_id=api.ledger.id)
    assert (row.idempotency_key, row.client_id) == ("hold-1", api.client.id)


def test_the_same_key_on_another_hold_is_another_request(api, pair):
    one, two = placed(api, *pair, 100), placed(api, *pair, 100)
    api.send(f"/v1/holds/{one['id']}/capture", {}, key="same")

    reused = api.send(f"/v1/holds/{two['id']}/capture", {}, key="same")

    assert problem(reused)["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("path", ["/v1/holds", "/v1/holds/{id}/capture"])
def test_what_reserves_or_moves_money_needs_a_key(api, pair, path):
    hold = placed(api, *pair)
    body = {} if "capture" in path else simple(*pair, 1)

    response = api.send(path.format(id=hold["id"]), body, key=None)

    assert problem(response)["code"] == "idempotency_key_missing"


def test_reversing_needs_a_key(api, pair):
    sent = api.send("/v1/transfers", simple(*pair, 10)).json()

    response = api.send(
        f"/v1/transfers/{sent['id']}/reverse", {"reason": "error"}, key=None
    )

    assert problem(response)["code"] == "idempotency_key_missing"


def test_wrong_fields_are_named(api, pair):
    hold = placed(api, *pair)
    path = f"/v1/holds/{hold['id']}"

    assert field_codes(
        api.send("/v1/holds", {"amount": 1.5, "lifetime_seconds": 0, "colour": "red"})
    ) == {
        "from_account_id": "missing",
        "to_account_id": "missing",
        "amount": "not_an_integer",
        "lifetime_seconds": "out_of_range",
        "colour": "unknown_field",
    }
    both = simple(*pair, 1, lifetime_seconds=5, expires_at="2030-01-01T00:00:00Z")
    assert field_codes(api.send("/v1/holds", both)) == {"expires_at": "two_forms"}
    for nothing in ({}, {"expires_at": None}):
        assert field_codes(api.send(f"{path}/extend", nothing)) == {
            "expires_at": "missing"
        }
    parts = {"amount": 1, "postings": [{"number": 1, "amount": 1}]}
    assert field_codes(api.send(f"{path}/capture", parts)) == {"postings": "two_forms"}
    twice = {"postings": [{"number": 1, "amount": 1}, {"number": 1, "amount": 2}]}
    assert field_codes(api.send(f"{path}/capture", twice)) == {"postings": "repeated"}
    assert field_codes(
        api.send(f"{path}/capture", {"postings": [{"number": 0}], "final": 1})
    ) == {
        "postings[0].number": "out_of_range",
        "postings[0].amount": "missing",
        "final": "not_a_boolean",
    }
    absent = {"postings": [{"number": 1, "amount": 1}, {"number": 2, "amount": 1}]}
    assert field_codes(api.send(f"{path}/capture", absent)) == {
        "postings[1].number": "out_of_range"
    }
    assert field_codes(api.send(f"{path}/void", {"reason": 5})) == {
        "reason": "not_a_text"
    }
    sent = api.send("/v1/transfers", simple(*pair, 10)).json()
    assert field_codes(
        api.send(f"/v1/transfers/{sent['id']}/reverse", {"force": "yes"})
    ) == {"reason": "missing", "force": "not_a_boolean"}


@pytest.mark.parametrize("action", ["", "/capture", "/void", "/extend"])
def test_unknown_holds_and_those_of_other_ledgers_are_not_found(api, action):
    other = Api()
    source = AccountFactory(ledger=other.ledger, balance=100)
    target = AccountFactory(ledger=other.ledger)
    theirs = placed(other, source, target, 10)
    body = {"lifetime_seconds": 5} if action == "/extend" else {}

    for hold_id in (theirs["id"], str(new_id()), "nonsense"):
        path = f"/v1/holds/{hold_id}{action}"
        response = api.send(path, body) if action else api.get(path)
        assert problem(response)["code"] == "hold_not_found"


def test_a_dry_run_of_each_step_says_what_would_be_and_keeps_nothing(api, pair):
    source, target = pair
    hold = placed(api, source, target)
    path = f"/v1/holds/{hold['id']}"
    sent = api.send("/v1/transfers", simple(source, target, 50)).json()
    before = (Hold.objects.count(), HoldEvent.objects.count(), Transfer.objects.count())

    tried = [
        api.send("/v1/holds", simple(source, target, 200, dry_run=True), key=None),
        api.send(f"{path}/capture", {"amount": 120, "dry_run": True}, key=None),
        api.send(f"{path}/void", {"dry_run": True}, key=None),
        api.send(f"{path}/extend", {"lifetime_seconds": 999_999, "dry_run": True}),
        api.send(
            f"/v1/transfers/{sent['id']}/reverse",
            {"reason": "error", "dry_run": True},
            key=None,
        ),
    ]

    assert [r.status_code for r in tried] == [200] * 5
    assert all(r.json()["dry_run"] is True for r in tried)
    assert [r.json()["id"] for r in tried] == [None, None, hold["id"], hold["id"], None]
    assert tried[1].json()["balances"][0]["posted"] == 830
    assert tried[2].json()["status"] == "voided"
    assert [
        [(b["posted"], b["available"]) for b in tried[i].json()["balances"]]
        for i in (0, 2)
    ] == [[(950, 450), (50, 50)], [(950, 950), (50, 50)]]
    assert tried[4].json()["balances"][0]["posted"] == 0
    after = (Hold.objects.count(), HoldEvent.objects.count(), Transfer.objects.count())
    assert after == before
    assert api.get(path).json() == hold
    too_much = api.send("/v1/holds", simple(source, target, 9_999, dry_run=True))
    assert problem(too_much)["code"] == "insufficient_funds"


def test_a_reversal_is_a_transfer_that_names_what_it_reverses(api, pair):
    source, target = pair
    sent = api.send("/v1/transfers", simple(source, target, 300)).json()
    assert sent["postings"][0]["amount_reversible"] == 300
    path = f"/v1/transfers/{sent['id']}"

    response = api.send(
        f"{path}/reverse", {"amount": 100, "reason": "duplicate", "reference": "r-1"}
    )

    back = response.json()
    assert (response.status_code, back["kind"]) == (201, "reversal")
    assert (back["reverses_transfer_id"], back["reason"]) == (sent["id"], "duplicate")
    assert response["Location"] == f"/v1/transfers/{back['id']}"
    assert api.get(response["Location"]).json() == back
    assert api.get(path).json()["postings"][0]["amount_reversible"] == 200
    rest = api.send(
        f"{path}/reverse",
        {"postings": [{"number": 1, "amount": 200}], "reason": "error"},
    )
    assert rest.status_code == 201
    none_left = api.send(f"{path}/reverse", {"reason": "error"})
    assert problem(none_left)["code"] == "reversal_exceeds_transfer"
    of_reversal = api.send(f"/v1/transfers/{back['id']}/reverse", {"reason": "error"})
    assert problem(of_reversal)["code"] == "transfer_not_reversible"


def test_force_and_frozen_captures_are_for_clients_with_the_permission(api, pair):
    source, target = pair
    sent = api.send("/v1/transfers", simple(source, target, 300)).json()
    hold = placed(api, source, target, 100)
    api.send("/v1/transfers", simple(target, AccountFactory(ledger=api.ledger), 250))
    path = f"/v1/transfers/{sent['id']}/reverse"
    forced = {"reason": "fraud", "force": True}

    denied = api.send(path, forced, key="forced")
    assert problem(denied)["permission"] == "force_reversal"
    client_set_permissions(
        ledger_id=api.ledger.id,
        client_id=api.client.id,
        permissions={"force_reversal", "capture_frozen"},
        actor=ACTOR,
    )
    # What was denied left the key free.
    done = api.send(path, forced, key="forced").json()
    assert (done["permission"], [p["amount"] for p in done["postings"]]) == (
        "force_reversal",
        [50, 250],
    )
    Account.objects.filter(ledger_id=api.ledger.id, id=source.id).update(
        status="frozen"
    )
    taken = api.send(f"/v1/holds/{hold['id']}/capture", {}).json()
    assert taken["permission"] == "capture_frozen"


def test_a_purged_answer_of_a_hold_is_built_again(api, pair):
    hold = placed(api, *pair)
    rebuild = import_string(settings.IDEMPOTENCY_REBUILDERS["hold"])

    assert rebuild(ledger_id=api.ledger.id, resource_id=UUID(hold["id"])) == (
        hold,
        f"/v1/holds/{hold['id']}",
    )
