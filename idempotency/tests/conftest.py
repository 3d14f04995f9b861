"""A ledger with two funded accounts, committed, and its client's key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from idempotency.models import IdempotencyKey
from ledger.models import Account, Ledger, Transfer
from ledger.services.clients import api_key_create
from ledger.tests.factories import (
    AccountFactory,
    ApiClientFactory,
    LedgerFactory,
    fresh,
)
from payflow.db import transaction_owner
from payflow.ids import new_id
from payflow.tests.processes import HTTP, Web

pytest_plugins = ["payflow.tests.fixtures"]


@dataclass
class Shop:
    """Books that a test may commit to, and a way to call the API."""

    ledger: Ledger
    source: Account
    target: Account
    client_id: Any
    key: str

    def body(self, **changes: Any) -> dict[str, Any]:
        """A transfer of 100 from source to target."""
        return {
            "from_account_id": str(self.source.id),
            "to_account_id": str(self.target.id),
            "amount": 100,
            **changes,
        }

    def send(
        self,
        web: Web,
        *,
        idempotency_key: str,
        path: str = "/v1/transfers",
        timeout: float = 20.0,
        api_key: str | None = None,
        body: dict[str, Any] | None = None,
        **changes: Any,
    ) -> httpx2.Response:
        """Posts a transfer to a running server, or another body to another path."""
        return HTTP.post(
            web.url + path,
            json=self.body(**changes) if body is None else body,
            headers={
                "Authorization": f"Bearer {api_key or self.key}",
                "Idempotency-Key": idempotency_key,
            },
            timeout=timeout,
        )

    def transfer_count(self) -> int:
        """How many transfers between the two accounts are in the books."""
        return Transfer.objects.filter(
            ledger_id=self.ledger.id, kind="transfer"
        ).count()

    def key_row(self, key: str) -> IdempotencyKey | None:
        """The key's row, if it is taken."""
        return IdempotencyKey.objects.filter(ledger_id=self.ledger.id, key=key).first()

    def moved(self) -> int:
        """What the target has received."""
        return fresh(self.target).posted


def make_shop() -> Shop:
    """Committed if the caller is outside of a transaction, else the caller's."""
    ledger = LedgerFactory()
    client = ApiClientFactory(ledger=ledger)
    return Shop(
        ledger=ledger,
        source=AccountFactory(ledger=ledger, balance=100_000),
        target=AccountFactory(ledger=ledger),
        client_id=client.id,
        key=api_key_create(client=client),
    )


@pytest.fixture
def shop(committed_db: None) -> Shop:
    """Committed books of this test's own."""
    with transaction_owner():
        return make_shop()


@pytest.fixture
def web(committed_db: None, tmp_path: Path) -> Iterator[Web]:
    """A real gunicorn on the test database and the test run's Valkey."""
    with Web(tmp_path) as server:
        yield server


@pytest.fixture
def key() -> str:
    """A new idempotency key."""
    return f"key-{new_id()}"
