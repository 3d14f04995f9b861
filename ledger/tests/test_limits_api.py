"""Limits and the life of an account, by the API and by the operator's command."""

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from ledger.enums import Permission
from ledger.models import Account, Change
from ledger.services.clients import client_set_permissions
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, fresh, move
from ledger.tests.test_api import Api, field_codes, problem
from payflow.money import MAX_AMOUNT

pytestmark = pytest.mark.django_db

#: The id of nothing; the same in every process that collects the tests.
NOBODY = "01a20000-0000-7000-8000-000000000000"


class BackOffice(Api):
    """A client that may manage accounts, and two accounts."""

    def __init__(self) -> None:
        super().__init__()
        self.permit("manage_accounts")
        self.source = AccountFactory(
            ledger=self.ledger, reference="source", balance=1_000
        )
        self.target = AccountFactory(ledger=self.ledger)

    def permit(self, *permissions: str) -> None:
        client_set_permissions(
            ledger_id=self.ledger.id,
            client_id=self.client.id,
            permissions=permissions,
            actor=ACTOR,
        )

    def path(self, what: str, account: Account | None = None) -> str:
        return f"/v1/accounts/{(account or self.source).id}/{what}"

    def put(self, body: Any, **options: Any) -> Any:
        return self.send(self.path("limits"), body, method="put", **options)

    def pay(self, amount: int) -> Any:
        body = {
            "from_account_id": str(self.source.id),
            "to_account_id": str(self.target.id),
            "amount": amount,
        }
        return self.send("/v1/transfers", body)


@pytest.fixture
def api(db: None) -> BackOffice:
    return BackOffice()


def limit(**fields: Any) -> dict[str, Any]:
    return {"direction": "out", "period": "day", "max_amount": 300, **fields}


# --- Limits -----------------------------------------------------------------------


def test_limits_are_set_shown_and_enforced(api):
    body = {
        "min_balance": -100,
        "velocity_limits": [limit(max_count=3), limit(period="rolling_day")],
    }

    response = api.put(body)
    api.pay(120)
    refused = problem(api.pay(181))
    shown = api.get(api.path("limits")).json()

    assert response.status_code == 200
    assert shown["account_id"] == str(api.source.id)
    assert shown["min_balance"] == fresh(api.source).min_balance == -100
    day, rolling = shown["velocity_limits"]
    assert day["starts_at"] < day["resets_at"]
    assert {k: v for k, v in day.items() if not k.endswith("s_at")} == {
        "direction": "out",
        "period": "day",
        "max_amount": 300,
        "max_count": 3,
        "amount": {"used": 120, "headroom": 180},
        "count": {"used": 1, "headroom": 2},
    }
    assert (rolling["count"], rolling["resets_at"]) == (None, None)
    assert (refused["code"], refused["headroom"]) == ("limit_exceeded", 180)
    assert refused["resets_at"] == day["resets_at"]


def test_a_limit_below_what_is_used_has_no_headroom(api):
    api.pay(500)

    shown = api.put({"velocity_limits": [limit()]}).json()

    assert shown["velocity_limits"][0]["amount"] == {"used": 500, "headroom": 0}


def test_a_put_leaves_alone_what_it_does_not_name(api):
    api.put({"min_balance": None, "velocity_limits": [limit()]})

    api.put({"min_balance": 5})
    shown = api.put({"velocity_limits": []}).json()

    assert shown == {
        "account_id": str(api.source.id),
        "min_balance": 5,
        "velocity_limits": [],
    }


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"velocity_limits": "missing"}),
        ({"limits": []}, {"velocity_limits": "missing", "limits": "unknown_field"}),
        ({"velocity_limits": {}}, {"velocity_limits": "not_a_list"}),
        ({"velocity_limits": [limit()] * 7}, {"velocity_limits": "too_long"}),
        ({"min_balance": "0"}, {"min_balance": "not_an_integer"}),
        ({"min_balance": MAX_AMOUNT + 1}, {"min_balance": "too_large"}),
        (
            {"velocity_limits": [{"max_count": 1}]},
            {
                "velocity_limits[0].direction": "missing",
                "velocity_limits[0].period": "missing",
            },
        ),
        (
            {"velocity_limits": [limit(direction="up", period="year")]},
            {
                "velocity_limits[0].direction": "not_a_choice",
                "velocity_limits[0].period": "not_a_choice",
            },
        ),
        (
            {"velocity_limits": [limit(max_amount=-1, max_count=-1)]},
            {
                "velocity_limits[0].max_amount": "negative",
                "velocity_limits[0].max_count": "negative",
            },
        ),
        (
            {"velocity_limits": [{"direction": "in", "period": "month"}]},
            {"velocity_limits[0].max_amount": "missing"},
        ),
        (
            {"velocity_limits": [limit(max_amount="1", max_count=True)]},
            {
                "velocity_limits[0].max_amount": "not_an_integer",
                "velocity_limits[0].max_count": "not_an_integer",
            },
        ),
    ],
)
def test_bad_limits_are_refused_by_the_name_of_the_field(api, body, errors):
    found = field_codes(api.put(body))

    assert errors.items() <= found.items()


