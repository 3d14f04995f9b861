"""The database refuses: each invariant is attacked by raw SQL, and names itself.

Everything here runs as the owner of the tables, whom no grant stops.
"""

from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django.db.utils import DatabaseError

from ledger.enums import AccountKind, TransferKind
from ledger.models import Account, Transfer
from ledger.tests.factories import AccountFactory, LedgerFactory, fresh, move
from payflow.db import constraint_name
from payflow.ids import new_id

pytestmark = pytest.mark.django_db


def refusal(sql: str, parameters: Any = None) -> str | None:
    """The name of the rule by which PostgreSQL refuses ``sql``."""
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        run(sql, parameters)
    return constraint_name(caught.value)


def run(sql: str, parameters: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


class Books:
    """Two funded accounts and one transfer between them."""

    def __init__(self) -> None:
        self.ledger = LedgerFactory()
        self.source = AccountFactory(ledger=self.ledger, balance=1_000)
        self.target = AccountFactory(ledger=self.ledger, balance=1_000)
        self.transfer = move(self.source, self.target, 100)

    def write(self, *, accounts: str = "", **changes: Any) -> str:
        """One statement that writes a whole transfer of 50, with something wrong.

        It is built like the engine's own, so that only the change makes it illegal.
        ``accounts`` replaces the counters' update.
        """
        source, target = fresh(self.source), fresh(self.target)
        v = {
            "ledger": self.ledger.id,
            "transfer": new_id(),
            "kind": "transfer",
            "posting_count": 1,
            "source": source.id,
            "target": target.id,
            "debit": 50,
            "credit": 50,
            "debit_currency": "USD",
            "source_version": source.version + 1,
            "target_version": target.version + 1,
            "source_debits": source.debits_posted + 50,
            "source_credits": source.credits_posted,
            "target_debits": target.debits_posted,
            "target_credits": target.credits_posted + 50,
            "number": 1,
            "at": "clock_timestamp()",
            "entry_at": "(SELECT at FROM clock)",
            "effective_at": "(SELECT at FROM clock)",
            "entry_effective_at": "(SELECT at FROM clock)",
            "tasks": 1,
            "payout": "",
            "entries": 1,
            "second_direction": "credit",
            **changes,
        }
        update = accounts or (
            f"UPDATE ledger_account a SET version = u.version, debits_posted = u.d,"
            f" credits_posted = u.c, last_entry_at = {v['entry_at']}"
            f" FROM (VALUES ('{v['source']}'::uuid, {v['source_version']},"
            f" {v['source_debits']}, {v['source_credits']}),"
            f" ('{v['target']}', {v['target_version']}, {v['target_debits']},"
            f" {v['target_credits']})) AS u (id, version, d, c)"
            f" WHERE a.ledger_id = '{v['ledger']}' AND a.id = u.id RETURNING 1"
        )
        return f"""
        WITH clock AS MATERIALIZED (SELECT {v["at"]} AS at), t AS (
            INSERT INTO ledger_transfer (ledger_id, id, kind, posting_count,
                effective_at, created_at, actor)
            SELECT '{v["ledger"]}', '{v["transfer"]}', '{v["kind"]}',
                {v["posting_count"]}, {v["effective_at"]}, at, 'raw' FROM clock
        ), e AS (
            INSERT INTO ledger_entry (ledger_id, id, transfer_id, posting_number,
                direction, account_id, currency, amount, account_version,
                debits_after, credits_after, effective_at, created_at)
            SELECT '{v["ledger"]}', gen_random_uuid(), '{v["transfer"]}',
                {v["number"]}, x.direction, x.account_id, x.currency, x.amount,
                x.version, x.d, x.c, {v["entry_effective_at"]}, {v["entry_at"]}
            FROM (VALUES
                ('debit', '{v["source"]}'::uuid, '{v["debit_currency"]}', {v["debit"]},
                 {v["source_version"]}, {v["source_debits"]}, {v["source_credits"]}),
                ('{v["second_direction"]}', '{v["target"]}', 'USD', {v["credit"]},
                 {v["target_version"]}, {v["target_debits"]}, {v["target_credits"]})
            ) AS x (direction, account_id, currency, amount, version, d, c)
            WHERE {v["entries"]} = 1
        ), k AS (
            INSERT INTO outbox_task (ledger_id, id, transfer_id, kind, posting_number,
                account_id, destination, amount, currency)
            SELECT '{v["ledger"]}'::uuid, gen_random_uuid(), '{v["transfer"]}'::uuid,
                x.* FROM (VALUES
                ('transfer.posted', 0, NULL::uuid, NULL, NULL::bigint, NULL)
                {v["payout"]}) AS x
            WHERE {v["tasks"]} = 1
        ), a AS ({update})
        SELECT 1
        """


@pytest.fixture
def books(db: None) -> Books:
    return Books()


def test_a_whole_transfer_by_raw_sql_is_accepted(books):
    run(books.write())

    assert fresh(books.source).posted == 850
    assert fresh(books.target).posted == 1_150


# 1. Append-only


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ("ledger_transfer", "transfer_is_append_only"),
        ("ledger_entry", "entry_is_append_only"),
        ("ledger_audit_run", "audit_run_is_append_only"),
        ("outbox_attempt", "attempt_is_append_only"),
        ("outbox_attempt_outcome", "attempt_outcome_is_append_only"),
    ],
)
@pytest.mark.parametrize(
    "statement",
    ["UPDATE {t} SET id = id", "DELETE FROM {t}", "TRUNCATE {t} CASCADE"],
)
def test_append_only_tables_refuse_every_change(books, table, rule, statement):
    found = refusal(statement.format(t=table))

    # TRUNCATE … CASCADE may reach a dependent table's trigger first.
    assert found == rule or (statement.startswith("TRUNCATE") and found)


