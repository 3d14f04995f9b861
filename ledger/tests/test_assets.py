"""Assets: what a ledger counts beside ISO 4217's currencies."""

import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from idempotency.models import IdempotencyKey
from ledger.api.assets import asset_json, asset_rebuild
from ledger.audit import audit_run
from ledger.models import Account, Asset, Change, Ledger
from ledger.selectors.assets import exponents
from ledger.services.accounts import AccountRequest, account_create
from ledger.services.assets import AssetRequest, asset_create
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, fresh, move
from ledger.tests.test_api import Api, field_codes, problem
from ledger.tests.test_races import at_once
from ledger.types import PostedTransfer
from payflow.clock import now
from payflow.db import transaction_owner
from payflow.errors import Problem, ProblemError


@pytest.fixture
def api(db: None) -> Api:
    return Api()


@pytest.fixture
def ledger(db: None) -> Ledger:
    return LedgerFactory()


def create(ledger: Ledger, code: str = "PTS", **fields: Any) -> Asset | Problem:
    request = AssetRequest(**{"code": code, "name": "Points", "exponent": 0, **fields})
    return asset_create(ledger_id=ledger.id, request=request, actor=ACTOR)


# --- The service ------------------------------------------------------------------


def test_an_asset_is_made_and_noted_in_the_ledger_s_history(ledger):
    asset = create(ledger, "PTS", name="Loyalty points", exponent=3)

    assert isinstance(asset, Asset)
    assert (asset.code, asset.name, asset.exponent) == ("PTS", "Loyalty points", 3)
    change = Change.objects.filter(ledger_id=ledger.id).latest("id")
    assert (change.account_id, change.fields, change.old) == (None, ["asset"], {})
    assert change.new == {
        "asset": {"code": "PTS", "name": "Loyalty points", "exponent": 3}
    }
    assert change.actor == ACTOR.label


@pytest.mark.parametrize("code", ["USD", "JPY", "CLF", "XAU", "XXX", "DEM", "HRK"])
def test_a_code_that_iso_4217_uses_or_used_is_refused(ledger, code):
    refusal = create(ledger, code)

    assert isinstance(refusal, Problem)
    assert refusal.code == "asset_code_is_iso"
    assert refusal.fields == {"asset_code": code}


def test_a_code_is_taken_in_its_own_ledger_only(ledger):
    create(ledger, "PTS")

    refusal = create(ledger, "PTS", exponent=8)

    assert isinstance(refusal, Problem)
    assert refusal.code == "asset_code_taken"
    assert Asset.objects.get(ledger_id=ledger.id).exponent == 0
    assert Change.objects.filter(ledger_id=ledger.id, fields=["asset"]).count() == 1
    assert isinstance(create(LedgerFactory(), "PTS", exponent=8), Asset)


@pytest.mark.parametrize(
    "fields",
    [
        *({"code": code} for code in ("pts", "PT", "P" * 13, "1PT", "P-T", "PTS\n")),
        *({"name": name} for name in ("", "n" * 256)),
        *({"exponent": exponent} for exponent in (-1, 9)),
    ],
)
def test_what_cannot_be_an_asset_is_invalid(ledger, fields):
    with pytest.raises(ProblemError) as caught:
        create(ledger, **fields)

    assert caught.value.problem.code == "invalid_request"


def test_an_account_is_kept_in_an_asset_of_its_ledger_and_of_no_other(ledger):
    create(ledger, "PTS")

    account = AccountFactory(ledger=ledger, currency="PTS", balance=500)
    other = account_create(
        ledger_id=LedgerFactory().id, request=AccountRequest(currency="PTS")
    )

    assert account.posted == 500
    assert isinstance(other, Problem)
    assert other.code == "currency_unknown"


@pytest.mark.parametrize("currency", ["XAU", "XDR", "XXX", "XTS", "HRK", "DEM", "usd"])
def test_no_account_is_kept_in_what_has_no_minor_unit_or_is_withdrawn(ledger, currency):
    refusal = account_create(
        ledger_id=ledger.id, request=AccountRequest(currency=currency)
    )

    assert isinstance(refusal, Problem)
    assert refusal.code == "currency_unknown"


@pytest.mark.parametrize("currency", ["USD", "JPY", "BHD", "CLF", "UYW"])
def test_an_account_is_kept_in_any_currency_with_a_minor_unit(ledger, currency):
    assert AccountFactory(ledger=ledger, currency=currency, balance=7).posted == 7