@pytest.mark.parametrize(
    ("limits", "errors"),
    [
        ([limit(), limit(max_count=5)], {"velocity_limits[1]": "repeated"}),
        ([limit(max_amount=None)], {"velocity_limits[0].max_amount": "missing"}),
    ],
)
def test_limits_that_make_no_sense_together_are_a_bad_request(api, limits, errors):
    response = api.put({"velocity_limits": limits})

    assert field_codes(response) == errors
    assert not fresh(api.source).has_velocity_limits


def test_a_dry_run_says_what_limits_would_be_and_sets_none(api):
    body = {"velocity_limits": [limit()], "dry_run": True}

    shown = api.put(body, key=None).json()

    assert shown["dry_run"] is True
    assert shown["velocity_limits"][0]["amount"] == {"used": 0, "headroom": 300}
    assert api.get(api.path("limits")).json()["velocity_limits"] == []


def test_a_put_with_a_key_is_replayed(api):
    body = {"velocity_limits": [limit()]}

    first = api.put(body, key="limits-1")
    api.put({"velocity_limits": []})
    again = api.put(body, key="limits-1")

    assert again.content == first.content
    assert again["Idempotent-Replayed"] == "true"
    assert not fresh(api.source).has_velocity_limits


def test_refusals_are_problems(api):
    system = Account.objects.get(
        ledger_id=api.ledger.id, reference="system:opening-balances:USD"
    )

    response = api.send(
        api.path("limits", system), {"min_balance": 0}, method="put", key=None
    )

    assert problem(response)["code"] == "system_account_protected"


# --- Status -----------------------------------------------------------------------


def test_an_account_is_frozen_unfrozen_and_closed(api):
    frozen = api.send(api.path("freeze"), {"scope": "outgoing", "reason": "a"})
    refused = problem(api.pay(1))
    frozen_all = api.send(api.path("freeze"), {"reason": "b"})
    opened = api.send(api.path("unfreeze"), {"reason": "c"})
    not_empty = problem(api.send(api.path("close"), {"reason": "d"}))
    move(api.source, api.target, 1_000)
    closed = api.send(api.path("close"), {"reason": "e"})
    final = problem(api.send(api.path("unfreeze"), {"reason": "f"}))

    assert [r.json()["status"] for r in (frozen, frozen_all, opened, closed)] == [
        "frozen_out",
        "frozen",
        "open",
        "closed",
    ]
    assert refused["code"] == "account_frozen"
    assert (not_empty["code"], not_empty["posted"]) == ("account_not_empty", 1_000)
    assert final["code"] == "account_status_final"


def test_a_dry_run_of_a_freeze_freezes_nothing(api):
    body = {"reason": "a", "dry_run": True}

    shown = api.send(api.path("freeze"), body, key=None).json()

    assert (shown["status"], shown["dry_run"]) == ("frozen", True)
    assert fresh(api.source).status == "open"


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"reason": "missing"}),
        ({"reason": ""}, {"reason": "empty"}),
        ({"reason": "  "}, {"reason": "empty"}),
        ({"reason": None}, {"reason": "not_a_text"}),
        ({"reason": "x" * 1_001}, {"reason": "too_long"}),
        ({"reason": "x", "until": "now"}, {"until": "unknown_field"}),
    ],
)
def test_a_status_change_needs_a_reason(api, body, errors):
    for what in ("freeze", "unfreeze", "close"):
        assert field_codes(api.send(api.path(what), body)) == errors


