"""The programs of the stack under supervisord: started, watched, stopped in order."""

import contextlib
import http.client
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from payflow.embedded import launch
from payflow.embedded.postgres import SystemUser

__all__ = ["Program", "Supervision", "launched"]

#: The longest path of a UNIX socket that all systems accept.
SOCKET_PATH_BYTES = 100

#: supervisord's words for a program that nobody stopped and that does not run.
ENDED_STATES = frozenset({"EXITED", "FATAL", "BACKOFF", "UNKNOWN"})


@dataclass(frozen=True)
class Program:
    """One process of the stack.

    Args:
        name: its name in the configuration and in log lines.
        title: its name for people.
        command: the program and its arguments.
        rank: programs start in this order and stop in the reverse one; those of the
            same rank stop together.
        stop_signal: what asks it to finish and end.
        stop_seconds: how long it may take over that before it is killed.
        keeps_data: left alone when the user asks a second time to stop; the others
            are killed then, which costs nothing that was accepted.
        starts_first: started with supervisord, before the database is prepared.
        log: the file its output goes to; ``None`` means the terminal.
        user: as whom it runs, if not as the current user.
    """

    name: str
    title: str
    command: list[str]
    rank: int
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: int = 10
    keeps_data: bool = False
    starts_first: bool = False
    log: Path | None = None
    user: SystemUser | None = None


def launched(
    command: list[str],
    *,
    lock: Path,
    stop_signal: signal.Signals,
    user: SystemUser | None = None,
) -> list[str]:
    """``command``, started so that it cannot outlive its parent (see ``launch``).

    Args:
        command: the program and its arguments.
        lock: the file whose shared lock it holds while it runs.
        stop_signal: what it gets when its parent ends.
        user: as whom it runs, if not as the current user.
    """
    identity = ["--uid", str(user.uid), "--gid", str(user.gid)] if user else []
    return [
        *(sys.executable, "-I", "-S", launch.__file__),
        *("--lock", str(lock), "--stop-signal", str(int(stop_signal))),
        *identity,
        "--",
        *command,
    ]


