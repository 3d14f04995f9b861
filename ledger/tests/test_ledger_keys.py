"""Every key and every statement stays inside one ledger.

Some tests read PostgreSQL's catalogue, the others all SQL that PayFlow's flows send.
"""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from idempotency.services import ledgers_with_responses, responses_purge
from ledger.audit import audit_run
from ledger.enums import AccountStatus
from ledger.models import Account
from ledger.services.integrity import integrity_refresh
from ledger.services.payouts import PayoutHandler
from ledger.tests.factories import AccountFactory, LedgerFactory, move
from ledger.tests.holds import place
from outbox.models import OutboxTask
from outbox.services import task_cancel_unsent, task_lock_unsent, task_retry
from outbox.tests.factories import make_due, reload
from outbox.tests.fakes import ScriptedProvider, make_dispatcher
from payflow.db import transaction_owner
from payflow.tests.fixtures import committed_database, committed_db

__all__ = ["committed_database", "committed_db"]

#: Tables that belong to a ledger; the ledger itself is known by its id.
OWNED = {
    "ledger_api_client",
    "ledger_api_key",
    "ledger_account",
    "ledger_transfer",
    "ledger_entry",
    "ledger_change",
    "ledger_hold",
    "ledger_hold_posting",
    "ledger_hold_event",
    "ledger_reversal_total",
    "ledger_velocity_limit",
    "ledger_usage",
    "ledger_scheduled_transfer",
    "ledger_asset",
    "outbox_task",
    "outbox_attempt",
    "outbox_attempt_outcome",
    "idempotency_key",
}
#: Tables of the whole installation.
COMMON = {"ledger_ledger", "ledger_audit_run", "ledger_integrity_status"}


def rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


@pytest.mark.django_db
def test_every_table_is_known_to_belong_to_a_ledger_or_to_all():
    found = {
        name
        for (name,) in rows(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename ~ '^(ledger|outbox|idempotency)_'"
        )
    }

    assert found == OWNED | COMMON


@pytest.mark.django_db
def test_every_unique_index_of_a_ledgers_table_starts_with_ledger_id():
    indexes = rows(
        """
        SELECT c.relname, i.indexrelid::regclass::text, a.attname
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
        WHERE i.indisunique
        """
    )
    wrong = [
        (index, column)
        for table, index, column in indexes
        if table in OWNED and column != "ledger_id"
    ]

    assert wrong == []
    assert {table for table, *_ in indexes} >= OWNED


@pytest.mark.django_db
def test_every_primary_key_is_ledger_id_and_id():
    keys = dict(
        rows(
            """
            SELECT c.conrelid::regclass::text, string_agg(a.attname, ','
                ORDER BY array_position(c.conkey, a.attnum))
            FROM pg_constraint c
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
            WHERE c.contype = 'p' GROUP BY c.oid, c.conrelid
            """
        )
    )

    assert {keys[table] for table in OWNED} == {"ledger_id,id"}


@pytest.mark.django_db
def test_every_foreign_key_between_them_carries_ledger_id():
    keys = rows(
        """
        SELECT c.conname, c.conrelid::regclass::text, c.confrelid::regclass::text,
            array_agg(a.attname), array_agg(f.attname)
        FROM pg_constraint c
        CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k (own, other)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
        JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = k.other
        WHERE c.contype = 'f' GROUP BY c.oid, c.conname, c.conrelid, c.confrelid
        """
    )
    owned = [key for key in keys if key[1] in OWNED]
    wrong = [
        name
        for name, _, target, own, other in owned
        if ("ledger_id", "id" if target == "ledger_ledger" else "ledger_id")
        not in set(zip(own, other, strict=True))
    ]

    assert wrong == []
    assert len(owned) >= 10


EQUALS = re.compile(r"\bledger_id = ")


