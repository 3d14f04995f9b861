"""The database refuses what would break a reversal, a limit or an asset, by name.

As in ``test_hold_invariants``: as the owner, by raw SQL or by the engine's statement
without the judgement that comes before it.
"""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from ledger.engine.batch import Batch
from ledger.enums import Permission, ReversalReason, TransferKind
from ledger.models import Account, ReversalTotal
from ledger.services.accounts import system_account_id
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, move, post
from ledger.tests.test_hold_invariants import rule_against
from ledger.tests.test_invariants import refusal, run
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from payflow.clock import now
from payflow.ids import new_id

pytestmark = pytest.mark.django_db


class ReversalBooks:
    """A transfer of 100 between two funded accounts."""

    def __init__(self) -> None:
        self.ledger = LedgerFactory()
        self.source = AccountFactory(ledger=self.ledger, balance=1_000)
        self.target = AccountFactory(ledger=self.ledger, balance=1_000)
        self.transfer = move(self.source, self.target, 100)

    def reverse(
        self,
        amount: int = 60,
        *,
        original: PostedTransfer | None = None,
        total: int | None = 60,
        of: int = 100,
        payer: Account | None = None,
        payee: Account | None = None,
        **fields: Any,
    ) -> PostedTransfer:
        """Reverses through the engine's statement.

        ``total`` is what the posting's total says then, ``of`` what it says that the
        posting moved; no total is written if it is ``None``.
        """
        original = original or self.transfer
        payer, payee = payer or self.target, payee or self.source
        request = TransferRequest(
            **{
                "postings": (PostingRequest(payer.id, payee.id, amount),),
                "kind": TransferKind.REVERSAL,
                "reverses_transfer_id": original.id,
                "source_postings": (1,),
                "reason": ReversalReason.ERROR,
                **fields,
            }
        )
        totals = [] if total is None else [(1, of, total)]
        return self.write(request, original=original, totals=totals)

    def write(
        self,
        request: TransferRequest,
        *,
        original: PostedTransfer,
        totals: Sequence[tuple[int, int, int]],
    ) -> PostedTransfer:
        batch = Batch(ledger_id=self.ledger.id, actor=ACTOR, now=now())
        batch.lock(
            account_id
            for posting in request.postings
            for account_id in (posting.from_account_id, posting.to_account_id)
        )
        batch.add(request)
        for number, amount, reversed_by_now in totals:
            batch.add_reversal_total(
                transfer_id=original.id,
                posting_number=number,
                amount=amount,
                reversed=reversed_by_now,
            )
        (posted,) = batch.write()
        return posted

    def account(self, account_id: UUID) -> Account:
        return Account.objects.get(ledger_id=self.ledger.id, id=account_id)

    def total(self) -> int:
        return ReversalTotal.objects.get(
            ledger_id=self.ledger.id, transfer_id=self.transfer.id
        ).reversed


@pytest.fixture
def books(db: None) -> ReversalBooks:
    return ReversalBooks()


# 1. What reversals add up to


def test_reversals_through_the_engines_statement_are_accepted(books):
    books.reverse(60)
    books.reverse(40, total=100)

    assert books.total() == 100


@pytest.mark.parametrize("total", [None, 59, 61])
def test_a_reversal_is_in_its_postings_total(books, total):
    assert (
        rule_against(lambda: books.reverse(60, total=total))
        == "reversal_total_equals_reversals"
    )


def test_a_second_reversal_is_added_to_the_first(books):
    books.reverse(60)

    for total in (None, 40, 60):
        assert (
            rule_against(lambda total=total: books.reverse(40, total=total))
            == "reversal_total_equals_reversals"
        )


def test_no_total_without_reversals(books):
    sql = (
        "INSERT INTO ledger_reversal_total (ledger_id, id, transfer_id,"
        " posting_number, amount, reversed) VALUES (%s, %s, %s, %s, 100, 1)"
    )
    keys = [books.ledger.id, new_id()]

    for transfer_id, number in ((books.transfer.id, 1), (books.transfer.id, 2)):
        assert (
            refusal(sql, [*keys, transfer_id, number])
            == "reversal_total_equals_reversals"
        )
    assert refusal(sql, [*keys, new_id(), 1]) in {
        "reversal_total_belongs_to_transfer",
        "reversal_total_equals_reversals",
    }


