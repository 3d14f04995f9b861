"""Exchanges: two currencies, one transfer, one rate, and books that stay balanced."""

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.api.transfers import transfer_rebuild
from ledger.audit import audit_run
from ledger.enums import AccountStatus, Permission, ReversalReason
from ledger.models import Account, Ledger, Transfer
from ledger.selectors.transfers import transfer_get
from ledger.services.accounts import system_account_id
from ledger.services.assets import AssetRequest, asset_create
from ledger.services.exchanges import ExchangeRequest, exchange_post
from ledger.services.posting import Outcome
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, fresh, move
from ledger.tests.test_api import Api, field_codes, problem
from ledger.types import PostedTransfer
from payflow.actors import Actor
from payflow.api.rendering import to_json
from payflow.clock import now
from payflow.errors import Problem
from payflow.ids import new_id
from payflow.money import MAX_AMOUNT
from payflow.tests.test_money import LONGEST_RATE

pytestmark = pytest.mark.django_db


def exchange(
    source: Account, target: Account, amount: int, rate: str, **fields: Any
) -> Outcome:
    return exchange_post(
        ledger_id=source.ledger_id,
        request=ExchangeRequest(source.id, target.id, amount, Decimal(rate), **fields),
        actor=ACTOR,
        now=now(),
    )


def code(outcome: object) -> str:
    assert isinstance(outcome, Problem), outcome
    return outcome.code


def fx_position(ledger: Ledger, currency: str) -> int:
    return Account.objects.get(
        ledger_id=ledger.id, reference=f"system:fx:{currency}"
    ).posted


def pair(sold: str = "EUR", bought: str = "USD", balance: int = 100_000) -> Any:
    ledger = LedgerFactory()
    for currency, exponent in ASSETS.items():
        if currency in (sold, bought):
            asset_create(
                ledger_id=ledger.id,
                request=AssetRequest(currency, currency.title(), exponent),
                actor=ACTOR,
            )
    return (
        AccountFactory(ledger=ledger, currency=sold, balance=balance),
        AccountFactory(ledger=ledger, currency=bought),
    )


ASSETS = {"BTC": 8, "PTS": 0}
EXPONENTS = {"USD": 2, "EUR": 2, "JPY": 0, "KWD": 3, "CLF": 4, **ASSETS}


# --- What it does -----------------------------------------------------------------


def test_an_exchange_is_one_transfer_of_two_postings_through_the_fx_accounts():
    euros, dollars = pair()

    done = exchange(
        euros, dollars, 10_000, "1.0825", reference="x-1", metadata={"quote": "q7"}
    )

    assert isinstance(done, PostedTransfer)
    assert (done.kind, done.exchange_rate) == ("exchange", Decimal("1.0825"))
    assert [(p.amount, p.currency) for p in done.postings] == [
        (10_000, "EUR"),
        (10_825, "USD"),
    ]
    assert [b.posted for b in done.balances] == [90_000, 10_000, -10_825, 10_825]
    assert (done.reference, done.metadata) == ("x-1", {"quote": "q7"})
    assert (fresh(euros).posted, fresh(dollars).posted) == (90_000, 10_825)
    assert fx_position(euros.ledger, "EUR") == 10_000
    assert fx_position(euros.ledger, "USD") == -10_825
    assert transfer_get(ledger_id=euros.ledger_id, transfer_id=done.id) == done
    assert audit_run(ledger_slug=euros.ledger.slug).is_sound


def test_the_fx_accounts_are_equity_without_a_floor_and_made_once():
    euros, dollars = pair()

    exchange(euros, dollars, 100, "1.1")
    exchange(euros, dollars, 100, "1.2")
    exchange(dollars, euros, 100, "0.9")

    fx = Account.objects.filter(
        ledger_id=euros.ledger_id, reference__startswith="system:fx:"
    )
    assert sorted(fx.values_list("reference", "kind", "min_balance", "version")) == [
        ("system:fx:EUR", "equity", None, 3),
        ("system:fx:USD", "equity", None, 3),
    ]
    assert (fx_position(euros.ledger, "EUR"), fx_position(euros.ledger, "USD")) == (
        100 + 100 - 90,
        -110 - 120 + 100,
    )


