"""Takes dead outbox tasks, and ones that need attention, up again."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any
from uuid import UUID

import structlog
from django.core.management.base import BaseCommand, CommandError

from outbox.models import OutboxTask
from outbox.services import RETRYABLE_STATES, task_retry
from outbox.wakeup import wake_dispatcher
from payflow.db import transaction_owner
from payflow.ids import parse_id

log = structlog.get_logger(__name__)

#: The most tasks that a listing shows.
MAX_LISTED = 100


class Command(BaseCommand):
    """See the module's text."""

    help = (
        "Takes dead outbox tasks, and ones that need attention, up again.\n\n"
        "Nothing is paid twice by it: a payout whose outcome is unknown is inquired\n"
        "after first, and one that the bank has decided is only booked."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The tasks' ids, or the wish to see them."""
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "examples:\n"
            "  manage.py retry_task --list\n"
            "  manage.py retry_task 01a2034b-31b1-730a-85de-866c11ab61fe"
        )
        parser.add_argument("task_id", nargs="*", help="ids of tasks, from the admin")
        parser.add_argument(
            "--list",
            action="store_true",
            help=f"show up to {MAX_LISTED} tasks that wait for somebody",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Retries or lists.

        Raises:
            CommandError: an id is none, is unknown, or its task cannot be retried.
        """
        if options["list"]:
            self._list()
            return
        if not options["task_id"]:
            raise CommandError("Name the tasks by their ids, or ask for --list.")
        tasks = [self._find(text) for text in options["task_id"]]
        with transaction_owner():
            for task in sorted(tasks, key=lambda task: task.id):
                if not task_retry(ledger_id=task.ledger_id, task_id=task.id):
                    raise CommandError(
                        f"Task {task.id} is {task.state}: only dead tasks, and ones "
                        "that need attention, are retried. Nothing was changed."
                    )
        wake_dispatcher()
        for task in tasks:
            log.info("task_retried", outbox_task_id=str(task.id))
            self.stdout.write(f"{task.id} is due now.")

    def _find(self, text: str) -> OutboxTask:
        task_id: UUID | None = parse_id(text)
        task = OutboxTask.objects.filter(id=task_id).first() if task_id else None
        if task is None:
            raise CommandError(f"There is no task {text!r}; see --list.")
        return task

    def _list(self) -> None:
        tasks = OutboxTask.objects.filter(state__in=RETRYABLE_STATES).order_by("-id")
        for task in tasks[:MAX_LISTED]:
            self.stdout.write(
                f"{task.id}  {task.kind}  {task.get_state_display()}  "
                f"{task.finished_at:%Y-%m-%d %H:%M}  {task.last_error}"
            )
        if not tasks.exists():
            self.stdout.write("No task waits for anybody.")
