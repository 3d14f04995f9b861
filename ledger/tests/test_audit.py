"""The audit finds each kind of damage that raw SQL can do with the guards taken away.

Most tests do the damage in an ordinary test transaction, in which triggers can be
disabled like anything else, and have the audit look inside it. What needs commits has
a database of its own, see ``test_commands``.
"""

import json
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from idempotency.models import IdempotencyKey
from ledger import audit
from ledger.audit import CHECKS, AuditReport, audit_run
from ledger.audit_queries import KEY_RESOURCES
from ledger.models import (
    Account,
    AuditRun,
    Change,
    Entry,
    HoldEvent,
    Ledger,
    Transfer,
)
from ledger.services.accounts import account_update
from ledger.services.integrity import integrity_get
from ledger.tests.books import Books, FullBooks
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    post,
    transfer_request,
)
from outbox.enums import Delivery, TaskState
from outbox.models import OutboxTask
from payflow.clock import now
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

TABLES = (
    "ledger_ledger",
    "ledger_account",
    "ledger_entry",
    "ledger_transfer",
    "ledger_hold",
    "ledger_hold_posting",
    "ledger_hold_event",
    "ledger_reversal_total",
    "ledger_usage",
    "ledger_velocity_limit",
    "ledger_scheduled_transfer",
    "ledger_change",
    "outbox_task",
    "idempotency_key",
)


def run(sql: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def drop_constraint(table: str, name: str) -> None:
    run(f"ALTER TABLE {table} DROP CONSTRAINT {name}")


def check_of(ledger: Ledger, **options: Any) -> AuditReport:
    """Audits the books by keys and by pages, which must say the same."""
    reports = []
    for least in (inf, 0):
        with patch.object(audit, "SCAN_ENTRIES_PER_PAGE", least):
            reports.append(audit_run(ledger_slug=ledger.slug, **options))
    by_key, by_page = reports
    assert fired(by_key) == fired(by_page)
    assert [(r.check.name, r.row_count, r.finding_count) for r in by_key.checks] == [
        (r.check.name, r.row_count, r.finding_count) for r in by_page.checks
    ]
    return by_page


def fired(report: AuditReport) -> dict[str, int]:
    """What was found: the differences, by check."""
    return {r.check.name: r.difference for r in report.checks if r.finding_count}


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def unguarded(books: Books) -> Books:
    """Sound books of which every trigger, foreign keys' too, is off."""
    disarm()
    return books


@pytest.fixture
def full() -> FullBooks:
    """Sound books with holds, reversals and all else; their triggers are off, too."""
    books = FullBooks()
    disarm()
    return books


def disarm() -> None:
    # So that autovacuum, which may be at work on these tables, gives way at once.
    run("SET LOCAL deadlock_timeout = '10ms'")
    for table in TABLES:
        run(f"ALTER TABLE {table} DISABLE TRIGGER ALL")


# --- Sound books ------------------------------------------------------------------


def test_sound_books_are_found_sound_and_every_check_has_looked(
    full: FullBooks,
) -> None:
    IdempotencyKey.objects.create(**key_of(full, "transfer", full.transfer))

    report = check_of(full.ledger)

    assert fired(report) == {}
    assert report.is_sound
    assert [r.check.name for r in report.checks if not r.row_count] == []
    assert [r.check.name for r in report.checks] == list(CHECKS)


@pytest.mark.parametrize("slice_rows", [1, 2, 3, 7])
def test_slices_of_any_size_see_the_same(full: FullBooks, slice_rows: int) -> None:
    whole = check_of(full.ledger)

    sliced = check_of(full.ledger, slice_rows=slice_rows)

    assert sliced.is_sound
    assert [r.row_count for r in sliced.checks] == [r.row_count for r in whole.checks]


def test_empty_ledger_is_sound() -> None:
    assert check_of(LedgerFactory()).is_sound


def test_slice_may_take_longer_than_a_request(books: Books) -> None:
    slowed = []

    def slow(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "ledger_entry" in sql and not slowed:
            slowed.append(sql)
            run("SELECT pg_sleep(1.5)")
        return execute(sql, params, many, context)

    run("SET LOCAL statement_timeout = '1s'")
    if connection.pg_version >= 170000:  # type: ignore[attr-defined]
        run("SET LOCAL transaction_timeout = '1s'")
    with connection.execute_wrapper(slow):
        report = check_of(books.ledger)

    assert slowed
    assert report.is_sound


def test_account_that_becomes_a_payout_account_and_stops_is_sound(
    books: Books,
) -> None:
    ledger, carol = books.ledger, AccountFactory(ledger=books.ledger)
    # Once an ordinary account, then a payout account, then an ordinary one again.
    books.move(books.alice, carol, 50)
    books.move(carol, books.alice, 50)
    set_destination(carol, "FR00")
    task_id = books.move(books.alice, carol, 60)
    set_destination(carol, "FR01")
    books.finish(OutboxTask.objects.get(transfer_id=task_id, kind="payout"), "settled")
    set_destination(carol, None)
    books.move(books.alice, carol, 70)

    assert fired(check_of(ledger)) == {}


def test_erased_history_is_no_finding(books: Books) -> None:
    carol = AccountFactory(ledger=books.ledger)
    books.move(books.alice, carol, 50)
    books.move(carol, books.alice, 50)
    set_destination(carol, "FR00")
    books.move(books.alice, carol, 60)
    Change.objects.filter(account_id=carol.id).update(
        old=None, new=None, erased_at=Now()
    )

    assert fired(check_of(books.ledger)) == {}


def set_destination(account: Account, destination: str | None) -> None:
    changed = account_update(
        ledger_id=account.ledger_id,
        account_id=account.id,
        changes={"payout_destination": destination},
        actor=ACTOR,
    )
    assert isinstance(changed, Account), changed


def key_of(books: Books, resource_type: str, resource_id: UUID) -> dict[str, Any]:
    return {
        "id": new_id(),
        "ledger_id": books.ledger.id,
        "client_id": new_id(),
        "key": str(new_id()),
        "operation": "transfer",
        "digests": {},
        "status": 201,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "response_headers": {},
        "response_body": b"{}",
        "created_at": Now(),
    }


# --- Accounts ---------------------------------------------------------------------


def test_changed_counter_is_found(unguarded: Books) -> None:
    books = unguarded
    run(
        "UPDATE ledger_account SET credits_posted = credits_posted + 5 WHERE id = %s",
        books.bob.id,
    )

    report = check_of(books.ledger)

    assert fired(report) == {
        "account_sums_balance": 5,
        "account_counters_equal_last_entry": 5,
    }
    (finding,) = [f for f in report.findings if "account_id" in f.ids]
    assert finding.ids == {"account_id": str(books.bob.id)}
    assert finding.ledger_id == books.ledger.id


def test_two_changes_that_cancel_out_in_the_sum_are_found(unguarded: Books) -> None:
    books = unguarded
    for account, change in ((books.alice, 5), (books.bob, -5)):
        run(
            "UPDATE ledger_account SET credits_posted = credits_posted + %s"
            " WHERE id = %s",
            change,
            account.id,
        )

    assert fired(check_of(books.ledger)) == {"account_counters_equal_last_entry": 10}


@pytest.mark.parametrize(
    "change", ["version = version + 1", "last_entry_at = now() + interval '1 hour'"]
)
def test_changed_version_or_last_time_is_found(unguarded: Books, change: str) -> None:
    run(f"UPDATE ledger_account SET {change} WHERE id = %s", unguarded.bob.id)

    assert fired(check_of(unguarded.ledger)) == {"account_counters_equal_last_entry": 1}


def test_pending_without_hold_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_account SET debits_pending = 3, credits_pending = 4"
        " WHERE id = %s",
        unguarded.bob.id,
    )

    assert fired(check_of(unguarded.ledger)) == {"account_pending_equals_holds": 7}


def test_closed_account_with_money_is_found(unguarded: Books) -> None:
    run("UPDATE ledger_account SET status = 'closed' WHERE id = %s", unguarded.bob.id)

    difference = fresh(unguarded.bob).posted
    assert fired(check_of(unguarded.ledger)) == {"account_closed_is_empty": difference}


# --- Entries ----------------------------------------------------------------------


def test_deleted_entry_in_the_middle_is_found(unguarded: Books) -> None:
    run(
        "DELETE FROM ledger_entry WHERE transfer_id = %s AND account_id = %s",
        unguarded.transfer,
        unguarded.bob.id,
    )

    assert fired(check_of(unguarded.ledger)) == {
        "entry_sums_balance": 100,
        "entry_versions_have_no_gaps": 1,
        "transfer_entries_are_its_postings": 100,
    }


def test_deleted_last_entry_is_found(unguarded: Books) -> None:
    run(
        "DELETE FROM ledger_entry WHERE transfer_id = %s AND account_id = %s",
        unguarded.reply,
        unguarded.bob.id,
    )

    assert fired(check_of(unguarded.ledger)) == {
        "account_counters_equal_last_entry": 30,
        "entry_sums_balance": 30,
        "transfer_entries_are_its_postings": 30,
    }


def test_gap_in_versions_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_entry SET account_version = account_version + 10"
        " WHERE account_id = %s AND account_version >= 3",
        unguarded.alice.id,
    )
    run(
        "UPDATE ledger_account SET version = version + 10 WHERE id = %s",
        unguarded.alice.id,
    )

    report = check_of(unguarded.ledger)

    assert fired(report) == {"entry_versions_have_no_gaps": 10}