@pytest.mark.parametrize(
    ("sold", "bought", "amount", "rate", "expected"),
    [
        ("USD", "JPY", 10_000, "149.53", 14_953),
        ("USD", "JPY", 1, "149.53", 1),  # 1.4953
        ("JPY", "USD", 14_953, "0.0066876", 10_000),  # 9,999.96…
        ("USD", "KWD", 10_000, "0.30745", 30_745),
        ("KWD", "USD", 1, "3.2526", 0),  # 0.32526: not a cent
        ("KWD", "JPY", 1_000, "485.5", 486),  # halves go to the even neighbour
        ("KWD", "JPY", 1_000, "486.5", 486),
        ("KWD", "JPY", 1_000, "486.500000000000000001", 487),
        ("USD", "BTC", 100, "0.00001", 1_000),
        ("BTC", "USD", 100_000_000, "98765.4321", 9_876_543),
        ("BTC", "PTS", 50_000_000, "3", 2),  # 1.5
        ("BTC", "PTS", 50_000_000, "1", 0),  # 0.5
        ("PTS", "BTC", 3, "0.00000000500000001", 2),  # 1.500000003
        ("CLF", "USD", 10_000, "42.42", 4_242),
    ],
)
def test_the_rate_converts_major_units_and_halves_go_to_even(
    sold, bought, amount, rate, expected
):
    source, target = pair(sold, bought, balance=amount)

    outcome = exchange(source, target, amount, rate)

    if expected == 0:
        assert code(outcome) == "exchange_amount_too_small"
        assert fresh(source).posted == amount
    else:
        assert isinstance(outcome, PostedTransfer)
        assert [p.amount for p in outcome.postings] == [amount, expected]
        assert outcome.exchange_rate == Decimal(rate)


def test_every_digit_of_the_rate_is_recorded():
    source, target = pair("BTC", "PTS", balance=2)
    tiny, _ = pair("PTS", "USD", balance=MAX_AMOUNT)
    dollars = AccountFactory(ledger=tiny.ledger)

    done = exchange(tiny, dollars, MAX_AMOUNT, "0.001234567890123457")
    assert isinstance(done, PostedTransfer)
    assert done.postings[1].amount == round(
        Fraction(MAX_AMOUNT) * Fraction("0.001234567890123457") * 100
    )
    # 2 units of 10^-8 at 1.2e19 are 246,913,578,024.69… whole points.
    done = exchange(source, target, 2, LONGEST_RATE)
    assert isinstance(done, PostedTransfer)
    assert done.postings[1].amount == 246_913_578_025
    stored = Transfer.objects.get(ledger_id=source.ledger_id, id=done.id)
    assert stored.exchange_rate == Decimal(LONGEST_RATE)
    document, _ = transfer_rebuild(ledger_id=source.ledger_id, resource_id=done.id)
    assert document["exchange_rate"] == LONGEST_RATE


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    currencies=st.permutations(sorted(EXPONENTS)).map(lambda codes: codes[:2]),
    amount=st.integers(1, 10**9),
    rate=st.decimals("0.000000000000000001", "10000", places=18)
    | st.decimals("0.5", "2", places=1),
)
def test_that_the_two_amounts_obey_the_rule_exactly(currencies, amount, rate):
    sold, bought = currencies
    source, target = pair(sold, bought, balance=amount)
    exact = (
        Fraction(amount, 10 ** EXPONENTS[sold])
        * Fraction(rate)
        * 10 ** EXPONENTS[bought]
    )

    outcome = exchange(source, target, amount, str(rate))

    if exact <= Fraction(1, 2):
        assert code(outcome) == "exchange_amount_too_small"
    elif exact >= MAX_AMOUNT + Fraction(1, 2):
        assert code(outcome) == "balance_out_of_range"
    else:
        assert isinstance(outcome, PostedTransfer)
        given_up, received = outcome.postings
        assert given_up.amount == amount
        assert abs(received.amount - exact) <= Fraction(1, 2)
        if abs(received.amount - exact) == Fraction(1, 2):
            assert received.amount % 2 == 0
        assert fx_position(source.ledger, sold) == amount
        assert fx_position(source.ledger, bought) == -received.amount
    assert audit_run(ledger_slug=source.ledger.slug).is_sound


