"""Whether the application is doing anything, seen from outside.

wrk leaves when its time is over, and what it has asked for is still carried out: locks
are held and processors used. A request is in progress as long as its connection is
open, for a web worker closes that of a client who has left when the answer is made and
not before, and the kernel keeps those that no worker has accepted yet. Each process
names its group to PostgreSQL (``application_name``), whose view of what its backends do
is the other half.
"""

from collections.abc import Sequence

import psutil
import psycopg

#: States of a connection on which an answer can still be due.
_OPEN = {psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT, psutil.CONN_SYN_RECV}

_BUSY = """
SELECT application_name, state, coalesce(wait_event, 'no wait'),
    extract(epoch FROM clock_timestamp() - query_start)::float, left(query, 200)
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND application_name = ANY (%s)
AND state <> 'idle' ORDER BY query_start
"""


def open_connections(port: int) -> int:
    """How many clients of the server at ``port`` have a request in progress, or may."""
    return sum(
        1
        for connection in psutil.net_connections(kind="tcp")
        if connection.laddr
        and connection.laddr.port == port
        and connection.status in _OPEN
    )


def busy_backends(connection: psycopg.Connection, groups: Sequence[str]) -> list[str]:
    """What PostgreSQL does for these groups of processes, a line for each backend."""
    return [
        f"{group}: {state} ({wait}) for {seconds:.1f} s: {' '.join(query.split())}"
        for group, state, wait, seconds, query in connection.execute(
            _BUSY, [list(groups)]
        )
    ]
