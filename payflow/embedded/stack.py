"""``make run``: the whole of PayFlow on one machine, until Ctrl-C.

Order of a start: lock the data directory, wait for what an earlier run left behind,
start PostgreSQL and Valkey, prepare the database, start the rest, wait for
``/readyz``. Whatever ends first, a signal or any of the programs, ends everything in
the reverse order.
"""

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import psycopg

from payflow.embedded import launch
from payflow.embedded.environment import (
    PROJECT_DIRECTORY,
    data_directory,
    environment_file,
    stack_lock,
    write_stack_environment,
)
from payflow.embedded.locks import FileLock
from payflow.embedded.ports import LOOPBACK, choose_port, port_is_free
from payflow.embedded.postgres import (
    LOGIN_ROLE,
    OWNER_ROLE,
    PostgresServer,
    SystemUser,
    can_enter,
    make_system_directory,
    server_user,
)
from payflow.embedded.prepare import ADMIN_NAME
from payflow.embedded.problems import (
    StackError,
    StackStopped,
    disk_full,
    disk_is_full,
    explain_os_error,
)
from payflow.embedded.supervision import Program, Supervision, holders, launched
from payflow.embedded.valkey import ValkeyServer, valkey_answers

__all__ = ["run"]

DEFAULT_PORT = 8080
#: How often the stack looks after its programs.
POLL_SECONDS = 0.2
#: The same while somebody waits for it to start or to stop.
WAITING_POLL_SECONDS = 0.05
#: PostgreSQL may have to replay its log after a crash.
SERVER_START_SECONDS = 120
WEB_START_SECONDS = 60
#: What an earlier run left may still be draining; after that it is killed.
LEFTOVER_SECONDS = 70
KILLED_SECONDS = 10

FIRST_TRANSFER = """\
  curl -X POST http://localhost:{port}/transfer \\
    -H "Content-Type: application/json" -H "X-Idempotency-Key: unique-tx-101" \\
    -d '{{"from_account_id":"00000000-0000-0000-0000-000000000001",\
"to_account_id":"00000000-0000-0000-0000-000000000002","amount":5000}}'\
"""


def run() -> int:
    """Runs the stack until it is stopped or breaks; returns the exit status.

    Status 0 after Ctrl-C or SIGTERM, else 1 after one sentence that says what to do.
    """
    directory = data_directory()
    stop = StopRequest()
    os.umask(0o077)  # Secrets, books and logs are their owner's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop.receive)
    try:
        port = _port_from_environment()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with only_stack_of(directory):
            Stack(directory=directory, port=port, stop=stop).run()
    except StackStopped:
        say("PayFlow has stopped.")
        return 0
    except StackError as error:
        complain(str(error))
    except OSError as error:
        complain(explain_os_error(error, directory))
    return 1


class StopRequest:
    """Counts the signals that ask the stack to stop."""

    def __init__(self) -> None:
        self.times = 0
        self._received = threading.Event()

    def receive(self, *_: object) -> None:
        """Handles a signal."""
        self.times += 1
        self._received.set()

    def wait(self, seconds: float) -> None:
        """Waits, but not longer than until the next signal."""
        self._received.wait(seconds)
        self._received.clear()


@dataclass
class Remembered:
    """What a data directory keeps from run to run: secrets, ports, places."""

    postgres_directory: str = ""
    postgres_port: int = 0
    valkey_port: int = 0
    bank_port: int = 0
    superuser_password: str = field(default_factory=secrets.token_urlsafe)
    owner_password: str = field(default_factory=secrets.token_urlsafe)
    login_password: str = field(default_factory=secrets.token_urlsafe)
    valkey_password: str = field(default_factory=secrets.token_urlsafe)
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(50))
    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(9))

    @classmethod
    def load(cls, path: Path) -> "Remembered":
        """Reads ``path``, or starts anew."""
        if not path.exists():
            return cls()
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise StackError(
                f"{path} cannot be understood: move the folder {path.parent} away to "
                "start with an empty one."
            ) from None

    def save(self, path: Path) -> None:
        """Writes ``path`` whole or not at all, readable by its owner only."""
        unfinished = path.with_suffix(".unfinished")
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(asdict(self), indent=2))
        unfinished.rename(path)


