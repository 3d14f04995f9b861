"""Becomes another program, in such a way that it cannot outlive what started it.

Run as a script by the stack and by the test plugin, before each server. Whatever
kills the parent, kill -9 too, the program then gets its own stop signal from the
kernel (on Linux; elsewhere that is left out). Imports nothing outside the standard
library, and nothing of PayFlow: it starts in milliseconds.
"""

import argparse
import ctypes
import fcntl
import os
import signal
import sys

PARENT = "PAYFLOW_PARENT_PID"
PR_SET_PDEATHSIG = 1


def end_with_parent(stop_signal: int = signal.SIGTERM) -> None:
    """Asks the kernel to send ``stop_signal`` to this process when its parent ends."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def main() -> None:
    """Takes the lock, becomes the user, ties itself to the parent, runs the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--lock", required=True, help="held as long as the program runs"
    )
    parser.add_argument("--stop-signal", type=int, default=int(signal.SIGTERM))
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()

    # The open file passes to the program and to all its children: until the last one
    # has ended, nobody gets the exclusive lock.
    lock = os.open(options.lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.set_inheritable(lock, True)

    if options.uid is not None:
        os.chdir("/")
        os.setgroups([])
        os.setgid(options.gid)
        os.setuid(options.uid)

    # After the change of user, which would undo it. A parent that ended before this
    # line sends nothing any more, hence the second look.
    end_with_parent(options.stop_signal)
    parent = os.environ.get(PARENT)
    if parent is not None and os.getppid() != int(parent):
        sys.exit("The process that started this one has ended.")
    os.environ[PARENT] = str(os.getpid())
    os.execvp(options.program[0], options.program)  # noqa: S606 - that is the point


if __name__ == "__main__":
    main()