@pytest.mark.parametrize("change", ["reversed + 1", "reversed - 1", "amount"])
def test_a_total_does_not_change_without_a_reversal(books, change):
    books.reverse(60)

    assert (
        refusal(f"UPDATE ledger_reversal_total SET reversed = {change}")
        == "reversal_total_equals_reversals"
    )


def test_a_total_repeats_what_its_posting_moved(books):
    assert (
        rule_against(lambda: books.reverse(60, of=101))
        == "reversal_total_equals_reversals"
    )


def test_no_more_is_reversed_than_was_moved(books):
    assert (
        rule_against(lambda: books.reverse(101, total=101))
        == "reversed_within_transferred"
    )
    books.reverse(60)
    assert (
        rule_against(lambda: books.reverse(41, total=101))
        == "reversed_within_transferred"
    )


def test_no_more_is_reversed_by_two_postings_of_one_reversal(books):
    twice = {
        "postings": (PostingRequest(books.target.id, books.source.id, 60),) * 2,
        "source_postings": (1, 1),
    }

    assert (
        rule_against(lambda: books.reverse(total=60, **twice))
        == "reversal_total_equals_reversals"
    )
    assert (
        rule_against(lambda: books.reverse(total=120, **twice))
        == "reversed_within_transferred"
    )


@pytest.mark.parametrize(
    "change",
    [
        "id = gen_random_uuid()",
        "transfer_id = gen_random_uuid()",
        "posting_number = 2",
        "amount = 1000",
        "ledger_id = gen_random_uuid()",
    ],
)
def test_the_identity_of_a_total_never_changes(books, change):
    books.reverse(60)

    assert (
        refusal(f"UPDATE ledger_reversal_total SET {change}")
        == "reversal_total_identity_never_changes"
    )


def test_totals_are_never_deleted(books):
    books.reverse(60)

    assert (
        refusal("DELETE FROM ledger_reversal_total")
        == "reversal_total_is_never_deleted"
    )
    assert (
        refusal("TRUNCATE ledger_reversal_total") == "reversal_total_is_never_deleted"
    )


# 2. Where reversals go


def test_a_reversal_goes_back_where_the_money_came_from(books):
    other = AccountFactory(ledger=books.ledger, balance=500)

    for accounts in (
        {"payer": other},
        {"payee": other},
        {"payer": books.source, "payee": books.target},
        {"payer": other, "permission": Permission.FORCE_REVERSAL},
    ):
        assert (
            rule_against(lambda changed=accounts: books.reverse(**changed))
            == "reversal_moves_back_what_was_moved"
        )


@pytest.mark.parametrize("source_postings", [(2,), (0,), ("NULL",), ("{1}",)])
def test_a_reversal_names_a_posting_of_its_transfer(books, source_postings):
    # NULL is no number; and of an array in an array the first element is none either.
    assert (
        rule_against(lambda: books.reverse(source_postings=source_postings, total=None))
        == "reversal_moves_back_what_was_moved"
    )


def test_receivables_pay_back_only_with_the_permission(books):
    account_id = system_account_id(
        ledger_id=books.ledger.id, name="receivables", currency="USD"
    )
    receivables = books.account(account_id)

    assert (
        rule_against(lambda: books.reverse(payer=receivables))
        == "reversal_moves_back_what_was_moved"
    )
    books.reverse(payer=receivables, permission=Permission.FORCE_REVERSAL)
    assert books.total() == 60


def test_receivables_of_another_currency_pay_nothing_back(books):
    # By its name it is the euros' account, by its currency it is not.
    other = AccountFactory(ledger=books.ledger, balance=500)
    Account.objects.filter(ledger_id=books.ledger.id, id=other.id).update(
        reference="system:receivables:EUR"
    )

    assert (
        rule_against(
            lambda: books.reverse(payer=other, permission=Permission.FORCE_REVERSAL)
        )
        == "reversal_moves_back_what_was_moved"
    )


def test_what_undoes_something_is_not_undone(books):
    reversal = books.reverse(60)

    assert (
        rule_against(
            lambda: books.reverse(
                original=reversal,
                payer=books.source,
                payee=books.target,
                of=60,
            )
        )
        == "reversal_is_not_reversed"
    )


