"""A command finds the running stack, and what is set explicitly wins."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from payflow.embedded.environment import (
    data_directory,
    load_stack_environment,
    stack_is_running,
    stack_lock,
    write_stack_environment,
)

STACK = {
    "DATABASE_URL": "postgresql://payflow@127.0.0.1:1/payflow",
    "DATABASE_OWNER_URL": "postgresql://payflow_owner@127.0.0.1:1/payflow",
    "REDIS_URL": "redis://127.0.0.1:2/0",
}


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in (*STACK, "PAYFLOW_DATA_DIR"):
        os.environ.pop(name, None)
    os.environ["PAYFLOW_DATA_DIR"] = str(tmp_path)
    return tmp_path


@pytest.fixture
def running_stack(data_dir: Path) -> Iterator[None]:
    write_stack_environment(STACK)
    with stack_lock() as lock:
        assert lock.acquire()
        yield


@pytest.mark.usefixtures("running_stack")
def test_the_running_stack_is_found() -> None:
    load_stack_environment()

    assert {name: os.environ[name] for name in STACK} == STACK


@pytest.mark.usefixtures("running_stack")
def test_an_explicit_setting_wins() -> None:
    os.environ["REDIS_URL"] = "redis://mine"

    load_stack_environment()

    assert os.environ["REDIS_URL"] == "redis://mine"
    assert os.environ["DATABASE_URL"] == STACK["DATABASE_URL"]


@pytest.mark.usefixtures("running_stack")
def test_an_explicit_database_never_gets_the_owner_of_another_one() -> None:
    os.environ["DATABASE_URL"] = "postgresql://mine/mine"

    load_stack_environment()

    assert os.environ["DATABASE_URL"] == "postgresql://mine/mine"
    assert "DATABASE_OWNER_URL" not in os.environ


def test_what_a_killed_stack_left_behind_is_ignored() -> None:
    write_stack_environment(STACK)

    load_stack_environment()

    assert not stack_is_running()
    assert "DATABASE_URL" not in os.environ


def test_what_the_stack_writes_is_for_its_owner_only(data_dir: Path) -> None:
    write_stack_environment(STACK)

    assert (data_dir / "stack.env").stat().st_mode & 0o777 == 0o600


def test_psql_is_on_the_path_of_a_machine_without_one() -> None:
    os.environ["PATH"] = "/nowhere"

    load_stack_environment()

    *_, last = os.environ["PATH"].split(os.pathsep)
    assert os.access(Path(last) / "psql", os.X_OK)


def test_the_data_directory_is_in_the_project_unless_named() -> None:
    del os.environ["PAYFLOW_DATA_DIR"]

    assert data_directory().name == ".payflow"
    assert (data_directory().parent / "manage.py").exists()