def test_gap_that_the_scans_order_cannot_show_is_found(unguarded: Books) -> None:
    # It goes by the last 31 bits of a version.
    run(
        "UPDATE ledger_entry SET account_version = account_version + 2147483648"
        " WHERE account_id = %s AND account_version >= 3",
        unguarded.alice.id,
    )
    run(
        "UPDATE ledger_account SET version = version + 2147483648 WHERE id = %s",
        unguarded.alice.id,
    )

    report = check_of(unguarded.ledger)

    assert fired(report) == {"entry_versions_have_no_gaps": 2**31}


def test_entry_that_is_neither_debit_nor_credit_is_found(unguarded: Books) -> None:
    drop_constraint("ledger_entry", "entry_direction_is_known")
    run(
        "UPDATE ledger_entry SET direction = 'neither'"
        " WHERE transfer_id = %s AND direction = 'credit'",
        unguarded.transfer,
    )

    assert fired(check_of(unguarded.ledger)) == {
        "entry_sums_balance": 100,
        "entry_totals_follow_previous": 100,
        "transfer_entries_are_its_postings": 1,
    }


@pytest.mark.parametrize("slice_rows", [1, 2, 3, 50_000])
def test_gap_is_found_once_wherever_the_slices_end(
    unguarded: Books, slice_rows: int
) -> None:
    run(
        "DELETE FROM ledger_entry WHERE account_id = %s AND account_version = 3",
        unguarded.alice.id,
    )

    report = check_of(unguarded.ledger, slice_rows=slice_rows)

    assert fired(report)["entry_versions_have_no_gaps"] == 1


def test_two_entries_of_one_version_are_found(unguarded: Books) -> None:
    drop_constraint("ledger_entry", "entry_versions_unique_per_account")
    run(
        "UPDATE ledger_entry SET account_version = 2"
        " WHERE account_id = %s AND account_version = 3",
        unguarded.alice.id,
    )

    assert "entry_versions_have_no_gaps" in fired(check_of(unguarded.ledger))


