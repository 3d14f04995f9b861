"""gunicorn's settings: ``gunicorn -c payflow/gunicorn_conf.py payflow.wsgi``.

SIGTERM drains: the listening socket closes, requests in progress get up to
``graceful_timeout`` seconds to finish, kept-alive connections are told to close.
"""

import gc
import os
import shutil
import tempfile
from importlib import import_module
from pathlib import Path

from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from payflow.logging import build_logging

build_logging(
    log_format=os.environ.get("LOG_FORMAT", "auto"),
    level=os.environ.get("LOG_LEVEL", "INFO"),
)

METRICS = "PROMETHEUS_MULTIPROC_DIR"
METRICS_PREFIX = "payflow-metrics-"


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
os.environ.setdefault("DATABASE_POOL_SIZE", "10")
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


def on_starting(server: object) -> None:
    """Makes or empties the folder where workers keep their counts for each other.

    Its name is in the environment before any of them imports ``prometheus_client``. A
    gunicorn that takes over from another (USR2) leaves that one's folder alone.
    """
    given = os.environ.get(METRICS, "")
    if not given or Path(given).name.startswith(METRICS_PREFIX):
        os.environ[METRICS] = tempfile.mkdtemp(prefix=_our_prefix(), dir=worker_tmp_dir)
        return
    folder = Path(given)
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()


def child_exit(server: object, worker: Worker) -> None:
    """Takes a dead worker's gauges out of the sums; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: object) -> None:
    """Removes that folder, if this gunicorn made it."""
    folder = Path(os.environ[METRICS])
    if folder.name.startswith(_our_prefix()):
        shutil.rmtree(folder, ignore_errors=True)


def _our_prefix() -> str:
    return f"{METRICS_PREFIX}{os.getpid()}-"


def post_worker_init(worker: object) -> None:
    """Refuses a database that must not hold money; brings ``/health`` up to date.

    A database that is away for the moment is no reason not to start: ``/readyz`` says
    so until it is back.
    """
    from django.conf import settings

    from payflow.startup import prepare_web_worker

    prepare_web_worker()
    # All that is loaded by now lives as long as the worker. The garbage collector went
    # through it again and again: a quarter of the time of a batch of transfers.
    import_module(settings.ROOT_URLCONF)
    gc.collect()
    gc.freeze()
    # A batch makes a hundred thousand objects and no cycles: looking for those after
    # every 700 is a tenth of its time.
    gc.set_threshold(50_000, 20, 20)