@pytest.mark.parametrize("table", ["ledger_transfer", "ledger_entry"])
def test_append_only_holds_for_a_replication_session_too(books, table):
    run("SET LOCAL session_replication_role = replica")

    assert refusal(f"DELETE FROM {table}")


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ("ledger_account", "account_is_never_deleted"),
        ("ledger_ledger", "ledger_is_never_deleted"),
        ("ledger_change", "change_is_never_deleted"),
        ("outbox_task", "task_is_never_deleted"),
        ("idempotency_key", "idempotency_key_is_never_deleted"),
    ],
)
def test_what_refers_to_money_is_never_deleted(books, table, rule):
    assert refusal(f"DELETE FROM {table}") == rule
    assert refusal(f"TRUNCATE {table} CASCADE")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entry SET amount = 1",
        "DELETE FROM ledger_entry",
        "TRUNCATE ledger_entry",
        "UPDATE ledger_transfer SET description = ''",
        "DELETE FROM ledger_transfer",
        "UPDATE outbox_attempt SET number = 9",
        "DELETE FROM outbox_task",
        "UPDATE outbox_task SET amount = 1",
        "UPDATE ledger_account SET currency = 'EUR'",
        "UPDATE ledger_account SET kind = 'asset'",
        "DELETE FROM idempotency_key",
        "UPDATE idempotency_key SET status = 201",
        "ALTER TABLE ledger_entry DISABLE TRIGGER ALL",
        "DROP TABLE ledger_entry",
    ],
)
def test_the_applications_role_has_no_grant_to_change_the_books(books, statement):
    run("SET LOCAL ROLE payflow_app")
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        run(statement)

    assert isinstance(caught.value.__cause__, psycopg.errors.InsufficientPrivilege)


def test_the_applications_role_can_do_its_work(books):
    run("SET LOCAL ROLE payflow_app")

    outcome = move(books.source, books.target, 10)

    assert Transfer.objects.filter(ledger_id=books.ledger.id, id=outcome.id).exists()


# 2. A transfer's entries are its postings


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"credit": 49, "target_credits": 1149}, "transfer_entries_are_its_postings"),
        ({"posting_count": 2}, "transfer_entries_are_its_postings"),
        ({"number": 2}, "transfer_entries_are_its_postings"),
        ({"entries": 0, "accounts": "SELECT 1"}, "transfer_comes_with_its_entries"),
        ({"tasks": 0}, "transfer_comes_with_its_tasks"),
        ({"second_direction": "debit"}, "entry_unique_per_posting_side"),
        ({"debit_currency": "EUR"}, "entry_belongs_to_account_of_currency"),
        ({"debit": 0, "credit": 0}, "entry_amount_is_positive"),
        ({"debit": -50, "credit": -50}, "entry_amount_is_positive"),
        ({"debit": 2**53, "credit": 2**53}, "entry_amount_fits_json"),
        ({"posting_count": 0}, "transfer_has_postings"),
        ({"kind": "gift"}, "transfer_kind_is_known"),
        (
            {"effective_at": "(SELECT at + interval '1 second' FROM clock)"},
            "transfer_not_effective_after_recording",
        ),
        (
            {"entry_effective_at": "(SELECT at + interval '1 second' FROM clock)"},
            "entry_not_effective_after_recording",
        ),
        (
            {"entry_at": "(SELECT at + interval '1 second' FROM clock)"},
            "entry_repeats_times_of_transfer",
        ),
    ],
)
def test_a_transfer_whose_entries_are_not_its_postings_is_refused(books, change, rule):
    assert refusal(books.write(**change)) == rule