def test_each_currency_of_the_books_balances_by_itself():
    euros, dollars = pair()
    yen = AccountFactory(ledger=euros.ledger, currency="JPY")

    exchange(euros, dollars, 30_000, "1.0825")
    exchange(dollars, yen, 10_000, "149.53")
    exchange(yen, euros, 5_000, "0.0061")

    difference: Counter[str] = Counter()
    for account in Account.objects.filter(ledger_id=euros.ledger_id):
        difference[account.currency] += account.credits_posted - account.debits_posted
    assert dict(difference) == {"EUR": 0, "USD": 0, "JPY": 0}
    assert audit_run(ledger_slug=euros.ledger.slug).is_sound


def test_an_exchange_may_lie_in_the_past():
    euros, dollars = pair()
    yesterday = now() - timedelta(days=1)

    done = exchange(euros, dollars, 100, "1", effective_at=yesterday)

    assert isinstance(done, PostedTransfer)
    assert done.effective_at == yesterday


# --- What refuses it --------------------------------------------------------------


def test_refusals_come_in_their_order():
    """Each call has the fault of its line and those of the lines that follow."""
    euros, dollars = pair(balance=1_000)
    ledger = euros.ledger
    other = AccountFactory(ledger=ledger, currency="EUR")
    payout = AccountFactory(
        ledger=ledger, currency="USD", payout_destination="US00", reference="out"
    )
    exchange(euros, dollars, 100, "1", reference="taken")
    later = now() + timedelta(days=1)
    rest: dict[str, Any] = {"reference": "taken", "effective_at": later}

    def refusal(target_id: UUID, amount: int, rate: str, **fields: Any) -> str:
        request = ExchangeRequest(
            euros.id, target_id, amount, Decimal(rate), **(rest | fields)
        )
        return code(
            exchange_post(ledger_id=ledger.id, request=request, actor=ACTOR, now=now())
        )

    assert refusal(new_id(), 1, "0.5", to_amount=7) == "account_not_found"
    assert refusal(other.id, 1, "0.5", to_amount=7) == "exchange_same_currency"
    assert refusal(payout.id, 1, "0.5", to_amount=7) == "exchange_amount_too_small"
    assert refusal(payout.id, MAX_AMOUNT, "1.1", to_amount=7) == "balance_out_of_range"
    assert refusal(payout.id, 2_000, "1.1", to_amount=7) == "exchange_amount_mismatch"
    assert (
        refusal(payout.id, 2_000, "1.1", to_amount=2_200)
        == "exchange_to_payout_account"
    )
    Account.objects.filter(ledger_id=ledger.id, id=dollars.id).update(
        status=AccountStatus.FROZEN
    )
    assert refusal(dollars.id, 2_000, "1.1") == "account_frozen"
    Account.objects.filter(ledger_id=ledger.id, id=dollars.id).update(
        status=AccountStatus.OPEN
    )
    assert refusal(dollars.id, 2_000, "1.1") == "effective_at_in_future"
    rest["effective_at"] = None
    assert refusal(dollars.id, 2_000, "1.1") == "reference_taken"
    rest["reference"] = None
    assert refusal(dollars.id, 2_000, "1.1") == "insufficient_funds"
    assert isinstance(exchange(euros, dollars, 900, "1.1"), PostedTransfer)


def test_the_amount_that_the_client_expects_must_be_the_computed_one():
    euros, dollars = pair()

    refused = exchange(euros, dollars, 333, "1.0825", to_amount=361)
    done = exchange(euros, dollars, 333, "1.0825", to_amount=360)

    assert isinstance(refused, Problem)
    assert refused.code == "exchange_amount_mismatch"
    assert refused.fields == {"to_amount": 360, "expected_to_amount": 361}
    assert isinstance(done, PostedTransfer)


def test_a_currency_whose_decimals_nobody_knows_is_not_exchanged():
    euros, _ = pair()
    # As after a release of ISO 4217 that withdrew the currency of an account.
    system_account_id(ledger_id=euros.ledger_id, name="bank-settlement", currency="HRK")
    kuna = Account.objects.get(ledger_id=euros.ledger_id, currency="HRK")

    refused = exchange(euros, kuna, 100, "7.5345")

    assert code(refused) == "currency_unknown"