def test_a_settlement_is_not_reversed(books):
    payout = AccountFactory(ledger=books.ledger, payout_destination="iban")
    move(books.source, payout, 60)
    settlement = move(payout, books.target, 60, kind=TransferKind.SETTLEMENT)

    assert (
        rule_against(
            lambda: books.reverse(
                original=settlement, payer=books.target, payee=payout, of=60
            )
        )
        == "reversal_is_not_reversed"
    )


def test_a_payout_account_takes_no_refund(books):
    drained = AccountFactory(ledger=books.ledger)
    move(books.source, drained, 900)
    Account.objects.filter(ledger_id=books.ledger.id, id=books.source.id).update(
        payout_destination="iban"
    )

    assert (
        rule_against(lambda: books.reverse(60)) == "reversal_enters_no_payout_account"
    )


def test_a_reversal_does_not_reverse_itself(books):
    itself = new_id()

    assert (
        rule_against(
            lambda: books.reverse(id=itself, reverses_transfer_id=itself, total=None)
        )
        == "reversal_is_not_reversed"
    )


def test_nothing_of_another_ledger_is_reversed(books):
    other = ReversalBooks()

    assert (
        rule_against(lambda: books.reverse(original=other.transfer, total=None))
        == "transfer_reverses_transfer"
    )


def test_a_payout_is_given_back_only_by_what_ends_it(books):
    payout = AccountFactory(ledger=books.ledger, payout_destination="iban")
    sent = move(books.source, payout, 60)
    receivables = books.account(
        system_account_id(ledger_id=books.ledger.id, name="receivables", currency="USD")
    )

    # The bank would pay out what came back already.
    assert (
        rule_against(
            lambda: books.reverse(
                original=sent,
                payer=receivables,
                of=60,
                permission=Permission.FORCE_REVERSAL,
            )
        )
        == "payout_is_reversed_by_payout_reversal"
    )
    ending = {"kind": TransferKind.PAYOUT_REVERSAL, "reason": None}
    books.reverse(original=sent, payer=payout, of=60, **ending)
    # And that works on frozen accounts, so nothing else may pass for it.
    assert (
        rule_against(lambda: books.reverse(**ending))
        == "payout_is_reversed_by_payout_reversal"
    )


def test_frozen_accounts_give_nothing_back(books):
    Account.objects.filter(ledger_id=books.ledger.id, id=books.target.id).update(
        status="frozen_out"
    )

    assert rule_against(books.reverse) == "account_status_allows_entry"


def test_an_exchange_is_reversed_whole(books):
    euros = [
        AccountFactory(ledger=books.ledger, currency="EUR", balance=1_000)
        for _ in range(2)
    ]
    sides = (
        PostingRequest(books.source.id, books.target.id, 100),
        PostingRequest(euros[0].id, euros[1].id, 90),
    )
    (exchange,) = post(
        TransferRequest(
            sides, kind=TransferKind.EXCHANGE, exchange_rate=Decimal("0.9")
        ),
        ledger=books.ledger,
    )

    def reverse(amounts: dict[int, int]) -> None:
        books.write(
            TransferRequest(
                tuple(
                    PostingRequest(
                        sides[n - 1].to_account_id, sides[n - 1].from_account_id, amount
                    )
                    for n, amount in amounts.items()
                ),
                kind=TransferKind.REVERSAL,
                reverses_transfer_id=exchange.id,
                source_postings=tuple(amounts),
                reason=ReversalReason.ERROR,
            ),
            original=exchange,
            totals=[(n, sides[n - 1].amount, amount) for n, amount in amounts.items()],
        )

    for amounts in ({1: 100}, {2: 90}, {1: 100, 2: 89}, {1: 99, 2: 90}):
        assert (
            rule_against(lambda amounts=amounts: reverse(amounts))
            == "exchange_is_reversed_whole"
        )
    reverse({1: 100, 2: 90})


def test_the_applications_role_can_reverse(books):
    run("SET LOCAL ROLE payflow_app")

    transfer_reverse(
        ledger_id=books.ledger.id,
        request=ReversalRequest(books.transfer.id, ReversalReason.ERROR),
        actor=ACTOR,
        now=now(),
    )

    assert books.total() == 100