@dataclass
class Supervision:
    """supervisord as a child process, with the programs it was given.

    Args:
        directory: for its configuration and its log.
        lock: the file that all its processes lock, shared.
        environment: the programs' environment.
        programs: what it runs.
    """

    directory: Path
    lock: Path
    environment: dict[str, str]
    programs: list[Program]
    _process: subprocess.Popen[bytes] | None = None
    _relay: threading.Thread | None = None
    _children: dict[str, psutil.Process] = field(default_factory=dict)

    def start(self) -> None:
        """Starts supervisord, and with it the programs that start first.

        Raises:
            OSError: its configuration cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._socket = self._choose_socket()
        self._log.unlink(missing_ok=True)
        configuration = self.directory / "supervisord.conf"
        configuration.write_text(self._configuration())
        self._process = subprocess.Popen(
            launched(
                [
                    *(sys.executable, "-m", "supervisor.supervisord"),
                    *("--nodaemon", "--silent", "--configuration", str(configuration)),
                ],
                lock=self.lock,
                stop_signal=signal.SIGTERM,
            ),
            env={**self.environment, launch.PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal reaches this process only, which then stops the
            # programs in their order.
            start_new_session=True,
        )
        self._relay = threading.Thread(
            target=_relay, args=(self._process.stdout,), daemon=True
        )
        self._relay.start()
        self._transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        self._server: Any = xmlrpc.client.ServerProxy(
            "http://127.0.0.1", transport=self._transport
        )

    def is_alive(self) -> bool:
        """Whether supervisord runs."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether supervisord takes orders."""
        return self._states() is not None

    def start_program(self, program: Program) -> None:
        """Starts one of the programs that do not start first."""
        self._server.supervisor.startProcess(f"{_group(program)}:{program.name}", False)

    def ended(self) -> tuple[Program, str] | None:
        """A program that has ended by itself, and how; ``None`` if all are well."""
        states = self._states() or {}
        for program in self.programs:
            state = states.get(program.name)
            if state and state["statename"] in ENDED_STATES:
                return program, self._how_it_ended(program)
        return None

    def ask_to_stop(self) -> None:
        """Asks supervisord to stop the programs, the last started first."""
        if self._process is not None and self.is_alive():
            # The latest process ids, in case of hurry: later it tells nothing more.
            self._states()
            self._process.terminate()
            self.wake()

    def wake(self) -> None:
        """Has supervisord notice what has happened, and take its next step.

        It looks for signals and for ended programs once a second, or after a question.
        """
        self._states()

    def hurry(self) -> None:
        """Kills all programs but those that keep data."""
        for program in self.programs:
            child = self._children.get(program.name)
            if child and child.is_running() and not program.keeps_data:
                with contextlib.suppress(ProcessLookupError):
                    # supervisord makes each program the leader of a group.
                    os.killpg(child.pid, signal.SIGKILL)

    def clean_up(self) -> None:
        """Waits for the last output, and removes the socket."""
        if self._relay is not None:
            self._relay.join(timeout=2)
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._socket.unlink(missing_ok=True)
                if self._socket.parent != self.directory:
                    self._socket.parent.rmdir()

    @property
    def _log(self) -> Path:
        return self.directory / "supervisord.log"

    def _states(self) -> dict[str, dict[str, Any]] | None:
        try:
            rows = self._server.supervisor.getAllProcessInfo()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            self._transport.close()  # the next question opens a new connection
            return None
        for row in rows:
            known = self._children.get(row["name"])
            if row["pid"] and (known is None or known.pid != row["pid"]):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._children[row["name"]] = psutil.Process(row["pid"])
        return {row["name"]: row for row in rows}

    def _how_it_ended(self, program: Program) -> str:
        # Only the log tells which signal ended a process.
        pattern = re.compile(rf"exited: {re.escape(program.name)} \((.*?)[;)]")
        found = pattern.findall(self._log.read_text(errors="replace"))
        return found[-1] if found else "it could not be started"

    def _choose_socket(self) -> Path:
        path = self.directory / "supervisord.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            path.unlink(missing_ok=True)
            return path
        return Path(tempfile.mkdtemp(prefix="payflow-")) / "supervisord.sock"

    def _configuration(self) -> str:
        sections = [
            section(
                "supervisord",
                {
                    "nodaemon": "true",
                    "logfile": self._log,
                    "logfile_maxbytes": "1MB",
                    "pidfile": self.directory / "supervisord.pid",
                    "identifier": "payflow",
                    # As root it wants to hear that root is meant.
                    **({"user": "root"} if os.geteuid() == 0 else {}),
                },
            ),
            section("unix_http_server", {"file": self._socket, "chmod": "0600"}),
            section(
                "rpcinterface:supervisor",
                {
                    "supervisor.rpcinterface_factory": (
                        "supervisor.rpcinterface:make_main_rpcinterface"
                    )
                },
            ),
        ]
        for program in self.programs:
            command = launched(
                program.command,
                lock=self.lock,
                stop_signal=program.stop_signal,
                user=program.user,
            )
            to_terminal = program.log is None
            # supervisord expands the name of a log twice.
            log = str(program.log).replace("%", "%%")
            sections.append(
                section(
                    f"program:{program.name}",
                    {
                        "command": shlex.join(command),
                        "priority": program.rank,
                        "autostart": "true" if program.starts_first else "false",
                        # One that ends stops the stack: see `ended`.
                        "autorestart": "false",
                        "startsecs": 0,
                        "stopsignal": program.stop_signal.name.removeprefix("SIG"),
                        "stopwaitsecs": program.stop_seconds,
                        "killasgroup": "true",
                        "redirect_stderr": "true",
                        "stdout_logfile": "/dev/fd/1" if to_terminal else log,
                        "stdout_logfile_maxbytes": 0 if to_terminal else "10MB",
                        "stdout_logfile_backups": 0 if to_terminal else 2,
                    },
                )
            )
        # supervisord stops one group after the other, and a program without a group is
        # a group of its own: workers that finish their tasks would wait for each other.
        for name in sorted({_group(program) for program in self.programs}):
            members = [p for p in self.programs if _group(p) == name]
            sections.append(
                section(
                    f"group:{name}",
                    {
                        "programs": ",".join(member.name for member in members),
                        "priority": members[0].rank,
                    },
                )
            )
        return "\n".join(sections)


def _group(program: Program) -> str:
    return f"rank{program.rank}"


def section(name: str, values: dict[str, object]) -> str:
    """A section of supervisord's configuration; a percent sign stands for itself."""
    escaped = {key: str(value).replace("%", "%%") for key, value in values.items()}
    return "\n".join(
        [f"[{name}]", *(f"{key} = {value}" for key, value in escaped.items()), ""]
    )


def holders(lock: Path) -> Iterable[psutil.Process]:
    """The processes, other than this one, that have ``lock`` open."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error):
            if any(file.path == str(lock) for file in process.open_files()):
                yield process


def _relay(source: IO[bytes]) -> None:
    # Line by line, so that what two programs say is not mixed within a line.
    for line in source:
        with contextlib.suppress(OSError):
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
