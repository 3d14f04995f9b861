"""What the ledger's commands share: help that keeps its lines, errors that help."""

import os
import signal
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

import psycopg
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from django.db import DatabaseError, InterfaceError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from payflow.errors import ProblemError

#: The shell's convention for a command ended by Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130
#: The same for one whose reader has gone: 128 + SIGPIPE.
READER_GONE = 141
#: How often a line is written where no progress bar can be drawn, in seconds.
PLAIN_LINE_SECONDS = 10.0


class _HelpFormatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of options, and descriptions and examples as they are written."""


class LedgerCommand(BaseCommand):
    """A command whose failures are one sentence that says what to do next.

    Subclasses implement :meth:`run` and set ``epilog`` to their examples.
    """

    requires_system_checks: list[str] = []
    epilog = ""
    #: The exit code of a command that could not do its work.
    failure_code = 1
    interrupted_code = INTERRUPTED

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """The parser, with the examples at the end of ``--help``."""
        return super().create_parser(
            prog_name,
            subcommand,
            formatter_class=_HelpFormatter,
            epilog=self.epilog,
            **kwargs,
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs the command and translates what goes wrong."""
        try:
            self.run(options)
            self.stdout.flush()
        except BrokenPipeError:
            # Whoever reads, as `head`, has enough. Nothing is left to be written when
            # Python ends, which would complain about it.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            sys.exit(READER_GONE)
        except (ProblemError, DatabaseError, InterfaceError) as error:
            raise self.failure(self.advice(error) or str(error)) from error
        except KeyboardInterrupt as error:
            raise CommandError(
                "Interrupted.", returncode=self.interrupted_code
            ) from error

    def run(self, options: dict[str, Any]) -> None:
        """Does the work; raises ``CommandError`` or ``ProblemError`` if it cannot."""
        raise NotImplementedError

    @staticmethod
    def advice(error: Exception) -> str | None:
        """What an error means for people; ``None`` for one that is a bug."""
        if isinstance(error, ProblemError):
            cause = error.__cause__
            if isinstance(cause, DatabaseError):
                return _database_advice(cause)
            return error.problem.detail
        if isinstance(error, DatabaseError | InterfaceError):
            return _database_advice(error)
        return None

    def failure(self, message: str) -> CommandError:
        """The error that ends the command with its exit code for failures."""
        return CommandError(message, returncode=self.failure_code)

    def say(self, message: str) -> None:
        """A line for people, on standard output."""
        self.stdout.write(message)


def _database_advice(error: Exception) -> str:
    cause = error.__cause__
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(
        cause, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn
    ):
        return "The tables are missing or old: run `manage.py migrate` first."
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return (
            f"The database role may not do this ({first_line}): check the user in"
            " DATABASE_URL."
        )
    if isinstance(cause, psycopg.OperationalError):
        return (
            f"The database cannot be used ({first_line}): start it (`make run`), or"
            " check DATABASE_URL."
        )
    return f"The database refused: {first_line}"


class StopRequest:
    """Whether somebody asked the command to stop after what it is doing."""

    def __init__(self) -> None:
        self.is_set = False


@contextmanager
def stop_between_steps() -> Iterator[StopRequest]:
    """Makes the first Ctrl-C or SIGTERM a request to stop; a second one interrupts."""
    request = StopRequest()

    def ask(signal_number: int, _frame: FrameType | None) -> None:
        if request.is_set:
            raise KeyboardInterrupt
        request.is_set = True

    try:
        earlier = {
            number: signal.signal(number, ask)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not in the main thread: whoever runs us handles signals
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class ProgressLine:
    """How far a long command is: a bar on a terminal, a plain line now and then else.

    It is written to standard error, so that standard output stays the result.
    """

    def __init__(
        self, label: str, total: int | None, *, stream: TextIO | None = None
    ) -> None:
        """``total`` is what ``advance`` will add up to; ``None`` if unknown."""
        self._label = label
        self._total = total
        self._done = 0
        self._stream = stream or sys.stderr
        self._next_line_at = time.monotonic() + PLAIN_LINE_SECONDS
        self._bar: Progress | None = None
        if self._stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(file=self._stream),
            )
            self._task = self._bar.add_task(label, total=total)

    def __enter__(self) -> "ProgressLine":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Notes that ``count`` more are done."""
        self._done += count
        if self._bar:
            self._bar.update(self._task, advance=count)
        elif time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + PLAIN_LINE_SECONDS
            total = "" if self._total is None else f" of {self._total:,}"
            print(f"{self._label}: {self._done:,}{total}", file=self._stream)
