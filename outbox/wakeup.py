"""Tells a worker that something is due, soon after the commit that made it so.

Beat drains the outbox every second anyway; the wake-up makes it prompt, and nothing
depends on it. So it never raises, never retries and waits for no server longer than
``TIMEOUT_SECONDS``; after an error it keeps quiet for ``PAUSE_SECONDS``.

Note [Coalescing]. The first commit sets a key in Valkey and publishes one message;
others find the key and do nothing. A drain deletes the key when it starts, before it
looks at the table: a commit that found the key precedes that look, and one that comes
after it publishes anew. The key expires, in case its message was lost.
"""

import os
import time
from functools import cache
from typing import Any

import structlog
from celery import Celery, current_app
from django_redis import get_redis_connection
from kombu.exceptions import KombuError, LimitExceeded
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

DRAIN_TASK = "outbox.drain"
WAKE_KEY = "payflow:outbox:wake"
#: A wake-up whose message was lost suppresses others for this long at most.
WAKE_KEY_MS = 5_000
#: A message that nobody took until then has been overtaken by beat.
MESSAGE_EXPIRES_SECONDS = 30
TIMEOUT_SECONDS = 0.2
PAUSE_SECONDS = 5.0
#: Connections to the broker that one process keeps for wake-ups.
MAX_CONNECTIONS = 2

#: What a dead, slow or confused server can raise here. OSError has the timeouts.
SERVER_ERRORS = (RedisError, KombuError, BrokerError, OSError)


class _Quiet:
    """After an error: ``time.monotonic()`` before which no server is asked."""

    until = 0.0


def wake_dispatcher() -> None:
    """Has a worker drain the outbox now; call it in ``transaction.on_commit``.

    It returns within a fraction of a second whatever state Valkey and the broker are
    in, and raises for none of them.
    """
    if time.monotonic() < _Quiet.until:
        return
    try:
        if _raw_client().set(WAKE_KEY, b"1", nx=True, px=WAKE_KEY_MS):
            _publish(current_app)
    except LimitExceeded:
        return  # this process is publishing enough wake-ups already
    except SERVER_ERRORS as error:
        _Quiet.until = time.monotonic() + PAUSE_SECONDS
        log.warning(
            "wake_up_failed", error=type(error).__name__, quiet_seconds=PAUSE_SECONDS
        )


def wakeup_received() -> None:
    """Lets the next commit publish a wake-up again; called when a drain starts."""
    try:
        _raw_client().delete(WAKE_KEY)
    except SERVER_ERRORS as error:
        log.warning("wake_up_not_cleared", error=type(error).__name__)


def _raw_client() -> Any:
    return get_redis_connection("default")


def _publish(app: Celery) -> None:
    with _connections(app, os.getpid()).acquire(block=True, timeout=0) as connection:
        app.send_task(
            DRAIN_TASK,
            connection=connection,
            retry=False,
            ignore_result=True,
            expires=MESSAGE_EXPIRES_SECONDS,
        )


@cache
def _connections(app: Celery, pid: int) -> Any:
    """This process's connections for publishing, which never wait or retry.

    The worker's own must wait for messages; a request's must not wait at all.
    """
    options = {
        **app.conf.broker_transport_options,
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "connect_retries_timeout": TIMEOUT_SECONDS,
        "max_retries": 0,
        "retry_on_timeout": False,
    }
    connection = app.connection_for_write(
        connect_timeout=TIMEOUT_SECONDS, transport_options=options
    )
    return connection.Pool(limit=MAX_CONNECTIONS)