def test_both_sides_on_one_account_are_refused(books):
    change = {
        "target": books.source.id,
        "target_version": 4,
        "target_debits": 150,
        "target_credits": 1_050,
        "accounts": (
            "UPDATE ledger_account SET version = 4, debits_posted = 150,"
            " credits_posted = 1050, last_entry_at = (SELECT at FROM clock)"
            f" WHERE ledger_id = '{books.ledger.id}' AND id = '{books.source.id}'"
            " RETURNING 1"
        ),
    }

    assert refusal(books.write(**change)) == "transfer_entries_are_its_postings"


def test_a_balanced_pair_cannot_be_added_to_an_old_transfer(books):
    sql = """
        WITH e AS (
            INSERT INTO ledger_entry (ledger_id, id, transfer_id, posting_number,
                direction, account_id, currency, amount, account_version,
                debits_after, credits_after, effective_at, created_at)
            SELECT %(ledger)s, gen_random_uuid(), %(transfer)s, 2, x.direction,
                x.account_id, 'USD', 50, x.version, x.d, x.c, t.effective_at,
                t.created_at
            FROM ledger_transfer t, (VALUES
                ('debit', %(source)s, 3, 150, 1000),
                ('credit', %(target)s, 3, 0, 1150)
            ) AS x (direction, account_id, version, d, c)
            WHERE t.ledger_id = %(ledger)s AND t.id = %(transfer)s
        )
        UPDATE ledger_account a SET version = u.version, debits_posted = u.d,
            credits_posted = u.c
        FROM (VALUES (%(source)s, 3, 150, 1000), (%(target)s, 3, 0, 1150))
            AS u (id, version, d, c)
        WHERE a.ledger_id = %(ledger)s AND a.id = u.id
    """

    assert (
        refusal(
            sql,
            {
                "ledger": books.ledger.id,
                "transfer": books.transfer.id,
                "source": books.source.id,
                "target": books.target.id,
            },
        )
        == "transfer_entries_are_its_postings"
    )


# 3. Counters and running totals


@pytest.mark.parametrize(
    "change",
    [
        "credits_posted = credits_posted + 1",
        "debits_posted = 0",
        "version = version + 1",
        "version = version - 1, debits_posted = 0",
        "last_entry_at = clock_timestamp()",
    ],
)
def test_no_raw_sql_changes_a_posted_balance_without_entries(books, change):
    assert (
        refusal(
            f"UPDATE ledger_account SET {change} WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, books.source.id],
        )
        == "account_counters_equal_last_entry"
    )


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"source_debits": 151}, "entry_totals_follow_previous"),
        ({"target_credits": 1_200}, "entry_totals_follow_previous"),
        ({"source_version": 4}, "entry_versions_have_no_gaps"),
        ({"source_version": 2}, "entry_versions_unique_per_account"),
        ({"accounts": "SELECT 1"}, "account_counters_equal_last_entry"),
    ],
)
def test_an_entry_that_does_not_follow_the_previous_one_is_refused(books, change, rule):
    assert refusal(books.write(**change)) == rule


def test_the_recording_time_of_an_account_does_not_decrease(books):
    later = {
        "at": "clock_timestamp() + interval '30 seconds'",
        "target": AccountFactory(ledger=books.ledger).id,
        "target_version": 1,
        "target_credits": 50,
    }
    run(books.write(**later))

    assert refusal(books.write()) == "entry_time_does_not_decrease"


def test_an_account_starts_empty(books):
    assert (
        refusal(
            "INSERT INTO ledger_account (ledger_id, id, currency, credits_posted)"
            " VALUES (%s, %s, 'USD', 5)",
            [books.ledger.id, new_id()],
        )
        == "account_starts_empty"
    )


# 4. The floor


def test_available_does_not_fall_below_the_floor(books):
    Account.objects.filter(ledger_id=books.ledger.id, id=books.source.id).update(
        min_balance=880
    )

    assert refusal(books.write()) == "account_available_not_below_floor"