def test_twin_of_an_entry_is_found_wherever_it_stands(unguarded: Books) -> None:
    drop_constraint("ledger_entry", "entry_versions_unique_per_account")
    drop_constraint("ledger_entry", "entry_unique_per_posting_side")
    entry = Entry.objects.get(
        ledger_id=unguarded.ledger.id, account_id=unguarded.bob.id, account_version=2
    )
    # So many rows of another ledger that the twin gets a page of its own.
    other = Books()
    for _ in range(3):
        other.move(other.alice, other.bob, 1)
    run(
        "INSERT INTO ledger_entry SELECT (jsonb_populate_record(e,"
        " jsonb_build_object('id', gen_random_uuid(), 'account_version',"
        " e.account_version + 1000 * n))).* FROM ledger_entry e,"
        " generate_series(1, 200) n WHERE e.id = %s",
        other.last_entry(other.bob).id,
    )
    entry.pk = new_id()
    Entry.objects.bulk_create([entry])

    found = fired(check_of(unguarded.ledger, slice_rows=1))

    assert found["entry_versions_have_no_gaps"] == 1


def test_changed_amount_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_entry SET amount = amount + 7"
        " WHERE transfer_id = %s AND direction = 'credit'",
        unguarded.transfer,
    )

    assert fired(check_of(unguarded.ledger)) == {
        "entry_sums_balance": 7,
        "entry_totals_follow_previous": 7,
        "transfer_entries_are_its_postings": 7,
    }


def test_amount_changed_on_both_sides_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_entry SET amount = amount + 7 WHERE transfer_id = %s",
        unguarded.transfer,
    )

    assert fired(check_of(unguarded.ledger)) == {"entry_totals_follow_previous": 14}


@pytest.mark.parametrize("slice_rows", [1, 2, 50_000])
def test_wrong_running_total_is_found(unguarded: Books, slice_rows: int) -> None:
    run(
        "UPDATE ledger_entry SET debits_after = debits_after + 9"
        " WHERE account_id = %s AND account_version = 3",
        unguarded.alice.id,
    )

    report = check_of(unguarded.ledger, slice_rows=slice_rows)

    # Wrong itself, and the next one does not follow it.
    assert fired(report) == {"entry_totals_follow_previous": 18}


def test_entry_recorded_before_the_previous_one_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_entry SET created_at = created_at - interval '1 hour',"
        " effective_at = effective_at - interval '1 hour' WHERE transfer_id = %s",
        unguarded.transfer,
    )
    run(
        "UPDATE ledger_transfer SET created_at = created_at - interval '1 hour',"
        " effective_at = effective_at - interval '1 hour' WHERE id = %s",
        unguarded.transfer,
    )

    assert fired(check_of(unguarded.ledger)) == {"entry_time_does_not_decrease": 2}


def test_entry_of_another_currency_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_entry SET currency = 'EUR' WHERE transfer_id = %s",
        unguarded.transfer,
    )

    assert fired(check_of(unguarded.ledger)) == {
        "entry_repeats_currency_of_account": 200
    }


def test_orphan_without_account_is_found(unguarded: Books) -> None:
    run("DELETE FROM ledger_account WHERE id = %s", unguarded.bob.id)

    report = check_of(unguarded.ledger)

    assert fired(report)["entry_has_account"] == 10_000 + 100 + 30


@pytest.mark.parametrize("account_id", [UUID(int=0), UUID(int=2**128 - 1)])
def test_orphan_beyond_all_accounts_is_found(
    unguarded: Books, account_id: UUID
) -> None:
    entry = unguarded.last_entry(unguarded.bob)
    entry.pk, entry.account_id, entry.transfer_id = new_id(), account_id, new_id()
    entry.account_version = 1
    Entry.objects.bulk_create([entry])

    found = fired(check_of(unguarded.ledger))

    assert found["entry_has_account"] == entry.amount
    assert found["entry_has_transfer"] == entry.amount


# --- Transfers --------------------------------------------------------------------


def test_transfer_without_entries_is_found(unguarded: Books) -> None:
    run(
        "INSERT INTO ledger_transfer SELECT (jsonb_populate_record(t,"
        " jsonb_build_object('id', %s::uuid))).* FROM ledger_transfer t WHERE id = %s",
        new_id(),
        unguarded.transfer,
    )

    assert fired(check_of(unguarded.ledger)) == {
        "transfer_has_entries": 1,
        "transfer_has_posted_task": 1,
    }


def test_deleted_transfer_is_found(unguarded: Books) -> None:
    run("DELETE FROM ledger_transfer WHERE id = %s", unguarded.transfer)

    assert fired(check_of(unguarded.ledger)) == {
        "entry_has_transfer": 100,
        "task_has_transfer": 1,
    }


@pytest.mark.parametrize(
    "change",
    [
        "posting_number = 2",
        "posting_number = CASE direction WHEN 'debit' THEN 1 ELSE 2 END",
        "direction = 'debit', posting_number = length(direction)",
        "account_id = (SELECT min(account_id::text)::uuid FROM ledger_entry"
        " WHERE transfer_id = e.transfer_id)",
    ],
)
def test_entries_unlike_their_postings_are_found(unguarded: Books, change: str) -> None:
    drop_constraint("ledger_entry", "entry_versions_unique_per_account")
    run(
        f"UPDATE ledger_entry e SET {change} WHERE transfer_id = %s",
        unguarded.transfer,
    )

    assert "transfer_entries_are_its_postings" in fired(check_of(unguarded.ledger))


def test_balanced_pair_added_to_an_old_transfer_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_entry SET transfer_id = %s, posting_number = 2"
        " WHERE transfer_id = %s",
        unguarded.transfer,
        unguarded.reply,
    )

    found = fired(check_of(unguarded.ledger))

    assert found["transfer_entries_are_its_postings"] == 1
    assert found["transfer_has_entries"] == 1
    assert found["entry_repeats_times_of_transfer"] == 1


def test_entries_with_other_times_than_their_transfer_are_found(
    unguarded: Books,
) -> None:
    run(
        "UPDATE ledger_entry SET effective_at = effective_at - interval '1 day'"
        " WHERE transfer_id = %s AND direction = 'debit'",
        unguarded.transfer,
    )

    assert fired(check_of(unguarded.ledger)) == {"entry_repeats_times_of_transfer": 1}


def test_reversal_of_nothing_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_transfer SET kind = 'reversal', reason = 'error',"
        " source_postings = '{1}', reverses_transfer_id = %s WHERE id = %s",
        new_id(),
        unguarded.reply,
    )

    assert fired(check_of(unguarded.ledger)) == {
        "transfer_reverses_existing": 1,
        "reversal_total_equals_reversals": 30,
    }