def test_assets_move_like_money_and_the_books_stay_sound(ledger):
    create(ledger, "PTS")
    source = AccountFactory(ledger=ledger, currency="PTS", balance=500)
    target = AccountFactory(ledger=ledger, currency="PTS")
    dollars = AccountFactory(ledger=ledger)

    outcome = move(source, target, 200)
    mixed = move(source, dollars, 1)

    assert isinstance(outcome, PostedTransfer)
    assert outcome.postings[0].currency == "PTS"
    assert (fresh(source).posted, fresh(target).posted) == (300, 200)
    assert isinstance(mixed, Problem)
    assert mixed.code == "currency_mismatch"
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_exponents_are_the_ledger_s_own_before_iso_4217_s(ledger):
    create(ledger, "PTS", exponent=3)
    # As if ISO 4217 had adopted the code after the asset was made.
    Asset.objects.create(
        ledger_id=ledger.id, code="KWD", name="Kudos", exponent=1, created_at=now()
    )
    create(LedgerFactory(), "BTC", exponent=8)

    found = exponents(ledger.id)

    assert (found["PTS"], found["KWD"], found["USD"], found["JPY"]) == (3, 1, 2, 0)
    assert "BTC" not in found
    assert "XAU" not in found


def test_that_many_who_make_one_asset_make_it_once(committed_db):
    with transaction_owner():
        ledger = LedgerFactory()

    def make() -> str:
        with transaction_owner():
            outcome = create(ledger, "PTS")
        return outcome.code

    assert sorted(at_once([make] * 6)) == ["PTS"] + ["asset_code_taken"] * 5


# --- The API ----------------------------------------------------------------------

POINTS = {"code": "PTS", "name": "Loyalty points", "exponent": 0}


def test_an_asset_is_made_shown_and_listed(api):
    response = api.send("/v1/assets", POINTS, key=None)

    made = response.json()
    assert response.status_code == 201
    assert made == {**POINTS, "id": made["id"], "created_at": made["created_at"]}
    assert response["Location"] == "/v1/assets/PTS"
    assert api.get("/v1/assets/PTS").json() == made
    assert api.get("/v1/assets").json() == {"data": [made], "next_cursor": None}
    account = api.send("/v1/accounts", {"currency": "PTS"})
    assert (account.status_code, account.json()["currency"]) == (201, "PTS")


def test_assets_come_in_pages_by_code(api):
    for code in ("GOLD", "BTC", "PTS", "AIR", "ZED"):
        api.send("/v1/assets", {**POINTS, "code": code})
    found, path = [], "/v1/assets?limit=2"

    while path:
        document = api.get(path).json()
        assert len(document["data"]) <= 2
        found += [asset["code"] for asset in document["data"]]
        cursor = document["next_cursor"]
        path = f"/v1/assets?limit=2&cursor={cursor}" if cursor else None

    assert found == ["AIR", "BTC", "GOLD", "PTS", "ZED"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"code": "pts"}, {"code": "not_a_code"}),
        ({"code": "P" * 13}, {"code": "not_a_code"}),
        ({"code": 5}, {"code": "not_a_text"}),
        ({"name": ""}, {"name": "empty"}),
        ({"name": "n" * 256}, {"name": "too_long"}),
        ({"exponent": 9}, {"exponent": "out_of_range"}),
        ({"exponent": -1}, {"exponent": "out_of_range"}),
        ({"exponent": "2"}, {"exponent": "not_an_integer"}),
        ({"exponent": True}, {"exponent": "not_an_integer"}),
        ({"symbol": "P"}, {"symbol": "unknown_field"}),
    ],
)
def test_a_field_of_the_wrong_form_is_named(api, change, expected):
    assert field_codes(api.send("/v1/assets", POINTS | change)).items() >= (
        expected.items()
    )
    assert not Asset.objects.filter(ledger_id=api.ledger.id).exists()


def test_all_of_an_asset_is_required(api):
    assert field_codes(api.send("/v1/assets", {})) == dict.fromkeys(
        ("code", "name", "exponent"), "missing"
    )


def test_refusals_are_replayed_with_their_keys(api):
    iso = api.send("/v1/assets", {**POINTS, "code": "EUR"}, key="iso")
    again = api.send("/v1/assets", {**POINTS, "code": "EUR"}, key="iso")
    api.send("/v1/assets", POINTS, key="made")
    replayed = api.send("/v1/assets", POINTS, key="made")
    taken = api.send("/v1/assets", POINTS, key="other")

    assert problem(iso)["code"] == "asset_code_is_iso"
    assert (again.content, again["Idempotent-Replayed"]) == (iso.content, "true")
    assert (replayed.status_code, replayed["Idempotent-Replayed"]) == (201, "true")
    assert problem(taken)["code"] == "asset_code_taken"