def test_crediting_an_asset_does_not_take_it_below_its_floor(books):
    cash = AccountFactory(ledger=books.ledger, kind=AccountKind.ASSET)
    change = {
        "target": cash.id,
        "target_version": 1,
        "target_debits": 0,
        "target_credits": 50,
    }

    assert refusal(books.write(**change)) == "account_available_not_below_floor"


def test_a_reservation_does_not_take_available_below_the_floor(books):
    assert (
        refusal(
            "UPDATE ledger_account SET debits_pending = 901"
            " WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, books.source.id],
        )
        == "account_available_not_below_floor"
    )


def test_a_floor_may_be_raised_above_what_is_there(books):
    rows = Account.objects.filter(ledger_id=books.ledger.id, id=books.source.id)

    rows.update(min_balance=5_000)

    assert rows.get().min_balance == 5_000


# 5. Counters


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("debits_pending = -1", "account_counters_not_negative"),
        ("credits_pending = 9223372036854775807", "account_counters_do_not_overflow"),
        ("min_balance = -9007199254740992", "account_floor_fits_json"),
        ("status = 'gone'", "account_status_is_known"),
    ],
)
def test_counters_and_floors_stay_in_range(books, change, rule):
    assert (
        refusal(
            f"UPDATE ledger_account SET {change} WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, books.source.id],
        )
        == rule
    )


def test_a_balance_fits_json(books):
    change = {
        "source_credits": 1_000,
        "debit": 9007199254740991,
        "credit": 9007199254740991,
        "source_debits": 9007199254740991 + 100,
        "target_credits": 9007199254740991 + 1_100,
    }

    assert refusal(books.write(**change)) == "account_balance_fits_json"


# 6. Status


@pytest.mark.parametrize(
    ("account", "status"),
    [("source", "frozen_out"), ("source", "frozen"), ("target", "frozen")],
)
def test_frozen_accounts_move_nothing(books, account, status):
    target = getattr(books, account)
    Account.objects.filter(ledger_id=books.ledger.id, id=target.id).update(
        status=status
    )

    assert refusal(books.write()) == "account_status_allows_entry"


def test_a_closed_account_moves_nothing_not_even_a_settlement(books):
    empty = AccountFactory(ledger=books.ledger)
    Account.objects.filter(ledger_id=books.ledger.id, id=empty.id).update(
        status="closed"
    )
    change = {"target": empty.id, "target_version": 1, "target_credits": 50}

    for kind in ("transfer", "settlement"):
        assert (
            refusal(books.write(**change, kind=kind)) == "account_status_allows_entry"
        )


def test_an_account_closes_only_empty(books):
    assert (
        refusal(
            "UPDATE ledger_account SET status = 'closed'"
            " WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, books.source.id],
        )
        == "account_closes_only_empty"
    )


# 7. Identity


@pytest.mark.parametrize(
    "change",
    [
        "kind = 'asset'",
        "created_at = created_at - interval '1 day'",
        "id = gen_random_uuid()",
    ],
)
def test_the_identity_of_an_account_never_changes(books, change):
    empty = AccountFactory(ledger=books.ledger)

    assert (
        refusal(
            f"UPDATE ledger_account SET {change} WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, empty.id],
        )
        == "account_identity_never_changes"
    )


def test_an_entry_cannot_point_into_another_ledger(books):
    stranger = AccountFactory()
    change = {"target": stranger.id, "target_version": 1, "target_credits": 50}

    assert refusal(books.write(**change)) == "entry_belongs_to_account_of_currency"


# 8. Tasks


@pytest.mark.parametrize(
    ("payout", "rule"),
    [
        ("", "transfer_comes_with_its_tasks"),
        (", ('payout', 1, '{target}', 'iban', 49, 'USD')", "matches"),
        (", ('payout', 1, '{target}', 'other', 50, 'USD')", "matches"),
        (", ('payout', 1, '{target}', 'iban', 50, 'EUR')", "matches"),
        (", ('payout', 2, '{target}', 'iban', 50, 'USD')", "matches"),
        (", ('payout', 1, '{source}', 'iban', 50, 'USD')", "matches"),
        (", ('payout', 1, '{target}', NULL, 50, 'USD')", "task_payout_is_complete"),
    ],
)
def test_a_payout_task_is_of_a_posting_into_its_account(books, payout, rule):
    account = AccountFactory(ledger=books.ledger, payout_destination="iban")
    text = payout.format(target=account.id, source=books.source.id)
    change = {"target": account.id, "target_version": 1, "target_credits": 50}

    expected = "task_payout_matches_its_posting" if rule == "matches" else rule
    assert refusal(books.write(**change, payout=text)) == expected


