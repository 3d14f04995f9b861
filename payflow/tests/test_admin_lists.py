"""The back office's lists: scopes, searches, pages by key, and bounded queries."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from ledger.models import Account, Entry, Ledger, Transfer
from ledger.services.accounts import account_update
from ledger.services.assets import AssetRequest, asset_create
from ledger.services.holds import hold_extend
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    ApiClientFactory,
    LedgerFactory,
    move,
    post,
    transfer_request,
)
from ledger.tests.holds import place
from ledger.types import PostedTransfer, PostingRequest, TransferRequest
from outbox.models import OutboxTask
from outbox.tests.factories import make_attempt
from payflow.admin import bounds
from payflow.admin.read_only import ReadOnlyModelAdmin
from payflow.clock import now
from payflow.ids import new_id
from payflow.tests.test_admin import READ_ONLY, make_books, make_key, make_scheduled

pytestmark = pytest.mark.django_db

BIG_TABLES = (
    "ledger_account",
    "ledger_asset",
    "ledger_transfer",
    "ledger_entry",
    "ledger_change",
    "ledger_hold",
    "ledger_hold_posting",
    "ledger_hold_event",
    "ledger_reversal_total",
    "ledger_scheduled_transfer",
    "ledger_usage",
    "ledger_velocity_limit",
    "outbox_task",
    "outbox_attempt",
    "outbox_attempt_outcome",
    "idempotency_key",
)


@pytest.fixture
def finance(client: Client) -> Client:
    """A client that is logged in as staff of the Finance group."""
    user = User.objects.create_user("fin", password="secret", is_staff=True)
    user.groups.add(Group.objects.get(name="Finance"))
    client.force_login(user)
    return client


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of four rows."""
    monkeypatch.setattr(ReadOnlyModelAdmin, "list_per_page", 4)


def changelist(model: str) -> str:
    """The address of a model's list."""
    return reverse(f"admin:{model.replace('.', '_')}_changelist")


def get_list(client: Client, model: str, **query: Any) -> Any:
    """The changelist object behind a page that answers 200."""
    response = client.get(changelist(model), query)
    assert response.status_code == 200
    return response.context["cl"]


def ids(client: Client, model: str, **query: Any) -> list[UUID]:
    """The ids on a page, in its order."""
    return [row.pk for row in get_list(client, model, **query).result_list]


def walk(client: Client, model: str, step: str, start: str) -> Iterator[list[UUID]]:
    """The ids of each page, following ``step`` until it leads nowhere."""
    url = start
    for _ in range(100):
        response = client.get(changelist(model) + url)
        assert response.status_code == 200
        cl = response.context["cl"]
        yield [row.pk for row in cl.result_list]
        url = getattr(cl, step)
        if not url:
            return
    raise AssertionError("the pages do not end")


def make_ledger_with(transfers: int) -> Ledger:
    """A ledger in which one funded account pays another so many times."""
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000_000, reference="source")
    target = AccountFactory(ledger=ledger, reference="target")
    post(
        *(transfer_request(source, target, 1 + n) for n in range(transfers)),
        ledger=ledger,
    )
    return ledger


# --- Scope --------------------------------------------------------------------


def test_a_list_shows_one_ledger_and_begins_with_the_busiest(finance: Client) -> None:
    quiet, busy = make_ledger_with(1), make_ledger_with(2)
    LedgerFactory()

    preselected = get_list(finance, "ledger.transfer")
    chosen = get_list(finance, "ledger.transfer", ledger=quiet.id)

    assert {row.ledger_id for row in preselected.result_list} == {busy.id}
    assert preselected.ledger_label == busy.slug
    assert {row.ledger_id for row in chosen.result_list} == {quiet.id}


def test_there_is_no_way_to_list_all_ledgers(finance: Client) -> None:
    make_ledger_with(1)
    busy = make_ledger_with(1)

    for value in ("", "all", "x"):
        rows = get_list(finance, "ledger.transfer", ledger=value).result_list
        assert {row.ledger_id for row in rows} == {busy.id}

    assert ids(finance, "ledger.transfer", ledger=new_id()) == []


