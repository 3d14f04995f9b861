"""Any sequence of batches leaves exactly the books that a few lines of Python leave."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.audit import audit_run
from ledger.models import Account
from ledger.tests.factories import AccountFactory, LedgerFactory, fresh, post
from ledger.types import PostedTransfer, PostingRequest, TransferRequest

pytestmark = pytest.mark.django_db

ACCOUNTS = 4
#: Balance at the start and floor of each account; the last one is an asset.
STARTS = [(1_000, 0), (0, -300), (500, None), (700, 100)]


@dataclass
class Model:
    """The books as a list of balances: the auditor that the engine is held against."""

    balances: list[int] = field(default_factory=lambda: [b for b, _ in STARTS])

    def post(self, postings: list[tuple[int, int, int]]) -> bool:
        """Applies the postings if no account that falls ends below its floor."""
        after = list(self.balances)
        for source, target, amount in postings:
            after[source] += amount if source == ACCOUNTS - 1 else -amount
            after[target] += -amount if target == ACCOUNTS - 1 else amount
        for index, (_, floor) in enumerate(STARTS):
            falls = after[index] < self.balances[index]
            if falls and floor is not None and after[index] < floor:
                return False
        self.balances = after
        return True


PAIRS = st.tuples(
    st.integers(0, ACCOUNTS - 1), st.integers(0, ACCOUNTS - 1), st.integers(1, 600)
).filter(lambda posting: posting[0] != posting[1])
TRANSFERS = st.lists(PAIRS, min_size=1, max_size=3)
BATCHES = st.lists(TRANSFERS, min_size=1, max_size=5)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=st.lists(BATCHES, min_size=1, max_size=4))
def test_that_the_engine_and_the_model_agree(batches):
    ledger = LedgerFactory()
    accounts: list[Account] = [
        AccountFactory(
            ledger=ledger,
            balance=balance,
            min_balance=floor,
            kind="asset" if index == ACCOUNTS - 1 else "liability",
        )
        for index, (balance, floor) in enumerate(STARTS)
    ]
    model = Model()

    for batch in batches:
        expected = [model.post(postings) for postings in batch]
        outcomes = post(
            *[
                TransferRequest(
                    tuple(
                        PostingRequest(accounts[s].id, accounts[t].id, amount)
                        for s, t, amount in postings
                    )
                )
                for postings in batch
            ],
            ledger=ledger,
        )

        assert [isinstance(o, PostedTransfer) for o in outcomes] == expected
        assert [fresh(a).posted for a in accounts] == model.balances
    assert audit_run(ledger_slug=ledger.slug).is_sound