# 3. What a transfer says of itself


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"kind": "'capture'"}, "transfer_capture_names_hold"),
        ({"hold_id": "gen_random_uuid()"}, "transfer_capture_names_hold"),
        ({"kind": "'payout_reversal'"}, "transfer_reversal_names_transfer"),
        (
            {"reverses_transfer_id": "gen_random_uuid()"},
            "transfer_reversal_names_transfer",
        ),
        ({"source_postings": "'{1}'"}, "transfer_sources_are_of_each_posting"),
        (
            {"kind": "'capture'", "hold_id": "gen_random_uuid()"},
            "transfer_sources_are_of_each_posting",
        ),
        (
            {
                "kind": "'capture'",
                "hold_id": "gen_random_uuid()",
                "source_postings": "'{}'",
            },
            "transfer_sources_are_of_each_posting",
        ),
        (
            {
                "kind": "'payout_reversal'",
                "reverses_transfer_id": "gen_random_uuid()",
                "source_postings": "'{1,2}'",
            },
            "transfer_sources_are_of_each_posting",
        ),
        ({"reason": "'error'"}, "transfer_reversal_has_reason"),
        (
            {
                "kind": "'reversal'",
                "reverses_transfer_id": "gen_random_uuid()",
                "source_postings": "'{1}'",
            },
            "transfer_reversal_has_reason",
        ),
        (
            {
                "kind": "'reversal'",
                "reverses_transfer_id": "gen_random_uuid()",
                "source_postings": "'{1}'",
                "reason": "'whim'",
            },
            "transfer_reason_is_known",
        ),
        ({"permission": "'capture_frozen'"}, "transfer_permission_is_known"),
        ({"permission": "'force_reversal'"}, "transfer_permission_is_known"),
        ({"permission": "'everything'"}, "transfer_permission_is_known"),
        ({"exchange_rate": "1"}, "transfer_exchange_has_rate"),
        ({"kind": "'exchange'", "posting_count": "2"}, "transfer_exchange_has_rate"),
        ({"kind": "'exchange'", "exchange_rate": "1"}, "transfer_exchange_has_rate"),
        *(
            (
                {"kind": "'exchange'", "posting_count": "2", "exchange_rate": rate},
                "transfer_exchange_has_rate",
            )
            for rate in ("0", "-1", "'NaN'")
        ),
    ],
)
def test_a_transfer_says_what_its_kind_needs(books, columns, rule):
    columns = {"kind": "'transfer'", "posting_count": "1", **columns}
    sql = (
        f"INSERT INTO ledger_transfer ({', '.join(columns)}, ledger_id, id, actor,"
        f" effective_at, created_at) VALUES ({', '.join(columns.values())}, %s,"
        " gen_random_uuid(), 'raw', now(), now())"
    )

    assert refusal(sql, [books.ledger.id]) == rule


# 4. Limits, permissions and assets


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ("'around', 'day', 1, 1", "velocity_limit_direction_is_known"),
        ("'out', 'year', 1, 1", "velocity_limit_period_is_known"),
        ("'out', 'day', NULL, NULL", "velocity_limit_limits_something"),
        ("'out', 'day', -1, NULL", "velocity_limit_is_in_range"),
        ("'out', 'day', NULL, -1", "velocity_limit_is_in_range"),
        ("'out', 'day', 9007199254740992, 1", "velocity_limit_is_in_range"),
    ],
)
def test_a_limit_limits_something(books, values, rule):
    sql = (
        "INSERT INTO ledger_velocity_limit (direction, period, max_amount, max_count,"
        f" ledger_id, id, account_id) VALUES ({values}, %s, gen_random_uuid(), %s)"
    )

    assert refusal(sql, [books.ledger.id, books.source.id]) == rule