@dataclass
class Stack:
    """One run of the stack.

    Args:
        directory: where it keeps everything.
        port: the TCP port of the web server, on loopback.
        stop: tells when to stop.
    """

    directory: Path
    port: int
    stop: StopRequest

    def run(self) -> None:
        """Starts everything, and returns when everything has ended.

        Raises:
            StackStopped: the user asked for the end.
            StackError: it could not start, or one of its programs ended.
            OSError: the data directory could not be written.
        """
        self._wait_for_leftovers()
        if not port_is_free(self.port):
            raise StackError(
                f"Port {self.port} is in use: stop what listens there, or choose "
                "another one with make run PORT=8081."
            )
        environment_file().unlink(missing_ok=True)
        self._choose_servers()
        self._supervision = Supervision(
            directory=self.directory / "supervisor",
            lock=self._processes_lock,
            environment=self._environment,
            programs=self._programs(),
        )
        try:
            self._start()
            while True:
                self._look_after_programs()
        finally:
            self._stop_everything()

    # --- Starting -------------------------------------------------------------

    def _start(self) -> None:
        say("Starting the servers ...")
        self._supervision.start()
        self._wait_until(
            self._supervision.is_ready, 10, "The process supervisor does not answer."
        )
        self._wait_for_servers()
        write_stack_environment(self._public_environment)
        say("Preparing the database ...")
        admin_password_works = self._prepare_database()
        for program in self._supervision.programs:
            if not program.starts_first:
                self._supervision.start_program(program)
        self._wait_until(
            self._web_is_ready,
            WEB_START_SECONDS,
            f"The web server did not get ready in {WEB_START_SECONDS} seconds: the "
            f"lines above, and http://{LOOPBACK}:{self.port}/readyz, say why.",
        )
        self._introduce(admin_password_works)

    def _choose_servers(self) -> None:
        """Decides where the servers are, and what all programs must know."""
        memory = self.directory / "stack.json"
        known = self._known = Remembered.load(memory)
        self._postgres: PostgresServer | None = None
        self._valkey: ValkeyServer | None = None
        database_url = os.environ.get("DATABASE_URL")
        owner_url = os.environ.get("DATABASE_OWNER_URL")
        redis_url = os.environ.get("REDIS_URL")
        if not database_url:
            user = server_user()
            known.postgres_port = choose_port(known.postgres_port, taken=(self.port,))
            self._postgres = PostgresServer(
                directory=self._postgres_directory(user),
                port=known.postgres_port,
                password=known.superuser_password,
                user=user,
            )
            database_url = self._postgres.url_of(LOGIN_ROLE, known.login_password)
            owner_url = self._postgres.url_of(OWNER_ROLE, known.owner_password)
        if not redis_url:
            known.valkey_port = choose_port(
                known.valkey_port, taken=(self.port, known.postgres_port)
            )
            self._valkey = ValkeyServer(
                directory=self.directory / "valkey",
                port=known.valkey_port,
                password=known.valkey_password,
            )
            redis_url = self._valkey.url
        known.bank_port = choose_port(
            known.bank_port, taken=(self.port, known.postgres_port, known.valkey_port)
        )
        known.save(memory)
        if self._postgres:
            self._postgres.prepare()
        if self._valkey:
            self._valkey.prepare()
        (self.directory / "logs").mkdir(exist_ok=True)

        #: What commands in other terminals need.
        self._public_environment = {
            "DATABASE_URL": database_url,
            **({"DATABASE_OWNER_URL": owner_url} if owner_url else {}),
            "REDIS_URL": redis_url,
            "PAYOUT_PROVIDER_URL": os.environ.get("PAYOUT_PROVIDER_URL")
            or f"http://{LOOPBACK}:{known.bank_port}",
            "SECRET_KEY": os.environ.get("SECRET_KEY") or known.secret_key,
        }
        on_terminal = sys.stdout.isatty()
        self._environment = {
            "LOG_FORMAT": "console" if on_terminal else "json",
            **({"FORCE_COLOR": "1"} if on_terminal else {}),
            "DJANGO_SETTINGS_MODULE": "payflow.settings.local",
            **os.environ,
            **self._public_environment,
            "PAYFLOW_DATA_DIR": str(self.directory),
            "PAYFLOW_ADMIN_PASSWORD": known.admin_password,
            "WEB_BIND": f"{LOOPBACK}:{self.port}",
            "PYTHONPATH": str(PROJECT_DIRECTORY),
            "PYTHONUNBUFFERED": "1",
        }

    def _postgres_directory(self, user: SystemUser | None) -> Path:
        """Inside the data directory, unless PostgreSQL's user cannot enter it."""
        inside = self.directory / "postgres"
        if not self._known.postgres_directory:
            if user:
                self.directory.chmod(0o711)
            if user is None or can_enter(user, self.directory):
                return inside
            outside = make_system_directory() / f"postgres-{secrets.token_hex(4)}"
            self._known.postgres_directory = str(outside)
        directory = Path(self._known.postgres_directory)
        say(
            f"PostgreSQL keeps its data in {directory}, because the user it runs as "
            f"cannot enter {self.directory}."
        )
        return directory

    def _programs(self) -> list[Program]:
        python = sys.executable
        celery = [
            *(python, "-W", "ignore:You're running the worker with superuser"),
            *("-m", "celery", "--quiet", "--app", "payflow"),
        ]
        logs = self.directory / "logs"
        programs = [
            Program(
                name="bank",
                title="The bank simulator",
                command=[
                    *(python, str(PROJECT_DIRECTORY / "manage.py"), "bank_simulator"),
                    *("--host", LOOPBACK, "--port", str(self._known.bank_port)),
                    *("--database", str(self.directory / "bank.sqlite3")),
                ],
                rank=30,
                # It needs no other server, and the database's preparation is the work
                # of one processor.
                starts_first=True,
                log=logs / "bank.log",
            ),
            Program(
                name="web",
                title="The web server",
                command=[
                    *(python, "-m", "gunicorn", "--config"),
                    *("python:payflow.gunicorn_conf", "payflow.wsgi"),
                ],
                rank=40,
                stop_seconds=40,  # more than its graceful timeout
            ),
            # Two workers: a bank that does not answer must not delay anything else.
            *(
                Program(
                    name=name,
                    title=title,
                    command=[
                        *(*celery, "worker", "--queues", queue),
                        *("--concurrency", concurrency, "--hostname", f"{name}@%h"),
                        *("--without-gossip", "--without-mingle"),
                    ],
                    rank=50,
                    stop_seconds=60,  # more than a task's hard time limit
                )
                for name, title, queue, concurrency in (
                    ("worker", "The Celery worker", "celery", "1"),
                    ("dispatcher", "The outbox dispatcher", "outbox", "2"),
                )
            ),
            Program(
                name="beat",
                title="Celery beat",
                command=[
                    *(*celery, "beat", "--pidfile="),
                    *("--schedule", str(self.directory / "beat-schedule")),
                ],
                rank=60,
            ),
        ]
        if self._postgres:
            programs.append(
                Program(
                    name="postgres",
                    title="PostgreSQL",
                    command=self._postgres.command,
                    rank=10,
                    stop_signal=signal.SIGINT,  # ends sessions, then a clean stop
                    stop_seconds=120,
                    keeps_data=True,
                    starts_first=True,
                    log=logs / "postgres.log",
                    user=self._postgres.user,
                )
            )
        if self._valkey:
            programs.append(
                Program(
                    name="valkey",
                    title="Valkey",
                    command=self._valkey.command,
                    rank=20,
                    keeps_data=True,
                    starts_first=True,
                    log=logs / "valkey.log",
                )
            )
        return sorted(programs, key=lambda program: program.rank)

    def _wait_for_servers(self) -> None:
        if self._postgres:
            self._wait_until(
                self._postgres.is_ready,
                SERVER_START_SECONDS,
                f"PostgreSQL does not accept connections: {self.directory}/logs/"
                "postgres.log says why.",
            )
            self._postgres.create_roles(
                owner_password=self._known.owner_password,
                login_password=self._known.login_password,
            )
        else:
            _check_given_database("DATABASE_URL", self._public_environment)
            if "DATABASE_OWNER_URL" in self._public_environment:
                _check_given_database("DATABASE_OWNER_URL", self._public_environment)
        if self._valkey:
            self._wait_until(
                self._valkey.is_ready,
                SERVER_START_SECONDS,
                f"Valkey does not answer: {self.directory}/logs/valkey.log says why.",
            )
        elif not valkey_answers(self._public_environment["REDIS_URL"]):
            raise StackError(
                "The server that REDIS_URL names does not answer: start it, correct "
                "the URL, or unset it to use the embedded Valkey."
            )

    def _prepare_database(self) -> bool:
        """Migrates and seeds; returns whether the demo admin's password is ours."""
        child = subprocess.Popen(
            launched(
                [sys.executable, "-m", "payflow.embedded", "prepare"],
                lock=self._processes_lock,
                stop_signal=signal.SIGTERM,
            ),
            env={**self._environment, launch.PARENT: str(os.getpid())},
            cwd=PROJECT_DIRECTORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            # Its answer is one short line: it fits the pipe and cannot block there.
            self._wait_until(lambda: child.poll() is not None, None, "")
            output, _ = child.communicate()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        if child.returncode != 0:
            raise StackError("The database could not be prepared: see the lines above.")
        return bool(json.loads(output.splitlines()[-1])["admin_password_works"])

    def _web_is_ready(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False

    def _introduce(self, admin_password_works: bool) -> None:
        address = f"http://localhost:{self.port}"
        password = self._known.admin_password
        login = f"{ADMIN_NAME} / {password}" if admin_password_works else ADMIN_NAME
        transfer = FIRST_TRANSFER.format(port=self.port)
        say(
            f"\n  API      {address}/v1/accounts\n"
            f"  Admin    {address}/admin/    login: {login}\n"
            f"  Health   {address}/health\n"
            f"  Data     {self.directory}\n\n"
            f"  Move money:\n\n{transfer}\n\n"
            "PayFlow is ready. Press Ctrl-C to stop it."
        )

    # --- Running and stopping -------------------------------------------------

    def _wait_until(
        self, condition: Callable[[], bool], seconds: float | None, problem: str
    ) -> None:
        """Waits for ``condition`` as long as nobody stops the stack and all is well.

        Args:
            condition: asked again and again.
            seconds: how long to wait; ``None`` means without end.
            problem: the sentence for the user when the time is up.
        """
        deadline = time.monotonic() + seconds if seconds else None
        while not condition():
            if deadline and time.monotonic() > deadline:
                raise StackError(problem)
            self._look_after_programs(WAITING_POLL_SECONDS)

    def _look_after_programs(self, pause_seconds: float = POLL_SECONDS) -> None:
        self.stop.wait(pause_seconds)
        if self.stop.times:
            raise StackStopped
        if not self._supervision.is_alive():
            raise StackError(
                "The process supervisor ended, so the whole stack stops: unless the "
                "lines above say why, start again with make run."
            )
        if ended := self._supervision.ended():
            raise StackError(self._explain_end(*ended))

    def _explain_end(self, program: Program, how: str) -> str:
        output = program.log.read_text(errors="replace")[-5000:] if program.log else ""
        if disk_is_full(self.directory, output):
            return disk_full(self.directory)
        hint = f"{program.log} says" if program.log else "the lines above say"
        return f"{program.title} ended ({how}), so the whole stack stops: {hint} more."

    def _stop_everything(self) -> None:
        """Stops in order; a second signal hurries; leaves no process."""
        environment_file().unlink(missing_ok=True)
        say("Stopping: requests and tasks in progress may finish ...")
        requests = self.stop.times
        self._supervision.ask_to_stop()
        while self._supervision.is_alive():
            self.stop.wait(WAITING_POLL_SECONDS)
            self._supervision.wake()
            if self.stop.times > requests:
                requests = self.stop.times
                self._supervision.hurry()
        self._supervision.clean_up()
        # Were supervisord killed, its programs would be stopping on their own now.
        self._end_processes(LEFTOVER_SECONDS)

    @property
    def _processes_lock(self) -> Path:
        return self.directory / "processes.lock"

    def _wait_for_leftovers(self) -> None:
        lock = FileLock(self._processes_lock)
        if not lock.acquire():
            say("Waiting for the processes of an earlier run to end ...")
            self._end_processes(LEFTOVER_SECONDS, stoppable=True)
        lock.release()

    def _end_processes(self, seconds: float, *, stoppable: bool = False) -> None:
        """Waits until no process of the stack is left; kills what is after a time."""
        lock = FileLock(self._processes_lock)
        deadline = time.monotonic() + seconds
        killed = False
        requests = self.stop.times
        while not lock.acquire():
            if stoppable and self.stop.times:
                raise StackStopped
            late = time.monotonic() > deadline or self.stop.times > requests
            if late and killed:
                raise StackError("Processes of the stack could not be ended.")
            if late:
                for process in holders(self._processes_lock):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                killed = True
                requests = self.stop.times
                deadline = time.monotonic() + KILLED_SECONDS
            self.stop.wait(WAITING_POLL_SECONDS)
        lock.release()


@contextlib.contextmanager
def only_stack_of(directory: Path) -> Iterator[None]:
    """Holds the stack's lock.

    Raises:
        StackError: another stack runs on ``directory``.
    """
    with stack_lock() as lock:
        # A command that asks whether the stack runs holds the lock for an instant.
        deadline = time.monotonic() + 1
        while not lock.acquire():
            if time.monotonic() > deadline:
                raise StackError(
                    f"PayFlow already runs on {directory}: stop that one first, or "
                    "choose another folder with PAYFLOW_DATA_DIR and another PORT."
                )
            time.sleep(0.05)
        yield


def say(text: str) -> None:
    """Prints for the user, at once, as long as somebody reads it."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def complain(text: str) -> None:
    """Prints why the stack ends."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print(f"PayFlow: {text}", file=sys.stderr, flush=True)


def _port_from_environment() -> int:
    given = os.environ.get("PORT") or str(DEFAULT_PORT)
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= 65_535:
        raise StackError(f"PORT is {given!r}: give a number from 1 to 65535.")
    return int(given)


def _check_given_database(name: str, environment: dict[str, str]) -> None:
    try:
        psycopg.connect(environment[name], connect_timeout=5).close()
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise StackError(
            f"The database that {name} names cannot be used ({reason}): start it, "
            "correct the URL, or unset it to use the embedded PostgreSQL."
        ) from None