def violations(sql: str) -> list[str]:
    """What in a statement reaches across ledgers."""
    text = re.sub(r"\s+", " ", sql.replace('"', ""))
    names = "|".join(sorted(OWNED))
    found = []
    for match in re.finditer(
        rf"\bJOIN (?:{names})\b.*?\bON\b(.*?)"
        r"(?=\bJOIN\b|\bWHERE\b|\bORDER\b|\bGROUP\b|$)",
        text,
    ):
        if not EQUALS.search(match.group(1)):
            found.append(f"JOIN without ledger_id: {match.group(0)}")
    for match in re.finditer(rf"\b(UPDATE|DELETE FROM) (?:{names})\b(.*)", text):
        condition = match.group(2).partition("WHERE")[2]
        if not EQUALS.search(condition):
            found.append(f"{match.group(1)} without ledger_id: {text}")
    if re.search(r"\bFOR (NO KEY )?UPDATE\b", text) and re.search(names, text):
        before = text.partition("FOR ")[0]
        if not EQUALS.search(before.partition("WHERE")[2]):
            found.append(f"FOR UPDATE without ledger_id: {text}")
    return found


def test_the_check_itself_sees_a_statement_that_reaches_across_ledgers():
    for sql in (
        'SELECT * FROM "ledger_entry" INNER JOIN "ledger_account" ON'
        ' ("ledger_entry"."account_id" = "ledger_account"."id")',
        "UPDATE ledger_account SET version = 1 WHERE id = 'x'",
        "DELETE FROM outbox_task WHERE id = 'x'",
        "SELECT 1 FROM ledger_account WHERE id = 'x' FOR UPDATE",
        "UPDATE outbox_task SET state = 'done' WHERE (ledger_id, id) IN (SELECT 1)",
    ):
        assert violations(sql), sql


@pytest.mark.django_db
def test_no_statement_of_any_flow_reaches_across_ledgers(admin_client, settings):
    from ledger.services.clients import api_key_create
    from ledger.tests.factories import ApiClientFactory

    ledger = LedgerFactory()
    http = Client()
    with CaptureQueriesContext(connection) as queries:
        call_command("seed_accounts", accounts=3, transfers=3, verbosity=0)
        token = api_key_create(client=ApiClientFactory(ledger=ledger))
        headers = {"Authorization": f"Bearer {token}"}
        source = AccountFactory(ledger=ledger, balance=10_000)
        payout = AccountFactory(ledger=ledger, payout_destination="iban")
        transfer = {
            "from_account_id": str(source.id),
            "to_account_id": str(payout.id),
            "amount": 10,
            "reference": "r",
        }
        for _ in range(2):
            made = http.post(
                "/v1/transfers",
                json.dumps(transfer),
                content_type="application/json",
                headers={**headers, "Idempotency-Key": f"key-{ledger.id}"},
            )
            assert made.status_code == 201
        opened = http.post(
            "/v1/accounts",
            '{"owner_name": "Somebody", "currency": "USD"}',
            content_type="application/json",
            headers={**headers, "Idempotency-Key": f"account-{ledger.id}"},
        )
        assert opened.status_code == 201
        asset = http.post(
            "/v1/assets",
            '{"code": "PTS", "name": "Points", "exponent": 0}',
            content_type="application/json",
            headers=headers,
        )
        assert asset.status_code == 201
        points = AccountFactory(ledger=ledger, currency="PTS")
        exchanged = http.post(
            "/v1/exchanges",
            json.dumps(
                {
                    "from_account_id": str(source.id),
                    "to_account_id": str(points.id),
                    "amount": 10,
                    "rate": "100",
                }
            ),
            content_type="application/json",
            headers={**headers, "Idempotency-Key": f"exchange-{ledger.id}"},
        )
        assert exchanged.status_code == 201
        for path in (
            "me",
            "transfers",
            f"transfers/{made.json()['id']}",
            "accounts",
            f"accounts/{source.id}",
            f"accounts/{source.id}/entries",
            "assets",
            "assets/PTS",
        ):
            assert http.get(f"/v1/{path}", headers=headers).status_code == 200
        changed = http.patch(
            f"/v1/accounts/{source.id}",
            '{"code": "1"}',
            content_type="application/json",
            headers=headers,
        )
        assert changed.status_code == 200
        # A payout that is cancelled; the dispatcher's flows have a test of their own.
        task = OutboxTask.objects.get(ledger_id=ledger.id, kind="payout")
        assert task_lock_unsent(ledger_id=ledger.id, task_id=task.id)
        back = PayoutHandler().reject(task=task, reason="cancelled")
        assert task_cancel_unsent(
            ledger_id=ledger.id, task_id=task.id, completion_transfer_id=back
        )
        hold = place(source, AccountFactory(ledger=ledger), 5)
        integrity_refresh()
        assert ledger.id in ledgers_with_responses()
        responses_purge(ledger_id=ledger.id, older_than=timedelta(0))
        for page in (
            "ledger/account/",
            f"ledger/account/{source.id}/change/",
            "ledger/transfer/",
            f"ledger/transfer/{made.json()['id']}/change/",
            "ledger/entry/",
            "ledger/apiclient/",
            "ledger/hold/",
            f"ledger/hold/{hold.id}/change/",
            "ledger/scheduledtransfer/",
            "ledger/usage/",
            "ledger/asset/",
            "outbox/outboxtask/",
            f"outbox/outboxtask/{task.id}/change/",
            "idempotency/idempotencykey/",
        ):
            response = admin_client.get(
                f"/admin/{page}?ledger={ledger.id}", follow=True
            )
            assert response.status_code == 200, page

    assert len(queries) > 60
    assert [v for q in queries for v in violations(q["sql"])] == []