def test_a_payout_task_that_matches_is_accepted(books):
    account = AccountFactory(ledger=books.ledger, payout_destination="iban")
    payout = f", ('payout', 1, '{account.id}', 'iban', 50, 'USD')"

    run(
        books.write(
            target=account.id, target_version=1, target_credits=50, payout=payout
        )
    )

    assert fresh(account).posted == 50


def test_a_posting_has_one_payout_task(books):
    payout = AccountFactory(ledger=books.ledger, payout_destination="iban")
    sent = move(books.source, payout, 10)

    assert (
        refusal(
            "INSERT INTO outbox_task (ledger_id, id, kind, transfer_id, posting_number,"
            " account_id, destination, amount, currency)"
            " VALUES (%s, %s, 'payout', %s, 1, %s, 'iban', 10, 'USD')",
            [books.ledger.id, new_id(), sent.id, payout.id],
        )
        == "task_unique_per_posting"
    )


def test_a_payout_account_sends_only_completions(books):
    payout = AccountFactory(ledger=books.ledger, payout_destination="iban")
    move(books.source, payout, 60)
    change = {
        "source": payout.id,
        "source_version": 2,
        "source_debits": 50,
        "source_credits": 60,
    }

    assert refusal(books.write(**change)) == "payout_account_sends_only_completions"
    run(books.write(**change, kind="settlement"))


def test_an_account_becomes_a_payout_account_only_while_it_is_empty(books):
    update = (
        "UPDATE ledger_account SET payout_destination = %s"
        " WHERE ledger_id = %s AND id = %s"
    )
    payout = AccountFactory(ledger=books.ledger, payout_destination="iban")
    move(books.source, payout, 10)

    for value, account in (("iban", books.source), (None, payout)):
        assert (
            refusal(update, [value, books.ledger.id, account.id])
            == "account_payout_role_changes_only_empty"
        )
    run(update, ["another", books.ledger.id, payout.id])


def test_only_a_liability_can_be_a_payout_account(books):
    cash = AccountFactory(ledger=books.ledger, kind=AccountKind.ASSET)

    assert (
        refusal(
            "UPDATE ledger_account SET payout_destination = 'iban'"
            " WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, cash.id],
        )
        == "account_payout_is_liability"
    )


# History


def test_history_changes_only_by_erasure(books):
    run(
        "INSERT INTO ledger_change (ledger_id, id, fields, old, new, actor)"
        " VALUES (%s, %s, '[]', '{}', '{}', 'test')",
        [books.ledger.id, new_id()],
    )

    assert refusal("UPDATE ledger_change SET actor = 'me'") == (
        "change_changes_only_by_erasure"
    )
    assert refusal("UPDATE ledger_change SET old = NULL, new = NULL") == (
        "change_values_until_erased"
    )
    run("UPDATE ledger_change SET old = NULL, new = NULL, erased_at = now()")
    assert refusal("UPDATE ledger_change SET fields = '[1]'") == (
        "change_changes_only_by_erasure"
    )


# Tricks


@pytest.fixture
def as_application(books):
    """The books, to somebody who has the application's role and nothing else."""
    run(
        "GRANT TEMPORARY ON DATABASE CURRENT_DATABASE TO payflow_app".replace(
            "CURRENT_DATABASE",
            connection.ops.quote_name(connection.settings_dict["NAME"]),
        )
    )
    run("SET LOCAL ROLE payflow_app")
    return books


def test_a_temporary_table_of_the_same_name_deceives_no_trigger(as_application):
    books = as_application
    run("CREATE TEMPORARY TABLE ledger_entry (LIKE public.ledger_entry)")
    run(
        "INSERT INTO pg_temp.ledger_entry (ledger_id, id, transfer_id, account_id,"
        " amount, account_version, debits_after, credits_after, effective_at,"
        " created_at, posting_number, direction, currency)"
        " SELECT ledger_id, id, id, id, 1, version + 1, debits_posted,"
        " credits_posted + 1000000, now(), now(), 1, 'credit', 'USD'"
        " FROM public.ledger_account WHERE ledger_id = %s AND id = %s",
        [books.ledger.id, books.source.id],
    )

    assert (
        refusal(
            "UPDATE public.ledger_account SET version = version + 1,"
            " credits_posted = credits_posted + 1000000, last_entry_at = now()"
            " WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, books.source.id],
        )
        == "account_counters_equal_last_entry"
    )