def test_transfer_without_its_outbox_task_is_found(unguarded: Books) -> None:
    run("DELETE FROM outbox_task WHERE transfer_id = %s", unguarded.transfer)

    assert fired(check_of(unguarded.ledger)) == {"transfer_has_posted_task": 1}


def test_second_task_of_a_transfer_is_found(unguarded: Books) -> None:
    drop_constraint("outbox_task", "task_unique_per_posting")
    copy_task(OutboxTask.objects.get(transfer_id=unguarded.transfer))

    assert fired(check_of(unguarded.ledger)) == {"transfer_has_posted_task": 1}


def test_task_that_another_transfer_has_too_many_is_found(unguarded: Books) -> None:
    drop_constraint("outbox_task", "task_unique_per_posting")
    run(
        "UPDATE outbox_task SET transfer_id = %s WHERE transfer_id = %s",
        unguarded.reply,
        unguarded.transfer,
    )

    assert fired(check_of(unguarded.ledger)) == {"transfer_has_posted_task": 2}


def test_task_without_transfer_is_found(unguarded: Books) -> None:
    run(
        "INSERT INTO outbox_task (ledger_id, id, kind, transfer_id)"
        " VALUES (%s, %s, 'transfer.posted', %s)",
        unguarded.ledger.id,
        new_id(),
        new_id(),
    )

    assert fired(check_of(unguarded.ledger)) == {"task_has_transfer": 1}


def copy_task(task: OutboxTask, **fields: Any) -> None:
    task.pk = new_id()
    for name, value in fields.items():
        setattr(task, name, value)
    OutboxTask.objects.bulk_create([task])


# --- Payouts ----------------------------------------------------------------------


def test_payout_balance_that_is_not_the_money_in_flight_is_found(
    unguarded: Books,
) -> None:
    run("UPDATE outbox_task SET amount = 650 WHERE id = %s", unguarded.in_flight.id)

    assert fired(check_of(unguarded.ledger)) == {
        "payout_balance_is_in_flight": 50,
        "payout_task_matches_posting": 50,
    }


def test_payout_in_flight_from_no_payout_account_is_found(unguarded: Books) -> None:
    run(
        "UPDATE ledger_account SET payout_destination = NULL WHERE id = %s",
        unguarded.bank.id,
    )

    assert fired(check_of(unguarded.ledger)) == {"payout_balance_is_in_flight": 700}


def test_posting_into_a_payout_account_without_its_task_is_found(
    unguarded: Books,
) -> None:
    run("DELETE FROM outbox_task WHERE id = %s", unguarded.in_flight.id)

    assert fired(check_of(unguarded.ledger)) == {
        "payout_balance_is_in_flight": 700,
        "payout_posting_has_task": 700,
    }


def test_posting_whose_task_vanished_together_with_the_role_is_found(
    unguarded: Books,
) -> None:
    run("DELETE FROM outbox_task WHERE id = %s", unguarded.settled.id)
    Change.objects.create(
        ledger_id=unguarded.ledger.id,
        account_id=unguarded.bank.id,
        fields=["payout_destination"],
        old={"payout_destination": "DE00"},
        new={"payout_destination": None},
        actor="raw SQL",
        created_at=Now(),
    )

    found = fired(check_of(unguarded.ledger))

    assert found["payout_posting_has_task"] == 1_000


def test_payout_of_another_account_is_found(unguarded: Books) -> None:
    run(
        "UPDATE outbox_task SET account_id = %s WHERE id = %s",
        unguarded.bob.id,
        unguarded.settled.id,
    )

    assert set(fired(check_of(unguarded.ledger))) == {
        "payout_task_matches_posting",
        "payout_end_has_completion",
    }


def test_second_payout_of_one_posting_is_found(unguarded: Books) -> None:
    drop_constraint("outbox_task", "task_unique_per_posting")
    copy_task(unguarded.in_flight)

    found = fired(check_of(unguarded.ledger))

    assert found["payout_task_matches_posting"] == 1_400
    assert found["payout_balance_is_in_flight"] == 700


def test_redirected_payout_is_found(unguarded: Books) -> None:
    run(
        "UPDATE outbox_task SET destination = 'XX99' WHERE id = %s",
        unguarded.in_flight.id,
    )

    report = check_of(unguarded.ledger)

    assert fired(report) == {"payout_task_matches_posting": 700}
    assert "XX99" not in str(report.as_json())


@pytest.mark.parametrize(
    "change",
    [
        "completion_transfer_id = gen_random_uuid()",
        "completion_transfer_id = transfer_id",
        "delivery = 'rejected'",
    ],
)
def test_finished_payout_without_its_completion_is_found(
    unguarded: Books, change: str
) -> None:
    run(f"UPDATE outbox_task SET {change} WHERE id = %s", unguarded.settled.id)

    found = fired(check_of(unguarded.ledger))

    assert found["payout_end_has_completion"] == 1_000


def test_transfer_that_is_recorded_in_the_future_is_found(unguarded: Books) -> None:
    later = "created_at = created_at + interval '1 day'"
    run(f"UPDATE ledger_transfer SET {later} WHERE id = %s", unguarded.transfer)

    assert "transfer_not_recorded_in_future" in fired(check_of(unguarded.ledger))


def test_future_that_entries_and_account_agree_on_is_found(unguarded: Books) -> None:
    entry = unguarded.last_entry(unguarded.bob)
    for table, column in (("transfer", "id"), ("entry", "transfer_id")):
        run(
            f"UPDATE ledger_{table} SET created_at = created_at + interval '1 day'"
            f" WHERE {column} = %s",
            entry.transfer_id,
        )
    run(
        "UPDATE ledger_account a SET last_entry_at = e.created_at FROM ledger_entry e"
        " WHERE e.account_id = a.id AND e.account_version = a.version"
        " AND a.ledger_id = %s",
        unguarded.ledger.id,
    )

    found = fired(check_of(unguarded.ledger))

    assert found["transfer_not_recorded_in_future"] == 1