def test_a_freeze_has_a_scope_that_is_known(api):
    response = api.send(api.path("freeze"), {"reason": "x", "scope": "incoming"})

    assert field_codes(response) == {"scope": "not_a_choice"}


def test_all_of_it_needs_the_permission(api):
    api.permit(*(set(Permission.values) - {"manage_accounts"}))

    answers = [api.put({"min_balance": None})] + [
        api.send(api.path(what), {"reason": "x"})
        for what in ("freeze", "unfreeze", "close")
    ]

    for answer in answers:
        document = problem(answer)
        assert document["code"] == "permission_denied"
        assert document["permission"] == "manage_accounts"
    assert (fresh(api.source).status, fresh(api.source).min_balance) == ("open", 0)


@pytest.mark.parametrize("account_id", [NOBODY, "nonsense"])
def test_accounts_that_are_not_there_are_not_found(api, account_id):
    other = AccountFactory(ledger=LedgerFactory())

    for wanted in (account_id, other.id):
        base = f"/v1/accounts/{wanted}"
        answers = [
            api.get(f"{base}/limits"),
            api.get(f"{base}/history"),
            api.send(f"{base}/limits", {"min_balance": 1}, method="put"),
            *(
                api.send(f"{base}/{what}", {"reason": "x"})
                for what in ("freeze", "unfreeze", "close")
            ),
        ]
        assert {problem(a)["code"] for a in answers} == {"account_not_found"}


# --- History ----------------------------------------------------------------------


def test_the_history_has_every_change_newest_first(api):
    api.send(
        f"/v1/accounts/{api.source.id}", {"metadata": {"tier": "gold"}}, method="patch"
    )
    api.put({"min_balance": -5, "velocity_limits": [limit()]})
    api.send(api.path("freeze"), {"reason": "court order"})

    first = api.get(api.path("history?limit=2")).json()
    second = api.get(api.path(f"history?cursor={first['next_cursor']}")).json()

    frozen, limited = first["data"]
    (renamed,) = second["data"]
    assert second["next_cursor"] is None
    assert frozen["new"] == {"status": "frozen", "reason": "court order"}
    assert (frozen["old"], frozen["fields"]) == (
        {"status": "open"},
        ["reason", "status"],
    )
    assert frozen["actor"] == f"client:{api.client.name}"
    assert frozen["client_id"] == str(api.client.id)
    assert frozen["request_id"]
    assert limited["fields"] == ["min_balance", "velocity_limits"]
    assert limited["new"]["velocity_limits"] == [{**limit(), "max_count": None}]
    assert (renamed["old"], renamed["new"]) == (
        {"metadata": {}},
        {"metadata": {"tier": "gold"}},
    )


def test_erased_values_are_shown_as_erased(api):
    api.send(api.path("freeze"), {"reason": "about Ada"})
    Change.objects.filter(account_id=api.source.id).update(
        old=None, new=None, erased_at=Now()
    )

    (change,) = api.get(api.path("history")).json()["data"]

    assert (change["old"], change["new"]) == (None, None)
    assert change["erased_at"] is not None
    assert change["fields"] == ["reason", "status"]


def test_the_history_is_narrowed_to_a_range_of_time(api):
    for floor in (-1, -2, -3):
        api.put({"min_balance": floor})
    _, second, _ = api.get(api.path("history")).json()["data"]

    def floors(query: str) -> list[int]:
        rows = api.get(api.path(f"history?{query}")).json()["data"]
        return [row["new"]["min_balance"] for row in rows]

    assert floors(f"created_from={second['created_at']}") == [-3, -2]
    assert floors(f"created_to={second['created_at']}") == [-1]
    assert floors("created_to=2026-01-01T00:00:00Z") == []
    page = api.get(api.path(f"history?limit=1&created_from={second['created_at']}"))
    cursor = page.json()["next_cursor"]
    assert floors(f"cursor={cursor}") == [-2]
    other = api.get(
        api.path(f"history?cursor={cursor}&created_to=2026-01-01T00:00:00Z")
    )
    assert problem(other)["code"] == "invalid_cursor"


