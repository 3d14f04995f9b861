"""The parts of the stack: locks, ports, servers, what cannot outlive its parent."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from django.conf import settings

from payflow.embedded.locks import FileLock
from payflow.embedded.ports import choose_port, port_is_free
from payflow.embedded.postgres import PostgresServer
from payflow.embedded.problems import StackError, explain_os_error
from payflow.embedded.pytest_plugin import with_database
from payflow.embedded.stack import Remembered
from payflow.embedded.supervision import launched, section
from payflow.embedded.valkey import ValkeyServer
from payflow.tests.processes import Valkey

LONG_SECONDS = 10


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LONG_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")

    assert first.acquire()
    assert not second.acquire()
    assert second.is_held_elsewhere()

    first.release()

    assert not second.is_held_elsewhere()
    assert second.acquire()


def test_a_port_that_is_taken_is_not_chosen() -> None:
    wanted = choose_port()

    assert choose_port(wanted) == wanted
    assert choose_port(wanted, taken=(wanted,)) != wanted


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert not port_is_free(port)
        assert choose_port(port) != port


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
def test_a_launched_program_ends_with_its_parent_and_frees_its_lock(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "lock"
    command = launched(["sleep", "60"], lock=lock, stop_signal=signal.SIGTERM)
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess; subprocess.Popen({command!r}); input()",
        ],
        stdin=subprocess.PIPE,
    )
    assert eventually(lambda: is_held(lock))

    parent.kill()
    parent.wait()

    assert eventually(FileLock(lock).acquire)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock on ``path``, be it shared."""
    with FileLock(path) as lock:
        return not lock.acquire()


def test_a_launched_program_whose_parent_has_ended_does_not_start(
    tmp_path: Path,
) -> None:
    result = subprocess.run(
        launched(["echo", "x"], lock=tmp_path / "lock", stop_signal=signal.SIGTERM),
        env={**os.environ, "PAYFLOW_PARENT_PID": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode != 0
    assert result.stdout == ""


def test_data_of_another_postgresql_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("17\n")
    server = PostgresServer(directory=tmp_path, port=1, password="x", user=None)

    with pytest.raises(StackError, match="is of PostgreSQL 17"):
        server.prepare()

    assert [path.name for path in tmp_path.iterdir()] == ["PG_VERSION"]


def test_what_a_data_directory_remembers_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    first = Remembered.load(path)

    first.save(path)

    assert Remembered.load(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.owner_password != Remembered().owner_password


def test_a_memory_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")

    with pytest.raises(StackError, match="move the folder"):
        Remembered.load(tmp_path / "stack.json")


def test_the_configuration_of_valkey_is_for_its_owner_only(tmp_path: Path) -> None:
    ValkeyServer(directory=tmp_path, port=1, password="x").prepare()

    assert (tmp_path / "valkey.conf").stat().st_mode & 0o777 == 0o600


def test_a_full_valkey_gives_up_outcomes_and_no_messages(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", used + 1_000_000)
        client.rpush("messages", *(f"message {number}" for number in range(100)))

        for number in range(3_000):
            client.set(f"outcome {number}", "x" * 1_000, px=60_000)

        assert client.llen("messages") == 100
        assert client.get("outcome 2999") is not None
        assert client.dbsize() < 3_001


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "No permission to write"),
        (errno.EROFS, "No permission to write"),
    ],
)
def test_a_refusal_of_the_system_says_what_to_do(number: int, advice: str) -> None:
    sentence = explain_os_error(OSError(number, "x", "/data/file"), Path("/data"))

    assert advice in sentence
    assert sentence.count("\n") == 0


def test_a_percent_sign_reaches_supervisord_as_it_is() -> None:
    assert section("x", {"a": "50%"}) == "[x]\na = 50%%\n"


def test_each_worker_of_a_test_run_has_a_valkey_database() -> None:
    assert with_database("redis://:p@127.0.0.1:6/0", 2) == "redis://:p@127.0.0.1:6/2"


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process")
def test_this_worker_uses_its_own_valkey_database() -> None:
    worker = os.environ["PYTEST_XDIST_WORKER"]

    number = int(settings.REDIS_URL.rsplit("/", 1)[1])

    assert number == int(worker.removeprefix("gw")) + 1
