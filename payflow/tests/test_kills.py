"""``kill -9`` for each process in turn, under load, on the whole stack of ``make run``.

Afterwards nothing that was accepted is lost, nothing happened twice, nothing was paid
twice, and the audit passes.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from payflow.embedded.ports import choose_port
from payflow.tests.processes import wait_until
from payflow.tests.stack import (
    ALPHA,
    BANK,
    OPENING_BALANCE,
    TREASURY,
    Load,
    RunningStack,
    command_of,
    remove_postgres_data,
)

#: Supervised programs, and words of their command lines: the stack stops when one of
#: them dies. Those whose death leaves leases of a minute go first, so that the leases
#: run out while the others die.
PROGRAMS = {
    "dispatcher": "--queues outbox",
    "postgres": "postgres",
    "bank": "bank_simulator",
    "valkey": "valkey-server",
    "worker": "--queues celery",
    "web": "payflow.wsgi",
    "beat": "beat --pidfile",
}
#: Processes that their program replaces by itself, and words of their command lines.
CHILDREN = {"web": "", "dispatcher": "", "postgres": "payflow payflow 127.0.0.1"}
#: Transfers that are accepted between two kills.
BETWEEN_KILLS = 30


class StackUnderLoad:
    """The stack of ``make run`` with clients that never stop asking for transfers."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._port = choose_port()
        self._load = Load(self._port)
        self._start()
        self._load.start()
        # All parts work: what is killed from here on is in the middle of something.
        wait_until(lambda: "outbox_drained" in self._stack.output)

    def _start(self) -> None:
        self._stack = RunningStack(self._data_dir, self._port)
        self._stack.wait_until_ready()

    def kill_child_of(self, name: str, words: str = "") -> None:
        """Kills a process that its program replaces by itself.

        Args:
            name: the program.
            words: part of the child's command line.
        """
        self._wait_for_transfers()

        def kill_one() -> bool:
            for child in self._program(name).children():
                # One that ends just now has no command line any more.
                if words in command_of(child) and command_of(child):
                    child.kill()
                    return True
            return False

        wait_until(kill_one)

    def kill(self, name: str) -> None:
        """Kills a program, with which the stack ends, and starts the stack again."""
        self._wait_for_transfers()
        self._program(name).kill()
        assert self._stack.wait_until_ended() == 1, self._stack.output
        assert "SIGKILL" in self._stack.output
        self._start()

    def stop(self) -> None:
        """Ends the load and whatever runs."""
        self._load.stop()
        if self._stack.process.poll() is None:
            self._stack.kill_everything()

    def check_everything(self) -> None:
        """Ends the load and the stack, and counts the money in between."""
        self._load.stop()
        stack, accepted = self._stack, self._load.accepted.values()
        assert self._load.unexpected == []
        # Nothing accepted is lost: each answer that was given is in the books as given.
        kept = self._transfers()
        for made in accepted:
            assert kept[made["id"]] == made
        # Nothing happened twice: the balances are the sums of the answers.
        moved = {
            target: sum(
                posting["amount"]
                for made in accepted
                for posting in made["postings"]
                if posting["to_account_id"] == target
            )
            for target in (ALPHA, BANK)
        }
        assert self._balance(TREASURY) == OPENING_BALANCE - moved[ALPHA]
        assert self._balance(ALPHA) == moved[ALPHA] - moved[BANK]
        # Every payout reaches the bank, and once.
        wait_until(lambda: self._balance(BANK) == 0, seconds=150)
        with sqlite3.connect(self._data_dir / "bank.sqlite3") as bank:
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

    def _wait_for_transfers(self) -> None:
        enough = len(self._load.accepted) + BETWEEN_KILLS
        wait_until(lambda: len(self._load.accepted) >= enough)

    def _transfers(self) -> dict[str, dict[str, Any]]:
        """All transfers in the books, by id."""
        found = {}
        cursor: str | None = ""
        while cursor is not None:
            query = f"?limit=200&cursor={cursor}" if cursor else "?limit=200"
            page = json.loads(self._stack.get(f"/v1/transfers{query}")[1])
            found.update({made["id"]: made for made in page["data"]})
            cursor = page["next_cursor"]
        return found

    def _balance(self, account_id: str) -> int:
        account = json.loads(self._stack.get(f"/v1/accounts/{account_id}")[1])
        return int(account["balance"]["posted"])

    def _program(self, name: str) -> psutil.Process:
        """The first process of a program: its children look the same."""
        for process in psutil.Process(self._stack.process.pid).children(recursive=True):
            command = command_of(process)
            if PROGRAMS[name] in command and "supervisord" not in command:
                return process
        raise AssertionError(f"{name} does not run: {self._stack.output}")


@pytest.fixture
def stack_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StackUnderLoad]:
    """A fresh one, which may be killed."""
    monkeypatch.setenv("PAYOUT_SETTLE_DELAY_SECONDS", "2")
    data_dir = tmp_path / "data"
    under_load = StackUnderLoad(data_dir)
    try:
        yield under_load
    finally:
        under_load.stop()
        remove_postgres_data(data_dir)


def test_that_no_kill_loses_or_doubles_anything(
    stack_under_load: StackUnderLoad,
) -> None:
    for name, words in CHILDREN.items():
        stack_under_load.kill_child_of(name, words)
    for name in PROGRAMS:
        stack_under_load.kill(name)

    stack_under_load.check_everything()