def test_limits_and_usage_stay_in_their_ledger(books):
    stranger = AccountFactory()
    limit = (
        "INSERT INTO ledger_velocity_limit (ledger_id, id, account_id, direction,"
        " period, max_count) VALUES (%s, gen_random_uuid(), %s, 'out', 'day', 1)"
    )
    usage = (
        "INSERT INTO ledger_usage (ledger_id, id, account_id, created_at, out_amount,"
        " out_count, in_amount, in_count)"
        " VALUES (%s, gen_random_uuid(), %s, '2026-01-01', %s, 0, 0, 0)"
    )

    assert (
        refusal(limit, [books.ledger.id, stranger.id])
        == "velocity_limit_belongs_to_account"
    )
    assert (
        refusal(usage, [books.ledger.id, stranger.id, 1]) == "usage_belongs_to_account"
    )
    assert (
        refusal(usage, [books.ledger.id, books.source.id, -1]) == "usage_not_negative"
    )
    run(limit, [books.ledger.id, books.source.id])
    run(usage, [books.ledger.id, books.source.id, 1])
    assert (
        refusal(limit, [books.ledger.id, books.source.id])
        == "velocity_limit_unique_per_window"
    )
    assert (
        refusal(usage, [books.ledger.id, books.source.id, 1])
        == "usage_unique_per_instant"
    )
    assert refusal("DELETE FROM ledger_usage") == "usage_is_never_deleted"
    assert refusal("TRUNCATE ledger_usage") == "usage_is_never_deleted"


@pytest.mark.parametrize("permissions", ["{everything}", "{NULL}"])
def test_a_client_has_only_permissions_that_there_are(books, permissions):
    assert (
        refusal(
            "INSERT INTO ledger_api_client (ledger_id, id, name, permissions)"
            " VALUES (%s, gen_random_uuid(), 'c', %s)",
            [books.ledger.id, permissions],
        )
        == "api_client_permissions_are_known"
    )


@pytest.mark.parametrize(
    ("code", "name", "exponent", "rule"),
    [
        ("gold", "Gold", 2, "asset_code_is_well_formed"),
        ("G", "Gold", 2, "asset_code_is_well_formed"),
        ("GOLD", "", 2, "asset_has_name"),
        ("GOLD", "Gold", 9, "asset_exponent_is_in_range"),
        ("GOLD", "Gold", -1, "asset_exponent_is_in_range"),
    ],
)
def test_an_asset_is_well_formed(books, code, name, exponent, rule):
    assert refusal(ASSET, [books.ledger.id, code, name, exponent]) == rule


def test_an_asset_never_changes(books):
    run(ASSET, [books.ledger.id, "GOLD", "Gold", 3])

    assert (
        refusal(ASSET, [books.ledger.id, "GOLD", "Gold", 4])
        == "asset_code_unique_in_ledger"
    )
    assert refusal(ASSET, [new_id(), "GOLD", "Gold", 4]) == "asset_belongs_to_ledger"
    for statement in (
        "UPDATE ledger_asset SET exponent = 4",
        "DELETE FROM ledger_asset",
        "TRUNCATE ledger_asset",
    ):
        assert refusal(statement) == "asset_is_append_only"


ASSET = (
    "INSERT INTO ledger_asset (ledger_id, id, code, name, exponent)"
    " VALUES (%s, gen_random_uuid(), %s, %s, %s)"
)


# Tricks


@pytest.mark.parametrize("kind", ["temporary", "inheriting"])
def test_no_table_of_somebody_elses_passes_for_a_total(books, kind):
    fake = "fake_total"
    if kind == "temporary":
        fake = "pg_temp.ledger_reversal_total"
        run(
            "CREATE TEMPORARY TABLE ledger_reversal_total"
            " (LIKE public.ledger_reversal_total)"
        )
    else:
        run("CREATE TABLE fake_total () INHERITS (ledger_reversal_total)")
    run(
        f"INSERT INTO {fake} VALUES (%s, gen_random_uuid(), %s, 1, 100, 60)",
        [books.ledger.id, books.transfer.id],
    )

    assert (
        rule_against(lambda: books.reverse(total=None))
        == "reversal_total_equals_reversals"
    )


def test_no_rule_is_left_without_an_attack():
    """Each name that the triggers of these migrations raise occurs in a test here."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT m[1] FROM pg_proc p,"
            " regexp_matches(p.prosrc, '(?:THEN|CONSTRAINT =) ''([a-z_]+)''', 'g') m"
            " WHERE p.proname ~ '^ledger_check_(new_holds|new_hold_postings|hold_|"
            "reversal_|transfer_origins)'"
        )
        rules = {name for (name,) in cursor.fetchall()}
    tests = Path(__file__).parent
    text = "".join(
        (tests / f"test_{name}_invariants.py").read_text()
        for name in ("hold", "reversal")
    )

    assert len(rules) > 15
    assert {rule for rule in rules if f'"{rule}"' not in text} == set()
