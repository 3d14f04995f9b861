"""Gives a test run its own PostgreSQL and Valkey, and takes them away again.

Loaded by ``-p payflow.embedded.pytest_plugin`` (pytest.ini), so that the servers run
before pytest-django reads the settings; imports no models. ``DATABASE_URL`` and
``REDIS_URL`` in the environment select other servers.

With pytest-xdist the controller starts the servers and its workers inherit their
addresses. Each worker has a test database of its own, by pytest-django, and a Valkey
database of its own, by number: 1 for ``gw0``, 2 for ``gw1`` and so on.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from payflow.embedded import launch
from payflow.embedded.locks import FileLock
from payflow.embedded.ports import choose_port
from payflow.embedded.postgres import (
    PostgresServer,
    SystemUser,
    can_enter,
    server_user,
)
from payflow.embedded.problems import StackError
from payflow.embedded.supervision import launched
from payflow.embedded.valkey import ValkeyServer

__all__ = ["TestServers"]

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - by a random name, for its owner only
PREFIX = "payflow-tests-"
NEEDED_BYTES = 2 * 1024**3
START_SECONDS = 60
STOP_SECONDS = 30


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config,
) -> Generator[None, object, object]:
    """Starts the servers; as a wrapper it comes before pytest-django's own hook."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        number = int(worker.removeprefix("gw")) + 1
        os.environ["REDIS_URL"] = with_database(os.environ["REDIS_URL"], number)
    else:
        servers = TestServers()
        early_config.add_cleanup(servers.stop)
        try:
            servers.start()
        except StackError as error:
            raise pytest.UsageError(str(error)) from error
    return (yield)


class TestServers:
    """The servers of one test run, in one folder that goes when they go."""

    __test__ = False

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._processes: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []

    def start(self) -> None:
        """Starts what the environment does not name, and names it there.

        Raises:
            StackError: a server does not start.
        """
        needs_database = not os.environ.get("DATABASE_URL")
        needs_valkey = not os.environ.get("REDIS_URL")
        if not needs_database and not needs_valkey:
            return
        # SIGTERM then unwinds like Ctrl-C, and the folder in memory is given back.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        user = server_user() if needs_database else None
        self._directory = _make_directory(user)
        waits: list[tuple[str, Callable[[], bool]]] = []
        if needs_database:
            postgres = PostgresServer(
                directory=self._directory / "postgres",
                port=choose_port(),
                password=secrets.token_urlsafe(),
                user=user,
                small=True,
            )
            postgres.prepare()
            self._launch("postgres", postgres.command, signal.SIGINT, user)
            waits.append(("postgres", postgres.is_ready))
            # Tests are the superuser: they create databases and take other roles on.
            os.environ["DATABASE_URL"] = postgres.url
            os.environ.pop("DATABASE_OWNER_URL", None)
        if needs_valkey:
            valkey = ValkeyServer(
                directory=self._directory / "valkey",
                port=choose_port(),
                password=secrets.token_urlsafe(),
            )
            valkey.prepare()
            self._launch("valkey", valkey.command, signal.SIGTERM)
            waits.append(("valkey", valkey.is_ready))
            os.environ["REDIS_URL"] = valkey.url
        deadline = time.monotonic() + START_SECONDS
        for name, is_ready in waits:
            while not is_ready():
                ended = any(
                    process.poll() is not None for process, _ in self._processes
                )
                if ended or time.monotonic() > deadline:
                    log = (self._directory / f"{name}.log").read_text()
                    raise StackError(f"The tests' {name} does not start:\n{log}")
                time.sleep(0.02)

    def stop(self) -> None:
        """Stops the servers and removes their data."""
        for process, stop_signal in reversed(self._processes):
            process.send_signal(stop_signal)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _launch(
        self,
        name: str,
        command: list[str],
        stop_signal: signal.Signals,
        user: SystemUser | None = None,
    ) -> None:
        assert self._directory
        lock = self._directory / "lock"
        with (self._directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                launched(command, lock=lock, stop_signal=stop_signal, user=user),
                env={**os.environ, launch.PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for pytest, which stops the servers when it is done.
                start_new_session=True,
            )
        self._processes.append((process, stop_signal))


def with_database(url: str, number: int) -> str:
    """``url`` of a Valkey or Redis, with the database ``number``."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


def _make_directory(user: SystemUser | None) -> Path:
    """A folder in memory where there is room, else on disk, that ``user`` can enter."""
    for parent in (SHARED_MEMORY, Path(tempfile.gettempdir()), Path("/var/tmp")):  # noqa: S108
        if not os.access(parent, os.W_OK | os.X_OK):
            continue
        if parent == SHARED_MEMORY and shutil.disk_usage(parent).free < NEEDED_BYTES:
            continue
        if user and not can_enter(user, parent):
            continue
        _remove_leftovers(parent)
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        if user:
            directory.chmod(0o711)
        return directory
    raise StackError("There is no folder for temporary files: set TMPDIR to one.")


def _remove_leftovers(parent: Path) -> None:
    """Removes what a killed test run could not, once its servers have ended."""
    for directory in parent.glob(f"{PREFIX}*"):
        if not os.access(directory, os.W_OK):
            continue
        # Until its servers run, a folder holds no lock: leave the young ones alone.
        young = time.time() - directory.stat().st_mtime < START_SECONDS
        if not young and FileLock(directory / "lock").acquire():
            shutil.rmtree(directory, ignore_errors=True)