def test_an_fx_account_s_position_is_moved_by_transfers_and_not_by_exchanges():
    euros, dollars = pair()
    exchange(euros, dollars, 100, "1.1")
    position = Account.objects.get(ledger_id=euros.ledger_id, reference="system:fx:EUR")

    assert code(exchange(position, dollars, 10, "1.1")) == "same_account"
    assert isinstance(move(position, euros, 100), PostedTransfer)
    assert fresh(position).posted == 0


def test_a_refusal_before_the_fx_accounts_are_needed_makes_none():
    euros, dollars = pair()

    assert code(exchange(euros, dollars, 100, "1", to_amount=99)) == (
        "exchange_amount_mismatch"
    )

    assert not Account.objects.filter(
        ledger_id=euros.ledger_id, reference__startswith="system:fx:"
    ).exists()


# --- Reversals --------------------------------------------------------------------


BOSS = Actor("boss", permissions=frozenset({Permission.FORCE_REVERSAL}))


def reverse(transfer: PostedTransfer, **fields: Any) -> Outcome:
    return transfer_reverse(
        ledger_id=transfer.ledger_id,
        request=ReversalRequest(transfer.id, ReversalReason.ERROR, **fields),
        actor=BOSS,
        now=now(),
    )


def test_a_reversal_moves_both_currencies_back():
    euros, dollars = pair()
    done = exchange(euros, dollars, 10_000, "1.0825")
    assert isinstance(done, PostedTransfer)

    undone = reverse(done)

    assert isinstance(undone, PostedTransfer)
    assert [(p.amount, p.currency) for p in undone.postings] == [
        (10_000, "EUR"),
        (10_825, "USD"),
    ]
    assert (fresh(euros).posted, fresh(dollars).posted) == (100_000, 0)
    assert (fx_position(euros.ledger, "EUR"), fx_position(euros.ledger, "USD")) == (
        0,
        0,
    )
    assert code(reverse(done)) == "reversal_exceeds_transfer"
    assert audit_run(ledger_slug=euros.ledger.slug).is_sound


def test_what_was_bought_and_spent_is_reversed_by_force_only():
    euros, dollars = pair()
    done = exchange(euros, dollars, 10_000, "1.0825")
    assert isinstance(done, PostedTransfer)
    move(dollars, AccountFactory(ledger=euros.ledger), 1)

    assert code(reverse(done)) == "insufficient_funds"
    assert (fresh(euros).posted, fresh(dollars).posted) == (90_000, 10_824)

    forced = reverse(done, is_forced=True)

    assert isinstance(forced, PostedTransfer)
    assert (fresh(euros).posted, fresh(dollars).posted) == (100_000, 0)
    owed = Account.objects.get(
        ledger_id=euros.ledger_id, reference="system:receivables:USD"
    )
    assert owed.posted == 1
    assert (fx_position(euros.ledger, "EUR"), fx_position(euros.ledger, "USD")) == (
        0,
        0,
    )
    assert audit_run(ledger_slug=euros.ledger.slug).is_sound


@pytest.mark.parametrize("parts", [{1: 10_000}, {2: 10_825}, {1: 5_000, 2: 5_412}])
def test_an_exchange_is_not_reversed_in_part(parts):
    euros, dollars = pair()
    done = exchange(euros, dollars, 10_000, "1.0825")
    assert isinstance(done, PostedTransfer)

    assert code(reverse(done, parts=parts)) == "exchange_reversed_whole"


# --- The API ----------------------------------------------------------------------


class Books(Api):
    """An account of 100,000 EUR cents and an empty one of USD."""

    def __init__(self) -> None:
        super().__init__()
        self.euros = AccountFactory(ledger=self.ledger, currency="EUR", balance=100_000)
        self.dollars = AccountFactory(ledger=self.ledger)

    def body(self, **fields: Any) -> dict[str, Any]:
        return {
            "from_account_id": str(self.euros.id),
            "to_account_id": str(self.dollars.id),
            "amount": 10_000,
            "rate": "1.0825",
            **fields,
        }


@pytest.fixture
def books(db: None) -> Books:
    return Books()


