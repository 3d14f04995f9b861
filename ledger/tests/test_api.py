"""The API: bodies, problems, pages, and whose books a key opens."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from ledger.models import Account, Change, Transfer
from ledger.services.clients import api_key_create, client_set_permissions
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    ApiClientFactory,
    LedgerFactory,
    fresh,
    move,
)
from payflow.api.parsing import MAX_DEPTH
from payflow.api.problems import PROBLEMS
from payflow.ids import new_id
from payflow.money import MAX_AMOUNT

pytestmark = pytest.mark.django_db


class Api:
    """A client of one ledger that speaks raw JSON texts."""

    def __init__(self) -> None:
        self.ledger = LedgerFactory()
        self.client = ApiClientFactory(ledger=self.ledger)
        self.key = api_key_create(client=self.client)
        self.http = Client(raise_request_exception=False)

    def get(self, path: str) -> Any:
        return self.http.get(path, headers={"Authorization": f"Bearer {self.key}"})

    def send(
        self,
        path: str,
        body: Any,
        *,
        method: str = "post",
        key: str | None = "",
        content_type: str = "application/json",
        **headers: str,
    ) -> Any:
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        all_headers = {"Authorization": f"Bearer {self.key}", **headers}
        if key is not None:
            all_headers["Idempotency-Key"] = key or str(new_id())
        send = getattr(self.http, method)
        return send(path, data, content_type=content_type, headers=all_headers)


@pytest.fixture
def api(db: None) -> Api:
    return Api()


def problem(response: Any) -> dict[str, Any]:
    assert response["Content-Type"] == "application/problem+json", response.content
    document: dict[str, Any] = response.json()
    kind = PROBLEMS[document["code"]]
    assert response.status_code == document["status"] == kind.status
    assert document["title"] == kind.title
    assert document["retryable"] == kind.retryable
    assert document["type"] == f"/problems/{document['code']}"
    return document


def field_codes(response: Any) -> dict[str, str]:
    document = problem(response)
    assert document["code"] == "invalid_request"
    return {e["field"]: e["code"] for e in document["errors"]}


@pytest.mark.parametrize("path", ["/transfer", "/v1/transfers"])
def test_a_transfer_is_made_and_shown(api, path):
    source = AccountFactory(ledger=api.ledger, balance=10_000)
    target = AccountFactory(ledger=api.ledger)
    body = {
        "from_account_id": str(source.id),
        "to_account_id": str(target.id),
        "amount": 5_000,
    }

    response = api.send(path, body)

    assert response.status_code == 201
    made = response.json()
    assert made["postings"] == [
        {**body, "currency": "USD", "amount_reversible": body["amount"]}
    ]
    assert made["kind"] == "transfer"
    assert made["effective_at"] == made["created_at"]
    assert made["created_at"].endswith("Z")
    assert [b["posted"] for b in made["balances"]] == [5_000, 5_000]
    assert response["Location"] == f"/v1/transfers/{made['id']}"
    assert response["X-Request-ID"]
    assert api.get(response["Location"]).json() == made
    row = Transfer.objects.get(ledger_id=api.ledger.id, id=made["id"])
    assert row.client_id == api.client.id
    assert row.key_id is not None
    assert row.actor == f"client:{api.client.name}"
    assert row.request_id == response["X-Request-ID"]
    assert row.idempotency_key


def test_a_transfer_of_several_postings_moves_all_of_them(api):
    a, b, c = (AccountFactory(ledger=api.ledger, balance=100) for _ in range(3))
    posting = {
        "from_account_id": str(a.id),
        "to_account_id": str(b.id),
        "amount": 60,
    }
    body = {
        "postings": [posting, {**posting, "to_account_id": str(c.id), "amount": 40}],
        "reference": "split-1",
        "description": "Split",
        "metadata": {"order": "7", "n": 1, "ok": True, "none": None},
        "effective_at": "2026-01-31T23:00:00+01:00",
    }

    made = api.send("/v1/transfers", body).json()

    assert len(made["postings"]) == 2
    assert made["effective_at"] == "2026-01-31T22:00:00.000000Z"
    assert (made["reference"], made["metadata"]) == ("split-1", body["metadata"])
    assert [fresh(x).posted for x in (a, b, c)] == [0, 160, 140]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"amount": 1.5}, {"amount": "not_an_integer"}),
        ({"amount": 5.0}, {"amount": "not_an_integer"}),
        ({"amount": "5"}, {"amount": "not_an_integer"}),
        ({"amount": True}, {"amount": "not_an_integer"}),
        ({"amount": None}, {"amount": "not_an_integer"}),
        ({"amount": 0}, {"amount": "not_positive"}),
        ({"amount": -5}, {"amount": "not_positive"}),
        ({"amount": MAX_AMOUNT + 1}, {"amount": "too_large"}),
        ({"amount": 10**30}, {"amount": "too_large"}),
        ({"from_account_id": 1}, {"from_account_id": "not_a_uuid"}),
        ({"from_account_id": "x"}, {"from_account_id": "not_a_uuid"}),
        ({"to_account_id": None}, {"to_account_id": "not_a_uuid"}),
        ({"ammount": 5}, {"ammount": "unknown_field"}),
        ({"reference": ""}, {"reference": "empty"}),
        ({"reference": "x" * 256}, {"reference": "too_long"}),
        ({"description": 5}, {"description": "not_a_text"}),
        ({"metadata": []}, {"metadata": "not_an_object"}),
        ({"metadata": {"a": {}}}, {"metadata": "not_a_scalar"}),
        ({"metadata": {"a": 1.5}}, {"metadata": "not_an_integer"}),
        ({"effective_at": "2026-01-01"}, {"effective_at": "not_an_instant"}),
        ({"effective_at": "2026-01-01T00:00:00"}, {"effective_at": "not_an_instant"}),
        ({"effective_at": 5}, {"effective_at": "not_an_instant"}),
        *(
            ({"effective_at": text}, {"effective_at": "not_an_instant"})
            for text in (
                "2026-01-01 00:00:00Z",
                "2026-W01-1T00:00:00Z",
                "20260101T000000Z",
                "2026-01-01T00:00Z",
                "2026-01-01T00:00:00+0100",
                "2026-01-01T00:00:00+01",
                "2026-01-01T00:00:00,5Z",
                "2026-01-01T00:00:00.Z",
                "2026-01-01T24:00:00Z",
                "2026-02-29T00:00:00Z",
                "2026-01-01T00:00:00+24:00",
                "2026-01-01T00:00:00Z\n",
                " 2026-01-01T00:00:00Z",
                "\u0662026-01-01T00:00:00Z",
                "0001-01-01T00:00:00+23:59",
                "1969-12-31T23:59:59Z",
                "1970-01-01T00:00:00+00:01",
                "9999-01-01T00:00:00Z",
                "9998-12-31T23:59:59-00:01",
                "9999-12-31T23:59:59Z",
            )
        ),
    ],
)
def test_a_field_of_the_wrong_form_is_refused_by_its_name(api, change, expected):
    body = {
        "from_account_id": str(new_id()),
        "to_account_id": str(new_id()),
        "amount": 5,
        **change,
    }

    assert field_codes(api.send("/v1/transfers", body)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2016-12-31T23:59:60Z", "second 59"),
        ("2026-01-01T00:00:00.1234567Z", "microseconds"),
        ("1969-01-01T00:00:00Z", "1970"),
        ("9999-12-31T23:59:59Z", "9998"),
    ],
)
def test_an_instant_that_cannot_be_kept_is_refused_with_its_reason(api, text, message):
    [error] = problem(api.send("/v1/transfers", {"effective_at": text}))["errors"][-1:]

    assert error["field"] == "effective_at"
    assert message in error["message"]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2026-01-31t23:00:00.5z", "2026-01-31T23:00:00.500000Z"),
        ("2026-01-31T23:00:00.123456-00:00", "2026-01-31T23:00:00.123456Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_an_instant_of_rfc_3339_is_taken_exactly(api, text, stored):
    body = {
        "from_account_id": str(AccountFactory(ledger=api.ledger, balance=9).id),
        "to_account_id": str(AccountFactory(ledger=api.ledger).id),
        "amount": 5,
        "effective_at": text,
    }

    assert api.send("/v1/transfers", body).json()["effective_at"] == stored


def test_an_exponent_makes_no_integer(api):
    body = (
        f'{{"from_account_id":"{new_id()}","to_account_id":"{new_id()}","amount":5e0}}'
    )

    assert field_codes(api.send("/transfer", body)) == {"amount": "not_an_integer"}


def test_all_missing_fields_are_named_at_once(api):
    assert field_codes(api.send("/transfer", {})) == {
        "from_account_id": "missing",
        "to_account_id": "missing",
        "amount": "missing",
    }


def test_errors_inside_postings_say_where(api):
    good = {
        "from_account_id": str(new_id()),
        "to_account_id": str(new_id()),
        "amount": 5,
    }
    body = {"postings": [good, {**good, "amount": 0}, {**good, "x": 1}]}

    assert field_codes(api.send("/v1/transfers", body)) == {
        "postings[1].amount": "not_positive",
        "postings[2].x": "unknown_field",
    }
    assert field_codes(api.send("/v1/transfers", {**good, "postings": [good]})) == {
        "postings": "two_forms"
    }
    assert field_codes(api.send("/v1/transfers", {"postings": []})) == {
        "postings": "empty"
    }
    assert field_codes(api.send("/v1/transfers", {"postings": [good] * 501})) == {
        "postings": "too_long"
    }


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (" ", "empty"),
        ("{", "syntax"),
        ('{"amount": 1,}', "syntax"),
        ('{"amount": 1, "amount": 2}', "duplicate_key"),
        ('{"metadata": {"a": 1, "a": 2}}', "duplicate_key"),
        ('{"amount": NaN}', "non_finite_number"),
        ('{"amount": Infinity}', "non_finite_number"),
        ('{"amount": 1e999}', "non_finite_number"),
        ('{"amount": 1} {}', "trailing_data"),
        ('{"description": "\\ud800"}', "lone_surrogate"),
        ('{"description": "\\u0000"}', "null_character"),
        ('{"\\u0000": 1}', "null_character"),
        ('{"metadata": {"a": ["\\udc00"]}}', "lone_surrogate"),
        (b'{"description": "\xff"}', "not_utf8"),
        ('{"amount": ' + "9" * 5000 + "}", "number_too_long"),
        ("[" * 100 + "]" * 100, "too_deep"),
        ("[" * 100_000, "too_deep"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "too_deep"),
        ("\ufeff{}", "syntax"),
    ],
)
def test_json_that_is_not_strict_is_refused_by_name(api, body, reason):
    document = problem(api.send("/v1/transfers", body))

    assert (document["code"], document["reason"]) == ("malformed_json", reason)


@pytest.mark.parametrize("body", ["[]", "null", "5", '"text"'])
def test_a_body_that_is_no_object_is_refused(api, body):
    assert field_codes(api.send("/v1/transfers", body)) == {"": "not_an_object"}


def test_json_in_another_charset_is_refused(api):
    def sent(charset: str) -> str:
        kind = f"application/json; charset={charset}"
        return str(problem(api.send("/transfer", "{}", content_type=kind))["code"])

    assert sent("utf-16") == sent("latin-1") == "unsupported_media_type"
    assert sent("UTF-8") == sent('"utf-8"') == "invalid_request"


def test_no_query_parameter_chooses_another_format(api):
    assert field_codes(api.get("/v1/me?format=xml")) == {"format": "unknown_field"}


def test_other_media_types_and_large_bodies_are_refused(api, settings):
    document = problem(api.send("/v1/transfers", "a=1", content_type="text/plain"))
    assert document["code"] == "unsupported_media_type"

    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    document = problem(api.send("/v1/transfers", {"description": "x" * 200}))
    assert (document["code"], document["max_bytes"]) == ("body_too_large", 100)


def test_a_refusal_has_its_typed_fields(api):
    source = AccountFactory(ledger=api.ledger, balance=100)
    target = AccountFactory(ledger=api.ledger)

    document = problem(
        api.send(
            "/transfer",
            {
                "from_account_id": str(source.id),
                "to_account_id": str(target.id),
                "amount": 101,
            },
        )
    )

    assert document["code"] == "insufficient_funds"
    assert (document["account_id"], document["available"], document["required"]) == (
        str(source.id),
        100,
        101,
    )
    assert fresh(source).posted == 100


def test_accounts_of_another_ledger_are_not_found_and_leave_the_key_free(api):
    mine = AccountFactory(ledger=api.ledger, balance=100)
    other = AccountFactory(balance=100)
    key = str(new_id())
    body = {"from_account_id": str(mine.id), "to_account_id": str(other.id)}

    response = api.send("/transfer", {**body, "amount": 1}, key=key)
    assert problem(response)["code"] == "account_not_found"
    assert problem(api.get(f"/v1/accounts/{other.id}"))["code"] == "account_not_found"
    for path in ("entries", ""):
        response = api.get(f"/v1/accounts/{other.id}/{path}".rstrip("/"))
        assert response.status_code == 404

    local = AccountFactory(ledger=api.ledger)
    body["to_account_id"] = str(local.id)
    assert api.send("/transfer", {**body, "amount": 1}, key=key).status_code == 201


def test_a_transfer_of_another_ledger_is_not_found(api):
    stranger = AccountFactory(balance=100)
    transfer = move(stranger, AccountFactory(ledger=stranger.ledger), 1)

    for text in (transfer.id, new_id(), "nonsense", "%00"):
        document = problem(api.get(f"/v1/transfers/{text}"))
        assert document["code"] == "transfer_not_found"


@pytest.mark.parametrize(
    "header",
    ["", "Basic abc", "Bearer", "Bearer nonsense", "Bearer pf_" + "A" * 86],
)
def test_requests_without_a_valid_key_are_refused(api, header):
    headers = {"Authorization": header} if header else {}

    response = api.http.get("/v1/me", headers=headers)

    assert problem(response)["code"] == "unauthenticated"
    assert response["WWW-Authenticate"].startswith("Bearer")


def test_revoked_and_expired_keys_and_inactive_clients_are_refused(api, settings):
    settings.API_KEY_CACHE_SECONDS = 0
    from django.utils import timezone

    from ledger.models import ApiClient, ApiKey

    keys = ApiKey.objects.filter(ledger_id=api.ledger.id, client_id=api.client.id)
    assert api.get("/v1/me").status_code == 200
    long_ago = timezone.now() - timedelta(days=1)

    for change in ({"revoked_at": long_ago}, {"expires_at": long_ago}):
        keys.update(**change)
        assert api.get("/v1/me").status_code == 401
        keys.update(revoked_at=None, expires_at=None)
    assert api.get("/v1/me").status_code == 200
    ApiClient.objects.filter(ledger_id=api.ledger.id).update(is_active=False)
    assert api.get("/v1/me").status_code == 401


def test_the_demo_setting_alone_answers_without_a_key(api, settings):
    settings.DEMO_ACCESS_WITHOUT_KEY = True

    remote = api.http.get("/v1/me", REMOTE_ADDR="192.0.2.1")
    unseeded = api.http.get("/v1/me")

    assert problem(remote)["code"] == "unauthenticated"
    assert "seed_accounts" in problem(unseeded)["detail"]


def test_a_demo_client_that_is_deactivated_stops_at_once(api, settings):
    settings.DEMO_ACCESS_WITHOUT_KEY = True
    ledger = LedgerFactory(slug="demo")
    client = ApiClientFactory(ledger=ledger, name="demo")
    assert api.http.get("/v1/me").status_code == 200

    type(client).objects.filter(ledger_id=ledger.id).update(is_active=False)

    assert problem(api.http.get("/v1/me"))["code"] == "unauthenticated"


def test_me_names_client_and_ledger(api):
    client_set_permissions(
        ledger_id=api.ledger.id,
        client_id=api.client.id,
        permissions=["manage_accounts", "close_period"],
        actor=ACTOR,
    )

    me = api.get("/v1/me").json()

    assert me["client"]["name"] == api.client.name
    assert me["client"]["permissions"] == ["close_period", "manage_accounts"]
    assert me["ledger"]["slug"] == api.ledger.slug


def test_an_account_is_made_changed_and_shown_with_its_history(api):
    body = {
        "currency": "USD",
        "reference": "user-1",
        "owner_name": "Ada",
        "code": "2100",
        "min_balance": -500,
        "metadata": {"tier": "gold"},
    }

    response = api.send("/v1/accounts", body)
    account = response.json()

    assert response.status_code == 201
    assert {name: account[name] for name in body} == body
    assert account["balance"] == {
        "posted": 0,
        "available": 0,
        "pending_in": 0,
        "pending_out": 0,
    }
    path = response["Location"]
    changed = api.send(path, {"owner_name": "Ada L.", "code": "2100"}, method="patch")
    assert changed.status_code == 200
    assert changed.json()["owner_name"] == "Ada L."
    assert api.get(path).json() == changed.json()
    change = Change.objects.get(ledger_id=api.ledger.id, account_id=account["id"])
    assert (change.fields, change.old, change.new) == (
        ["owner_name"],
        {"owner_name": "Ada"},
        {"owner_name": "Ada L."},
    )
    assert (change.client_id, change.actor) == (
        api.client.id,
        f"client:{api.client.name}",
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"currency": "XXQ"}, "currency_unknown"),
        ({"currency": "USD", "reference": "system:mine"}, "reference_reserved"),
        (
            {"currency": "USD", "kind": "asset", "payout_destination": "x"},
            "payout_account_must_be_liability",
        ),
        ({"currency": "USD", "reference": "taken"}, "reference_taken"),
    ],
)
def test_accounts_that_break_a_rule_are_refused(api, body, code):
    AccountFactory(ledger=api.ledger, reference="taken")

    assert problem(api.send("/v1/accounts", body, key=None))["code"] == code


def test_the_form_of_an_account_is_strict(api):
    assert field_codes(api.send("/v1/accounts", {"kind": "gold", "balance": 5})) == {
        "currency": "missing",
        "kind": "not_a_choice",
        "balance": "unknown_field",
    }


def test_balances_and_identity_cannot_be_patched(api):
    account = AccountFactory(ledger=api.ledger)

    response = api.send(
        f"/v1/accounts/{account.id}",
        {"credits_posted": 5, "currency": "EUR", "status": "closed"},
        method="patch",
    )

    assert set(field_codes(response).values()) == {"unknown_field"}
    assert Account.objects.get(ledger_id=api.ledger.id, id=account.id).posted == 0


def test_a_payout_destination_changes_role_only_at_zero(api):
    account = AccountFactory(ledger=api.ledger, balance=5)

    response = api.send(
        f"/v1/accounts/{account.id}", {"payout_destination": "iban"}, method="patch"
    )

    assert problem(response)["code"] == "account_not_empty"


def test_pages_cover_a_list_once_and_in_order(api):
    source = AccountFactory(ledger=api.ledger, balance=1_000)
    target = AccountFactory(ledger=api.ledger)
    made = [str(move(source, target, 1).id) for _ in range(5)]

    def walk(path: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = api.get(f"{path}?limit=2{cursor}").json()
            assert len(page["data"]) <= 2
            rows += page["data"]
            if page["next_cursor"] is None:
                return rows
            cursor = f"&cursor={page['next_cursor']}"

    transfers = walk("/v1/transfers")
    assert [t["id"] for t in transfers][:5] == made[::-1]
    assert len(transfers) == 6
    accounts = walk("/v1/accounts")
    assert {str(source.id), str(target.id)} < {a["id"] for a in accounts}
    entries = walk(f"/v1/accounts/{source.id}/entries")
    assert [e["account_version"] for e in entries] == [6, 5, 4, 3, 2, 1]
    assert [e["balance_after"] for e in entries] == [995, 996, 997, 998, 999, 1_000]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=-1"])
def test_a_page_size_out_of_range_is_refused(api, query):
    assert field_codes(api.get(f"/v1/transfers?{query}")) == {"limit": "out_of_range"}


def test_a_cursor_that_would_exhaust_a_parser_is_refused(api):
    for text in ("[" * 2_000, "[" * 100, '["accounts",' + " " * 300 + '"x"]'):
        cursor = base64.urlsafe_b64encode(text.encode()).decode()
        response = api.get(f"/v1/accounts?cursor={cursor}")
        assert problem(response)["code"] == "invalid_cursor"


def test_a_cursor_of_another_list_or_none_of_ours_is_refused(api):
    for _ in range(3):
        AccountFactory(ledger=api.ledger)
    cursor = api.get("/v1/accounts?limit=1").json()["next_cursor"]

    for path in (
        f"/v1/transfers?cursor={cursor}",
        "/v1/accounts?cursor=nonsense",
        "/v1/accounts?cursor=%00",
        "/v1/accounts?cursor=",
    ):
        assert problem(api.get(path))["code"] == "invalid_cursor"


def test_a_resource_is_found_by_its_reference(api):
    account = AccountFactory(ledger=api.ledger, reference="find-me")
    AccountFactory(reference="find-me")

    found = api.get("/v1/accounts?reference=find-me").json()["data"]

    assert [a["id"] for a in found] == [str(account.id)]
    assert api.get("/v1/accounts?reference=%00").status_code == 400


def test_unknown_paths_and_methods_are_problems_too(api):
    assert problem(api.get("/v1/nothing"))["code"] == "not_found"
    response = api.http.delete(
        "/v1/transfers", headers={"Authorization": f"Bearer {api.key}"}
    )
    assert problem(response)["code"] == "method_not_allowed"
    assert "POST" in response["Allow"]


def test_what_breaks_inside_says_nothing_outside(api, monkeypatch):
    def explode(**_: object) -> None:
        raise RuntimeError("the secret of the database")

    monkeypatch.setattr("ledger.api.accounts.account_list", explode)

    response = api.get("/v1/accounts")

    document = problem(response)
    assert document["code"] == "internal_error"
    assert "nothing was changed" not in document["detail"]
    assert b"secret" not in response.content


def test_every_problem_code_can_be_looked_up(api):
    codes = [row["code"] for row in api.get("/problems").json()["data"]]

    assert codes == list(PROBLEMS)
    for code in codes:
        assert api.get(f"/problems/{code}").json()["code"] == code
    assert api.get("/problems/nonsense").status_code == 404


@pytest.mark.parametrize("floor", [100, -1, None])
def test_a_payout_account_has_a_floor_of_zero(api, floor):
    body = {"currency": "USD", "payout_destination": "iban", "min_balance": floor}
    made = problem(api.send("/v1/accounts", body))
    plain = AccountFactory(ledger=api.ledger, min_balance=floor)
    changed = problem(
        api.send(
            f"/v1/accounts/{plain.id}", {"payout_destination": "iban"}, method="patch"
        )
    )

    assert made["code"] == changed["code"] == "payout_account_floor_must_be_zero"


def test_one_and_true_are_different_metadata(api):
    account = AccountFactory(ledger=api.ledger, metadata={"vip": 1})

    response = api.send(
        f"/v1/accounts/{account.id}", {"metadata": {"vip": True}}, method="patch"
    )

    assert response.json()["metadata"]["vip"] is True
    assert fresh(account).metadata["vip"] is True
    assert Change.objects.filter(
        ledger_id=api.ledger.id, account_id=account.id
    ).exists()
