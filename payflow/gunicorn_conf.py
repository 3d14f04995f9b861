"""gunicorn's settings: ``gunicorn -c payflow/gunicorn_conf.py payflow.wsgi``.

SIGTERM drains: the listening socket closes, requests in progress get up to
``graceful_timeout`` seconds to finish, kept-alive connections are told to close.
"""

import os
from pathlib import Path

from gunicorn.config import Config
from gunicorn.glogging import Logger

from payflow.logging import build_logging

build_logging(
    log_format=os.environ.get("LOG_FORMAT", "auto"),
    level=os.environ.get("LOG_LEVEL", "INFO"),
)


class StructuredLogger(Logger):
    """Hands gunicorn's own messages to the handler that all loggers share."""

    def setup(self, cfg: Config) -> None:
        """Sets the level only; the root logger's handler does the rest."""
        self.cfg = cfg
        self._access_log_enabled = False  # `request_finished` is the access log.
        self.loglevel = self.LOG_LEVELS[cfg.loglevel.lower()]
        self.error_log.setLevel(self.loglevel)
        self.error_log.propagate = True


bind = os.environ.get("WEB_BIND", "127.0.0.1:8080")
worker_class = "payflow.gevent_worker.Worker"
workers = int(os.environ.get("WEB_WORKERS", "2"))
# Connections of clients that one worker serves at once; more wait in the backlog.
worker_connections = 1_000
# Before a worker reads its settings: its greenlets share this many connections to
# PostgreSQL, however many clients there are.
os.environ.setdefault("DATABASE_POOL_SIZE", "8")
backlog = 512
keepalive = 75
timeout = 30
graceful_timeout = 30
# A leak, if there is one, has an end; the jitter keeps workers from ending together.
max_requests = 1_000_000
max_requests_jitter = 200_000
# The heartbeat file: on a real disk a slow fsync elsewhere looks like a hung worker.
_memory = Path("/dev/shm")  # noqa: S108 - gunicorn takes a random name in it
worker_tmp_dir = str(_memory) if _memory.is_dir() else None
# Workers load the application themselves: no connection is shared across a fork.
preload_app = False
# Not the C parser, of which it would accept versions older than it asks for.
http_parser = "python"
control_socket_disable = True
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")
logger_class = StructuredLogger
loglevel = os.environ.get("LOG_LEVEL", "INFO").lower()


def post_worker_init(worker: object) -> None:
    """Refuses a database that must not hold money; brings ``/health`` up to date.

    A database that is away for the moment is no reason not to start: ``/readyz`` says
    so until it is back.
    """
    from payflow.startup import prepare_web_worker

    prepare_web_worker()
