"""The outbox's fixtures."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from outbox.tests.bank import SimulatedBank
from payflow.ids import new_id
from payflow.tests.fixtures import committed_database, committed_db

__all__ = ["bank", "committed_database", "committed_db", "ledger_id", "own_bank"]


@pytest.fixture
def ledger_id() -> UUID:
    """The id of a ledger that no other test looks at."""
    return new_id()


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedBank]:
    """A running bank that the tests share: set rules for your own destination only."""
    bank = SimulatedBank(tmp_path_factory.mktemp("bank") / "bank.sqlite3")
    bank.start()
    yield bank
    bank.stop()


@pytest.fixture
def own_bank(tmp_path: Path) -> Iterator[SimulatedBank]:
    """A running bank for one test, which may do with it as it likes."""
    bank = SimulatedBank(tmp_path / "bank.sqlite3")
    bank.start()
    yield bank
    bank.kill()
