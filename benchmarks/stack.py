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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import psycopg
from psycopg import sql

from benchmarks.activity import busy_backends, open_connections
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
#: Books that are larger are migrated when the schema has changed, others made anew.
MIGRATED_ENTRIES = 1_000_000
ADMIN_NAME = "benchmark"
START_SECONDS, STOP_SECONDS = 60, 60
#: Longer than any request may take.
IDLE_SECONDS = 60
#: How long halted processes' statements may take to end before they are let go on.
HALT_SECONDS = 0.5
LOOK_SECONDS = 0.05

BACKGROUND = ("beat", "dispatcher", "worker")

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
        self.processes: dict[str, Process] = {}
        self.web_port = self.constant_port = 0
        self._say = say
        self._halted: set[str] = set()

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
        """New processes, and a new copy of the books, all of it in memory."""
        self.stop_application()
        self._stop("valkey")
        self._copy_books()
        self._start_valkey()
        self.start_application()

    def stop(self) -> None:
        """Stops everything, in order; for every process there is an end."""
        self.stop_audits()
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
        """The template is there, as the migrations of now would make it."""
        schema = _schema_digest()
        if not self._has_template():
            self.known.schema = ""
        if self.known.schema == schema:
            return
        is_migrated = self.known.schema and self.entries > MIGRATED_ENTRIES
        # Should it fail half-way, the books are made anew.
        self.known.schema = ""
        self._remember()
        if is_migrated:
            self._say("The schema has changed since these books were made ...")
            self._admin("DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            self._admin("ALTER DATABASE {template} RENAME TO {database}")
            self.manage("migrate", "--database", "owner", "--no-input")
        else:
            self._make_books()
        with self.superuser() as connection:
            connection.execute("VACUUM (ANALYZE)")
        self._admin("ALTER DATABASE {database} RENAME TO {template}")
        self.known.schema = schema
        self._remember()

    def _make_books(self) -> None:
        self._say(f"Making books of {self.entries:,} entries ...")
        self._admin("DROP DATABASE IF EXISTS {template} WITH (FORCE)")
        self._admin("DROP DATABASE IF EXISTS {database} WITH (FORCE)")
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

    def _copy_books(self) -> None:
        """File by file, which ends with a checkpoint, and never through the WAL."""
        self._admin("DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        self._admin(
            "CREATE DATABASE {database} TEMPLATE {template} OWNER {owner}"
            " STRATEGY file_copy"
        )
        # The copy is what is measured: the memory is for it.
        for file in self._files_of(_TEMPLATE):
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for file in self._files_of(DATABASE):
            with file.open("rb", buffering=0) as opened:
                while opened.read(1 << 22):
                    pass

    def _has_template(self) -> bool:
        with self.superuser("postgres") as connection:
            row = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [_TEMPLATE]
            ).fetchone()
        return row is not None

    def _files_of(self, database: str) -> list[Path]:
        with self.superuser("postgres") as connection:
            row = connection.execute(
                "SELECT oid FROM pg_database WHERE datname = %s", [database]
            ).fetchone()
        folder = self.postgres.directory / "base" / str(row[0] if row else "")
        return [file for file in folder.iterdir() if file.is_file()]

    def _admin(self, statement: str) -> None:
        """Runs a statement about the books' databases as a whole."""
        with self.superuser("postgres") as connection:
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
        self.restart_web()
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
        # The worker has run its first task when /health is of now.
        self._wait_for("worker", lambda: _answers(f"http://{self.web_address}/health"))

    def restart_web(
        self, *, postgres_port: int | None = None, valkey_port: int | None = None
    ) -> None:
        """Starts the web workers anew.

        Args:
            postgres_port: where they reach PostgreSQL, if not at its own port.
            valkey_port: where they reach Valkey, if not at its own port.
        """
        self._stop("web")
        self.web_port = choose_port()
        reached: dict[str, str] = {}
        if postgres_port:
            postgres = replace(self.postgres, port=postgres_port)
            reached["DATABASE_URL"] = self._application_url("web", postgres)
        if valkey_port:
            reached["REDIS_URL"] = replace(self.valkey, port=valkey_port).url
        self._launch(
            "web",
            [*_GUNICORN, "payflow.wsgi"],
            environment={"WEB_BIND": self.web_address, **reached},
        )
        self._wait_for("web", lambda: _answers(f"http://{self.web_address}/readyz"))

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
            environment={
                "WEB_BIND": f"{LOOPBACK}:{self.constant_port}",
                "DJANGO_SETTINGS_MODULE": "benchmarks.constant.settings",
            },
        )
        url = f"http://{LOOPBACK}:{self.constant_port}/"
        self._wait_for("constant", lambda: _answers(url))

    def stop_constant(self) -> None:
        """Stops it."""
        self._stop("constant")

    def start_audits(self, *options: str) -> None:
        """Starts ``audit_ledger``, again and again until findings stop it."""
        again = 'while "$@"; do :; done'
        audit = [sys.executable, str(PROJECT_DIRECTORY / "manage.py"), "audit_ledger"]
        self._launch("audit", ["sh", "-c", again, "sh", *audit, "--json", *options])

    def wait_for_audit(self) -> None:
        """Waits until the first of them reads."""
        with self.superuser("postgres") as connection:
            self._wait_for("audit", lambda: bool(busy_backends(connection, ["audit"])))

    def stop_audits(self) -> None:
        """Ends them, the one at work too."""
        self.resume("audit")
        process = self.processes.pop("audit", None)
        if process is not None and process.popen.poll() is None:
            os.killpg(process.popen.pid, signal.SIGTERM)
            process.popen.wait()

    def pause_background(self) -> tuple[str, ...]:
        """Halts worker, dispatcher and beat; returns those that were at work."""
        return self.halt(*BACKGROUND)

    def resume_background(self) -> None:
        """Lets them go on."""
        self.resume(*BACKGROUND)

    def halt(self, *groups: str) -> tuple[str, ...]:
        """Halts processes while none of them has locks, a snapshot or a statement.

        Returns:
            Those of the groups that were not halted before.

        Raises:
            BenchmarkError: they never are without within ``IDLE_SECONDS``.
        """
        groups = tuple(sorted(set(groups) - self._halted))
        self._halted.update(groups)
        with self.superuser("postgres") as connection:

            def is_halted() -> bool:
                self._signal(groups, signal.SIGSTOP)
                # What is being executed ends by itself; what was begun does not.
                deadline = time.monotonic() + HALT_SECONDS
                while busy_backends(connection, groups):
                    if time.monotonic() > deadline:
                        self._signal(groups, signal.SIGCONT)
                        return False
                    time.sleep(LOOK_SECONDS / 5)
                return True

            wait_until(
                is_halted,
                IDLE_SECONDS,
                lambda: (
                    "These always have something in progress: "
                    + "; ".join(busy_backends(connection, groups))
                ),
            )
        return groups

    def resume(self, *groups: str) -> None:
        """Lets halted processes go on."""
        self._signal(self._halted & set(groups), signal.SIGCONT)
        self._halted -= set(groups)

    def _signal(self, groups: Iterable[str], number: signal.Signals) -> None:
        for name in groups:
            process = self.processes.get(name)
            if process and process.popen.poll() is None:
                # Each is the leader of a session, and its workers are in it.
                os.killpg(process.popen.pid, number)

    def wait_until_idle(self) -> None:
        """Waits until no request is in progress, while nobody sends new ones.

        Raises:
            BenchmarkError: some still are after ``IDLE_SECONDS``; it says which.
        """
        with self.superuser("postgres") as connection:
            wait_until(
                lambda: (
                    not open_connections(self.web_port)
                    and not busy_backends(connection, ["web"])
                ),
                IDLE_SECONDS,
                lambda: (
                    f"After {IDLE_SECONDS} s without new requests"
                    f" {open_connections(self.web_port)} are in progress, in PostgreSQL"
                    f" these: {'; '.join(busy_backends(connection, ['web'])) or 'none'}"
                ),
            )

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
            "DATABASE_URL": self._application_url("payflow", self.postgres),
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

    def _application_url(self, group: str, server: PostgresServer) -> str:
        url = server.url_of(LOGIN_ROLE, self.known.login_password)
        return f"{url}?application_name={group}"

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
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if hasattr(self, "valkey"):
            url = self._application_url(group, self.postgres)
            started = {**self.environment, "DATABASE_URL": url}
        else:
            started = dict(os.environ)
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
                env={
                    **started,
                    **(environment or {}),
                    launch.PARENT: str(os.getpid()),
                },
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

        wait_until(
            ready, START_SECONDS, lambda: f"{group} does not get ready: see {log}."
        )

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


def wait_until(
    condition: Callable[[], bool], seconds: float, problem: Callable[[], str]
) -> None:
    """Looks until the condition is met.

    Args:
        condition: it is asked again and again.
        seconds: how long at most.
        problem: what to say then.

    Raises:
        BenchmarkError: it is not met within that time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(problem())
        time.sleep(LOOK_SECONDS)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3_000:]
