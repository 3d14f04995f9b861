"""``make run`` as a user sees it: it gets ready, is found, does what the documentation
says, breaks aloud, ends clean.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from payflow.embedded.environment import PROJECT_DIRECTORY
from payflow.embedded.ports import choose_port
from payflow.tests.stack import START_SECONDS, RunningStack, remove_postgres_data

#: Those with examples of calls, in an order in which somebody may read them.
PAGES = (
    *("api", "holds", "reversals", "batches", "limits", "periods", "reports"),
    *("scheduled-transfers", "currencies", "dry-run", "finding"),
)
PAGE_SECONDS = 120
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)


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
        remove_postgres_data(data_dir)


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


def script_of(page: str, *, port: int) -> str:
    """A page's blocks as one script, for this stack and this interpreter."""
    script = "set -e\n" + "\n".join(_BLOCK.findall(page))
    for written, meant in (
        ("localhost:8080", f"localhost:{port}"),
        ("curl ", r"curl --silent --show-error --write-out '\n' "),
        (
            ".venv/bin/python manage.py",
            f"{sys.executable} {PROJECT_DIRECTORY}/manage.py",
        ),
    ):
        script = script.replace(written, meant)
    return script


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples use curl")
@pytest.mark.parametrize("name", PAGES)
def test_the_examples_of_a_page_work_as_they_stand(
    stack: RunningStack, tmp_path: Path, name: str
) -> None:
    """Whoever reads a page types its blocks one after the other into one shell.

    Each command succeeds, and what is refused is a refusal that the page speaks of.
    """
    page = (PROJECT_DIRECTORY / "docs" / f"{name}.md").read_text()

    done = subprocess.run(
        ["bash", "-c", script_of(page, port=stack.port)],
        cwd=tmp_path,
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PAGE_SECONDS,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    answers = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
    ]
    assert answers
    for answer in answers:
        if str(answer.get("type", "")).startswith("/problems/"):
            code = answer["code"]
            assert f"`{code}`" in page or f'"code":"{code}"' in page, answer


def test_that_no_page_with_examples_is_left_out() -> None:
    pages = {
        path.stem
        for path in (PROJECT_DIRECTORY / "docs").glob("*.md")
        if "curl" in "".join(_BLOCK.findall(path.read_text()))
    }

    assert pages == set(PAGES)


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
