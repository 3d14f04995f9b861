"""Database settings from a URL, with the timeouts that every role must have."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

#: A connection that sits in an open transaction holds row locks: it is cut.
IDLE_IN_TRANSACTION_MS = 10_000
#: No transaction of the application is longer than this (PostgreSQL 17 and newer).
TRANSACTION_MS = 60_000
#: The longest wait for one of a pool's connections.
POOL_TIMEOUT_SECONDS = 3.0


def database_from_url(
    url: str,
    *,
    statement_timeout_ms: int,
    lock_timeout_ms: int,
    conn_max_age: int = 0,
    pool_size: int = 0,
) -> dict[str, Any]:
    """A Django ``DATABASES`` entry for ``postgresql://user:password@host:port/name``.

    Query parameters of the URL (``sslmode``, ``application_name`` and the like) are
    handed to libpq. TCP keepalives let a dead client's locks go within half a minute.

    Args:
        url: the database's URL.
        statement_timeout_ms: longest statement, in milliseconds; 0 means no limit.
        lock_timeout_ms: longest wait for one lock, in milliseconds.
        conn_max_age: seconds for which a connection is kept open between requests.
        pool_size: the most connections of this process, which its threads or greenlets
            take turns with; 0 gives each thread one of its own.

    Raises:
        ValueError: the URL is not a PostgreSQL one or names no database.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ValueError("DATABASE_URL must start with postgresql://")
    name = unquote(parts.path.lstrip("/"))
    if not name:
        raise ValueError("DATABASE_URL must end in /DATABASE_NAME")
    query = dict(parse_qsl(parts.query))
    bulk = statement_timeout_ms == 0
    gucs = {
        "statement_timeout": statement_timeout_ms,
        "lock_timeout": lock_timeout_ms,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS,
        "tcp_keepalives_idle": 15,
        "tcp_keepalives_interval": 5,
        "tcp_keepalives_count": 3,
    }
    if bulk:
        # Migrations may take as long as they need, but never idle with locks held.
        del gucs["statement_timeout"]
    options = " ".join(f"-c {key}={value}" for key, value in gucs.items())
    extra = query.pop("options", "")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or query.pop("host", "")),
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 0 if pool_size else conn_max_age,
        "CONN_HEALTH_CHECKS": conn_max_age > 0,
        "ATOMIC_REQUESTS": False,
        "OPTIONS": {
            "application_name": "payflow",
            # A host that drops packets must not hang a health check.
            "connect_timeout": "3",
            **query,
            "options": f"{options} {extra}".strip(),
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            **({"pool": _pool(pool_size, max_age=conn_max_age)} if pool_size else {}),
        },
    }


def _pool(size: int, *, max_age: int) -> dict[str, Any]:
    """Options of ``psycopg_pool.ConnectionPool``.

    Who waits longer than ``timeout`` seconds for a connection is told that the server
    is busy; there is no point in a queue that outlasts the clients' patience.
    """
    return {
        "min_size": 1,
        "max_size": size,
        "timeout": POOL_TIMEOUT_SECONDS,
        "max_idle": max_age,
        # Else attempts come ever more rarely while PostgreSQL is away, and a worker
        # would stay away for as long again.
        "reconnect_timeout": 1.0,
        "name": "payflow",
    }
