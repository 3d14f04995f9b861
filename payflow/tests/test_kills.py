"""``kill -9`` for each process in turn, under load, on the whole stack of ``make run``.

Afterwards nothing that was accepted is lost, nothing happened twice, nothing was paid
twice, and the audit passes.
"""

import itertools
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from payflow.embedded.ports import choose_port
from payflow.tests.processes import wait_until
from payflow.tests.test_stack import RunningStack

TREASURY = "00000000-0000-0000-0000-000000000001"
ALPHA = "00000000-0000-0000-0000-000000000002"
BANK = "00000000-0000-0000-0000-000000000003"
OPENING_BALANCE = 1_000_000
CLIENTS = 4

#: Supervised programs: the stack stops when one of them dies.
PROGRAMS = {
    "postgres": "postgres",
    "valkey": "valkey-server",
    "web": "payflow.wsgi",
    "worker": "--queues celery",
    "dispatcher": "--queues outbox",
    "beat": "beat --pidfile",
    "bank": "bank_simulator",
}
#: Processes that their program replaces by itself.
CHILDREN = ("web", "dispatcher", "postgres")


@dataclass
class Load:
    """Clients that send transfers, and each again until it has an answer."""

    port: int
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Every request that was sent gets its answer before this returns."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> None:
        while not self._stopping.is_set():
            number = next(self._numbers)
            pay_out = number % 3 == 0
            body = {
                "from_account_id": ALPHA if pay_out else TREASURY,
                "to_account_id": BANK if pay_out else ALPHA,
                "amount": 1 + number % 7,
            }
            self._send(f"load-{number}", body)

    def _send(self, key: str, body: dict[str, Any]) -> None:
        while True:
            try:
                response = httpx2.post(
                    f"http://127.0.0.1:{self.port}/transfer",
                    json=body,
                    headers={"Idempotency-Key": key},
                    timeout=15,
                )
            except httpx2.TransportError:
                # Nobody listens just now: wait for a moment or for the end.
                self._stopping.wait(0.05)
                continue
            if response.status_code == 201:
                self.accepted[key] = response.json()
                return
            document = response.json()
            if document["code"] == "insufficient_funds":
                return
            if not document["retryable"]:
                self.unexpected.append(response.text)
                return
            self._stopping.wait(0.05)


def masters(stack: RunningStack) -> dict[str, psutil.Process]:
    """The stack's programs by name."""
    found: dict[str, psutil.Process] = {}
    for process in psutil.Process(stack.process.pid).children(recursive=True):
        command = " ".join(process.cmdline())
        for name, words in PROGRAMS.items():
            if words in command and "supervisord" not in command:
                found.setdefault(name, process)
    return found


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "data"
    yield directory
    remembered = json.loads((directory / "stack.json").read_text())
    if elsewhere := remembered["postgres_directory"]:
        shutil.rmtree(elsewhere)


def test_that_no_kill_loses_or_doubles_anything(data_dir, monkeypatch):
    monkeypatch.setenv("PAYOUT_SETTLE_DELAY_SECONDS", "2")
    port = choose_port()
    load = Load(port)
    stack = RunningStack(data_dir, port)
    stack.wait_until_ready()
    load.start()
    try:
        for name in CHILDREN:
            enough = len(load.accepted) + 30
            wait_until(lambda enough=enough: len(load.accepted) >= enough)
            masters(stack)[name].children()[-1].kill()
        for name in PROGRAMS:
            enough = len(load.accepted) + 30
            wait_until(lambda enough=enough: len(load.accepted) >= enough)

            masters(stack)[name].kill()

            assert stack.wait_until_ended() == 1, stack.output
            assert "SIGKILL" in stack.output
            stack = RunningStack(data_dir, port)
            stack.wait_until_ready()
    finally:
        load.stop()
    assert load.unexpected == []

    def balance(account_id: str) -> int:
        account = json.loads(stack.get(f"/v1/accounts/{account_id}")[1])
        return int(account["balance"]["posted"])

    # Nothing accepted is lost: each answer that was given is in the books as given.
    for made in load.accepted.values():
        assert json.loads(stack.get(f"/v1/transfers/{made['id']}")[1]) == made
    # Nothing happened twice: the balances are the sums of the answers.
    moved = {
        target: sum(
            p["amount"]
            for made in load.accepted.values()
            for p in made["postings"]
            if p["to_account_id"] == target
        )
        for target in (ALPHA, BANK)
    }
    assert balance(TREASURY) == OPENING_BALANCE - moved[ALPHA]
    assert balance(ALPHA) == moved[ALPHA] - moved[BANK]
    # Every payout reaches the bank, and once.
    wait_until(lambda: balance(BANK) == 0, seconds=150)
    with sqlite3.connect(data_dir / "bank.sqlite3") as bank:
        payments, keys, paid = bank.execute(
            "SELECT count(*), count(DISTINCT key), sum(amount) FROM payment"
        ).fetchone()
    assert payments == keys
    assert paid == moved[BANK]
    # The books are sound.
    report = json.loads(stack.manage("audit_ledger", "--json"))
    assert report["is_sound"] is True, report
    assert stack.get("/health")[0] == 200
    stack.process.terminate()
    assert stack.wait_until_ended() == 0