def test_the_ledger_filter_offers_a_bounded_number(
    finance: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_LEDGER_CHOICES", 2)
    ledgers = [LedgerFactory() for _ in range(4)]

    cl = get_list(finance, "ledger.account", ledger=ledgers[0].id)

    (spec,) = [spec for spec in cl.filter_specs if spec.parameter_name == "ledger"]
    assert {value for value, _ in spec.lookup_choices} == {
        str(ledgers[number].id) for number in (0, 2, 3)
    }


def test_links_of_a_page_stay_in_its_ledger(finance: Client, small_pages: None) -> None:
    ledger = make_ledger_with(9)

    cl = get_list(finance, "ledger.transfer")

    assert f"ledger={ledger.id}" in cl.next_url
    assert f"ledger={ledger.id}" in cl.get_query_string({"kind": "transfer"})


# --- Pages --------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["ledger.account", "ledger.transfer", "ledger.entry", "outbox.outboxtask"]
)
def test_pages_hold_each_row_once_newest_first(
    finance: Client, small_pages: None, model: str
) -> None:
    ledger = make_ledger_with(11)
    for _ in range(9):
        AccountFactory(ledger=ledger)
    admin_model = get_list(finance, model).model
    wanted = list(
        admin_model.objects.filter(ledger_id=ledger.id)
        .order_by("-id")
        .values_list("id", flat=True)
    )

    pages = list(walk(finance, model, "next_url", f"?ledger={ledger.id}"))
    start = f"?ledger={ledger.id}&before={pages[-1][0]}"
    back = list(walk(finance, model, "previous_url", start))

    assert [id_ for page in pages for id_ in page] == wanted
    assert all(len(page) == 4 for page in pages[:-1])
    assert [id_ for page in reversed(back) for id_ in page] == wanted[: -len(pages[-1])]


def test_entries_of_an_account_come_by_version(
    finance: Client, small_pages: None
) -> None:
    ledger = make_ledger_with(10)
    account = Account.objects.get(ledger_id=ledger.id, reference="source")

    pages = walk(finance, "ledger.entry", "next_url", f"?account={account.id}")

    found = [id_ for page in pages for id_ in page]
    wanted = Entry.objects.filter(account_id=account.id).order_by("-account_version")
    assert found == list(wanted.values_list("id", flat=True))


def test_entries_of_a_transfer_come_by_posting(
    finance: Client, small_pages: None
) -> None:
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=1_000)
    target = AccountFactory(ledger=ledger)
    postings = tuple(PostingRequest(source.id, target.id, n) for n in range(1, 8))
    (posted,) = post(TransferRequest(postings=postings), ledger=ledger)
    assert isinstance(posted, PostedTransfer)

    pages = walk(finance, "ledger.entry", "next_url", f"?transfer={posted.id}")

    entries = {entry.id: entry for entry in Entry.objects.filter(transfer_id=posted.id)}
    found = [entries[id_] for page in pages for id_ in page]
    assert [(entry.posting_number, entry.direction) for entry in found] == [
        (number, side) for number in range(1, 8) for side in ("debit", "credit")
    ]


@pytest.mark.parametrize("cursor", ["x", "1", "", "' OR 1=1", "9" * 40])
def test_a_cursor_that_is_none_leads_to_the_first_page(
    finance: Client, cursor: str
) -> None:
    ledger = make_ledger_with(3)
    account = Account.objects.get(ledger_id=ledger.id, reference="source")

    for query in ({}, {"account": account.id}):
        response = finance.get(changelist("ledger.entry"), {**query, "after": cursor})
        assert response.status_code == 200


def test_a_filter_without_an_index_looks_through_a_window(
    finance: Client, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "WINDOW_ROWS", 5)
    ledger = make_ledger_with(22)

    first = get_list(finance, "ledger.transfer", kind="opening_balance")
    pages = list(walk(finance, "ledger.transfer", "next_url", "?kind=opening_balance"))
    directions = list(walk(finance, "ledger.entry", "next_url", "?direction=debit"))

    opening = Transfer.objects.get(ledger_id=ledger.id, kind="opening_balance")
    debits = Entry.objects.filter(ledger_id=ledger.id, direction="debit")
    assert first.result_list == []
    assert first.has_window_edge
    assert [id_ for page in pages for id_ in page] == [opening.id]
    assert [id_ for page in directions for id_ in page] == list(
        debits.order_by("-id").values_list("id", flat=True)
    )


