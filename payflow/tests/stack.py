"""The whole stack of ``make run`` as a child process, and a load to put on it."""

import contextlib
import http.client
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from payflow.embedded.environment import PROJECT_DIRECTORY

START_SECONDS = 60
STOP_SECONDS = 60

TREASURY = "00000000-0000-0000-0000-000000000001"
ALPHA = "00000000-0000-0000-0000-000000000002"
BANK = "00000000-0000-0000-0000-000000000003"
OPENING_BALANCE = 1_000_000
CLIENTS = 4
#: How long a client waits before a request: the load is there to be interrupted, and
#: the processors are needed by those who start.
THINKING_SECONDS = 0.05
#: How long a client waits where nobody answers, and where it is asked for patience.
DOWN_PAUSE_SECONDS = 0.25
RETRY_PAUSE_SECONDS = 0.05
LAST_ANSWERS_SECONDS = 60

#: The stack must choose its own servers, and not those of the test run.
NOT_INHERITED = (
    *("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"),
    *("PYTEST_XDIST_WORKER", "PORT", "LOG_FORMAT", "SECRET_KEY", "PAYFLOW_PARENT_PID"),
)


class RunningStack:
    """The stack as a child process, with what it printed."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.port = port
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in NOT_INHERITED
        } | {"PAYFLOW_DATA_DIR": str(data_dir), "PORT": str(port)}
        self.data_dir = data_dir
        self._output = data_dir.parent / f"output-{time.monotonic_ns()}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "payflow.embedded", "run"],
                cwd=PROJECT_DIRECTORY,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes: list[psutil.Process] = []

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        """Waits until it says that it is ready, and remembers its processes."""
        deadline = time.monotonic() + START_SECONDS
        while "PayFlow is ready" not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        self._processes = psutil.Process(self.process.pid).children(recursive=True)

    def wait_until_ended(self) -> int:
        """The exit status; no process of the stack is left."""
        status = self.process.wait(STOP_SECONDS)
        assert [process for process in self._processes if is_alive(process)] == []
        return status

    def program(self, name: str) -> psutil.Process:
        """The first process of the stack whose executable is called ``name``."""
        return next(p for p in self._processes if is_alive(p) and p.name() == name)

    def get(self, path: str) -> tuple[int, bytes]:
        """The status and the body that the web server answers."""
        return exchange(self.port, "GET", path)

    def manage(self, *arguments: str) -> str:
        """The output of ``manage.py`` in "another terminal"."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT_DIRECTORY,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def kill_everything(self) -> None:
        """Ends all its processes as a power failure would."""
        for process in [psutil.Process(self.process.pid), *self._processes]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that ended and that nobody has asked about does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> str:
    """A process's command line; empty if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def exchange(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request to a web server on loopback, over a connection of its own.

    Raises:
        OSError, http.client.HTTPException: there was no answer, or half of one.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()


def remove_postgres_data(data_dir: Path) -> None:
    """Removes what root's PostgreSQL keeps elsewhere.

    Its user cannot enter the folders that tests have.
    """
    remembered = json.loads((data_dir / "stack.json").read_text())
    if elsewhere := remembered["postgres_directory"]:
        shutil.rmtree(elsewhere)


@dataclass
class Load:
    """Clients that send transfers, and each again until it has an answer."""

    port: int
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _abandoned: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Starts the clients."""
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Every request that was sent gets its answer before this returns.

        Unless the stack is gone, because the test has failed already.
        """
        self._stopping.set()
        deadline = time.monotonic() + LAST_ANSWERS_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._abandoned.set()
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
        sent = json.dumps(body).encode()
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        pause = THINKING_SECONDS
        while not self._abandoned.wait(pause):
            try:
                status, content = exchange(
                    self.port, "POST", "/transfer", sent, headers
                )
            except (OSError, http.client.HTTPException):
                # Nobody listens just now: leave the processors to those who start.
                pause = DOWN_PAUSE_SECONDS
                continue
            document = json.loads(content)
            if status == 201:
                self.accepted[key] = document
                return
            if document["code"] == "insufficient_funds":
                return
            if not document["retryable"]:
                self.unexpected.append(content.decode())
                return
            pause = RETRY_PAUSE_SECONDS
        self.unexpected.append(f"no answer to {key}")
