"""Finding by HTTP: strict filters, cursors that keep them, references of any form."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from ledger.api import urls
from ledger.enums import Permission
from ledger.models import ApiClient, Ledger
from ledger.selectors import finding
from ledger.tests.factories import AccountFactory, move
from ledger.tests.holds import place
from ledger.tests.test_api import Api, field_codes, problem
from payflow.clock import format_instant, now
from payflow.ids import new_id
from payflow.money import MAX_AMOUNT

pytestmark = pytest.mark.django_db

#: The id of nothing; the same in every process that collects the tests.
NOBODY = "01a20000-0000-7000-8000-000000000000"

#: What a reference may look like, whatever a path makes of it.
ODD_REFERENCES = (
    "plain",
    "a/b",
    "/a//b/",
    "entries",
    "x/entries",
    "by-reference/x",
    "reverse",
    "50% off?",
    "a&b=c#d",
    "a+b c",
    "line\nbreak",
    " ",
    "ключ/鍵",
    "%2F",
    "a;b",
)


@pytest.fixture
def api(db: None) -> Api:
    return Api()


def url(path: str, **parameters: Any) -> str:
    return f"{path}?{urlencode(parameters)}"


def walk(api: Api, path: str, **parameters: Any) -> list[dict[str, Any]]:
    """All rows, following the cursor alone."""
    rows: list[dict[str, Any]] = []
    page = api.get(url(path, limit=2, **parameters)).json()
    while True:
        rows += page["data"]
        if page["next_cursor"] is None:
            return rows
        page = api.get(url(path, limit=2, cursor=page["next_cursor"])).json()


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("transfers", "knd=transfer", {"knd": "unknown_field"}),
        ("transfers", "owner_name_prefix=A", {"owner_name_prefix": "unknown_field"}),
        ("accounts", "amount=5", {"amount": "unknown_field"}),
        ("holds", "kind=transfer", {"kind": "unknown_field"}),
        ("transfers", "kind=Transfer", {"kind": "not_a_choice"}),
        ("transfers", "kind=", {"kind": "not_a_choice"}),
        ("transfers", "kind=transfer&kind=capture", {"kind": "repeated"}),
        ("transfers", "limit=5&limit=5", {"limit": "repeated"}),
        ("accounts", "status=lapsed", {"status": "not_a_choice"}),
        ("holds", "status=open", {"status": "not_a_choice"}),
        ("scheduled-transfers", "status=active", {"status": "not_a_choice"}),
        ("scheduled-transfers", "due=x", {"due": "unknown_field"}),
        ("accounts", "reference=", {"reference": "empty"}),
        ("accounts", "reference=%00", {"reference": "null_character"}),
        ("accounts", "metadata.a=%00", {"metadata.a": "null_character"}),
        ("transfers", "reference=" + "x" * 256, {"reference": "too_long"}),
        ("transfers", "account_id=1", {"account_id": "not_a_uuid"}),
        ("transfers", "amount=0", {"amount": "not_an_amount"}),
        ("transfers", "amount=-1", {"amount": "not_an_amount"}),
        ("transfers", "amount=1.0", {"amount": "not_an_amount"}),
        ("transfers", "amount=1e3", {"amount": "not_an_amount"}),
        ("transfers", "amount=01", {"amount": "not_an_amount"}),
        ("transfers", "amount=%D9%A3", {"amount": "not_an_amount"}),
        ("transfers", f"amount={MAX_AMOUNT + 1}", {"amount": "not_an_amount"}),
        ("transfers", "amount=5&amount_min=5", {"amount": "two_forms"}),
        ("transfers", "amount_min=6&amount_max=5", {"amount_max": "empty_range"}),
        ("holds", "amount_min=6&amount_max=5", {"amount_max": "empty_range"}),
        ("scheduled-transfers", "amount=1.5", {"amount": "not_an_amount"}),
        ("transfers", "created_from=2026-01-01", {"created_from": "not_an_instant"}),
        (
            "transfers",
            "created_from=2026-01-01T00:00:00+01:00",
            {"created_from": "not_an_instant"},
        ),
        (
            "holds",
            "expires_from=2026-01-01T00:00:00Z&expires_to=2026-01-01T00:00:00Z",
            {"expires_to": "empty_range"},
        ),
        ("transfers", "metadata.=1", {"metadata.": "too_long"}),
        ("transfers", "metadata=1", {"metadata": "unknown_field"}),
        (
            "transfers",
            "&".join(f"metadata.{n}=1" for n in range(4)),
            {"metadata": "too_long"},
        ),
    ],
)
def test_a_filter_of_the_wrong_form_is_refused_by_its_name(api, path, query, expected):
    assert field_codes(api.get(f"/v1/{path}?{query}")) == expected


#: A path of every GET, with what its parameters in the path are replaced by.
GETS = sorted(
    re.sub(r"<[^>]*>", NOBODY, str(route.pattern))
    for route in urls.urlpatterns
    if hasattr(route.callback.view_class, "get")
    and "get" in route.callback.view_class.http_method_names
)


@pytest.mark.parametrize("path", GETS)
def test_no_get_takes_a_parameter_that_it_does_not_know_or_one_twice(api, path):
    account = AccountFactory(ledger=api.ledger)
    path = path.replace(NOBODY, str(account.id))

    refused = field_codes(api.get(f"/{path}?cursr=x&cursr=y"))

    assert refused.get("cursr") in ("unknown_field", "repeated")
    assert field_codes(api.get(f"/{path}?cursr="))["cursr"] == "unknown_field"
    assert api.get(f"/{path}").status_code in (200, 400, 404)


@pytest.mark.parametrize("path", ["assets", "periods"])
def test_the_page_size_and_the_cursor_are_given_once(api, path):
    assert api.get(f"/v1/{path}?limit=5").status_code == 200
    assert field_codes(api.get(f"/v1/{path}?limit=5&limit=6")) == {"limit": "repeated"}


def test_a_dry_run_that_is_asked_for_in_the_url_moves_nothing(api):
    a = AccountFactory(ledger=api.ledger, balance=5)
    b = AccountFactory(ledger=api.ledger)
    body = {"from_account_id": str(a.id), "to_account_id": str(b.id), "amount": 5}

    refused = api.send("/v1/transfers?dry_run=true", body, key="k")

    assert field_codes(refused) == {"dry_run": "unknown_field"}
    assert api.send("/v1/transfers", body, key="k").status_code == 201


def test_an_entries_filter_is_refused_by_its_name_too(api):
    account = AccountFactory(ledger=api.ledger)
    path = f"/v1/accounts/{account.id}/entries"

    assert field_codes(api.get(f"{path}?direction=in")) == {"direction": "not_a_choice"}
    assert field_codes(api.get(f"{path}?kind=x")) == {"kind": "unknown_field"}


@pytest.mark.parametrize(
    "instant", ["1970-01-01T00:00:00Z", "9998-12-31T23:59:59.999999Z"]
)
@pytest.mark.parametrize("path", ["accounts", "transfers", "holds", "entries"])
def test_the_first_and_the_last_instant_can_be_asked_for(api, path, instant):
    account = AccountFactory(ledger=api.ledger, balance=5)
    path = f"accounts/{account.id}/entries" if path == "entries" else path

    for name in ("created_from", "created_to"):
        assert api.get(url(f"/v1/{path}", **{name: instant})).status_code == 200
    assert api.get(url("/v1/transfers", effective_from=instant)).status_code == 200


@pytest.mark.parametrize(
    "instant",
    [
        "1970-01-01T00:00:00Z",
        "9998-12-31T23:59:59.999999Z",
        "9999-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ],
)
@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/Los_Angeles"])
def test_no_instant_of_a_client_is_too_much_for_a_ledger(api, zone, instant):
    Ledger.objects.filter(id=api.ledger.id).update(time_zone=zone)
    permissions = [Permission.CLOSE_PERIOD, Permission.REOPEN_PERIOD]
    ApiClient.objects.filter(ledger_id=api.ledger.id).update(permissions=permissions)
    a = AccountFactory(ledger=api.ledger, balance=100)
    b = AccountFactory(ledger=api.ledger)
    posting = {"from_account_id": str(a.id), "to_account_id": str(b.id), "amount": 1}
    soon = format_instant(now() + timedelta(days=1))
    hold = api.send("/v1/holds", posting).json()["id"]
    sent = [
        ("transfers", {**posting, "effective_at": instant}),
        ("holds", {**posting, "expires_at": instant}),
        (f"holds/{hold}/extend", {"expires_at": instant}),
        ("scheduled-transfers", {**posting, "due_at": instant}),
        ("scheduled-transfers", {**posting, "due_at": soon, "retry_until": instant}),
        (
            "scheduled-transfers",
            {**posting, "due_at": instant, "retry_until": instant},
        ),
        ("periods/close", {"before": instant}),
        ("periods/reopen", {"before": instant, "reason": "late"}),
    ]

    statuses = [api.send(f"/v1/{path}", body).status_code for path, body in sent]
    is_too_late = instant.startswith("9999")
    for status in statuses:
        assert status == 400 if is_too_late else status in (200, 201, 409, 422)
    shown = [
        url("/v1/holds", expires_from=instant),
        url("/v1/transfers", effective_to=instant),
        url("/v1/scheduled-transfers", created_to=instant, due_from=instant),
        "/v1/periods",
    ]
    wanted = 400 if is_too_late else 200
    assert [api.get(path).status_code for path in shown] == [wanted] * 3 + [200]


def test_filters_are_read_and_combined(api):
    a = AccountFactory(ledger=api.ledger, balance=1_000, metadata={"order": 7})
    b = AccountFactory(ledger=api.ledger, reference="b")
    made = [str(move(a, b, n).id) for n in range(1, 8)]

    def found(path: str, **parameters: Any) -> list[str]:
        return [row["id"] for row in walk(api, f"/v1/{path}", **parameters)]

    assert found("transfers", account_id=b.id) == made[::-1]
    assert found("transfers", amount_min=3, amount_max=5) == made[4:1:-1]
    assert found("transfers", account_id=b.id, amount=2, currency="USD") == [made[1]]
    assert found("transfers", account_id=new_id()) == []
    assert found("accounts", **{"metadata.order": "7"}) == [str(a.id)]
    assert found("accounts", reference_prefix="b") == [str(b.id)]
    entries = walk(api, f"/v1/accounts/{a.id}/entries", direction="debit", amount=6)
    assert [entry["transfer_id"] for entry in entries] == [made[5]]


@pytest.mark.parametrize("scan_rows", [2, 10_000])
def test_a_cursor_keeps_the_filters(api, monkeypatch, scan_rows):
    monkeypatch.setattr(finding, "SCAN_ROWS", scan_rows)
    a = AccountFactory(ledger=api.ledger, balance=1_000)
    b = AccountFactory(ledger=api.ledger)
    made = [str(move(a, b, 1 + n % 2, metadata={"n": n % 2}).id) for n in range(12)]
    filters: dict[str, Any] = {"amount": 2, "metadata.n": 1, "kind": "transfer"}

    def follow(repeated: dict[str, Any]) -> list[str]:
        page = api.get(url("/v1/transfers", limit=2, **filters)).json()
        found = [row["id"] for row in page["data"]]
        while page["next_cursor"] is not None:
            next_one = {"limit": 2, "cursor": page["next_cursor"], **repeated}
            page = api.get(url("/v1/transfers", **next_one)).json()
            found += [row["id"] for row in page["data"]]
        return found

    assert follow({}) == made[::-2]
    assert follow(filters) == made[::-2]
    assert follow(dict(reversed(filters.items()))) == made[::-2]


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 2},
        {"amount": 1, "kind": "transfer"},
        {"kind": "transfer"},
        {"amount_min": 1, "amount_max": 1},
    ],
)
def test_a_cursor_is_refused_with_other_filters(api, other):
    a = AccountFactory(ledger=api.ledger, balance=1_000)
    b = AccountFactory(ledger=api.ledger)
    for _ in range(3):
        move(a, b, 1)
    cursor = api.get("/v1/transfers?amount=1&limit=1").json()["next_cursor"]

    document = problem(api.get(url("/v1/transfers", cursor=cursor, **other)))

    assert document["code"] == "invalid_cursor"
    assert "other filters" in document["detail"]


def test_a_cursor_without_filters_is_refused_with_some(api):
    for _ in range(2):
        AccountFactory(ledger=api.ledger)
    cursor = api.get("/v1/accounts?limit=1").json()["next_cursor"]

    response = api.get(url("/v1/accounts", cursor=cursor, kind="liability"))

    assert problem(response)["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    ("kind", "key", "filters", "code"),
    [
        ("transfers", "5", "", "invalid_cursor"),
        ("transfers", NOBODY, f"account_id={NOBODY}", "invalid_cursor"),
        ("transfers", "-5", f"account_id={NOBODY}", "invalid_cursor"),
        ("transfers", "9" * 19, f"account_id={NOBODY}", "invalid_cursor"),
        ("transfers", NOBODY, "kind=x", "invalid_request"),
        ("transfers", NOBODY, "reference=%00", "invalid_request"),
        ("transfers", NOBODY, "unknown=1", "invalid_request"),
        ("transfers", NOBODY, "limit=5", "invalid_request"),
        ("accounts", NOBODY, "", "invalid_cursor"),
    ],
)
def test_a_cursor_that_somebody_made_up_is_read_as_strictly(
    api, kind, key, filters, code
):
    from payflow.api.pagination import write_cursor

    cursor = write_cursor(kind=kind, key=key, filters=filters)

    assert problem(api.get(url("/v1/transfers", cursor=cursor)))["code"] == code


@pytest.mark.parametrize("reference", ODD_REFERENCES)
def test_a_resource_is_got_by_a_reference_of_any_form(api, reference):
    a = AccountFactory(ledger=api.ledger, balance=100, reference=reference)
    b = AccountFactory(ledger=api.ledger)
    transfer = move(a, b, 1, reference=reference)
    hold = place(a, b, 1, reference=reference)

    for path, made in (("accounts", a), ("transfers", transfer), ("holds", hold)):
        response = api.get(f"/v1/{path}/by-reference/{quote(reference, safe='')}")
        assert response.status_code == 200, response.content
        assert response.json() == api.get(f"/v1/{path}/{made.id}").json()
        listed = api.get(url(f"/v1/{path}", reference=reference)).json()["data"]
        assert [row["id"] for row in listed] == [str(made.id)]


def test_a_reference_of_nothing_is_not_found(api):
    AccountFactory(reference="theirs")

    for path, code in (
        ("accounts", "account_not_found"),
        ("transfers", "transfer_not_found"),
        ("holds", "hold_not_found"),
    ):
        for reference in ("theirs", "a%2Fb", "%FF"):
            response = api.get(f"/v1/{path}/by-reference/{reference}")
            assert problem(response)["code"] == code
        response = api.get(f"/v1/{path}/by-reference/a%00")
        assert problem(response)["code"] == "not_found"
