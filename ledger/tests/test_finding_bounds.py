"""What a page costs, on books of tens of thousands of rows: never a whole table.

The awkward cases: a value that only the oldest rows have, one that all of them have,
an account with an entry of every transfer, a range of time long ago.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from ledger.models import Account, Ledger
from ledger.selectors import finding
from ledger.selectors.accounts import AccountFilters, account_list
from ledger.selectors.entries import EntryFilters, entry_list
from ledger.selectors.holds import HoldFilters, hold_list
from ledger.selectors.periods import period_changes
from ledger.selectors.scheduled import ScheduledFilters, scheduled_list
from ledger.selectors.transfers import TransferFilters, transfer_list
from ledger.tests.factories import AccountFactory, LedgerFactory, post
from ledger.tests.holds import capture, place
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from payflow.clock import now
from payflow.ids import new_id
from payflow.tests.fixtures import committed_database

__all__ = ["committed_database"]

TRANSFERS = 20_000
ROUNDS = 4
SCAN_ROWS = 1_000
#: Reading an index entry, its row, and an entry of the transfer.
BUFFERS_PER_ROW = 10
#: The others have few rows here, so that reading them whole is right.
BIG_TABLES = ("ledger_transfer", "ledger_entry")
TABLES = (*BIG_TABLES, "ledger_account", "ledger_hold", "ledger_hold_posting")


class BigBooks:
    """A ledger with a hub that is part of every transfer, and a small one beside it."""

    def __init__(self) -> None:
        self.ledger = LedgerFactory()
        self.hub = self._account(reference="hub", metadata={"role": "hub"})
        self.spokes = [
            self._account(reference=f"spoke/{n}", metadata={"role": "spoke"})
            for n in range(300)
        ]
        self.lone = self._account(owner_name="Zoe")
        self.first_hold = place(
            self.hub, self.spokes[0], 1, reference="old-hold", metadata={"rare": 1}
        )
        capture(self.first_hold, 1)
        self.other = LedgerFactory()
        # The statistics know a hundredth of what the books will hold.
        self._round(-1, size=TRANSFERS // 100)
        analyze()
        self.started_at = now()
        self.rounds = [self._round(number) for number in range(ROUNDS)]
        self.old = self.rounds[0][7]

    def _account(self, **fields: Any) -> Account:
        account = AccountFactory(ledger=self.ledger, **{"min_balance": None, **fields})
        assert isinstance(account, Account)
        return account

    def _round(
        self, number: int, *, size: int = TRANSFERS // ROUNDS
    ) -> list[PostedTransfer]:
        outcomes = post(
            *(
                TransferRequest(
                    postings=(
                        PostingRequest(
                            self.hub.id,
                            self.spokes[n % 300].id
                            if number or n % 1_000 != 7
                            else self.lone.id,
                            99_999 if number == 0 and n == 7 else 1 + n % 100,
                        ),
                    ),
                    reference=f"r{number}/{n}",
                    metadata={"channel": "web", "serial": number * size + n}
                    | ({"era": "old"} if number == 0 else {}),
                )
                for n in range(size)
            ),
            ledger=self.ledger,
        )
        for outcome in outcomes:
            assert isinstance(outcome, PostedTransfer), outcome
        return [o for o in outcomes if isinstance(o, PostedTransfer)]


def analyze() -> None:
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"ANALYZE {table}")


@pytest.fixture(scope="module")
def big_books(committed_database: None, django_db_blocker: Any) -> Iterator[BigBooks]:
    with django_db_blocker.unblock():
        with transaction.atomic():
            yield BigBooks()
            transaction.set_rollback(True)
        connection.close()


@pytest.fixture(scope="module", params=["stale statistics", "fresh statistics"])
def books(request: pytest.FixtureRequest, big_books: BigBooks) -> BigBooks:
    if request.param == "fresh statistics":
        analyze()
    return big_books


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "SCAN_ROWS", SCAN_ROWS)


def sequential_scans() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(seq_scan) FROM pg_stat_xact_user_tables"
            " WHERE relname = ANY (%s)",
            [list(BIG_TABLES)],
        )
        return int(cursor.fetchone()[0])


def cost_of_page(read: Callable[[], Any]) -> tuple[Any, int]:
    """The page, and the buffers that its statements touched; no table is read whole."""
    before = sequential_scans()
    buffers = 0

    def explained(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal buffers
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"
        execute(explain, params, many, context)
        (found,) = context["cursor"].fetchone()
        plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
        buffers += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explained):
        page = read()
    assert sequential_scans() == before
    return page, buffers


def read_transfers(books: BigBooks, **fields: Any) -> Any:
    return lambda: transfer_list(
        ledger_id=books.ledger.id,
        limit=50,
        before=None,
        filters=TransferFilters(**fields),
    )


def test_every_page_of_transfers_is_bounded(books):
    second = books.rounds[1][0].created_at
    cases: dict[str, tuple[dict[str, Any], int | None]] = {
        "no filter": ({}, 50),
        "reference": ({"reference": "r0/7"}, 1),
        "rare prefix": ({"reference_prefix": "r0/77"}, 11),
        "common prefix": ({"reference_prefix": "r"}, 50),
        "prefix of old rows": ({"reference_prefix": "r0/"}, None),
        "kind of old rows": ({"kind": "capture"}, None),
        "captures of a hold": ({"hold_id": books.first_hold.id}, 1),
        "reversals": ({"reverses_transfer_id": books.old.id}, 0),
        "rare value": ({"metadata": (("serial", "7"),)}, 1),
        "no such value": ({"metadata": (("serial", "none"),)}, 0),
        "common value": ({"metadata": (("channel", "web"),)}, 50),
        "value of old rows": ({"metadata": (("era", "old"),)}, None),
        "common and rare value": (
            {"metadata": (("channel", "web"), ("serial", "7"))},
            1,
        ),
        "rare value and kind": (
            {"metadata": (("serial", "7"),), "kind": "reversal"},
            0,
        ),
        "hub": ({"account_id": books.hub.id}, 50),
        "hub and rare value": (
            {"account_id": books.hub.id, "metadata": (("serial", "7"),)},
            1,
        ),
        "hub and kind of old rows": (
            {"account_id": books.hub.id, "kind": "capture"},
            None,
        ),
        "hub and amount of old rows": (
            {"account_id": books.hub.id, "amounts": (99_999, None)},
            None,
        ),
        "hub long ago": (
            {"account_id": books.hub.id, "created": (None, second)},
            50,
        ),
        "account of old rows": ({"account_id": books.lone.id}, 5),
        "account and common value": (
            {"account_id": books.lone.id, "metadata": (("channel", "web"),)},
            5,
        ),
        "no such account": ({"account_id": new_id()}, 0),
        "amount": ({"amounts": (5, 5)}, 10),
        "amount of old rows": ({"amounts": (99_999, None)}, None),
        "currency": ({"currency": "USD"}, 50),
        "other currency": ({"currency": "EUR"}, None),
        "long ago": ({"effective": (None, books.started_at)}, None),
        "before the books": (
            {"created": (None, books.started_at - timedelta(hours=1))},
            0,
        ),
        "amount and time": (
            {"amounts": (5, 5), "created": (books.started_at, None)},
            10,
        ),
    }

    for name, (fields, expected) in cases.items():
        page, buffers = cost_of_page(read_transfers(books, **fields))

        assert buffers <= BUFFERS_PER_ROW * SCAN_ROWS, (name, buffers)
        if expected is None:
            # Not among the newest: the page says where to go on.
            assert (list(page), page.after is None) == ([], False), name
        else:
            assert len(page) == expected, name


def test_a_page_that_is_full_at_once_looks_no_further(books):
    for fields in (
        {},
        {"metadata": (("channel", "web"),)},
        {"kind": "transfer"},
        {"account_id": books.hub.id},
        {"account_id": books.hub.id, "kind": "transfer", "currency": "USD"},
    ):
        page, buffers = cost_of_page(read_transfers(books, **fields))

        assert len(page) == 50
        assert buffers < 2 * SCAN_ROWS, (fields, buffers)


def test_every_page_of_an_accounts_entries_is_bounded(books):
    second = books.rounds[1][0].created_at
    cases: list[tuple[dict[str, Any], int | None]] = [
        ({}, 50),
        ({"direction": "credit"}, None),
        ({"amounts": (99_999, 99_999)}, None),
        ({"transfer_id": books.old.id}, 1),
        ({"created": (None, second)}, 50),
        ({"created": (None, books.started_at)}, 50),
        ({"created": (None, second), "amounts": (99_999, None)}, None),
        ({"effective": (second, None)}, 50),
        ({"effective": (None, books.started_at)}, None),
    ]

    for fields, expected in cases:
        page, buffers = cost_of_page(
            lambda fields=fields: entry_list(
                ledger_id=books.ledger.id,
                account_id=books.hub.id,
                limit=50,
                before=None,
                filters=EntryFilters(**fields),
            )
        )

        assert buffers <= BUFFERS_PER_ROW * SCAN_ROWS, (fields, buffers)
        if expected is None:
            assert (list(page), page.after is None) == ([], False), fields
        else:
            assert len(page) == expected, fields


def test_a_small_ledger_pays_nothing_for_a_big_one(books):
    ledger: Ledger = books.other

    for fields in (
        {"metadata": (("channel", "web"),)},
        {"reference_prefix": "r"},
        {"amounts": (5, 5)},
        {"account_id": books.hub.id},
    ):
        page, buffers = cost_of_page(
            lambda fields=fields: transfer_list(
                ledger_id=ledger.id,
                limit=50,
                before=None,
                filters=TransferFilters(**fields),
            )
        )

        assert (list(page), page.after) == ([], None)
        assert buffers < 100, (fields, buffers)


def test_every_page_of_accounts_and_of_holds_is_bounded(books):
    for list_rows, filters in (
        (account_list, AccountFilters(owner_name_prefix="Zoe")),
        (account_list, AccountFilters(reference_prefix="spoke/1")),
        (account_list, AccountFilters(metadata=(("role", "hub"),))),
        (account_list, AccountFilters(status="closed")),
        (account_list, AccountFilters(currency="EUR", code="x")),
        (hold_list, HoldFilters(metadata=(("rare", "1"),))),
        (hold_list, HoldFilters(account_id=books.hub.id)),
        (hold_list, HoldFilters(status="active", account_id=books.hub.id)),
        (hold_list, HoldFilters(currency="EUR", amounts=(7, None))),
    ):
        _, buffers = cost_of_page(
            lambda list_rows=list_rows, filters=filters: list_rows(
                ledger_id=books.ledger.id, limit=50, before=None, filters=filters
            )
        )

        assert buffers <= BUFFERS_PER_ROW * SCAN_ROWS, (filters, buffers)


SCHEDULED = 20_000
_OLD_ID = "('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"


@pytest.fixture(scope="module")
def planned(big_books: BigBooks) -> BigBooks:
    """As many scheduled transfers, and changes of the ledger, as others have in years.

    By raw SQL: what is tested is how they are found.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_scheduled_transfer (ledger_id, id, due_at,"
            " next_attempt_at, postings, reference, metadata, actor, status, ended_at)"
            f" SELECT %s, {_OLD_ID},"
            " now(), now(), '[{}]', 's/' || n, jsonb_build_object('n', n), 'test',"
            " CASE WHEN n > 5 THEN 'cancelled' ELSE 'scheduled' END,"
            " CASE WHEN n > 5 THEN now() END FROM generate_series(1, %s) n",
            [big_books.ledger.id, SCHEDULED],
        )
        cursor.execute(
            "INSERT INTO ledger_change (ledger_id, id, fields, old, new, actor)"
            f" SELECT %s, {_OLD_ID},"
            " CASE WHEN n > 5 THEN '[\"name\"]' ELSE '[\"closed_before\"]' END::jsonb,"
            " '{}', '{}', 'test' FROM generate_series(1, %s) n",
            [big_books.ledger.id, SCHEDULED],
        )
    return big_books


