"""Transactions that stand still at an exact point, for tests of who waits for whom."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from django.db import connection, connections

from payflow.db import transaction_owner
from payflow.tests.processes import wait_until

WAIT_SECONDS = 30


class Step:
    """Work in a transaction of a thread's own, which commits once it is let go."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[], Any]) -> None:
        self._began = threading.Event()
        self._worked = threading.Event()
        self._may_commit = threading.Event()
        self._pid = 0
        self._future: Future[Any] = pool.submit(self._run, work)

    def _run(self, work: Callable[[], Any]) -> Any:
        try:
            with transaction_owner():
                self._pid = ask("SELECT pg_backend_pid()")
                self._began.set()
                result = work()
                self._worked.set()
                assert self._may_commit.wait(WAIT_SECONDS)
            return result
        finally:
            self._began.set()
            self._worked.set()
            connections.close_all()

    def work_done(self) -> "Step":
        """Waits until everything is done but the commit."""
        assert self._worked.wait(WAIT_SECONDS)
        return self

    def waits_for(self, other: "Step") -> bool:
        """Waits until PostgreSQL says that this step is blocked by the other one."""
        assert self._began.wait(WAIT_SECONDS)
        wait_until(
            lambda: bool(
                ask("SELECT %s = ANY (pg_blocking_pids(%s))", other._pid, self._pid)
            )
        )
        return not self._worked.is_set()

    def commit(self) -> Any:
        """Lets it commit; returns what the work returned, or raises what it raised."""
        self._may_commit.set()
        return self._future.result(WAIT_SECONDS)


@contextmanager
def steps() -> Iterator[Callable[[Callable[[], Any]], Step]]:
    """Starts steps; none is left waiting when the test ends."""
    begun: list[Step] = []
    with ThreadPoolExecutor(4) as pool:

        def start(work: Callable[[], Any]) -> Step:
            begun.append(Step(pool, work))
            return begun[-1]

        try:
            yield start
        finally:
            for step in begun:
                step._may_commit.set()


def ask(sql: str, *parameters: object) -> Any:
    """The one value of the one row of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        (value,) = cursor.fetchone()
    return value