def test_completion_that_ends_two_payouts_is_found(unguarded: Books) -> None:
    run("DROP INDEX task_completion_ends_one_payout")
    other = unguarded.payout(1_000)
    OutboxTask.objects.filter(id=other.id).update(
        state=TaskState.DONE,
        delivery=Delivery.SETTLED,
        completion_transfer_id=unguarded.settled.completion_transfer_id,
        finished_at=Now(),
    )

    assert fired(check_of(unguarded.ledger)) == {
        "payout_balance_is_in_flight": 1_000,
        "payout_end_has_completion": 1_000,
    }


@pytest.mark.parametrize("task", ["settled", "rejected"])
def test_completion_that_ends_no_payout_is_found(unguarded: Books, task: str) -> None:
    task_id = getattr(unguarded, task).id
    run(
        "UPDATE outbox_task SET state = 'dead', completion_transfer_id = NULL"
        " WHERE id = %s",
        task_id,
    )

    found = fired(check_of(unguarded.ledger))

    assert found["completion_ends_one_payout"] == 1


def test_completion_with_meddled_metadata_is_found(unguarded: Books) -> None:
    run(
        """UPDATE ledger_transfer SET metadata = '{"payout_task_id": "no id"}'"""
        " WHERE id = %s",
        unguarded.settled.completion_transfer_id,
    )

    assert fired(check_of(unguarded.ledger)) == {
        "payout_end_has_completion": 1_000,
        "completion_ends_one_payout": 1,
    }


# --- Holds ------------------------------------------------------------------------


def test_pending_unlike_the_open_holds_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_account SET debits_pending = debits_pending - 7 WHERE id = %s",
        full.carol.id,
    )
    run(
        "UPDATE ledger_account SET credits_pending = 0 WHERE id = %s",
        full.dave.id,
    )

    # 400 active, 180 of 300, 60 lapsed and not swept.
    assert fired(check_of(full.ledger)) == {"account_pending_equals_holds": 7 + 640}


def test_hold_on_a_closed_account_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_hold_posting SET to_account_id = %s WHERE hold_id = %s",
        full.closed.id,
        full.active.id,
    )

    assert fired(check_of(full.ledger)) == {
        "account_closed_is_empty": 400,
        "account_pending_equals_holds": 800,
    }


@pytest.mark.parametrize(
    "change",
    [
        "number = 2",
        "number = number - 1",
        "to_account_id = from_account_id",
        "to_account_id = gen_random_uuid()",
        "currency = 'EUR'",
        "created_at = created_at - interval '1 second'",
    ],
)
def test_hold_with_other_postings_is_found(full: FullBooks, change: str) -> None:
    for name in ("has_two_accounts", "number_is_positive"):
        drop_constraint("ledger_hold_posting", f"hold_posting_{name}")
    run(f"UPDATE ledger_hold_posting SET {change} WHERE hold_id = %s", full.voided.id)

    assert fired(check_of(full.ledger)) == {"hold_comes_with_its_postings": 80}


def test_hold_without_postings_is_found(full: FullBooks) -> None:
    run("DELETE FROM ledger_hold_posting WHERE hold_id = %s", full.voided.id)

    assert fired(check_of(full.ledger)) == {
        "hold_comes_with_its_postings": 1,
        "hold_events_tell_its_history": 80,
    }


def test_posting_added_to_a_hold_is_found(full: FullBooks) -> None:
    copy_row("ledger_hold_posting", "hold_id", full.voided.id, number=2)

    assert fired(check_of(full.ledger)) == {
        "hold_comes_with_its_postings": 160,
        "hold_events_tell_its_history": 80,
    }


def test_postings_and_events_without_hold_are_found(full: FullBooks) -> None:
    run("DELETE FROM ledger_hold WHERE id = %s", full.voided.id)
    run("DELETE FROM ledger_hold_posting WHERE hold_id = %s", full.expired.id)
    run("DELETE FROM ledger_hold WHERE id = %s", full.expired.id)

    assert fired(check_of(full.ledger)) == {
        "hold_comes_with_its_postings": 80,
        "hold_events_tell_its_history": 80 + 70,
    }


@pytest.mark.parametrize(
    ("hold", "change", "difference"),
    [
        ("active", "status = 'voided', ended_at = now()", 400),
        ("lapsed", "status = 'expired', ended_at = clock_timestamp()", 60),
        ("voided", "status = 'active', ended_at = NULL", 1),
        ("voided", "status = 'captured'", 1),
        ("voided", "ended_at = NULL", 1),
        ("voided", "status = 'gone'", 1),
    ],
)
def test_hold_of_another_status_than_it_holds_is_found(
    full: FullBooks, hold: str, change: str, difference: int
) -> None:
    for name in ("hold_end_has_time", "hold_status_is_known"):
        drop_constraint("ledger_hold", name)
    run(f"UPDATE ledger_hold SET {change} WHERE id = %s", getattr(full, hold).id)

    found = fired(check_of(full.ledger))

    assert found["hold_is_active_while_it_holds"] == difference


def test_hold_that_expired_before_its_time_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_hold SET ended_at = expires_at - interval '1 microsecond'"
        " WHERE id = %s",
        full.expired.id,
    )

    assert fired(check_of(full.ledger)) == {"hold_expires_when_it_has_lapsed": 1}


