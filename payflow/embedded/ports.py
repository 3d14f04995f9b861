"""TCP ports on this machine's loopback address."""

import socket

__all__ = ["LOOPBACK", "choose_port", "port_is_free"]

LOOPBACK = "127.0.0.1"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on ``port``, now."""
    with socket.socket() as probe:
        # As the servers do: connections that linger after their end do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose_port(wanted: int | None = None, *, taken: tuple[int, ...] = ()) -> int:
    """``wanted`` if it is free, else a port that is.

    Args:
        wanted: the port of an earlier run.
        taken: ports that this run has promised to others.
    """
    if wanted and wanted not in taken and port_is_free(wanted):
        return wanted
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