def test_the_history_of_one_account_is_not_anothers(api):
    api.send(api.path("freeze"), {"reason": "x"})

    assert api.get(api.path("history", api.target)).json()["data"] == []
    bad = api.get(api.path("history?cursor=bm9uc2Vuc2U"))
    assert problem(bad)["code"] == "invalid_cursor"


# --- set_account ------------------------------------------------------------------


def command(api: BackOffice, account: object, *arguments: str) -> str:
    output = io.StringIO()
    call_command(
        "set_account",
        str(account),
        "--ledger",
        api.ledger.slug,
        *arguments,
        stdout=output,
    )
    return output.getvalue()


def test_an_operator_freezes_by_reference_or_id(api):
    by_reference = command(api, "source", "--freeze", "outgoing", "--reason", "night")
    by_id = command(api, api.source.id, "--freeze", "all", "--reason", "worse")
    opened = command(api, "source", "--unfreeze", "--reason", "day")

    assert by_reference == "Account source: frozen_out, min_balance 0.\n"
    assert by_id == "Account source: frozen, min_balance 0.\n"
    assert opened == "Account source: open, min_balance 0.\n"
    change = Change.objects.filter(account_id=api.source.id).latest("id")
    assert change.actor == "command:set_account"
    assert change.new == {"status": "open", "reason": "day"}


def test_an_operator_limits_and_closes(api):
    move(api.source, api.target, 1_000)

    limited = command(
        api,
        "source",
        "--min-balance",
        "-500",
        "--limit=out:day:amount=3000,count=2",
        "--limit=in:month:count=0",
    )
    document = json.loads(
        command(
            api,
            "source",
            "--close",
            "--reason=left",
            "--no-limits",
            "--min-balance=none",
            "--json",
        )
    )

    assert limited.splitlines() == [
        "Account source: open, min_balance -500.",
        "  in per month, count: 1 of 0 used",
        "  out per day, amount: 1,000 of 3,000 used",
        "  out per day, count: 1 of 2 used",
    ]
    assert document == {
        "reference": "source",
        "status": "closed",
        "account_id": str(api.source.id),
        "min_balance": None,
        "velocity_limits": [],
    }


def test_an_operators_changes_are_made_together_or_not_at_all(api):
    with pytest.raises(CommandError, match="balance of 1000"):
        command(api, "source", "--min-balance", "-7", "--close", "--reason", "x")

    assert fresh(api.source).min_balance == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["source"], "Nothing to change"),
        (["source", "--freeze", "all"], "--reason TEXT"),
        (["source", "--freeze", "all", "--reason", " "], "--reason TEXT"),
        (["source", "--freeze", "some", "--reason", "x"], "--freeze"),
        (["source", "--freeze", "all", "--close", "--reason", "x"], "not allowed"),
        (["nobody", "--no-limits"], "'nobody'"),
        ([NOBODY, "--no-limits"], "There is no account"),
        (["source", "--min-balance", "1.5"], "minor units"),
        (["source", "--min-balance", str(MAX_AMOUNT + 1)], "minor units"),
        (["source", "--limit", "out:day"], "is no limit"),
        (["source", "--limit", "out:year:amount=1"], "is no limit"),
        (["source", "--limit", "out:day:amount=-1"], "is no limit"),
        (["source", "--limit", "out:day:money=1"], "is no limit"),
        (["source", "--limit=out:day:count=1", "--limit=out:day:amount=1"], "two"),
        (["source", "--limit", "out:day:count=1", "--no-limits"], "not allowed"),
    ],
)
def test_set_account_says_what_is_wrong(api, arguments, message):
    with pytest.raises(CommandError, match=message):
        command(api, *arguments)


def test_set_account_names_a_ledger_that_is_not_there(db):
    with pytest.raises(CommandError, match="no ledger 'nowhere'"):
        call_command("set_account", "x", "--ledger", "nowhere", "--no-limits")


def test_the_help_of_set_account_has_examples(capsys):
    with pytest.raises(SystemExit):
        call_command("set_account", "--help")

    assert "examples:\n  manage.py" in capsys.readouterr().out