def test_posting_that_lapses_at_another_time_than_its_hold_is_found(
    full: FullBooks,
) -> None:
    run(
        "UPDATE ledger_hold_posting SET expires_at = expires_at + interval '1 hour'"
        " WHERE hold_id = %s",
        full.active.id,
    )

    assert fired(check_of(full.ledger)) == {"hold_postings_expire_together": 1}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("DELETE FROM ledger_hold_event WHERE kind = 'placed' AND hold_id = %s", 1),
        ("DELETE FROM ledger_hold_event WHERE kind = 'captured' AND hold_id = %s", 120),
        ("UPDATE ledger_hold_event SET captured = captured + 3 WHERE hold_id = %s", 6),
        ("UPDATE ledger_hold_event SET released = released + 3 WHERE hold_id = %s", 6),
        (
            "UPDATE ledger_hold_event SET transfer_id = gen_random_uuid()"
            " WHERE kind = 'captured' AND hold_id = %s",
            1,
        ),
        (
            "UPDATE ledger_hold_event e SET transfer_id = (SELECT id"
            " FROM ledger_transfer WHERE ledger_id = e.ledger_id AND kind = 'transfer'"
            " LIMIT 1) WHERE kind = 'captured' AND hold_id = %s",
            1,
        ),
    ],
)
def test_history_that_differs_from_what_became_of_the_hold_is_found(
    full: FullBooks, change: str, difference: int
) -> None:
    run(change, full.partly.id)

    assert fired(check_of(full.ledger)) == {"hold_events_tell_its_history": difference}


@pytest.mark.parametrize("kind", ["placed", "voided"])
def test_event_that_is_there_twice_is_found(full: FullBooks, kind: str) -> None:
    (event,) = HoldEvent.objects.filter(hold_id=full.voided.id, kind=kind)
    copy_row("ledger_hold_event", "id", event.id)

    assert "hold_events_tell_its_history" in fired(check_of(full.ledger))


def test_end_that_no_event_tells_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_hold_event SET kind = 'expired'"
        " WHERE kind = 'voided' AND hold_id = %s",
        full.voided.id,
    )

    assert fired(check_of(full.ledger)) == {
        "hold_event_has_its_task": 1,
        "hold_events_tell_its_history": 1,
    }


def test_event_without_its_task_is_found(full: FullBooks) -> None:
    run(
        "DELETE FROM outbox_task WHERE kind = 'hold.captured' AND ledger_id = %s",
        full.ledger.id,
    )

    # Of five captures.
    assert fired(check_of(full.ledger)) == {"hold_event_has_its_task": 5}


def test_event_with_two_tasks_is_found(full: FullBooks) -> None:
    run("DROP INDEX task_unique_per_hold_event")
    (event,) = HoldEvent.objects.filter(hold_id=full.voided.id, kind="voided")
    copy_row("outbox_task", "hold_event_id", event.id)

    assert fired(check_of(full.ledger))["hold_event_has_its_task"] == 1


@pytest.mark.parametrize(
    ("hold", "change", "difference"),
    [
        ("captured", "captured = captured + 1000", 1),
        ("voided", "released = released + 5", 5),
        ("exceeded", "capture_limit = captured - 1", 1),
        ("active", "released = -5", 405),
        ("active", "captured = -5", 405),
    ],
)
def test_more_captured_or_released_than_was_held_is_found(
    full: FullBooks, hold: str, change: str, difference: int
) -> None:
    for name in ("within_limit", "and_released_within_held"):
        drop_constraint("ledger_hold_posting", f"hold_captured_{name}")
    run(
        f"UPDATE ledger_hold_posting SET {change} WHERE hold_id = %s",
        getattr(full, hold).id,
    )

    found = fired(check_of(full.ledger))

    assert found["hold_captured_and_released_within_held"] == difference


def test_capture_in_the_hold_alone_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_hold_posting SET captured = 100 WHERE hold_id = %s",
        full.active.id,
    )

    assert fired(check_of(full.ledger)) == {
        "account_pending_equals_holds": 200,
        "hold_captured_equals_captures": 100,
        "hold_events_tell_its_history": 100,
    }


@pytest.mark.parametrize(
    ("change", "event_difference"),
    [
        ("source_postings = '{2}'", None),
        ("source_postings = '{NULL}'", None),
        ("source_postings = '{{1}}'", None),
        ("hold_id = gen_random_uuid()", 1),
    ],
)
def test_capture_of_nothing_is_found(
    full: FullBooks, change: str, event_difference: int | None
) -> None:
    run(f"UPDATE ledger_transfer SET {change} WHERE id = %s", full.partly_capture)

    expected = {
        "capture_moves_what_is_held": 120,
        "hold_captured_equals_captures": 120,
    }
    if event_difference is not None:
        expected["hold_events_tell_its_history"] = event_difference
    assert fired(check_of(full.ledger)) == expected


@pytest.mark.parametrize("side", ["from_account_id", "to_account_id"])
def test_capture_between_other_accounts_is_found(full: FullBooks, side: str) -> None:
    run(
        f"UPDATE ledger_hold_posting SET {side} = %s WHERE hold_id = %s",
        full.alice.id,
        full.captured.id,
    )

    assert fired(check_of(full.ledger)) == {"capture_moves_what_is_held": 200}


@pytest.mark.parametrize("end", ["expires_at", "ended_at"])
def test_capture_after_the_hold_lapsed_or_ended_is_found(
    full: FullBooks, end: str
) -> None:
    # Before the captures, which were no sooner than the next microsecond.
    soon = f"{end} = created_at + interval '1 microsecond'"
    run(f"UPDATE ledger_hold SET {soon} WHERE id = %s", full.captured.id)
    if end == "expires_at":
        run(
            f"UPDATE ledger_hold_posting SET {soon} WHERE hold_id = %s",
            full.captured.id,
        )

    assert fired(check_of(full.ledger)) == {"capture_before_expiry": 200}


def copy_row(table: str, column: str, value: UUID, **changes: Any) -> None:
    """Adds a copy of a row with a new id and these changes."""
    run(
        f"INSERT INTO {table} SELECT (jsonb_populate_record(t,"
        f" jsonb_build_object('id', gen_random_uuid()) || %s::jsonb)).*"
        f" FROM {table} t WHERE {column} = %s",
        json.dumps(changes),
        value,
    )


