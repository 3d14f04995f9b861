"""Advisory locks on files: they end with their holder, however it ends."""

import fcntl
import os
from pathlib import Path
from typing import Self

__all__ = ["FileLock"]


class FileLock:
    """A lock on ``path``, held from ``acquire`` until ``release`` or the process ends.

    Args:
        path: the file to lock; made on the first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, *, shared: bool = False) -> bool:
        """Takes the lock without waiting; ``False`` if somebody else holds it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Gives the lock back; does nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_held_elsewhere(self) -> bool:
        """Whether another process holds the lock exclusively, now."""
        try:
            if not self.path.exists():
                return False
            free = self.acquire(shared=True)
        except PermissionError:  # another user's: as good as absent
            return False
        self.release()
        return not free

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