@pytest.mark.parametrize(
    ("filters", "count", "goes_on"),
    [
        ({}, 50, True),
        ({"reference": "s/7"}, 1, False),
        ({"reference": "none"}, 0, False),
        ({"reference_prefix": "s/77"}, 50, True),
        ({"status": "scheduled"}, 5, False),
        ({"status": "posted"}, 0, True),
        ({"account_id": UUID(int=0)}, 0, True),
        ({"amounts": (7, 9)}, 0, True),
        ({"metadata": (("n", "7"),)}, 1, False),
        ({"due": (None, datetime(2020, 1, 1, tzinfo=UTC))}, 0, True),
    ],
)
@pytest.mark.parametrize("is_analyzed", [False, True])
def test_every_page_of_scheduled_transfers_is_bounded(
    planned, filters, count, goes_on, is_analyzed
):
    if is_analyzed:
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE ledger_scheduled_transfer")

    page, buffers = cost_of_page(
        lambda: scheduled_list(
            ledger_id=planned.ledger.id,
            limit=50,
            before=None,
            filters=ScheduledFilters(**filters),
        )
    )

    # What no index finds is looked for among so many rows, and then by the next page.
    assert (len(page), page.after is not None) == (count, goes_on)
    assert buffers <= SCAN_ROWS // 2, buffers


@pytest.mark.parametrize("is_analyzed", [False, True])
def test_the_history_of_periods_costs_nothing_for_other_changes(planned, is_analyzed):
    if is_analyzed:
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE ledger_change")

    rows, buffers = cost_of_page(
        lambda: period_changes(ledger_id=planned.ledger.id, limit=50, before=None)
    )

    assert len(rows) == 5
    assert buffers < 20
