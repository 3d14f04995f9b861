"""PayFlow as in production, on embedded servers, for as long as a benchmark runs.

The processes are those of docker-compose.yml with production's settings. Each writes
its log (JSON) straight to a file. None can outlive the benchmark, because
``payflow.embedded.launch`` ties it to its parent: Ctrl-C and even ``kill -9`` stop all.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import psycopg
from psycopg import sql

from payflow.embedded import launch
from payflow.embedded.environment import PROJECT_DIRECTORY
from payflow.embedded.locks import FileLock
from payflow.embedded.ports import LOOPBACK, choose_port
from payflow.embedded.postgres import (
    DATABASE,
    LOGIN_ROLE,
    OWNER_ROLE,
    PostgresServer,
    can_enter,
    server_user,
)
from payflow.embedded.supervision import holders, launched
from payflow.embedded.valkey import ValkeyServer

#: The ledger that is measured, and the one that ``seed_accounts`` fills.
LEDGER, SEEDED_LEDGER = "benchmark", "seeded"
ACCOUNT_COUNT = 10_000
#: The smallest books: each account's opening balance, which has two entries.
SMALLEST_ENTRIES = 2 * ACCOUNT_COUNT
#: Up to this size each round begins with a new copy of the books.
COPIED_ENTRIES = 1_000_000
ADMIN_NAME = "benchmark"
START_SECONDS, STOP_SECONDS = 60, 60

_TEMPLATE = "payflow_books"
#: Ready to count statements, at no cost until it is told to.
_COUNTING = """\
shared_preload_libraries = 'pg_stat_statements'
compute_query_id = off
pg_stat_statements.track = 'none'
"""


class BenchmarkError(Exception):
    """Why there is no result, in a sentence that says what to do."""


@dataclass
class Remembered:
    """What a data directory keeps from run to run."""

    superuser_password: str = field(default_factory=secrets.token_urlsafe)
    owner_password: str = field(default_factory=secrets.token_urlsafe)
    login_password: str = field(default_factory=secrets.token_urlsafe)
    admin_password: str = field(default_factory=secrets.token_urlsafe)
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(50))
    api_key: str = ""
    #: Of the migrations that made the books; empty until they are finished.
    schema: str = ""


@dataclass
class Process:
    """A program of the stack; ``group`` is what its costs are counted under."""

    group: str
    popen: subprocess.Popen[bytes]
    stop_signal: signal.Signals


class Stack:
    """One PayFlow with its servers.

    Args:
        directory: keeps the books; one benchmark at a time uses it.
        entries: how many entries the books have at the start, about.
        say: is told what happens.
    """

    def __init__(
        self, directory: Path, *, entries: int, say: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self.entries = max(entries, SMALLEST_ENTRIES)
        self.copies_books = self.entries <= COPIED_ENTRIES
        self.processes: dict[str, Process] = {}
        self.web_port = self.constant_port = 0
        self._say = say
        self._paused = False

    # --- As a whole ---------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator["Stack"]:
        """The servers run and the books are there; in the end nothing runs.

        Raises:
            BenchmarkError: the directory cannot be used, or a server does not start.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for parent in (self.directory, self.directory.parent):
            parent.chmod(0o711)
        (self.directory / "logs").mkdir(mode=0o700, exist_ok=True)
        with FileLock(self.directory / "benchmark.lock") as lock:
            if not lock.acquire():
                raise BenchmarkError(
                    f"Another benchmark uses {self.directory}: wait for it, or name"
                    " another folder with --data."
                )
            self._wait_for_leftovers()
            try:
                self._start_servers()
                self._prepare_books()
                yield self
            finally:
                self.stop()

    def begin_round(self) -> None:
        """New processes, and for small books a new copy of them."""
        self.stop_application()
        self._stop("valkey")
        if self.copies_books:
            self._copy_books()
        self._start_valkey()
        self.start_application()

    def stop(self) -> None:
        """Stops everything, in order; for every process there is an end."""
        self.stop_application()
        self._stop("constant")
        self._stop("valkey")
        self._stop("postgres")

    # --- Servers ------------------------------------------------------------------

    def _wait_for_leftovers(self) -> None:
        """Processes of a benchmark that was killed end by themselves, or are ended."""
        path = self.directory / "processes.lock"
        lock = FileLock(path)
        is_free = lock.acquire()
        for process in [] if is_free else holders(path):
            with contextlib.suppress(psutil.Error):
                process.resume()  # it may have been halted for a reference
        deadline = time.monotonic() + STOP_SECONDS
        while not is_free:
            if time.monotonic() > deadline:
                for process in holders(path):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            time.sleep(0.2)
            is_free = lock.acquire()
        lock.release()

    def _start_servers(self) -> None:
        self._memory = self.directory / "benchmark.json"
        self.known = Remembered()
        if self._memory.exists():
            self.known = Remembered(**json.loads(self._memory.read_text()))
        self._remember()
        user = server_user()
        if user and not can_enter(user, self.directory):
            raise BenchmarkError(
                f"PostgreSQL runs as {user.name}, who cannot enter {self.directory}:"
                " name another folder with --data, as /var/tmp/payflow-benchmark."
            )
        self.postgres = PostgresServer(
            directory=self.directory / "postgres",
            port=choose_port(),
            password=self.known.superuser_password,
            user=user,
        )
        self.postgres.prepare()
        # PostgreSQL reads it after the file that it shares with `make run`.
        extra = self.postgres.directory / "postgresql.auto.conf"
        extra.write_text(_COUNTING)
        self._launch(
            "postgres", self.postgres.command, stop_signal=signal.SIGINT, user=user
        )
        self._wait_for("postgres", self.postgres.is_ready)
        self.postgres.create_roles(
            owner_password=self.known.owner_password,
            login_password=self.known.login_password,
        )
        self._start_valkey()

    def _start_valkey(self) -> None:
        self.valkey = ValkeyServer(
            directory=self.directory / "valkey",
            port=choose_port(),
            password=secrets.token_urlsafe(),
        )
        self.valkey.prepare()
        self._launch("valkey", self.valkey.command)
        self._wait_for("valkey", self.valkey.is_ready)

    # --- Books --------------------------------------------------------------------

    def _prepare_books(self) -> None:
        schema = _schema_digest()
        if self.known.schema and self.known.schema != schema:
            self._say("The schema has changed since these books were made ...")
            if self.copies_books:
                self.known.schema = ""
            else:
                self.manage("migrate", "--database", "owner", "--no-input")
                self.known.schema = schema
                self._remember()
        if self.known.schema != schema:
            self._make_books()
            self.known.schema = schema
            self._remember()

    def _make_books(self) -> None:
        self._say(f"Making books of {self.entries:,} entries ...")
        with self.superuser("postgres") as connection:
            for name in (_TEMPLATE, DATABASE):
                connection.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                        sql.Identifier(name)
                    )
                )
        self.postgres.create_roles(
            owner_password=self.known.owner_password,
            login_password=self.known.login_password,
        )
        self.manage("migrate", "--database", "owner", "--no-input")
        for slug in (LEDGER, SEEDED_LEDGER):
            self.manage("create_ledger", slug, "--name", slug.title())
        key = self.manage(
            *("create_api_key", "--ledger", LEDGER, "--client", "wrk", "--json")
        )
        self.known.api_key = json.loads(key)["key"]
        transfers = self.entries // 2
        self._run(
            [
                *(sys.executable, "-m", "benchmarks.books", "--ledger", LEDGER),
                *("--accounts", str(ACCOUNT_COUNT), "--transfers", str(transfers)),
                *("--holds", str(max(transfers // 50, 100))),
            ],
            progress=True,
        )
        self.manage(
            *("seed_accounts", "--ledger", SEEDED_LEDGER, "--transfers", "0"),
            *("--accounts", str(ACCOUNT_COUNT)),
        )
        self.manage(
            *("createsuperuser", "--no-input", "--username", ADMIN_NAME),
            *("--email", ""),
            DJANGO_SUPERUSER_PASSWORD=self.known.admin_password,
        )
        with self.superuser() as connection:
            connection.execute("VACUUM (ANALYZE)")
        with self.superuser("postgres") as connection:
            if self.copies_books:
                connection.execute(
                    sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                        sql.Identifier(DATABASE), sql.Identifier(_TEMPLATE)
                    )
                )
            connection.execute("CHECKPOINT")

    def _copy_books(self) -> None:
        with self.superuser("postgres") as connection:
            for statement in (
                "DROP DATABASE IF EXISTS {database} WITH (FORCE)",
                "CREATE DATABASE {database} TEMPLATE {template} OWNER {owner}",
                "CHECKPOINT",
            ):
                connection.execute(
                    sql.SQL(statement).format(
                        database=sql.Identifier(DATABASE),
                        template=sql.Identifier(_TEMPLATE),
                        owner=sql.Identifier(OWNER_ROLE),
                    )
                )

    # --- The application ----------------------------------------------------------

    def start_application(self) -> None:
        """Starts web, worker, dispatcher and beat, and waits until they are ready."""
        self.web_port = choose_port()
        self._launch("web", [*_GUNICORN, "payflow.wsgi"], WEB_BIND=self.web_address)
        celery = [
            *(sys.executable, "-W", "ignore:You're running the worker with superuser"),
            *("-m", "celery", "--quiet", "--app", "payflow"),
        ]
        for name, queue, concurrency in (
            ("worker", "celery", "1"),
            ("dispatcher", "outbox", "2"),
        ):
            self._launch(
                name,
                [
                    *(*celery, "worker", "--queues", queue),
                    *("--concurrency", concurrency, "--hostname", f"{name}@%h"),
                    *("--without-gossip", "--without-mingle"),
                ],
            )
        schedule = self.directory / "beat-schedule"
        schedule.unlink(missing_ok=True)
        self._launch(
            "beat", [*celery, "beat", "--pidfile=", "--schedule", str(schedule)]
        )
        self._wait_for("web", lambda: _answers(f"http://{self.web_address}/readyz"))
        # The worker has run its first task when /health is of now.
        self._wait_for("worker", lambda: _answers(f"http://{self.web_address}/health"))

    def stop_application(self) -> None:
        """Stops it the way a deployment does."""
        self.resume_background()
        for name in ("beat", "dispatcher", "worker", "web"):
            self._stop(name)

    def start_constant(self) -> None:
        """Starts the constant view, the reference of replays."""
        self.constant_port = choose_port()
        self._launch(
            "constant",
            [
                *(sys.executable, "-m", "gunicorn", "--config"),
                *("python:benchmarks.constant.gunicorn_conf",),
                "benchmarks.constant.wsgi",
            ],
            WEB_BIND=f"{LOOPBACK}:{self.constant_port}",
            DJANGO_SETTINGS_MODULE="benchmarks.constant.settings",
        )
        url = f"http://{LOOPBACK}:{self.constant_port}/"
        self._wait_for("constant", lambda: _answers(url))

    def stop_constant(self) -> None:
        """Stops it."""
        self._stop("constant")

    def pause_background(self) -> None:
        """Halts worker, dispatcher and beat, so that a reference has the machine."""
        self._signal_background(signal.SIGSTOP)
        self._paused = True

    def resume_background(self) -> None:
        """Lets them go on."""
        if self._paused:
            self._signal_background(signal.SIGCONT)
            self._paused = False

    def _signal_background(self, number: signal.Signals) -> None:
        for name in ("beat", "dispatcher", "worker"):
            process = self.processes.get(name)
            if process and process.popen.poll() is None:
                # Each is the leader of a session, and its workers are in it.
                os.killpg(process.popen.pid, number)

    @property
    def web_address(self) -> str:
        """Host and port of the web server."""
        return f"{LOOPBACK}:{self.web_port}"

    # --- For the cases ------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """Production's environment, of all processes of the application."""
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "WEB_WORKERS", "LD_LIBRARY_PATH")
        known = self.known
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "DJANGO_SETTINGS_MODULE": "payflow.settings.production",
            "SECRET_KEY": known.secret_key,
            "DATABASE_URL": self.postgres.url_of(LOGIN_ROLE, known.login_password),
            "DATABASE_OWNER_URL": self.postgres.url_of(
                OWNER_ROLE, known.owner_password
            ),
            "REDIS_URL": self.valkey.url,
            "ALLOWED_HOSTS": f"{LOOPBACK},localhost",
            "COOKIE_SECURE": "false",  # there is no TLS here
            "LOG_FORMAT": "json",
            "PYTHONPATH": str(PROJECT_DIRECTORY),
            "PYTHONUNBUFFERED": "1",
        }

    def superuser(self, database: str = DATABASE) -> psycopg.Connection:
        """A connection that may do everything, each statement on its own."""
        url = self.postgres.url_of("postgres", self.known.superuser_password, database)
        return psycopg.connect(url, autocommit=True)

    def manage(self, *arguments: str, **environment: str) -> str:
        """Runs a command of manage.py, and returns what it printed.

        Raises:
            BenchmarkError: it failed.
        """
        manage = str(PROJECT_DIRECTORY / "manage.py")
        return self._run([sys.executable, manage, *arguments], environment)

    def postgres_program(self, name: str) -> str:
        """The path of one of the embedded PostgreSQL's programs, else of the system's.

        Raises:
            BenchmarkError: there is none.
        """
        path = Path(self.postgres.command[0]).with_name(name)
        found = str(path) if path.exists() else shutil.which(name)
        if found is None:
            raise BenchmarkError(
                f"There is no {name}: install it (Debian and Ubuntu: apt install"
                " postgresql-client)."
            )
        return found

    # --- Processes ----------------------------------------------------------------

    def _run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        progress: bool = False,
    ) -> str:
        result = subprocess.run(
            command,
            env={**self.environment, **(environment or {})},
            cwd=PROJECT_DIRECTORY,
            stdout=subprocess.PIPE,
            stderr=None if progress else subprocess.PIPE,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            said = (result.stderr or result.stdout).strip()
            raise BenchmarkError(f"{' '.join(command[:3])} failed:\n{said}")
        return result.stdout

    def _launch(
        self,
        group: str,
        command: Sequence[str],
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: Any = None,
        **environment: str,
    ) -> None:
        started = self.environment if hasattr(self, "valkey") else dict(os.environ)
        self._log(group).unlink(missing_ok=True)
        # Appended to, so that who watches it can empty it.
        with self._log(group).open("ab") as log:
            popen = subprocess.Popen(
                launched(
                    list(command),
                    lock=self.directory / "processes.lock",
                    stop_signal=stop_signal,
                    user=user,
                ),
                env={**started, **environment, launch.PARENT: str(os.getpid())},
                cwd=PROJECT_DIRECTORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the benchmark, which stops the others in their order.
                start_new_session=True,
            )
        self.processes[group] = Process(group, popen, stop_signal)

    def _stop(self, group: str) -> None:
        process = self.processes.pop(group, None)
        if process is None:
            return
        process.popen.send_signal(process.stop_signal)
        try:
            process.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._say(f"{group} does not stop, so it is killed.")
            os.killpg(process.popen.pid, signal.SIGKILL)
            process.popen.wait()

    def _wait_for(self, group: str, is_ready: Callable[[], bool]) -> None:
        popen = self.processes[group].popen
        log = self._log(group)

        def ready() -> bool:
            if popen.poll() is not None:
                raise BenchmarkError(f"{group} ended:\n{_tail(log)}")
            return is_ready()

        _wait_until(ready, START_SECONDS, f"{group} does not get ready: see {log}.")

    def _log(self, group: str) -> Path:
        return self.directory / "logs" / f"{group}.log"

    def _remember(self) -> None:
        self._memory.touch(mode=0o600)
        self._memory.write_text(json.dumps(asdict(self.known), indent=2))

    def check_alive(self) -> None:
        """Looks after all processes.

        Raises:
            BenchmarkError: one has ended.
        """
        for group, process in self.processes.items():
            if process.popen.poll() is not None:
                raise BenchmarkError(f"{group} ended:\n{_tail(self._log(group))}")


_GUNICORN = [
    *(sys.executable, "-m", "gunicorn", "--config"),
    "python:payflow.gunicorn_conf",
]


def _schema_digest() -> str:
    """Changes with every migration, and with the rows that the books start with."""
    patterns = ("*/migrations/**/*.py", "*/migrations/**/*.sql", "*/*.sql")
    files = {
        path
        for pattern in (*patterns, "benchmarks/books.py")
        for path in PROJECT_DIRECTORY.glob(pattern)
        if path.name != "references.sql"
    }
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as response:  # noqa: S310 - our own
            return bool(response.status == 200)
    except OSError:
        return False


def _wait_until(condition: Callable[[], bool], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(problem)
        time.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3_000:]
