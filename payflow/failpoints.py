"""Named points at which a test can stop or kill a real process.

A process started with ``PAYFLOW_FAILPOINT=<name>:kill:<path>`` dies there as if by
``kill -9``, once: it leaves the file ``<path>`` behind, and where that exists already
it goes on. With ``<name>:block:<path>`` it makes the file to show that it arrived, and
waits until somebody deletes it. Nothing happens unless the variable is set, and
production settings refuse it.
"""

import os
import signal
import time
from pathlib import Path

_BLOCK_LIMIT_SECONDS = 30.0


def reach(name: str) -> None:
    """Marks the point ``name``; see the module's text."""
    wanted = os.environ.get("PAYFLOW_FAILPOINT")
    if not wanted:
        return
    point, _, action = wanted.partition(":")
    if point != name:
        return
    kind, _, path = action.partition(":")
    marker = Path(path)
    if kind == "kill" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "block":
        marker.touch()
        deadline = time.monotonic() + _BLOCK_LIMIT_SECONDS
        while marker.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
