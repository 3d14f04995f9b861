"""Lists that are paged through while others post."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from ledger.enums import TransferKind
from ledger.selectors import finding
from ledger.selectors.entries import EntryFilters, entry_list
from ledger.selectors.finding import FoundPage
from ledger.selectors.transfers import TransferFilters, transfer_list
from ledger.tests.factories import post, transfer_request
from ledger.tests.test_finding import Books, ids, walk
from ledger.tests.test_races import at_once
from payflow.db import transaction_owner

pytestmark = pytest.mark.usefixtures("committed_db")


@pytest.mark.parametrize("scan_rows", [3, finding.SCAN_ROWS])
def test_pages_that_are_fetched_while_others_post_show_each_row_once(
    monkeypatch, scan_rows
):
    monkeypatch.setattr(finding, "SCAN_ROWS", scan_rows)
    with transaction_owner():
        books = Books()
    source, target = books.accounts[:2]
    lists: list[tuple[Callable[..., FoundPage[Any]], Any, dict[str, Any]]] = [
        (transfer_list, TransferFilters(kind=TransferKind.TRANSFER), {}),
        (transfer_list, TransferFilters(account_id=target.id), {}),
        (entry_list, EntryFilters(), {"account_id": source.id}),
    ]

    def look() -> list[list[UUID]]:
        return [
            ids(walk(rows, wanted, ledger_id=books.ledger.id, **more))
            for rows, wanted, more in lists
        ]

    def send() -> list[list[UUID]]:
        for n in range(12):
            with transaction_owner():
                pair = (source, target) if n % 2 else (target, source)
                post(transfer_request(*pair, 1), ledger=books.ledger)
        return []

    before = look()
    _, one, _, other = at_once([send, look, send, look])
    after = look()

    for found in (one, other, after):
        assert isinstance(found, list)
        for rows, old, new in zip(found, before, after, strict=True):
            # Newest first: what was there stands at the end, whole and once.
            assert rows[-len(old) :] == old
            assert len(rows) == len(set(rows))
            assert set(rows) <= set(new)
    assert [len(new) - len(old) for old, new in zip(before, after, strict=True)] == [
        24,
        24,
        24,
    ]
