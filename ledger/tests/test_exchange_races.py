"""Exchanges that want the same FX accounts at the same moment."""

from typing import Any

import pytest

from ledger.audit import audit_run
from ledger.models import Account
from ledger.tests.factories import AccountFactory, fresh, move
from ledger.tests.test_exchanges import exchange, pair
from ledger.tests.test_races import at_once
from ledger.types import PostedTransfer
from payflow.db import transaction_owner

pytestmark = pytest.mark.usefixtures("committed_db")


def test_that_opposite_first_exchanges_make_the_fx_accounts_once():
    with transaction_owner():
        euros, dollars = pair()
        move(AccountFactory(ledger=euros.ledger, balance=50_000), dollars, 50_000)

    def run(source: Account, target: Account) -> Any:
        def work() -> str:
            # Without retry_on_conflict: a deadlock would fail the test.
            with transaction_owner():
                outcome = exchange(source, target, 100, "2")
            assert isinstance(outcome, PostedTransfer), outcome
            return outcome.kind

        return work

    work = [run(euros, dollars), run(dollars, euros)] * 4
    assert at_once(work) == ["exchange"] * 8

    fx = Account.objects.filter(
        ledger_id=euros.ledger_id, reference__startswith="system:fx:"
    )
    assert sorted(fx.values_list("currency", "version")) == [("EUR", 8), ("USD", 8)]
    assert (fresh(euros).posted, fresh(dollars).posted) == (100_400, 50_400)
    assert audit_run(ledger_slug=euros.ledger.slug).is_sound
