"""Celery's way into the outbox. Messages say only "drain": the truth is the table."""

import ctypes
from multiprocessing.sharedctypes import RawValue
from typing import Any

import structlog
from celery import shared_task
from celery.signals import worker_shutting_down
from django.db import DatabaseError, InterfaceError

from outbox.dispatcher import dispatcher_from_settings
from outbox.wakeup import DRAIN_TASK, wakeup_received

log = structlog.get_logger(__name__)

#: The soft limit raises in the middle of whatever is under way, the hard one kills.
#: A drain ends by itself long before; the lease (60 s) outlives both.
SOFT_TIME_LIMIT_SECONDS = 40
TIME_LIMIT_SECONDS = 50

# The signal below arrives in the worker's parent, drains run in its children: the byte
# is shared by fork, and has no lock that a signal handler could find taken.
_stopping = RawValue(ctypes.c_bool, False)


@worker_shutting_down.connect(weak=False)
def _stop_drains(**_: Any) -> None:
    _stopping.value = True


def _should_stop() -> bool:
    return bool(_stopping.value)


# A message lost with its worker is made up for by beat within a second, so it is
# acknowledged before the work, whatever the project's default.
@shared_task(
    name=DRAIN_TASK,
    ignore_result=True,
    acks_late=False,
    soft_time_limit=SOFT_TIME_LIMIT_SECONDS,
    time_limit=TIME_LIMIT_SECONDS,
)
def drain() -> None:
    """Delivers what is due, until nothing is, time is up or the worker stops."""
    wakeup_received()
    try:
        report = dispatcher_from_settings(should_stop=_should_stop).drain()
    except (DatabaseError, InterfaceError) as error:
        # Whatever was under way is left to its lease; beat tries again in a second.
        sqlstate = getattr(error.__cause__, "sqlstate", None)
        log.error("drain_failed", error=type(error).__name__, sqlstate=sqlstate)
        return
    if report.finished_set_wise or report.called or report.released:
        log.info(
            "outbox_drained",
            finished_set_wise=report.finished_set_wise,
            called=report.called,
            released=report.released,
        )