def test_an_asset_whose_stored_answer_was_purged_is_built_again(api):
    made = api.send("/v1/assets", POINTS, key="k")
    key = IdempotencyKey.objects.get(ledger_id=api.ledger.id, key="k")

    rebuilt = asset_rebuild(ledger_id=api.ledger.id, resource_id=key.resource_id)

    assert rebuilt == (made.json(), "/v1/assets/PTS")


@pytest.mark.parametrize("code", ["BTC", "USD", "pts", "%00"])
def test_an_asset_that_is_not_there_is_not_found(api, code):
    create(LedgerFactory(), "BTC")

    assert problem(api.get(f"/v1/assets/{code}"))["code"] == "not_found"


def test_the_currencies_of_iso_4217_are_listed_with_their_exponents(api):
    document = api.get("/v1/currencies").json()

    by_code = {row["code"]: row for row in document["data"]}
    assert document["next_cursor"] is None
    assert by_code["USD"] == {"code": "USD", "name": "US Dollar", "exponent": 2}
    assert [by_code[code]["exponent"] for code in ("JPY", "KWD", "CLF")] == [0, 3, 4]
    assert "XAU" not in by_code


# --- The command ------------------------------------------------------------------


def test_the_command_makes_an_asset_and_says_its_unit(committed_db, capsys):
    with transaction_owner():
        ledger = LedgerFactory()
    arguments = ("--ledger", ledger.slug, "--name", "Bitcoin", "--code", "BTC")

    call_command("create_asset", *arguments, "--exponent", "8")

    assert capsys.readouterr().out == (
        f"Made asset BTC in {ledger.slug}; its smallest unit is 0.00000001 BTC.\n"
    )
    assert Asset.objects.get(ledger_id=ledger.id).exponent == 8
    with pytest.raises(CommandError, match="has an asset BTC already"):
        call_command("create_asset", *arguments, "--exponent", "8")


def test_the_command_prints_the_asset_as_json(committed_db, capsys):
    with transaction_owner():
        ledger = LedgerFactory()

    call_command(
        *("create_asset", "--ledger", ledger.slug, "--code", "PTS"),
        *("--name", "Points", "--exponent", "0", "--json"),
    )

    document = json.loads(capsys.readouterr().out)
    asset = Asset.objects.get(ledger_id=ledger.id)
    assert document == {"ledger": ledger.slug, **asset_json(asset)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--ledger": "nowhere"}, "no ledger 'nowhere'"),
        ({"--code": "USD"}, "code of ISO 4217"),
        ({"--code": "pts"}, "is no code"),
        ({"--exponent": "9"}, "0 to 8 decimals"),
    ],
)
def test_the_command_says_why_it_makes_none(committed_db, change, message):
    with transaction_owner():
        ledger = LedgerFactory()
    options = {"--ledger": ledger.slug, "--code": "PTS", "--name": "Points"}
    options |= {"--exponent": "0"} | change

    with pytest.raises(CommandError, match=message):
        call_command(
            "create_asset", *(word for pair in options.items() for word in pair)
        )

    assert not Asset.objects.filter(ledger_id=ledger.id).exists()
    assert not Account.objects.filter(ledger_id=ledger.id).exists()


# --- The back office --------------------------------------------------------------


def test_the_back_office_shows_an_asset_s_amounts_with_its_decimals(
    ledger, admin_client
):
    create(ledger, "BTC", exponent=8)
    create(LedgerFactory(), "BTC", exponent=2)
    source = AccountFactory(ledger=ledger, currency="BTC", balance=150_000_000)
    target = AccountFactory(ledger=ledger, currency="BTC", payout_destination="bc1")
    dollars = AccountFactory(ledger=ledger, balance=123_456)
    done = move(source, target, 25_000_000)
    assert isinstance(done, PostedTransfer)

    def shown(model: str, object_id: Any = None) -> str:
        view = "change" if object_id else "changelist"
        url = reverse(f"admin:{model}_{view}", args=[object_id] if object_id else [])
        response = admin_client.get(f"{url}?ledger={ledger.id}")
        assert response.status_code == 200
        return response.content.decode()

    accounts = shown("ledger_account")
    assert "1.25000000 BTC" in accounts
    assert "1,234.56 USD" in accounts
    assert "1.25000000 BTC" in shown("ledger_account", source.id)
    assert "1,234.56 USD" in shown("ledger_account", dollars.id)
    for page in (
        shown("ledger_transfer"),
        shown("ledger_transfer", done.id),
        shown("ledger_entry"),
        shown("outbox_outboxtask"),
    ):
        assert "0.25000000 BTC" in page