def test_no_statement_of_the_dispatcher_reaches_across_ledgers(committed_db, settings):
    settings.PAYOUT_SETTLE_DELAY_SECONDS = 0.0
    with transaction_owner():
        ledger = LedgerFactory()
        source = AccountFactory(ledger=ledger, balance=10_000)
        closing = AccountFactory(ledger=ledger, balance=5)
        payout = AccountFactory(ledger=ledger, payout_destination="iban")

    def pay_out(*answers: object, origin: Account = source) -> OutboxTask:
        """One payout, drained until the bank has given all of these answers."""
        with transaction_owner():
            made = move(origin, payout, 5)
        task = OutboxTask.objects.get(
            ledger_id=ledger.id, transfer_id=made.id, kind="payout"
        )
        provider = ScriptedProvider(answers)
        dispatcher = make_dispatcher(provider, PayoutHandler())
        dispatcher.drain(ledger_id=ledger.id)
        for _ in answers:
            if provider.steps:
                make_due(task)
                dispatcher.drain(ledger_id=ledger.id)
        return reload(task)

    def retried(task: OutboxTask) -> OutboxTask:
        with transaction_owner():
            assert task_retry(ledger_id=ledger.id, task_id=task.id)
        make_dispatcher(ScriptedProvider([]), PayoutHandler()).drain(
            ledger_id=ledger.id
        )
        return reload(task)

    def set_status(status: AccountStatus) -> None:
        Account.objects.filter(ledger_id=ledger.id, id=closing.id).update(status=status)

    def released() -> OutboxTask:
        stops = iter([False, False, True])
        with transaction_owner():
            made = move(source, payout, 5)
        make_dispatcher(
            ScriptedProvider([]), PayoutHandler(), should_stop=lambda: next(stops, True)
        ).drain(ledger_id=ledger.id)
        return OutboxTask.objects.get(
            ledger_id=ledger.id, transfer_id=made.id, kind="payout"
        )

    def refuse() -> str:
        set_status(AccountStatus.CLOSED)
        return "rejected"

    with CaptureQueriesContext(connection) as queries:
        ends = [
            pay_out("settled"),
            pay_out("rejected"),
            pay_out("accepted", "settled"),
            pay_out("accepted", "rejected"),
            pay_out("unknown", "settled"),
            pay_out("unknown", "not_found", "settled"),
            pay_out("not_sent", "retry_later", "settled"),
        ]
        refused = pay_out(refuse, origin=closing)
        set_status(AccountStatus.OPEN)
        booked = retried(refused)
        returned = released()

    assert [task.state for task in ends] == ["done"] * len(ends)
    assert (refused.state, booked.state) == ("needs_attention", "done")
    assert (returned.state, returned.attempt_count) == ("pending", 0)
    kinds = "|".join(("SKIP LOCKED", "outbox_attempt_outcome", "'done'", "FOR UPDATE"))
    sent = " ".join(query["sql"] for query in queries)
    assert set(re.findall(kinds, sent)) == set(kinds.split("|"))
    assert [v for q in queries for v in violations(q["sql"])] == []


@pytest.mark.django_db
def test_no_statement_of_the_audit_reaches_across_ledgers():
    account = AccountFactory(balance=5)

    with CaptureQueriesContext(connection) as queries:
        audit_run(ledger_slug=account.ledger.slug)

    assert len(queries) > 5
    assert [v for q in queries for v in violations(q["sql"])] == []