def test_an_exchange_is_made_shown_as_a_transfer_and_replayed(books):
    body = books.body(to_amount=10_825, reference="x-1", description="Holiday")

    response = books.send("/v1/exchanges", body, key="k")
    again = books.send("/v1/exchanges", body, key="k")

    made = response.json()
    assert response.status_code == 201
    assert (made["kind"], made["exchange_rate"]) == ("exchange", "1.0825")
    assert [(p["amount"], p["currency"]) for p in made["postings"]] == [
        (10_000, "EUR"),
        (10_825, "USD"),
    ]
    assert (made["reference"], made["description"]) == ("x-1", "Holiday")
    assert response["Location"] == f"/v1/transfers/{made['id']}"
    assert books.get(response["Location"]).json() == made
    assert (again.content, again["Idempotent-Replayed"]) == (response.content, "true")
    assert fresh(books.dollars).posted == 10_825
    resource, location = transfer_rebuild(
        ledger_id=books.ledger.id, resource_id=UUID(made["id"])
    )
    assert to_json(resource) == response.content
    assert location == response["Location"]


def test_an_exchange_needs_a_key_and_a_dry_run_needs_none(books):
    without = books.send("/v1/exchanges", books.body(), key=None)
    dry = books.send("/v1/exchanges", books.body(dry_run=True), key=None)

    assert problem(without)["code"] == "idempotency_key_missing"
    assert dry.status_code == 200
    assert (dry.json()["id"], dry.json()["dry_run"]) == (None, True)
    assert [b["posted"] for b in dry.json()["balances"]][3] == 10_825
    assert fresh(books.dollars).posted == 0
    assert not Account.objects.filter(
        ledger_id=books.ledger.id, reference__startswith="system:fx:"
    ).exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rate": 1.0825}, {"rate": "not_a_text"}),
        ({"rate": 1}, {"rate": "not_a_text"}),
        ({"rate": None}, {"rate": "not_a_text"}),
        ({"rate": "1e3"}, {"rate": "not_a_rate"}),
        ({"rate": "0"}, {"rate": "not_a_rate"}),
        ({"rate": "-1"}, {"rate": "not_a_rate"}),
        ({"rate": "0.1234567890123456789"}, {"rate": "not_a_rate"}),
        ({"rate": "123456789012345678901"}, {"rate": "not_a_rate"}),
        ({"rate": ""}, {"rate": "not_a_rate"}),
        ({"amount": 1.5}, {"amount": "not_an_integer"}),
        ({"amount": 0}, {"amount": "not_positive"}),
        ({"to_amount": "5"}, {"to_amount": "not_an_integer"}),
        ({"to_amount": None}, {"to_amount": "not_an_integer"}),
        ({"to_account_id": "x"}, {"to_account_id": "not_a_uuid"}),
        ({"postings": []}, {"postings": "unknown_field"}),
    ],
)
def test_a_field_of_the_wrong_form_is_named(books, change, expected):
    response = books.send("/v1/exchanges", books.body(**change))

    assert field_codes(response) == expected
    assert fresh(books.euros).posted == 100_000


def test_all_that_an_exchange_needs_is_named_when_it_is_missing(books):
    assert field_codes(books.send("/v1/exchanges", {})) == dict.fromkeys(
        ("from_account_id", "to_account_id", "amount", "rate"), "missing"
    )


def test_refusals_are_problems_with_their_fields(books):
    mismatch = books.send("/v1/exchanges", books.body(to_amount=10_826), key="m")
    again = books.send("/v1/exchanges", books.body(to_amount=10_826), key="m")
    elsewhere = books.send(
        "/v1/exchanges", books.body(to_account_id=str(AccountFactory().id))
    )
    same = books.send("/v1/exchanges", books.body(to_account_id=str(books.euros.id)))
    poor = books.send("/v1/exchanges", books.body(amount=100_001))

    assert problem(mismatch)["to_amount"] == 10_825
    assert (again.content, again["Idempotent-Replayed"]) == (mismatch.content, "true")
    assert problem(elsewhere)["code"] == "account_not_found"
    assert problem(same)["code"] == "exchange_same_currency"
    assert problem(poor)["available"] == 100_000
