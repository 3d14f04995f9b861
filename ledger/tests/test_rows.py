"""Rows that are read by prepared statements are those that Django would read."""

from typing import Any

import pytest
from django.db import models

from ledger.models import Account, Entry
from ledger.selectors.accounts import account_get
from ledger.selectors.entries import entry_list
from ledger.tests.factories import AccountFactory, LedgerFactory, move
from payflow.errors import ProblemError

pytestmark = pytest.mark.django_db


def values(row: models.Model) -> dict[str, Any]:
    """The row's values as they are written, so that no type is taken for another."""
    return {
        field.attname: repr(getattr(row, field.attname))
        for field in row._meta.concrete_fields
    }


@pytest.fixture
def account() -> Account:
    ledger = LedgerFactory()
    made: Account = AccountFactory(
        ledger=ledger,
        balance=100,
        owner_name="Zoë",
        metadata={"n": 1, "flag": True, "none": None, "text": "ä"},
    )
    for amount in range(1, 4):
        move(made, AccountFactory(ledger=ledger), amount)
    return made


def test_an_account_is_the_one_that_django_reads(account):
    found = account_get(ledger_id=account.ledger_id, account_id=account.id)

    row = Account.objects.get(ledger_id=account.ledger_id, id=account.id)
    assert values(found) == values(row)
    assert found == row
    assert not found._state.adding
    assert found.ledger == row.ledger


def test_entries_are_those_that_django_reads_newest_first(account):
    found = entry_list(
        ledger_id=account.ledger_id, account_id=account.id, limit=9, before=None
    )

    rows = Entry.objects.filter(ledger_id=account.ledger_id, account_id=account.id)
    assert [values(row) for row in found] == [
        values(row) for row in rows.order_by("-account_version")
    ]


def test_another_ledgers_account_is_not_read(account):
    other = LedgerFactory()

    with pytest.raises(ProblemError, match="account_not_found"):
        account_get(ledger_id=other.id, account_id=account.id)
    page = entry_list(ledger_id=other.id, account_id=account.id, limit=9, before=None)
    assert page == []