def test_a_table_that_inherits_deceives_no_trigger(books):
    run("CREATE TABLE fake_entry () INHERITS (ledger_entry)")
    run(
        "INSERT INTO fake_entry (ledger_id, id, transfer_id, account_id, amount,"
        " account_version, debits_after, credits_after, effective_at, created_at,"
        " posting_number, direction, currency)"
        " SELECT ledger_id, id, id, id, 1, version + 1, debits_posted,"
        " credits_posted + 1000000, now(), now(), 1, 'credit', 'USD'"
        " FROM ledger_account WHERE ledger_id = %s AND id = %s",
        [books.ledger.id, books.source.id],
    )

    assert (
        refusal(
            "UPDATE ledger_account SET version = version + 1,"
            " credits_posted = credits_posted + 1000000, last_entry_at = now()"
            " WHERE ledger_id = %s AND id = %s",
            [books.ledger.id, books.source.id],
        )
        == "account_counters_equal_last_entry"
    )


def test_every_trigger_function_pins_its_search_path():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT p.proname FROM pg_trigger t"
            " JOIN pg_proc p ON p.oid = t.tgfoid AND NOT t.tgisinternal"
            " WHERE NOT coalesce(p.proconfig, '{}')"
            " @> ARRAY['search_path=pg_catalog, public, pg_temp']"
        )
        assert cursor.fetchall() == []


def test_nothing_is_recorded_in_the_future(books):
    change = {"at": "clock_timestamp() + interval '2 minutes'"}

    assert refusal(books.write(**change)) == "transfer_not_recorded_in_future"


def test_no_task_is_added_to_an_old_transfer(books):
    # The account becomes a payout account after it was paid into and emptied again.
    move(books.target, books.source, fresh(books.target).posted)
    Account.objects.filter(ledger_id=books.ledger.id, id=books.target.id).update(
        payout_destination="iban"
    )

    assert (
        refusal(
            "INSERT INTO outbox_task (ledger_id, id, kind, transfer_id, posting_number,"
            " account_id, destination, amount, currency, created_at)"
            " VALUES (%s, %s, 'payout', %s, 1, %s, 'iban', 100, 'USD', now())",
            [books.ledger.id, new_id(), books.transfer.id, books.target.id],
        )
        == "task_comes_with_its_transfer"
    )


def test_the_floor_of_a_payout_account_is_zero(books):
    payout = AccountFactory(ledger=books.ledger, payout_destination="iban")

    for floor in ("100", "NULL"):
        assert (
            refusal(
                f"UPDATE ledger_account SET min_balance = {floor}"
                " WHERE ledger_id = %s AND id = %s",
                [books.ledger.id, payout.id],
            )
            == "account_payout_floor_is_zero"
        )


def test_without_foreign_keys_the_triggers_still_know_account_and_currency(books):
    run("ALTER TABLE ledger_entry DROP CONSTRAINT entry_belongs_to_account_of_currency")

    assert refusal(books.write(target=new_id(), target_version=1)) in {
        "entry_belongs_to_account_of_currency",
        "account_counters_equal_last_entry",
    }
    assert refusal(books.write(debit_currency="EUR")) in {
        "entry_belongs_to_account_of_currency",
        "transfer_entries_are_its_postings",
    }


def test_a_payout_ends_only_with_its_own_settlement_or_reversal(books):
    payout = AccountFactory(ledger=books.ledger, payout_destination="iban")
    sent = move(books.source, payout, 10)
    end = (
        "UPDATE outbox_task SET state = 'done', delivery = %s, finished_at = now(),"
        " completion_transfer_id = %s WHERE ledger_id = %s AND transfer_id = %s"
        " AND kind = 'payout'"
    )
    settlement = move(payout, books.target, 9, kind=TransferKind.SETTLEMENT)

    for delivery, transfer in (
        ("settled", sent),  # the payout's own transfer
        ("settled", books.transfer),  # somebody else's
        ("settled", settlement),  # another amount
        ("rejected", settlement),  # another kind
    ):
        assert (
            refusal(end, [delivery, transfer.id, books.ledger.id, sent.id])
            == "task_payout_ends_with_its_completion"
        )
