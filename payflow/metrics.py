"""Every metric of PayFlow; ``/metrics`` shows them to Prometheus.

Two kinds. What happens in requests is counted in the process where it happens: the
functions below are called there and cost a few microseconds. Each web worker keeps its
counts in files of its own, mapped into memory, in the directory
``PROMETHEUS_MULTIPROC_DIR`` (``gunicorn_conf`` makes it); whichever worker is asked
adds up all of them. What is true of the database is read when somebody asks: each
function in ``settings.METRICS_READERS`` returns a few readings, at a cost that does not
grow with the books. ``docs/metrics.md`` says what to alert on.

Numbers are of one host's web workers since gunicorn started. Sources: Prometheus,
"Metric and label naming" and "Instrumentation".
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils.module_loading import import_string
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)

# --- What happens in requests -------------------------------------------------------

_REQUESTS = Counter(
    "payflow_http_requests_total",
    "Requests answered, by route (not path), method and status.",
    ("route", "method", "status"),
)
_DURATIONS = Histogram(
    "payflow_http_request_duration_seconds",
    "From the request's first line read to its answer made.",
    ("route", "method"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_LOOKUPS = Counter(
    "payflow_idempotency_lookups_total",
    "Keys looked up in Valkey: hit, miss, in_progress, or unavailable.",
    ("outcome",),
)
_CACHE_ERRORS = Counter(
    "payflow_idempotency_cache_errors_total",
    "Calls to Valkey that failed or took too long.",
)
_POSTED = Counter("payflow_transfers_posted_total", "Transfers committed.")
_REFUSED = Counter(
    "payflow_transfers_refused_total",
    "Transfers and holds that a rule refused, by the problem's code.",
    ("code",),
)
_TOGETHER = Histogram(
    "payflow_coalesced_requests",
    "Requests that shared one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
_WAITING = Gauge(
    "payflow_coalescing_waiting",
    "Requests that waited for a shared transaction when the last one began.",
    multiprocess_mode="livesum",
)
_CONFLICTS = Counter(
    "payflow_transaction_conflicts_total",
    "Transactions tried again after a deadlock or a lost race.",
)

#: Methods of HTTP as a label; others are one, for anybody can invent them.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"


def request_finished(
    *, route: str | None, method: str | None, status: int, seconds: float
) -> None:
    """Counts a request that was answered.

    Args:
        route: the pattern of its path; ``None`` where no route matched.
        method: the HTTP method.
        status: the HTTP status of the answer.
        seconds: how long the answer took.
    """
    if method not in _METHODS:
        method = _OTHER
    count, observe = _of_request(route, method, status)
    count()
    observe(seconds)


# `labels` looks for its child under a lock, at several times the cost of counting.
@cache
def _of_request(
    route: str | None, method: str, status: int
) -> tuple[Callable[[], None], Callable[[float], None]]:
    name = "unmatched" if route is None else f"/{route}"
    return (
        _REQUESTS.labels(name, method, str(status)).inc,
        _DURATIONS.labels(name, method).observe,
    )


def idempotency_looked_up(outcome: str) -> None:
    """Counts a look-up of a key in Valkey.

    Args:
        outcome: ``hit``, ``miss``, ``in_progress`` or ``unavailable``.
    """
    _lookups(outcome).inc()


@cache
def _lookups(outcome: str) -> Counter:
    return _LOOKUPS.labels(outcome)


def idempotency_cache_failed() -> None:
    """Counts a call to Valkey that failed or took too long."""
    _CACHE_ERRORS.inc()


def transfers_posted(count: int) -> None:
    """Counts transfers; called after the commit."""
    _POSTED.inc(count)


def transfers_refused(codes: Mapping[str, int]) -> None:
    """Counts refusals by rules; called after the commit.

    Args:
        codes: how many there were of each problem's code.
    """
    for code, count in codes.items():
        _refused(code).inc(count)


@cache
def _refused(code: str) -> Counter:
    return _REFUSED.labels(code)


def requests_coalesced(*, together: int, waiting: int) -> None:
    """Counts a shared transaction.

    Args:
        together: the requests in it.
        waiting: those that this process leaves waiting.
    """
    _TOGETHER.observe(together)
    _WAITING.set(waiting)


def transaction_conflicted() -> None:
    """Counts a transaction that is tried again after a deadlock or a lost race."""
    _CONFLICTS.inc()


# --- What is true of the database ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """The value of one gauge of the database, right now.

    Args:
        metric: one of those in ``READ``.
        value: in the metric's unit.
        labels: the values of its labels, in their order.
    """

    metric: str
    value: float
    labels: tuple[str, ...] = ()


#: Gauges whose values ``settings.METRICS_READERS`` return: their texts and labels.
READ: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "payflow_outbox_tasks": (
        "Tasks of the outbox that are not done, by kind and state.",
        ("kind", "state"),
    ),
    "payflow_outbox_oldest_due_seconds": (
        "How long the oldest task that is due has been due, by kind.",
        ("kind",),
    ),
    "payflow_integrity_sum": (
        "The number behind /health, in minor units; anything but 0 is damage.",
        (),
    ),
    "payflow_integrity_age_seconds": (
        "How long ago that number was computed.",
        (),
    ),
}


class _DatabaseCollector(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {
            name: GaugeMetricFamily(name, text, labels=labels)
            for name, (text, labels) in READ.items()
        }
        is_up = True
        try:
            for path in settings.METRICS_READERS:
                read: Callable[[], Iterable[Reading]] = import_string(path)
                for reading in read():
                    family = families[reading.metric]
                    family.add_metric(reading.labels, reading.value)
        except (DatabaseError, InterfaceError) as error:
            log.error("database_unavailable", error=type(error).__name__)
            is_up = False
        yield from families.values()
        yield GaugeMetricFamily(
            "payflow_database_up",
            "1 if PostgreSQL answered the questions of this page, else 0.",
            value=float(is_up),
        )


def metrics_text() -> bytes:
    """All metrics in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        processes = CollectorRegistry()
        MultiProcessCollector(processes)  # type: ignore[no-untyped-call]
    else:
        processes = REGISTRY
    database = CollectorRegistry()
    database.register(_DatabaseCollector())
    return generate_latest(processes) + generate_latest(database)
