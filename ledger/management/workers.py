"""Worker processes of a command: they go on together, and end together."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from django.db import connections

from ledger.management.base import LedgerCommand, StopRequest

#: How often the parent looks whether it is asked to stop, in seconds.
STOP_LOOK_SECONDS = 0.2

_FORK = multiprocessing.get_context("fork")


class WorkerError(Exception):
    """A worker could not go on; its text is for people."""


class Rounds:
    """Up to which round the workers may go: on a stop, each ends with the same one."""

    def __init__(self) -> None:
        self._last = _FORK.Value("q", 2**62)
        self._begun = _FORK.Value("q", -1)
        self._parent = os.getpid()

    def may_begin(self, number: int) -> bool:
        """Asked by a worker before each round."""
        if os.getppid() != self._parent:
            return False
        with self._last.get_lock():
            if number > self._last.value:
                return False
            self._begun.value = max(self._begun.value, number)
            return True

    def end_with_begun(self) -> None:
        """Lets all workers finish the last round that any of them has begun."""
        with self._last.get_lock():
            self._last.value = self._begun.value

    def end_now(self) -> None:
        """Lets no worker begin another round."""
        with self._last.get_lock():
            self._last.value = -1


Work = Callable[[int, Rounds], Iterable[int]]


def run_in_workers(count: int, work: Work, *, stop: StopRequest) -> Iterator[int]:
    """Runs ``work(index, rounds)`` in forked processes, which have no connections yet.

    Args:
        count: how many processes.
        work: yields how much it has done, after each step, and asks ``rounds`` before
            each round.
        stop: ends all of them with the same round.

    Yields:
        What the workers have done, as they do it.

    Raises:
        WorkerError: one of them failed; the others were ended after their step.
    """
    connections.close_all()
    rounds = Rounds()
    processes: dict[Any, Any] = {}
    failures: list[str] = []
    try:
        for index in range(count):
            reader, writer = _FORK.Pipe(duplex=False)
            process = _FORK.Process(target=_work, args=(work, index, rounds, writer))
            process.start()
            writer.close()
            processes[reader] = process
        running = dict(processes)
        while running:
            if stop.is_set:
                rounds.end_with_begun()
            for ready in wait(list(running), timeout=STOP_LOOK_SECONDS):
                report = _report(ready, running)
                if isinstance(report, int):
                    yield report
                elif report is not None:
                    failures.append(report)
                    rounds.end_now()
        if failures:
            raise WorkerError(failures[0])
    finally:
        for reader, process in processes.items():
            process.terminate()
            process.join()
            reader.close()


def _report(reader: Any, running: dict[Any, Any]) -> int | str | None:
    """What a worker says: how much it did, or what went wrong; nothing at its end."""
    try:
        return cast("int | str", reader.recv())
    except EOFError:
        process = running.pop(reader)
        process.join()
        return f"A worker died (exit {process.exitcode})." if process.exitcode else None


def _work(
    work: Work, index: int, rounds: Rounds, writer: "Connection[Any, Any]"
) -> None:
    # Ctrl-C reaches the whole group; the parent says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # What was there before the fork lives on, and what is made leaves no cycles worth
    # looking for: the collector would cost a fifth of a worker's time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        for done in work(index, rounds):
            writer.send(done)
    except Exception as error:
        advice = LedgerCommand.advice(error)
        if advice is None:
            raise
        writer.send(advice)
    finally:
        connections.close_all()
