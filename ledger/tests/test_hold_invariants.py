"""The database refuses what would break a hold, and names the rule.

Everything runs as the owner of the tables, whom no grant stops: either as raw SQL, or
through the engine's own statement without the judgement that comes before it.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django.db.utils import DatabaseError

from ledger.engine.batch import Batch
from ledger.enums import HoldStatus, Permission, TransferKind
from ledger.locks import LockedHold, lock_holds
from ledger.models import Account, Hold, HoldPosting, Ledger
from ledger.selectors.ledgers import OVER_CAPTURE
from ledger.services.holds import holds_expire
from ledger.tests.factories import ACTOR, AccountFactory, LedgerFactory, fresh
from ledger.tests.holds import capture, extend, place, void
from ledger.tests.test_invariants import refusal, run
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from payflow.clock import now
from payflow.db import constraint_name
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

MOMENT = timedelta(microseconds=1)


def rule_against(attack: Callable[[], Any]) -> str | None:
    """The name of the rule by which PostgreSQL refuses what ``attack`` writes."""
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        attack()
    return constraint_name(caught.value)


class HoldBooks:
    """A hold of 100 between two funded accounts, of which captures may take 150."""

    def __init__(self) -> None:
        self.ledger = LedgerFactory()
        Ledger.objects.filter(id=self.ledger.id).update(settings={OVER_CAPTURE: 5_000})
        self.source = AccountFactory(ledger=self.ledger, balance=1_000)
        self.target = AccountFactory(ledger=self.ledger, balance=1_000)
        self.hold = place(self.source, self.target, 100)

    def place(self, **changes: Any) -> str:
        """One statement that places a hold, with something wrong."""
        v = {
            "hold": new_id(),
            "posting_count": 1,
            "numbers": (1,),
            "status": "active",
            "ended_at": "NULL",
            "at": "clock_timestamp()",
            "expires_at": "at + interval '1 day'",
            "posting_expires_at": "at + interval '1 day'",
            "posting_at": "at",
            "source": self.source.id,
            "target": self.target.id,
            "currency": "USD",
            "amount": 100,
            "limit": 150,
            "captured": 0,
            "released": 0,
            **changes,
        }
        numbers = ", ".join(f"({number})" for number in v["numbers"]) or "(NULL::int)"
        return f"""
        WITH clock AS MATERIALIZED (SELECT {v["at"]} AS at), h AS (
            INSERT INTO ledger_hold (ledger_id, id, status, posting_count, expires_at,
                created_at, ended_at, actor)
            SELECT '{self.ledger.id}', '{v["hold"]}', '{v["status"]}',
                {v["posting_count"]}, {v["expires_at"]}, at, {v["ended_at"]}, 'raw'
            FROM clock
        ), p AS (
            INSERT INTO ledger_hold_posting (ledger_id, id, hold_id, number,
                from_account_id, to_account_id, currency, amount, capture_limit,
                captured, released, expires_at, created_at)
            SELECT '{self.ledger.id}', gen_random_uuid(), '{v["hold"]}', n.number,
                '{v["source"]}', '{v["target"]}', '{v["currency"]}', {v["amount"]},
                {v["limit"]}, {v["captured"]}, {v["released"]},
                {v["posting_expires_at"]}, {v["posting_at"]}
            FROM clock, (VALUES {numbers}) AS n (number) WHERE n.number IS NOT NULL
        )
        SELECT 1
        """

    def locked(self) -> LockedHold:
        (hold,) = lock_holds(ledger_id=self.ledger.id, hold_ids=[self.hold.id])
        return hold

    def capture(
        self, amount: int = 50, *, write_hold: bool = True, **fields: Any
    ) -> PostedTransfer:
        """Captures through the engine's statement, whatever the state of the hold.

        ``captured``, ``released`` and ``status`` replace what the hold would say then;
        ``source`` and ``target`` its accounts; other fields are the transfer's.
        """
        hold = self.locked()
        (posting,) = hold.postings
        posting.captured = fields.pop("captured", posting.captured + amount)
        posting.released = fields.pop("released", posting.released)
        hold.status = fields.pop(
            "status", HoldStatus.ACTIVE if posting.held else HoldStatus.CAPTURED
        )
        source, target = (
            fields.pop("source", self.source),
            fields.pop("target", self.target),
        )
        request = TransferRequest(
            **{
                "postings": (PostingRequest(source.id, target.id, amount),),
                "kind": TransferKind.CAPTURE,
                "hold_id": self.hold.id,
                "source_postings": (1,),
                **fields,
            }
        )
        batch = Batch(ledger_id=self.ledger.id, actor=ACTOR, now=now())
        batch.lock(
            account_id
            for p in request.postings
            for account_id in (p.from_account_id, p.to_account_id)
        )
        batch.add(request)
        if write_hold:
            batch._changed_holds[hold.id] = hold
        (posted,) = batch.write()
        return posted

    def update(self, *, hold: str = "", posting: str = "") -> str:
        """One statement that changes the hold's row, its posting's, or both."""
        parts = []
        if hold:
            parts.append(
                f"h AS (UPDATE ledger_hold SET {hold}"
                f" WHERE ledger_id = '{self.ledger.id}' AND id = '{self.hold.id}')"
            )
        if posting:
            parts.append(
                f"p AS (UPDATE ledger_hold_posting SET {posting} WHERE"
                f" ledger_id = '{self.ledger.id}' AND hold_id = '{self.hold.id}')"
            )
        return f"WITH {', '.join(parts)} SELECT 1"

    @property
    def posting(self) -> HoldPosting:
        return HoldPosting.objects.get(ledger_id=self.ledger.id, hold_id=self.hold.id)

    @property
    def status(self) -> str:
        return Hold.objects.get(ledger_id=self.ledger.id, id=self.hold.id).status

    def set_account(self, account: Account, **fields: Any) -> None:
        Account.objects.filter(ledger_id=self.ledger.id, id=account.id).update(**fields)


@pytest.fixture
def books(db: None) -> HoldBooks:
    return HoldBooks()


# 1. A hold comes whole


def test_a_whole_hold_by_raw_sql_is_accepted(books):
    run(books.place(posting_count=3, numbers=(1, 2, 3)))

    assert Hold.objects.filter(ledger_id=books.ledger.id, posting_count=3).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"numbers": ()},
        {"posting_count": 2},
        {"numbers": (2,)},
        {"numbers": (1, 2)},
        {"numbers": (1, 3), "posting_count": 2},
        {"captured": 10},
        {"released": 10},
        {"posting_expires_at": "at + interval '2 days'"},
        {"posting_at": "at - interval '1 second'"},
        {"status": "voided", "ended_at": "at"},
        {"status": "captured", "ended_at": "at", "captured": 100},
        {"at": "clock_timestamp() - interval '1 hour'"},
        {"at": "clock_timestamp() + interval '2 minutes'"},
    ],
)
def test_a_hold_that_is_not_whole_and_fresh_is_refused(books, change):
    assert refusal(books.place(**change)) == "hold_comes_with_its_postings"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"posting_count": 0, "numbers": ()}, "hold_has_postings"),
        ({"numbers": (1, 1), "posting_count": 2}, "hold_posting_number_unique"),
        ({"numbers": (0, 1), "posting_count": 2}, "hold_posting_number_is_positive"),
        ({"amount": 0}, "hold_posting_amount_is_positive"),
        ({"amount": -5}, "hold_posting_amount_is_positive"),
        ({"limit": 99}, "hold_posting_limit_covers_amount"),
        ({"limit": 2**53}, "hold_posting_amount_fits_json"),
        ({"captured": 151}, "hold_captured_within_limit"),
        ({"captured": -1}, "hold_captured_within_limit"),
        ({"released": 101}, "hold_captured_and_released_within_held"),
        ({"released": -1}, "hold_captured_and_released_within_held"),
        ({"captured": 60, "released": 41}, "hold_captured_and_released_within_held"),
        ({"captured": 120, "released": 1}, "hold_captured_and_released_within_held"),
        ({"currency": "EUR"}, "hold_posting_from_account_of_currency"),
        ({"expires_at": "at"}, "hold_expires_after_its_beginning"),
        ({"expires_at": "at + interval '367 days'"}, "hold_lifetime_is_limited"),
        ({"status": "gone", "ended_at": "at"}, "hold_status_is_known"),
        ({"ended_at": "at"}, "hold_end_has_time"),
        ({"status": "voided"}, "hold_end_has_time"),
    ],
)
def test_a_hold_out_of_range_is_refused(books, change, rule):
    assert refusal(books.place(**change)) == rule


def test_a_hold_has_two_accounts_of_one_ledger_and_currency(books):
    stranger, euros = (
        AccountFactory(),
        AccountFactory(ledger=books.ledger, currency="EUR"),
    )

    for change, rule in (
        ({"target": books.source.id}, "hold_posting_has_two_accounts"),
        ({"target": stranger.id}, "hold_posting_to_account_of_currency"),
        ({"source": stranger.id}, "hold_posting_from_account_of_currency"),
        ({"target": euros.id}, "hold_posting_to_account_of_currency"),
    ):
        assert refusal(books.place(**change)) == rule


def test_nothing_of_a_hold_points_into_another_ledger(books):
    other = HoldBooks()

    for sql, rule in (
        (
            "INSERT INTO ledger_hold_posting SELECT (jsonb_populate_record(p,"
            " jsonb_build_object('ledger_id', %s::text, 'number', 2))).*"
            " FROM ledger_hold_posting p WHERE hold_id = %s",
            "hold_posting_belongs_to_hold",
        ),
        (
            "INSERT INTO ledger_hold_event SELECT (jsonb_populate_record(v,"
            " jsonb_build_object('ledger_id', %s::text))).*"
            " FROM ledger_hold_event v WHERE hold_id = %s",
            "hold_event_belongs_to_hold",
        ),
    ):
        assert refusal(sql, [other.ledger.id, books.hold.id]) == rule
    assert rule_against(
        lambda: books.capture(hold_id=other.hold.id, write_hold=False)
    ) == ("transfer_captures_hold")


@pytest.mark.parametrize("ahead", ["0 seconds", "30 seconds"])
def test_no_posting_joins_a_hold_later(books, ahead):
    # Also not while the hold's time is still to come.
    hold_id = new_id()
    run(books.place(hold=hold_id, at=f"clock_timestamp() + interval '{ahead}'"))
    sql = (
        "INSERT INTO ledger_hold_posting SELECT (jsonb_populate_record(p,"
        " jsonb_build_object('id', gen_random_uuid(), 'number', %s::int))).*"
        " FROM ledger_hold_posting p WHERE hold_id = %s"
    )

    assert refusal(sql, [2, hold_id]) == "hold_comes_with_its_postings"
    assert refusal(sql, [1, hold_id]) == "hold_posting_number_unique"


def test_no_posting_joins_a_hold_within_one_block(books):
    hold_id = new_id()
    late = (
        "INSERT INTO ledger_hold_posting SELECT (jsonb_populate_record(p,"
        " jsonb_build_object('id', gen_random_uuid(), 'number', 2))).*"
        f" FROM ledger_hold_posting p WHERE hold_id = '{hold_id}'"
    )
    statements = books.place(hold=hold_id).replace("SELECT 1", "SELECT 1 INTO nothing")

    assert (
        refusal(f"DO $$ DECLARE nothing int; BEGIN {statements}; {late}; END $$")
        == "hold_comes_with_its_postings"
    )


@pytest.mark.parametrize(
    ("account", "status"),
    [("source", "frozen_out"), ("source", "frozen"), ("target", "frozen")],
)
def test_frozen_accounts_reserve_nothing(books, account, status):
    books.set_account(getattr(books, account), status=status)

    assert refusal(books.place()) == "account_status_allows_hold"


def test_an_account_that_is_frozen_for_outgoing_may_be_held_for(books):
    cash = AccountFactory(ledger=books.ledger, kind="asset")
    books.set_account(books.target, status="frozen_out")
    books.set_account(cash, status="frozen_out")

    run(books.place())

    # Crediting an asset takes from it; debiting it gives.
    run(books.place(source=cash.id))
    assert refusal(books.place(target=cash.id)) == "account_status_allows_hold"


def test_closed_and_payout_accounts_reserve_nothing(books):
    closed = AccountFactory(ledger=books.ledger)
    books.set_account(closed, status="closed")
    payout = AccountFactory(ledger=books.ledger, payout_destination="iban")

    for side in ("source", "target"):
        assert refusal(books.place(**{side: closed.id})) == "account_status_allows_hold"
    assert (
        refusal(books.place(source=payout.id))
        == "payout_account_sends_only_completions"
    )
    run(books.place(target=payout.id))


def test_an_account_with_pending_money_does_not_close(books):
    empty = AccountFactory(ledger=books.ledger)
    place(books.source, empty, 10)

    assert (
        refusal(
            "UPDATE ledger_account SET status = 'closed'"
            " WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, empty.id],
        )
        == "account_closes_only_empty"
    )


# 2. What never changes


@pytest.mark.parametrize(
    "change",
    [
        "posting_count = 2",
        "reference = 'mine'",
        "description = 'mine'",
        "metadata = '{\"a\": 1}'",
        "created_at = created_at - interval '1 second'",
        "actor = 'me'",
        "client_id = gen_random_uuid()",
        "key_id = gen_random_uuid()",
        "request_id = 'mine'",
        "idempotency_key = 'mine'",
    ],
)
def test_the_identity_of_a_hold_never_changes(books, change):
    assert refusal(books.update(hold=change)) == "hold_identity_never_changes"


@pytest.mark.parametrize(
    "change",
    [
        "id = gen_random_uuid()",
        "number = 2",
        "from_account_id = to_account_id, to_account_id = from_account_id",
        "amount = 101",
        "capture_limit = 1000",
        "created_at = created_at - interval '1 second'",
    ],
)
def test_the_identity_of_a_posting_never_changes(books, change):
    assert refusal(books.update(posting=change)) == "hold_identity_never_changes"


def test_the_keys_of_a_hold_never_change(books):
    other = place(books.source, books.target, 100)
    bare = "UPDATE ledger_hold_posting SET hold_id = %s, number = 2 WHERE hold_id = %s"

    # The posting goes with it, so that no foreign key is in the way.
    moved = books.update(hold="id = '{0}'", posting="hold_id = '{0}'").format(new_id())
    assert refusal(moved) == "hold_identity_never_changes"
    assert refusal(bare, [other.id, books.hold.id]) == "hold_identity_never_changes"


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ("ledger_hold", "hold_is_never_deleted"),
        ("ledger_hold_posting", "hold_posting_is_never_deleted"),
        ("ledger_hold_event", "hold_event_is_append_only"),
    ],
)
def test_holds_and_their_history_are_never_deleted(books, table, rule):
    assert refusal(f"DELETE FROM {table}") == rule
    assert refusal(f"TRUNCATE {table} CASCADE")


def test_the_history_of_a_hold_never_changes(books):
    assert (
        refusal("UPDATE ledger_hold_event SET reason = ''")
        == "hold_event_is_append_only"
    )


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ("'noticed', 0, 0, NULL, NULL", "hold_event_kind_is_known"),
        ("'captured', 5, 0, NULL, NULL", "hold_event_capture_has_transfer"),
        ("'voided', 0, 0, gen_random_uuid(), NULL", "hold_event_capture_has_transfer"),
        ("'captured', 5, 0, gen_random_uuid(), NULL", "hold_event_names_transfer"),
        ("'extended', 0, 0, NULL, NULL", "hold_event_expiry_is_stated"),
        ("'voided', 0, 0, NULL, now()", "hold_event_expiry_is_stated"),
        ("'voided', -1, 0, NULL, NULL", "hold_event_amounts_not_negative"),
        ("'voided', 0, -1, NULL, NULL", "hold_event_amounts_not_negative"),
    ],
)
def test_an_event_says_what_its_kind_needs(books, values, rule):
    sql = (
        "INSERT INTO ledger_hold_event (kind, captured, released, transfer_id,"
        " expires_at, ledger_id, id, hold_id, actor, created_at)"
        f" VALUES ({values}, %s, gen_random_uuid(), %s, 'raw', now())"
    )

    assert refusal(sql, [books.ledger.id, books.hold.id]) == rule


# 3. The end


VOIDED = {
    "hold": "status = 'voided', ended_at = clock_timestamp()",
    "posting": "released = amount",
}


def test_a_void_by_raw_sql_is_accepted(books):
    run(books.update(**VOIDED))

    assert books.status == "voided"


@pytest.mark.parametrize(
    ("hold", "posting"),
    [
        (VOIDED["hold"], ""),
        (VOIDED["hold"], "released = amount - 1"),
        ("", VOIDED["posting"]),
        ("status = 'active'", VOIDED["posting"]),
    ],
)
def test_a_hold_is_active_exactly_while_it_holds(books, hold, posting):
    assert (
        refusal(books.update(hold=hold, posting=posting))
        == "hold_is_active_while_it_holds"
    )


@pytest.mark.parametrize("end", ["void", "capture"])
def test_an_end_is_final(books, end):
    void(books.hold) if end == "void" else capture(books.hold)

    for change in (
        {"hold": "status = 'active', ended_at = NULL"},
        {"hold": "ended_at = clock_timestamp()"},
        {"hold": "status = 'expired', ended_at = clock_timestamp()"},
        {"hold": "expires_at = expires_at + interval '1 day'"},
    ):
        assert refusal(books.update(**change)) == "hold_end_is_final"
    assert (
        refusal(books.update(posting="expires_at = expires_at + interval '1 day'"))
        == "hold_postings_expire_together"
    )


def test_an_ended_hold_is_captured_no_more_within_its_allowance_or_not(books):
    capture(books.hold)

    assert rule_against(lambda: books.capture(write_hold=False)) == (
        "hold_captured_equals_captures"
    )
    assert (
        rule_against(lambda: books.capture(status=HoldStatus.CAPTURED))
        == "hold_end_is_final"
    )
    # Without the hold's row, the posting's own must know.
    posting = "UPDATE ledger_hold_posting SET captured = 150 WHERE hold_id = %s"
    assert refusal(posting, [books.hold.id]) == "hold_end_is_final"


@pytest.mark.parametrize(
    "ended_at", ["'2100-01-01'", "clock_timestamp() - '1s'::interval"]
)
def test_a_hold_ends_when_that_is_recorded(books, ended_at):
    change = {**VOIDED, "hold": f"status = 'voided', ended_at = {ended_at}"}

    assert refusal(books.update(**change)) == "hold_ends_when_it_is_recorded"


def test_a_hold_expires_no_sooner_than_it_has_lapsed(books):
    change = {**VOIDED, "hold": "status = 'expired', ended_at = clock_timestamp()"}
    assert refusal(books.update(**change)) == "hold_expires_when_it_has_lapsed"

    books.hold = place(books.source, books.target, 5, lifetime=MOMENT)

    run(books.update(**change))
    assert books.status == "expired"


def test_a_hold_is_captured_only_if_something_was(books):
    change = {**VOIDED, "hold": "status = 'captured', ended_at = clock_timestamp()"}
    assert refusal(books.update(**change)) == "hold_captured_has_captures"

    capture(books.hold, 30)

    run(books.update(**{**change, "posting": "released = amount - captured"}))
    assert books.status == "captured"


@pytest.mark.parametrize("column", ["captured", "released"])
def test_totals_never_decrease(books, column):
    if column == "captured":
        capture(books.hold, 30)
    else:
        run(books.update(posting="released = 30"))

    assert (
        refusal(books.update(posting=f"{column} = {column} - 1"))
        == "hold_totals_never_decrease"
    )


# 4. Expiry


LATER = "expires_at = expires_at + interval '1 day'"


def test_an_extension_by_raw_sql_is_accepted(books):
    run(books.update(hold=LATER, posting=LATER))

    assert books.posting.expires_at == books.hold.row.expires_at + timedelta(days=1)


def test_a_hold_and_its_postings_are_extended_together(books):
    for change in (
        {"hold": LATER},
        {"posting": LATER},
        {"hold": LATER, "posting": LATER.replace("1 day", "2 days")},
    ):
        assert refusal(books.update(**change)) == "hold_postings_expire_together"


def test_a_hold_is_extended_only_forwards_and_before_it_lapses(books):
    sooner = LATER.replace("+", "-")
    assert (
        refusal(books.update(hold=sooner, posting=sooner))
        == "hold_is_extended_before_it_lapses"
    )
    ended = f"{VOIDED['hold']}, {LATER}"
    assert (
        refusal(books.update(hold=ended, posting=f"{VOIDED['posting']}, {LATER}"))
        == "hold_is_extended_before_it_lapses"
    )

    books.hold = place(books.source, books.target, 5, lifetime=MOMENT)

    assert (
        refusal(books.update(hold=LATER, posting=LATER))
        == "hold_is_extended_before_it_lapses"
    )


def test_no_extension_exceeds_the_longest_lifetime(books):
    much = LATER.replace("1 day", "367 days")

    assert refusal(books.update(hold=much, posting=much)) == "hold_lifetime_is_limited"


# 5. Captures


def test_a_capture_through_the_engines_statement_is_accepted(books):
    books.capture(50)
    books.capture(100, status=HoldStatus.CAPTURED)

    assert (books.posting.captured, books.status) == (150, "captured")


def test_a_capture_is_in_the_hold_and_among_the_transfers(books):
    for attack in (
        lambda: books.capture(write_hold=False),
        lambda: books.capture(captured=49),
        lambda: books.capture(captured=51),
        lambda: run(books.update(posting="captured = 50")),
    ):
        assert rule_against(attack) == "hold_captured_equals_captures"


def test_two_captures_in_one_statement_are_counted_both(books):
    def capture_twice(captured: int) -> None:
        hold = books.locked()
        hold.postings[0].captured = captured
        batch = Batch(ledger_id=books.ledger.id, actor=ACTOR, now=now())
        batch.lock([books.source.id, books.target.id])
        for _ in range(2):
            batch.add(
                TransferRequest(
                    (PostingRequest(books.source.id, books.target.id, 40),),
                    kind=TransferKind.CAPTURE,
                    hold_id=books.hold.id,
                    source_postings=(1,),
                )
            )
        batch._changed_holds[hold.id] = hold
        batch.write()

    assert rule_against(lambda: capture_twice(40)) == "hold_captured_equals_captures"
    capture_twice(80)
    assert books.posting.captured == 80


def test_a_posting_that_is_captured_twice_by_one_transfer_is_counted_twice(books):
    twice = {
        "postings": (PostingRequest(books.source.id, books.target.id, 40),) * 2,
        "source_postings": (1, 1),
    }

    assert (
        rule_against(lambda: books.capture(captured=40, **twice))
        == "hold_captured_equals_captures"
    )
    books.capture(captured=80, **twice)
    assert books.posting.captured == 80


@pytest.mark.parametrize("source_postings", [(2,), (0,), ("NULL",), ("{1}",)])
def test_a_capture_names_a_posting_of_its_hold(books, source_postings):
    # NULL is no number; and of an array in an array the first element is none either.
    assert (
        rule_against(
            lambda: books.capture(source_postings=source_postings, write_hold=False)
        )
        == "capture_moves_what_is_held"
    )


@pytest.mark.parametrize("source_postings", [(), (1, 1), None])
def test_a_capture_names_one_posting_for_each_of_its_own(books, source_postings):
    assert (
        rule_against(lambda: books.capture(source_postings=source_postings))
        == "transfer_sources_are_of_each_posting"
    )


def test_a_capture_moves_between_the_accounts_of_its_posting(books):
    other = AccountFactory(ledger=books.ledger, balance=500)

    for accounts in (
        {"source": other},
        {"target": other},
        {"source": books.target, "target": books.source},
    ):
        assert (
            rule_against(lambda changed=accounts: books.capture(**changed))
            == "capture_moves_what_is_held"
        )


def test_no_capture_exceeds_the_limit(books):
    assert rule_against(lambda: books.capture(151)) == "hold_captured_within_limit"
    assert (
        rule_against(lambda: books.capture(150, released=1, status="captured"))
        == "hold_captured_and_released_within_held"
    )


def test_a_released_hold_is_captured_no_more(books):
    run(books.update(posting="released = 60"))

    assert (
        rule_against(lambda: books.capture(41))
        == "hold_captured_and_released_within_held"
    )
    books.capture(40, status=HoldStatus.CAPTURED)


def test_a_lapsed_hold_is_captured_no_more(books):
    books.hold = place(books.source, books.target, 50, lifetime=MOMENT)

    assert rule_against(lambda: books.capture(50)) == "capture_before_expiry"


def test_a_lapsed_hold_is_not_captured_by_extending_it_on_the_way(books):
    books.hold = place(books.source, books.target, 100, lifetime=MOMENT)

    def attack() -> None:
        hold = books.locked()
        hold.postings[0].captured = 50
        hold.expires_at += timedelta(days=1)
        batch = Batch(ledger_id=books.ledger.id, actor=ACTOR, now=now())
        batch.lock([books.source.id, books.target.id])
        batch.add(
            TransferRequest(
                (PostingRequest(books.source.id, books.target.id, 50),),
                kind=TransferKind.CAPTURE,
                hold_id=books.hold.id,
                source_postings=(1,),
            )
        )
        batch._changed_holds[hold.id] = hold
        batch.write()

    assert rule_against(attack) == "hold_is_extended_before_it_lapses"


# 6. Captures on frozen accounts


@pytest.mark.parametrize(
    ("account", "status"),
    [("source", "frozen_out"), ("source", "frozen"), ("target", "frozen")],
)
def test_a_capture_on_frozen_accounts_needs_the_permission(books, account, status):
    books.set_account(getattr(books, account), status=status)

    assert rule_against(books.capture) == "account_status_allows_entry"
    books.capture(permission=Permission.CAPTURE_FROZEN)
    assert books.posting.captured == 50


def test_a_capture_on_a_closed_account_is_refused_with_the_permission_too(books):
    empty = AccountFactory(ledger=books.ledger)
    books.hold = place(books.source, empty, 100)
    # Its pending counters forgotten, which only an audit would find.
    books.set_account(empty, credits_pending=0)
    books.set_account(empty, status="closed")

    assert (
        rule_against(
            lambda: books.capture(target=empty, permission=Permission.CAPTURE_FROZEN)
        )
        == "account_status_allows_entry"
    )


# 7. Who else could do it


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_hold SET id = id",
        "UPDATE ledger_hold SET posting_count = 1",
        "UPDATE ledger_hold SET created_at = now()",
        "UPDATE ledger_hold SET actor = 'me'",
        "DELETE FROM ledger_hold",
        "TRUNCATE ledger_hold",
        "UPDATE ledger_hold_posting SET amount = 1",
        "UPDATE ledger_hold_posting SET capture_limit = 1",
        "UPDATE ledger_hold_posting SET from_account_id = to_account_id",
        "DELETE FROM ledger_hold_posting",
        "UPDATE ledger_hold_event SET captured = 1",
        "DELETE FROM ledger_hold_event",
        "UPDATE ledger_reversal_total SET amount = 1",
        "UPDATE ledger_reversal_total SET transfer_id = transfer_id",
        "DELETE FROM ledger_reversal_total",
        "UPDATE ledger_usage SET account_id = account_id",
        "DELETE FROM ledger_usage",
        "UPDATE ledger_asset SET exponent = 1",
        "DELETE FROM ledger_asset",
        "ALTER TABLE ledger_hold DISABLE TRIGGER ALL",
    ],
)
def test_the_applications_role_has_no_grant_to_change_holds(books, statement):
    run("SET LOCAL ROLE payflow_app")
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        run(statement)

    assert isinstance(caught.value.__cause__, psycopg.errors.InsufficientPrivilege)


def test_the_applications_role_can_do_its_work(books):
    run("SET LOCAL ROLE payflow_app")

    extend(books.hold, books.hold.row.expires_at + timedelta(days=1))
    capture(books.hold, 30)
    void(books.hold)
    place(books.source, books.target, 5, lifetime=MOMENT)

    assert holds_expire(ledger_id=books.ledger.id, now=now()) == 1
    assert (books.status, fresh(books.source).debits_pending) == ("voided", 0)


# Rows that would make a capture of 50 if they were in the real tables.
FAKE_CAPTURE = """
INSERT INTO {transfer} (ledger_id, id, kind, posting_count, effective_at, created_at,
    actor, description, metadata, request_id, hold_id, source_postings)
