"""``make run`` as a user sees it: it gets ready, is found, breaks aloud, ends clean."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from payflow.embedded.environment import PROJECT_DIRECTORY
from payflow.embedded.ports import choose_port

START_SECONDS = 60
STOP_SECONDS = 60
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
        return self._output.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while "PayFlow is ready" not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        self._processes = psutil.Process(self.process.pid).children(recursive=True)

    def wait_until_ended(self) -> int:
        """The exit status; no process of the stack is left."""
        status = self.process.wait(STOP_SECONDS)
        assert [process for process in self._processes if process.is_running()] == []
        return status

    def program(self, name: str) -> psutil.Process:
        """The first process of the stack whose executable is called ``name``."""
        return next(process for process in self._processes if process.name() == name)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()

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
        for process in [psutil.Process(self.process.pid), *self._processes]:
            if process.is_running():
                process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack") / "data"


@pytest.fixture(scope="module")
def stack(data_dir: Path) -> Iterator[RunningStack]:
    """One stack for all tests that leave it running."""
    running = RunningStack(data_dir, choose_port())
    try:
        running.wait_until_ready()
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            running.wait_until_ended()
        # For root, PostgreSQL's data are elsewhere: its user cannot enter pytest's
        # folders.
        remembered = json.loads((data_dir / "stack.json").read_text())
        if elsewhere := remembered["postgres_directory"]:
            shutil.rmtree(elsewhere)


def test_the_stack_answers_as_soon_as_it_says_so(stack: RunningStack) -> None:
    assert stack.get("/readyz")[0] == 200

    status, body = stack.get("/health")

    assert status == 200
    assert json.loads(body) == {"status": "healthy", "ledger_integrity_sum": 0}


def test_it_says_where_everything_is(stack: RunningStack) -> None:
    for words in ("/admin/", "admin / ", "/health", "curl -X POST"):
        assert words in stack.output


def test_the_admin_has_its_styles(stack: RunningStack) -> None:
    assert stack.get("/static/admin/css/base.css")[0] == 200


def test_a_command_in_another_terminal_talks_to_it(stack: RunningStack) -> None:
    code = (
        "from django.db import connection as c\n"
        "with c.cursor() as cursor:\n"
        "    cursor.execute('SELECT current_user')\n"
        "    print(cursor.fetchone()[0], c.settings_dict['PORT'])"
    )

    user, port = stack.manage("shell", "--no-imports", "--command", code).split()

    remembered = json.loads((stack.data_dir / "stack.json").read_text())
    assert user == "payflow"
    assert int(port) == remembered["postgres_port"]


def test_dbshell_needs_no_psql_on_the_machine(stack: RunningStack) -> None:
    output = stack.manage(
        "dbshell", "--", "-Atc", "SELECT count(*) > 0 FROM ledger_account"
    )

    assert output.strip() in {"t", "f"}


def test_nobody_enters_without_a_password(stack: RunningStack) -> None:
    port = json.loads((stack.data_dir / "stack.json").read_text())["postgres_port"]

    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://payflow@127.0.0.1:{port}/payflow")


def test_a_second_stack_on_the_same_data_is_refused(stack: RunningStack) -> None:
    second = RunningStack(stack.data_dir, choose_port())

    assert second.process.wait(START_SECONDS) == 1
    assert "already runs" in second.output
    assert "Traceback" not in second.output


def test_a_port_in_use_is_explained(stack: RunningStack, tmp_path: Path) -> None:
    second = RunningStack(tmp_path / "data", stack.port)

    assert second.process.wait(START_SECONDS) == 1
    assert f"Port {stack.port} is in use" in second.output
    assert "Traceback" not in second.output


def test_it_ends_clean_comes_back_and_breaks_aloud(
    stack: RunningStack, data_dir: Path
) -> None:
    """The stack's life from here on: one after the other, because a start is slow."""
    password = json.loads((data_dir / "stack.json").read_text())["admin_password"]

    # It drains on SIGTERM and leaves nothing.
    stack.process.send_signal(signal.SIGTERM)
    assert stack.wait_until_ended() == 0
    assert "PayFlow has stopped" in stack.output
    assert not (data_dir / "stack.env").exists()

    # The next run is on the same data; killed as a whole it leaves a mess ...
    second = RunningStack(data_dir, stack.port)
    second.wait_until_ready()
    assert f"admin / {password}" in second.output
    second.kill_everything()

    # ... which the one after it clears up; and if a program dies, all end with it.
    third = RunningStack(data_dir, stack.port)
    third.wait_until_ready()
    third.program("valkey-server").kill()
    assert third.wait_until_ended() == 1
    assert "Valkey ended (terminated by SIGKILL)" in third.output
    assert "Traceback" not in third.output
