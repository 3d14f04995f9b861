"""What the audit's statements cost does not depend on what the planner believes.

Its statistics are as old as the last ANALYZE, see Note [Plans] in
``ledger.audit_queries``. Plans are judged by the rows and pages that went through them,
never by the clock.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection

from ledger import audit
from ledger.audit import AuditReport, audit_run
from ledger.models import Ledger
from ledger.tests.books import FullBooks
from ledger.tests.factories import AccountFactory, LedgerFactory, post, transfer_request
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

TABLES = (
    "ledger_account",
    "ledger_transfer",
    "ledger_entry",
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
#: How many sound books of every kind of row are audited.
COPIES = 30
#: So that there are slices beyond the rows that are known to the planner.
SLICE_ROWS = 1_000
#: A row of a slice goes through several nodes of a plan, and is looked up for others.
ROWS_PER_ROW = PAGES_PER_ROW = 4
UUID_PATTERN = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def run(sql: str, *parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def analyze() -> None:
    for table in TABLES:
        run(f"ANALYZE {table}")


class Copier:
    """Sound books, of which it makes copies with new ids, into any ledger."""

    def __init__(self) -> None:
        books = FullBooks()
        self._ledger_id = str(books.ledger.id)
        self._rows = {
            table: run(
                f"SELECT to_jsonb(x)::text FROM {table} x WHERE ledger_id = %s",
                books.ledger.id,
            )
            for table in TABLES
        }
        # Copies of a system account have its reference, too.
        run("DROP INDEX account_reference_unique_in_ledger")

    def add(self, ledger: Ledger, count: int = 1) -> None:
        for _ in range(count):
            ids = {self._ledger_id: str(ledger.id)}
            for table, rows in self._rows.items():
                copies = [self._renamed(row, ids) for (row,) in rows]
                run(
                    f"INSERT INTO {table} SELECT * FROM"
                    f" jsonb_populate_recordset(NULL::{table}, %s::jsonb)",
                    f"[{','.join(copies)}]",
                )

    @staticmethod
    def _renamed(row: str, ids: dict[str, str]) -> str:
        return UUID_PATTERN.sub(
            lambda found: ids.setdefault(found[0], str(new_id())), row
        )


@pytest.fixture(params=["none", "of few", "of others", "of some", "of all"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """A ledger with many rows; of which the planner has statistics, or has not."""
    # So that autovacuum, which may be at work on a table, gives way at once.
    run("SET LOCAL deadlock_timeout = '10ms'")
    for (table,) in run(
        "SELECT oid::regclass::text FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    ):
        run(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    # Without what other tests have left: rows, empty pages and statistics.
    run(f"TRUNCATE {', '.join(TABLES)} CASCADE")
    for table in TABLES:
        run(
            "SELECT pg_clear_attribute_stats('public', %s, attname, false)"
            " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
            table,
            table,
        )
    if request.param == "of few":
        few = LedgerFactory()
        accounts = [AccountFactory(ledger=few, min_balance=None) for _ in range(2)]
        one = transfer_request(*accounts, 1)
        post(type(one)(postings=one.postings * 20), ledger=few)
        analyze()
    copier = Copier()
    if request.param == "of others":
        copier.add(LedgerFactory(), COPIES)
        analyze()
    ledger = LedgerFactory()
    if request.param == "of some":
        copier.add(ledger, 5)
        analyze()
    copier.add(ledger, COPIES)
    if request.param == "of all":
        analyze()
    return ledger


@contextmanager
def explained() -> Iterator[dict[str, tuple[int, int]]]:
    """What statements of the block cost at most: rows in all of a plan, and pages."""
    costs: dict[str, tuple[int, int]] = {}

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if re.match(r"\s*(SELECT|WITH)\b", sql):
            options = "ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON"
            execute(f"EXPLAIN ({options}) {sql}", params, many, context)
            (found,) = context["cursor"].fetchone()
            plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
            pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            rows, most_pages = costs.get(sql, (0, 0))
            costs[sql] = (max(rows, rows_of(plan)), max(most_pages, pages))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield costs


def rows_of(plan: dict[str, Any]) -> int:
    """The rows that a plan's nodes returned and that they threw away."""
    removed = sum(plan[key] for key in plan if key.startswith("Rows Removed"))
    own = plan["Actual Loops"] * (plan["Actual Rows"] + removed)
    return round(own) + sum(rows_of(child) for child in plan.get("Plans", ()))


def audit_both_ways(ledger: Ledger) -> AuditReport:
    """By keys, and then by pages."""
    for least in (inf, 0):
        with patch.object(audit, "SCAN_ENTRIES_PER_PAGE", least):
            report = audit_run(ledger_slug=ledger.slug, slice_rows=SLICE_ROWS)
    return report


def test_audit_costs_no_more_than_its_rows_whatever_the_statistics_are(
    ledger: Ledger,
) -> None:
    rows = sum(run(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES)

    with explained() as costs:
        sound = audit_both_ways(ledger)
        run(
            "UPDATE ledger_entry SET amount = amount + 1"
            " WHERE (ledger_id, id) = (SELECT ledger_id, id FROM ledger_entry"
            "     WHERE ledger_id = %s ORDER BY id DESC LIMIT 1)",
            ledger.id,
        )
        broken = audit_both_ways(ledger)

    assert sound.is_sound, sound.findings[:3]
    assert not broken.is_sound
    dear = {
        sql: cost
        for sql, cost in costs.items()
        if cost[0] > ROWS_PER_ROW * rows or cost[1] > PAGES_PER_ROW * rows
    }
    assert dear == {}
