"""What can go wrong with the stack, each as one sentence that says what to do."""

import errno
import shutil
from pathlib import Path

__all__ = [
    "StackError",
    "StackStopped",
    "disk_full",
    "disk_is_full",
    "explain_os_error",
]

NOTHING_LEFT_BYTES = 64 * 1024


class StackError(Exception):
    """The stack cannot start or go on; the text tells the user what to do."""


class StackStopped(Exception):
    """Somebody asked the stack to stop while it was starting."""


def explain_os_error(error: OSError, directory: Path) -> str:
    """A sentence for an operating system's refusal.

    Args:
        error: what a file operation raised.
        directory: where the stack keeps its data.
    """
    place = error.filename or directory
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return disk_full(directory)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return (
            f"No permission to write {place}: give this user the right to, or choose "
            "another folder with PAYFLOW_DATA_DIR."
        )
    return f"The operating system refused {place}: {error.strerror or error}."


def disk_is_full(directory: Path, output: str = "") -> bool:
    """Whether a program that wrote to ``directory`` ran out of room.

    Args:
        directory: where it wrote.
        output: what it said; some programs clean up before one can look.
    """
    said = ("No space left on device", "Check free disk space")
    return (
        any(words in output for words in said)
        or shutil.disk_usage(directory).free < NOTHING_LEFT_BYTES
    )


def disk_full(directory: Path) -> str:
    """The sentence for a disk without room."""
    return (
        f"The disk that holds {directory} is full: free some space (PayFlow starts "
        "with about 200 MB) or choose another folder with PAYFLOW_DATA_DIR."
    )