VALUES (%(ledger)s, %(id)s, 'capture', 1, now(), now(), 'raw', '', '{{}}', '',
    %(hold)s, '{{1}}');
INSERT INTO {entry} (ledger_id, id, transfer_id, account_id, amount, account_version,
    debits_after, credits_after, effective_at, created_at, posting_number, direction,
    currency)
SELECT %(ledger)s, gen_random_uuid(), %(id)s, %(account)s, 50, 9, 0, 0, now(), now(), 1,
    direction, 'USD'
FROM (VALUES ('debit'), ('credit')) AS d (direction)
"""


@pytest.mark.parametrize("kind", ["temporary", "inheriting"])
def test_no_table_of_somebody_elses_passes_for_captures(books, kind):
    names = {"transfer": "fake_transfer", "entry": "fake_entry"}
    for name, table in names.items():
        if kind == "temporary":
            names[name] = f"pg_temp.ledger_{name}"
            run(f"CREATE TEMPORARY TABLE ledger_{name} (LIKE public.ledger_{name})")
        else:
            run(f"CREATE TABLE {table} () INHERITS (ledger_{name})")
    run(
        FAKE_CAPTURE.format(**names),
        {
            "ledger": books.ledger.id,
            "id": new_id(),
            "hold": books.hold.id,
            "account": books.source.id,
        },
    )

    assert (
        refusal(books.update(posting="captured = 50"))
        == "hold_captured_equals_captures"
    )


def test_no_table_of_somebody_elses_passes_for_postings(books):
    run("CREATE TABLE fake_posting () INHERITS (ledger_hold_posting)")
    hold_id = new_id()
    run(
        "INSERT INTO fake_posting SELECT (jsonb_populate_record(p,"
        " jsonb_build_object('hold_id', %s::text))).*"
        " FROM ONLY ledger_hold_posting p WHERE hold_id = %s",
        [hold_id, books.hold.id],
    )

    assert (
        refusal(books.place(hold=hold_id, numbers=())) == "hold_comes_with_its_postings"
    )


def test_every_trigger_fires_for_a_replication_session_too():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE NOT t.tgisinternal AND t.tgenabled <> 'A'"
            " AND c.relname ~ '^(ledger|outbox|idempotency)_'"
        )
        assert cursor.fetchall() == []
