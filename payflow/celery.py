"""The Celery application: ``celery -A payflow worker`` and ``celery -A payflow beat``.

Which settings it reads is said by ``DJANGO_SETTINGS_MODULE``; the schedule of beat
stands there too.
"""

from typing import Any

import structlog
from celery import Celery, Task
from celery.signals import (
    setup_logging,
    task_postrun,
    task_prerun,
    worker_init,
    worker_process_init,
)

from payflow.embedded.launch import end_with_parent

app = Celery("payflow")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# Of every thread, whether or not DJANGO_SETTINGS_MODULE was there before this module.
app.set_default()


@setup_logging.connect
def keep_our_logging(**_: Any) -> None:
    """Celery sets up no logging of its own where this signal has a receiver."""


@worker_init.connect
def check_the_database(**_: Any) -> None:
    """A worker moves money too: it starts only on a server that may hold it."""
    from payflow.startup import require_startable_database

    require_startable_database()


@worker_process_init.connect
def end_with_the_worker(**_: Any) -> None:
    """A pool process whose worker was killed would wait for tasks for ever."""
    end_with_parent()


@task_prerun.connect
def begin_with_a_sound_connection(task: Task, **_: Any) -> None:
    """As Django does before a request: what a task broke must not break the next.

    A time limit that strikes in the middle of a query leaves a connection on which
    every query fails from then on, and Celery would keep it for many tasks more. This
    closes it, or has it tried by its next query.
    """
    # Web workers import this module before they are ready for Django's.
    from django.db import close_old_connections

    if not task.request.is_eager:
        close_old_connections()


@task_prerun.connect
def bind_task(task_id: str, task: Task, **_: Any) -> None:
    """What a task logs carries its name and id."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


@task_postrun.connect
def unbind_task(**_: Any) -> None:
    """The next task of this process starts with a clean log context."""
    structlog.contextvars.clear_contextvars()