@pytest.mark.parametrize("most", [2, 1_000])
def test_payouts_of_an_account_are_all_found(
    finance: Client, small_pages: None, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(bounds, "WINDOW_ROWS", 5)
    monkeypatch.setattr(bounds, "MAX_MATCHES", most)
    books = make_books()
    for number in range(6):
        move(books.account, books.payout, 1 + number)

    pages = walk(
        finance, "outbox.outboxtask", "next_url", f"?account={books.payout.id}"
    )

    wanted = OutboxTask.objects.filter(account_id=books.payout.id).order_by("-id")
    assert [id_ for page in pages for id_ in page] == [task.id for task in wanted]


def test_counting_stops(finance: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_COUNT", 60)
    make_ledger_with(70)

    with CaptureQueriesContext(connection) as queries:
        cl = get_list(finance, "ledger.transfer")

    assert cl.count_text == "60+ transfers"
    counts = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
    assert len(counts) == 1
    assert "LIMIT 61" in counts[0]


def test_unknown_lookups_and_orders_are_refused_or_ignored(finance: Client) -> None:
    make_ledger_with(2)

    refused = finance.get(
        changelist("ledger.transfer"), {"description__icontains": "a"}
    )
    ordered = ids(finance, "ledger.transfer", o="3.-1", p="7", all="")

    assert refused.status_code == 400
    assert ordered == ids(finance, "ledger.transfer")


@pytest.mark.parametrize(
    ("model", "query", "count"),
    [
        ("ledger.account", {"kind": "equity"}, 1),
        ("ledger.account", {"status": "open"}, 3),
        ("ledger.account", {"currency": "USD"}, 3),
        ("ledger.account", {"currency": "EUR"}, 0),
        ("ledger.transfer", {"kind": "opening_balance"}, 1),
        ("ledger.entry", {"direction": "debit"}, 2),
        ("ledger.entry", {"currency": "USD"}, 4),
        ("ledger.hold", {"status": "active"}, 1),
        ("ledger.hold", {"status": "expired"}, 0),
        ("ledger.scheduledtransfer", {"status": "scheduled"}, 1),
        ("ledger.scheduledtransfer", {"status": "refused"}, 0),
        ("outbox.outboxtask", {"kind": "payout"}, 1),
        ("outbox.outboxtask", {"state": "pending", "kind": "transfer.posted"}, 2),
        ("outbox.outboxtask", {"state": "live", "kind": "payout"}, 1),
        ("outbox.outboxtask", {"state": "dead"}, 0),
        ("outbox.outboxtask", {"state": "done"}, 0),
        ("outbox.outboxtask", {"delivery": "settled"}, 0),
        ("idempotency.idempotencykey", {"outcome": "success"}, 1),
        ("idempotency.idempotencykey", {"outcome": "refusal"}, 0),
    ],
)
def test_filters_narrow(
    finance: Client, model: str, query: dict[str, str], count: int
) -> None:
    make_books()

    assert len(ids(finance, model, **query)) == count


# --- Searches -----------------------------------------------------------------


def test_a_full_id_is_found_in_every_ledger(finance: Client) -> None:
    books = make_books()
    make_ledger_with(1)

    for model in READ_ONLY:
        row = getattr(books, model.rpartition(".")[2])
        if model != "ledger.auditrun":
            assert row.pk in ids(finance, model, q=f" {row.pk} ")


def test_a_transfers_id_finds_its_entries_and_tasks(finance: Client) -> None:
    books = make_books()

    assert len(ids(finance, "ledger.entry", q=books.transfer.id)) == 2
    assert len(ids(finance, "outbox.outboxtask", q=books.transfer.id)) == 2


@pytest.mark.parametrize(
    ("model", "text", "is_found"),
    [
        ("ledger.account", "cust-1", True),
        ("ledger.account", "cu", True),
        ("ledger.account", "Ada Be", True),
        ("ledger.account", "Berg", False),
        ("ledger.account", "ust-1", False),
        ("ledger.account", "%", False),
        ("ledger.account", "c_st", False),
        ("ledger.account", "\x00", False),
        ("ledger.transfer", "inv-1", True),
        ("ledger.transfer", "in", True),
        ("ledger.transfer", "Rent", False),
        ("ledger.hold", "hold-1", True),
        ("ledger.hold", "ho", True),
        ("ledger.hold", "Hotel", False),
        ("ledger.scheduledtransfer", "rent", True),
        ("ledger.scheduledtransfer", "ent-2", False),
        ("ledger.asset", "pt", True),
        ("ledger.asset", "TS", False),
        ("ledger.ledger", "ac", True),
        ("ledger.apiclient", "shop", True),
        ("ledger.apiclient", "sho", False),
        ("ledger.entry", "cust-1", False),
    ],
)
def test_texts_are_found_whole_or_by_their_beginning(
    finance: Client, model: str, text: str, is_found: bool
) -> None:
    books = make_books()
    row = getattr(books, model.rpartition(".")[2])

    response = finance.get(changelist(model), {"q": text})

    found = [found.pk for found in response.context["cl"].result_list]
    if text != "\x00":
        assert (row.pk in found) is is_found


def test_a_key_is_found_whole(finance: Client) -> None:
    books = make_books()
    key = books.idempotencykey
    uuid_key = make_key(
        ledger_id=books.ledger.id, client_id=books.apiclient.id, resource=new_id()
    )

    assert ids(finance, "idempotency.idempotencykey", q=key.key) == [key.id]
    assert ids(finance, "idempotency.idempotencykey", q=uuid_key.id) == [uuid_key.id]
    assert ids(finance, "idempotency.idempotencykey", q=key.key[:8]) == []


def test_a_search_lists_a_bounded_number_and_says_so(
    finance: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_MATCHES", 3)
    ledger = LedgerFactory()
    for number in range(5):
        AccountFactory(ledger=ledger, reference=f"many-{number}")

    response = finance.get(changelist("ledger.account"), {"q": "many-"})

    assert len(response.context["cl"].result_list) == 3
    assert "among the first 3 matches" in response.content.decode()


@pytest.mark.parametrize(
    "model", [model for model in READ_ONLY if model != "ledger.auditrun"]
)
def test_every_search_box_says_what_it_finds(finance: Client, model: str) -> None:
    assert "full id" in finance.get(changelist(model)).content.decode()


# --- Cost ---------------------------------------------------------------------


def fill(books: Any, rows: int) -> None:
    """So many more rows in every table, around the same transfer, account and task."""
    source, payout, ledger = books.account, books.payout, books.ledger
    for number in range(rows):
        AccountFactory(ledger=ledger)
        move(source, payout, 1 + number)
        account_update(
            ledger_id=ledger.id,
            account_id=source.id,
            changes={"owner_name": f"Ada {new_id()}"},
            actor=ACTOR,
        )
        client = ApiClientFactory(ledger=ledger)
        make_key(ledger_id=ledger.id, client_id=client.id, resource=new_id())
        make_attempt(books.outboxtask, number=books.outboxtask.attempt_count + 10)
        books.outboxtask.attempt_count += 1
        place(source, payout, 1 + number)
        make_scheduled(payout, source, 1 + number)
        hold_extend(
            ledger_id=ledger.id,
            hold_id=books.hold.id,
            expires_at=books.hold.expires_at + timedelta(seconds=1),
            actor=ACTOR,
            now=now(),
        )
        books.hold.expires_at += timedelta(seconds=1)
        asset_create(
            ledger_id=ledger.id,
            request=AssetRequest(f"A{new_id().hex[-10:].upper()}", "Points", 2),
            actor=ACTOR,
        )


def count_queries(client: Client, url: str) -> int:
    """How many queries a page takes once Django's cache of content types is warm."""
    assert client.get(url).status_code == 200
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200
    return len(queries)


@pytest.mark.parametrize("model", READ_ONLY)
def test_queries_of_a_list_do_not_grow_with_its_rows(
    finance: Client, model: str
) -> None:
    books = make_books()
    fill(books, 3)
    few = count_queries(finance, changelist(model))

    fill(books, 30)
    many = count_queries(finance, changelist(model))

    # One more at the most: the count that a second page makes necessary.
    assert many <= few + 1


@pytest.mark.parametrize("model", READ_ONLY)
def test_queries_of_an_object_do_not_grow_with_its_rows(
    finance: Client, model: str
) -> None:
    books = make_books()
    row = getattr(books, model.rpartition(".")[2])
    url = reverse(f"admin:{model.replace('.', '_')}_change", args=[row.pk])
    fill(books, 3)
    few = count_queries(finance, url)

    fill(books, 30)
    many = count_queries(finance, url)

    assert many == few


def test_queries_of_a_transfer_do_not_grow_with_its_postings(finance: Client) -> None:
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=10_000)
    counts, tables = [], []
    for size in (3, 30):
        targets = [
            AccountFactory(ledger=ledger, payout_destination=f"D{n}")
            for n in range(size)
        ]
        postings = tuple(PostingRequest(source.id, target.id, 1) for target in targets)
        (posted,) = post(TransferRequest(postings=postings), ledger=ledger)
        assert isinstance(posted, PostedTransfer)
        url = reverse("admin:ledger_transfer_change", args=[posted.id])
        counts.append(count_queries(finance, url))
        tables.append(finance.get(url).context["tables"])

    assert counts[0] == counts[1]
    assert [len(table.rows) for table in tables[0]] == [3, 6, 4]
    assert [len(table.rows) for table in tables[1]] == [25, 50, 31]
    assert tables[1][0].title == "The first 25 of 30 postings"
    assert tables[1][1].more_label == "All 60 entries"


def plans_of(get: Callable[[], Any]) -> list[tuple[str, list[str]]]:
    """Each SELECT of the big tables, and its plan where the planner is free to choose.

    Sequential scans and sorts are priced out of reach: a plan still has them only where
    no index serves the query.
    """
    with CaptureQueriesContext(connection) as queries:
        get()
    found = []
    with connection.cursor() as cursor:
        for switch in ("seqscan", "sort", "bitmapscan", "hashjoin", "hashagg"):
            cursor.execute(f"SET LOCAL enable_{switch} = off")
        for query in queries:
            sql = query["sql"]
            if sql.startswith("SELECT") and any(f'"{t}"' in sql for t in BIG_TABLES):
                cursor.execute(f"EXPLAIN {sql}")
                found.append((sql, [line for (line,) in cursor.fetchall()]))
        for switch in ("seqscan", "sort", "bitmapscan", "hashjoin", "hashagg"):
            cursor.execute(f"SET LOCAL enable_{switch} = on")
    return found


def assert_served_by_indexes(plans: list[tuple[str, list[str]]]) -> None:
    """No scan of a whole table or index, and no query without a bound."""
    assert plans
    for sql, plan in plans:
        explained = "\n".join([sql, *plan])
        for line, condition in zip(plan, [*plan[1:], ""], strict=True):
            scan = re.search(r"Scan (?:using \w+ )?on (\w+)", line)
            if scan is None or scan[1] not in BIG_TABLES:
                continue
            assert "Index" in line, explained
            assert "Index Cond:" in condition, explained
            assert "ledger_id" in condition, explained
        is_keyed = re.search(
            r'"?((transfer_|hold_|hold_event_|(from_|to_)?account_)?id)"? (IN|=) ',
            sql,
        )
        assert "LIMIT" in sql or is_keyed, explained
        assert "OFFSET" not in sql or "LIMIT 1" in sql, explained
        assert not re.search(r"ILIKE|UPPER\(|LIKE '%", sql), explained


LIST_QUERIES = [
    ("ledger.account", {}),
    ("ledger.account", {"kind": "asset", "status": "open", "currency": "USD"}),
    ("ledger.account", {"q": "cust-"}),
    ("ledger.transfer", {}),
    ("ledger.transfer", {"after": "CURSOR"}),
    ("ledger.transfer", {"before": "CURSOR", "kind": "transfer"}),
    ("ledger.transfer", {"kind": "settlement"}),
    ("ledger.transfer", {"q": "inv"}),
    ("ledger.transfer", {"q": "CURSOR"}),
    ("ledger.entry", {}),
    ("ledger.entry", {"direction": "debit", "currency": "USD"}),
    ("ledger.entry", {"account": "ACCOUNT"}),
    ("ledger.entry", {"account": "ACCOUNT", "after": "2", "direction": "debit"}),
    ("ledger.entry", {"q": "CURSOR"}),
    ("ledger.change", {}),
    ("ledger.change", {"account": "ACCOUNT"}),
    ("ledger.asset", {}),
    ("ledger.asset", {"q": "P"}),
    ("ledger.hold", {}),
    ("ledger.hold", {"status": "active"}),
    ("ledger.hold", {"status": "expired"}),
    ("ledger.hold", {"status": "captured", "after": "HOLD"}),
    ("ledger.hold", {"account": "ACCOUNT"}),
    ("ledger.hold", {"account": "ACCOUNT", "status": "active"}),
    ("ledger.hold", {"q": "hold"}),
    ("ledger.hold", {"q": "HOLD"}),
    ("ledger.scheduledtransfer", {}),
    ("ledger.scheduledtransfer", {"status": "scheduled"}),
    ("ledger.scheduledtransfer", {"status": "refused"}),
    ("ledger.scheduledtransfer", {"q": "CURSOR"}),
    ("ledger.scheduledtransfer", {"q": "rent"}),
    ("ledger.usage", {}),
    ("ledger.usage", {"account": "ACCOUNT"}),
    ("ledger.usage", {"account": "ACCOUNT", "after": "2100-01-01 00:00:00+00:00"}),
    ("outbox.outboxtask", {}),
    ("outbox.outboxtask", {"state": "live"}),
    ("outbox.outboxtask", {"state": "dead"}),
    ("outbox.outboxtask", {"state": "done", "kind": "payout"}),
    ("outbox.outboxtask", {"delivery": "settled", "currency": "USD"}),
    ("outbox.outboxtask", {"account": "ACCOUNT"}),
    ("outbox.outboxtask", {"transfer": "CURSOR"}),
    ("outbox.outboxtask", {"q": "CURSOR"}),
    ("idempotency.idempotencykey", {}),
    ("idempotency.idempotencykey", {"outcome": "refusal"}),
    ("idempotency.idempotencykey", {"q": "order-1"}),
]


@pytest.mark.parametrize(("model", "query"), LIST_QUERIES)
def test_lists_are_served_by_indexes(
    finance: Client, model: str, query: dict[str, str], small_pages: None
) -> None:
    books = make_books()
    fill(books, 6)
    values = {
        "CURSOR": books.transfer.id,
        "ACCOUNT": books.account.id,
        "HOLD": books.hold.id,
    }
    query = {name: values.get(value, value) for name, value in query.items()}

    plans = plans_of(lambda: finance.get(changelist(model), query))

    assert_served_by_indexes(plans)
    if model == "ledger.hold" and "account" in query:
        # Of each account's open holds so many as a search may find are put into order.
        return
    if set(query) <= {"account", "after", "before"}:
        # A group's rows are those of one page.
        ungrouped = [plan for sql, plan in plans if "GROUP BY" not in sql]
        assert not any("Sort" in line for plan in ungrouped for line in plan)


@pytest.mark.parametrize(
    "model", [m for m in READ_ONLY if m not in ("ledger.auditrun", "ledger.apiclient")]
)
@pytest.mark.parametrize("names_ledger", [True, False])
def test_objects_are_found_by_indexes(
    finance: Client, model: str, names_ledger: bool
) -> None:
    books = make_books()
    row = getattr(books, model.rpartition(".")[2])
    url = reverse(f"admin:{model.replace('.', '_')}_change", args=[row.pk])

    plans = plans_of(
        lambda: finance.get(url, {"ledger": books.ledger.id} if names_ledger else {})
    )

    assert_served_by_indexes(plans)


def test_figures_of_the_index_are_served_by_indexes(finance: Client) -> None:
    make_books()

    plans = plans_of(lambda: finance.get(reverse("admin:index")))

    assert_served_by_indexes(plans)
    assert OutboxTask.objects.filter(kind="payout").count() == 1