# --- Reversals --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "kind = 'transfer'",
        "hold_id = NULL",
        "source_postings = NULL",
        "source_postings = '{1,1}'",
        "source_postings = '{}'",
    ],
)
def test_transfer_that_hides_what_it_comes_from_is_found(
    full: FullBooks, change: str
) -> None:
    drop_constraint("ledger_transfer", "transfer_capture_names_hold")
    drop_constraint("ledger_transfer", "transfer_sources_are_of_each_posting")
    run(f"UPDATE ledger_transfer SET {change} WHERE id = %s", full.partly_capture)

    assert fired(check_of(full.ledger))["transfer_states_its_origin"] == 1


@pytest.mark.parametrize(
    ("column", "value"), [("kind", "capture"), ("source_postings", "{1}")]
)
def test_transfer_that_claims_to_come_from_something_is_found(
    full: FullBooks, column: str, value: str
) -> None:
    drop_constraint("ledger_transfer", "transfer_capture_names_hold")
    drop_constraint("ledger_transfer", "transfer_sources_are_of_each_posting")
    run(f"UPDATE ledger_transfer SET {column} = %s WHERE id = %s", value, full.transfer)

    assert fired(check_of(full.ledger)) == {"transfer_states_its_origin": 1}


def test_reversal_of_a_reversal_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_transfer SET reverses_transfer_id = %s WHERE id = %s",
        full.first_reversal,
        full.forced_reversal,
    )

    assert fired(check_of(full.ledger))["reversal_is_not_reversed"] == 300


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_transfer SET permission = NULL WHERE id = %(reversal)s",
        "UPDATE ledger_account SET reference = 'mine' WHERE ledger_id = %(ledger)s"
        " AND reference = 'system:receivables:USD'",
        "UPDATE ledger_account SET reference = NULL WHERE ledger_id = %(ledger)s"
        " AND reference = 'system:receivables:USD'",
    ],
)
def test_reversal_out_of_an_account_that_did_not_get_the_money_is_found(
    full: FullBooks, change: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            change, {"reversal": full.forced_reversal, "ledger": full.ledger.id}
        )

    assert fired(check_of(full.ledger)) == {"reversal_moves_back_what_was_moved": 200}


def test_reversal_of_another_transfer_than_it_undoes_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_transfer SET reverses_transfer_id = %s WHERE id = %s",
        full.transfer,
        full.first_reversal,
    )

    assert fired(check_of(full.ledger)) == {
        "reversal_moves_back_what_was_moved": 100,
        "reversal_total_equals_reversals": 100 + 100,
    }


@pytest.mark.parametrize("source", ["{2}", "{NULL}", "{{1}}", "[0:0]={1}"])
def test_reversal_of_a_posting_that_is_not_there_is_found(
    full: FullBooks, source: str
) -> None:
    run(
        "UPDATE ledger_transfer SET source_postings = %s WHERE id = %s",
        source,
        full.first_reversal,
    )

    assert fired(check_of(full.ledger)) == {
        "reversal_moves_back_what_was_moved": 100,
        "reversal_total_equals_reversals": 100 + 100,
    }


def test_payout_that_an_ordinary_reversal_gave_back_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_transfer SET kind = 'reversal', reason = 'error' WHERE id = %s",
        full.rejected.completion_transfer_id,
    )

    assert fired(check_of(full.ledger)) == {
        "payout_end_has_completion": 2_000,
        "payout_is_reversed_by_payout_reversal": 2_000,
    }


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("UPDATE ledger_reversal_total SET reversed = reversed + 10", 10),
        ("UPDATE ledger_reversal_total SET reversed = reversed - 10", 10),
        ("UPDATE ledger_reversal_total SET amount = amount + 10", 260),
        ("UPDATE ledger_reversal_total SET posting_number = 2", 250 + 250),
        ("UPDATE ledger_reversal_total SET transfer_id = gen_random_uuid()", 250 + 250),
        ("DELETE FROM ledger_reversal_total", 250),
    ],
)
def test_total_that_is_not_what_was_reversed_is_found(
    full: FullBooks, change: str, difference: int
) -> None:
    run(f"{change} WHERE transfer_id = %s", full.half_undone)

    assert fired(check_of(full.ledger)) == {
        "reversal_total_equals_reversals": difference
    }


def test_more_reversed_than_moved_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_entry SET amount = 400 WHERE transfer_id = %s",
        full.first_reversal,
    )
    drop_constraint("ledger_reversal_total", "reversed_within_transferred")
    run(
        "UPDATE ledger_reversal_total SET reversed = 550 WHERE transfer_id = %s",
        full.half_undone,
    )

    found = fired(check_of(full.ledger))

    assert found["reversal_total_equals_reversals"] == 50


def test_half_reversed_exchange_is_found(full: FullBooks) -> None:
    run(
        "DELETE FROM ledger_reversal_total"
        " WHERE transfer_id = %s AND posting_number = 2",
        full.undone_exchange,
    )

    found = fired(check_of(full.ledger))

    assert found["exchange_is_reversed_whole"] == 1


# --- Limits, periods and schedules ------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM ledger_velocity_limit WHERE account_id = %s",
        "UPDATE ledger_account SET has_velocity_limits = false WHERE id = %s",
    ],
)
def test_account_that_is_wrong_about_its_limits_is_found(
    full: FullBooks, change: str
) -> None:
    run(change, full.carol.id)

    assert fired(check_of(full.ledger)) == {"account_with_limits_says_so": 1}


@pytest.mark.parametrize("column", ["out_amount", "out_count", "in_amount", "in_count"])
def test_usage_that_gets_less_is_found(full: FullBooks, column: str) -> None:
    run(
        f"UPDATE ledger_usage SET {column} = (SELECT {column} - 1 FROM ledger_usage"
        "     WHERE ledger_id = %s ORDER BY created_at DESC OFFSET 1 LIMIT 1)"
        " WHERE id = (SELECT id FROM ledger_usage"
        "     WHERE ledger_id = %s ORDER BY created_at DESC LIMIT 1)",
        full.ledger.id,
        full.ledger.id,
    )

    assert fired(check_of(full.ledger)) == {"usage_totals_never_decrease": 1}


