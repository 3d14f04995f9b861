"""The health checks of the containers: exit status 0, or 1 with the reason.

    probe.py http URL        the URL answers 200
    probe.py worker NAME     the Celery worker NAME of this container answers
    probe.py beat FILE       Celery beat has touched its FILE lately

Loads neither Django nor the settings: it runs every half minute, next to real work.
"""

import http.client
import os
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5
#: Beat touches its file every three minutes; twice that, and some, means it hangs.
BEAT_SILENCE_SECONDS = 400


def probe_http(url: str) -> str | None:
    """Why ``url`` is not healthy, or ``None``."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS
    )
    # As from the TLS proxy in front: SSL_REDIRECT must not send the probe away.
    connection.request("GET", parts.path, headers={"X-Forwarded-Proto": "https"})
    response = connection.getresponse()
    body = response.read(1000).decode(errors="replace")
    return None if response.status == http.HTTPStatus.OK else body


def probe_worker(name: str) -> str | None:
    """Why the worker ``name`` of this container is not healthy, or ``None``."""
    from celery import Celery

    app = Celery(
        broker=os.environ.get("CELERY_BROKER_URL") or os.environ["REDIS_URL"],
        set_as_current=False,
    )
    app.conf.broker_transport_options = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
    }
    node = f"{name}@{socket.gethostname()}"
    answers = app.control.ping(destination=[node], timeout=TIMEOUT_SECONDS, limit=1)
    return None if answers else f"{node} does not answer"


def probe_beat(path: str) -> str | None:
    """Why beat is not healthy, or ``None``."""
    sign_of_life = Path(path)
    if not sign_of_life.exists():
        return f"there is no {path}"
    silence = time.time() - sign_of_life.stat().st_mtime
    if silence > BEAT_SILENCE_SECONDS:
        return f"{path} was touched {silence:.0f} seconds ago"
    return None


PROBES = {"http": probe_http, "worker": probe_worker, "beat": probe_beat}


def main() -> None:
    """Runs the probe that the arguments name."""
    _, kind, target = sys.argv
    try:
        problem = PROBES[kind](target)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
        problem = f"{type(error).__name__}: {error}"
    if problem:
        sys.exit(f"{kind} {target}: {problem}")


if __name__ == "__main__":
    main()
