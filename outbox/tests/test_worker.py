"""The dispatcher's Celery worker as a process of its own."""

import os
import signal
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
import pytest

from outbox.tests.factories import make_task, reload
from outbox.wakeup import DRAIN_TASK
from payflow.celery import app
from payflow.tests.processes import Process, database_url, wait_until

COMMAND = "-m celery --app payflow worker --queues outbox --concurrency 1"


class Dispatcher(Process):
    """A worker with one process that drains."""

    def is_ready(self) -> bool:
        """Whether the process that drains is there."""
        return bool(self.children()) and "ready." in self.log.read_text()

    def children(self) -> list[psutil.Process]:
        """The processes that work."""
        return psutil.Process(self.pid).children()


@pytest.mark.usefixtures("committed_db")
def test_time_limit_within_a_query_harms_no_later_drain(
    ledger_id: UUID, tmp_path: Path
) -> None:
    task = make_task(ledger_id=ledger_id, kind="transfer.posted")

    with Dispatcher(COMMAND.split(), log=tmp_path / "dispatcher.log") as dispatcher:
        with psycopg.connect(database_url()) as other:
            other.execute("LOCK TABLE outbox_task IN ACCESS EXCLUSIVE MODE")
            app.send_task(DRAIN_TASK, queue="outbox")
            wait_until(lambda: _has_waiting(other))
            (child,) = dispatcher.children()
            # What Celery sends to a process whose task's soft limit is over.
            os.kill(child.pid, signal.SIGUSR1)
            wait_until(lambda: "SoftTimeLimitExceeded" in dispatcher.log.read_text())
        app.send_task(DRAIN_TASK, queue="outbox")

        wait_until(lambda: reload(task).state == "done")
        assert dispatcher.children() == [child]


def _has_waiting(connection: psycopg.Connection) -> bool:
    found = connection.execute(
        "SELECT FROM pg_locks WHERE NOT granted AND relation = 'outbox_task'::regclass"
    ).fetchall()
    return bool(found)