def close(books: FullBooks, *, before_minutes: int, recorded_minutes_ago: int) -> None:
    """Writes into the history that a period was closed, or, with -1, reopened."""
    at = now()
    closed_before = at - timedelta(minutes=before_minutes)
    Change.objects.create(
        ledger_id=books.ledger.id,
        fields=["closed_before"],
        old={},
        new={
            "closed_before": closed_before.isoformat() if before_minutes > 0 else None
        },
        actor="raw SQL",
        created_at=at - timedelta(minutes=recorded_minutes_ago),
    )


@pytest.mark.parametrize(
    "closings", [[(30, 5)], [(90, 5), (30, 3)], [(30, 5), (-1, 0)]]
)
def test_transfer_into_a_period_that_was_closed_is_found(
    full: FullBooks, closings: list[tuple[int, int]]
) -> None:
    # The transfer is effective an hour ago. What is reopened later was closed then.
    for before, ago in closings:
        close(full, before_minutes=before, recorded_minutes_ago=ago)

    assert fired(check_of(full.ledger)) == {"transfer_effective_in_open_period": 1}


@pytest.mark.parametrize(
    "closings",
    [
        # Another period; the same one, too late to say; and one that was reopened.
        [(90, 5)],
        [(30, 0)],
        [(30, 5), (-1, 3)],
        [(30, 5), (90, 3)],
    ],
)
def test_transfer_into_a_period_that_was_open_is_sound(
    full: FullBooks, closings: list[tuple[int, int]]
) -> None:
    for before, ago in closings:
        close(full, before_minutes=before, recorded_minutes_ago=ago)

    assert fired(check_of(full.ledger)) == {}


@pytest.mark.parametrize(
    "change",
    [
        "transfer_id = gen_random_uuid()",
        "transfer_id = NULL",
        "status = 'cancelled'",
        "postings = postings || postings",
        "postings = jsonb_set(postings, '{0,amount}', '9')",
        "postings = jsonb_set(postings, '{0,to_account_id}', '\"nobody\"')",
    ],
)
def test_scheduled_transfer_that_posted_another_one_is_found(
    full: FullBooks, change: str
) -> None:
    drop_constraint("ledger_scheduled_transfer", "scheduled_posted_has_transfer")
    run(f"UPDATE ledger_scheduled_transfer SET {change} WHERE id = %s", full.scheduled)

    assert fired(check_of(full.ledger)) == {"scheduled_posted_has_transfer": 1}


def test_scheduled_transfer_under_another_key_is_found(full: FullBooks) -> None:
    run(
        "UPDATE ledger_transfer SET idempotency_key = 'mine'"
        " WHERE idempotency_key = %s",
        f"scheduled:{full.scheduled}",
    )

    assert fired(check_of(full.ledger)) == {"scheduled_posted_has_transfer": 1}


# --- Keys and ledgers -------------------------------------------------------------


@pytest.mark.parametrize("resource_type", list(KEY_RESOURCES))
def test_key_of_nothing_is_found(books: Books, resource_type: str) -> None:
    IdempotencyKey.objects.create(**key_of(books, resource_type, new_id()))

    assert fired(check_of(books.ledger)) == {"idempotency_key_has_resource": 1}


def test_whatever_can_be_rebuilt_for_a_key_is_looked_for() -> None:
    assert set(settings.IDEMPOTENCY_REBUILDERS) <= set(KEY_RESOURCES)


def test_rows_without_ledger_are_found(unguarded: Books) -> None:
    run("DELETE FROM ledger_ledger WHERE id = %s", unguarded.ledger.id)

    report = audit_run()

    found = [f for f in report.findings if f.ledger_id == unguarded.ledger.id]
    assert [f.check for f in found] == ["ledger_exists"]


# --- The report -------------------------------------------------------------------


def test_findings_are_capped_and_counted(
    unguarded: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_FINDINGS_PER_CHECK", 2)
    run(
        "UPDATE ledger_account SET debits_pending = 10 WHERE ledger_id = %s",
        unguarded.ledger.id,
    )

    report = check_of(unguarded.ledger, slice_rows=2)

    (result,) = [r for r in report.checks if r.finding_count]
    accounts = Account.objects.filter(ledger_id=unguarded.ledger.id).count()
    assert result.finding_count == accounts > 2
    assert result.difference == report.difference == 10 * accounts
    assert len(result.findings) == 2


def test_broken_run_makes_health_sick_until_a_sound_one(unguarded: Books) -> None:
    change = "UPDATE ledger_entry SET debits_after = debits_after %s 4 WHERE id = %%s"
    entry = unguarded.last_entry(unguarded.bob)
    run(change % "+", entry.id)
    before = integrity_sum()

    check_of(unguarded.ledger)
    assert integrity_sum() == before + 8
    assert not AuditRun.objects.latest("id").is_sound

    run(change % "-", entry.id)
    check_of(unguarded.ledger)
    assert integrity_sum() == before


def test_limited_run_keeps_what_others_ledgers_findings_say(unguarded: Books) -> None:
    healthy = LedgerFactory()
    run(
        "UPDATE ledger_account SET debits_pending = 10 WHERE id = %s",
        unguarded.bob.id,
    )
    check_of(unguarded.ledger)
    sick = integrity_sum()

    report = check_of(healthy)

    assert report.is_sound
    last = AuditRun.objects.latest("id")
    assert not last.is_sound
    assert last.findings[0]["ledger_id"] == str(unguarded.ledger.id)
    assert integrity_sum() == sick > 0


def integrity_sum() -> int:
    return integrity_get().integrity_sum


def test_every_check_is_named_in_a_test_that_makes_it_fire() -> None:
    source = Path(__file__).read_text()

    missing = [name for name in CHECKS if f'"{name}"' not in source]

    assert missing == []


def test_many_postings_of_one_transfer_are_sound(books: Books) -> None:
    request = transfer_request(books.alice, books.bob, 1)

    post(
        type(request)(postings=request.postings * 20),
        ledger=books.ledger,
    )

    assert check_of(books.ledger, slice_rows=3).is_sound
    assert Transfer.objects.filter(ledger_id=books.ledger.id, posting_count=20).exists()
