"""Real processes for tests that claim something about them."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import httpx2
from django.conf import settings
from django.db import connection

from payflow.embedded.ports import LOOPBACK, choose_port
from payflow.embedded.valkey import ValkeyServer

#: For all requests of the tests: ``httpx2.get`` and the like load the certificates of
#: the whole web for each. Connections are not kept, for who answers may be killed.
HTTP = httpx2.Client(
    limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0)
)
START_SECONDS = 30
STOP_SECONDS = 30


def wait_until(
    condition: Callable[[], bool], *, seconds: float = START_SECONDS
) -> None:
    """Polls a real condition until it holds.

    Raises:
        AssertionError: it did not hold within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def database_url() -> str:
    """The URL of the database that this test process uses."""
    parts = connection.settings_dict
    user = quote(str(parts["USER"]), safe="")
    password = quote(str(parts["PASSWORD"]), safe="")
    return f"postgresql://{user}:{password}@{parts['HOST']}:{parts['PORT']}/{parts['NAME']}"


class Process:
    """One child in its own session, with a log file.

    Args:
        command: what to run, without ``python``: ``["-m", "gunicorn", …]``.
        log: where its output goes.
        environment: on top of this process's, which names the test's servers.
    """

    def __init__(
        self,
        command: list[str],
        *,
        log: Path,
        environment: dict[str, str] | None = None,
        interpreter: bool = True,
    ) -> None:
        self._command = [sys.executable, *command] if interpreter else command
        self.log = log
        self._environment = environment or {}
        self._child: subprocess.Popen[bytes] | None = None

    def is_ready(self) -> bool:
        """Whether it does its work; subclasses know better."""
        return True

    def start(self) -> Self:
        """Starts it and waits until it is ready."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                env={
                    **os.environ,
                    "DJANGO_SETTINGS_MODULE": "payflow.settings.test",
                    "DATABASE_URL": database_url(),
                    "REDIS_URL": settings.REDIS_URL,
                    **self._environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def ready_or_dead() -> bool:
            assert self._child is not None
            assert self._child.poll() is None, self.log.read_text()
            return self.is_ready()

        wait_until(ready_or_dead)
        return self

    @property
    def pid(self) -> int:
        """The child's process id."""
        assert self._child is not None
        return self._child.pid

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Waits until it has ended; returns its exit code."""
        assert self._child is not None
        return self._child.wait(STOP_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it, and whatever it left behind; returns its exit code."""
        assert self._child is not None
        if self._child.poll() is None:
            self.send(number)
            self.send(signal.SIGCONT)
        try:
            return self.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Web(Process):
    """gunicorn with the project's own settings, on a free port."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port = choose_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        super().__init__(
            ["-m", "gunicorn", "-c", "payflow/gunicorn_conf.py", "payflow.wsgi"],
            log=folder / "web.log",
            environment={"WEB_BIND": f"{LOOPBACK}:{self.port}", **environment},
        )

    def is_ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        try:
            return HTTP.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx2.HTTPError:
            return False


class Valkey(Process):
    """A Valkey of the test's own, to be stopped, frozen or emptied."""

    def __init__(self, folder: Path) -> None:
        self._server = ValkeyServer(
            directory=folder / "valkey",
            port=choose_port(),
            password=secrets.token_urlsafe(),
        )
        self._server.prepare()
        self.url = self._server.url
        super().__init__(
            self._server.command, log=folder / "valkey.log", interpreter=False
        )

    def is_ready(self) -> bool:
        """Whether it answers a ping."""
        return self._server.is_ready()
