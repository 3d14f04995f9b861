"""What the end of a task means to the app that enqueued it.

``settings.OUTBOX_HANDLERS`` maps each kind of task to the dotted path of a class that
extends one of the two bases below. A kind without a handler is left alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils.module_loading import import_string

from outbox.enums import TaskKind
from outbox.models import OutboxTask


class CompensationRefused(Exception):
    """The ledger refuses to book what the provider decided.

    The dispatcher then leaves the books as they are and puts the task into
    ``needs_attention``.

    Args:
        code: the refusal's stable code.
        detail: for people.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class PayoutTaskHandler(ABC):
    """Books the end of a payout.

    Both methods run inside the dispatcher's finishing transaction, with no lock held
    when they start: they lock the accounts first, in the ledger's own order, and leave
    the task's row alone. The dispatcher then ends the task by its lease; if the lease
    is lost, everything that the handler wrote is rolled back. They may be called again
    for the same task after a rollback.
    """

    @abstractmethod
    def settle(self, *, task: OutboxTask) -> UUID:
        """Books that the money has left; returns the settlement transfer's id.

        Raises:
            CompensationRefused: the ledger does not allow it.
        """

    @abstractmethod
    def reject(self, *, task: OutboxTask, reason: str) -> UUID:
        """Gives the money back; returns the reversal transfer's id.

        Args:
            task: the payout.
            reason: the provider's words.

        Raises:
            CompensationRefused: the ledger does not allow it.
        """


class TaskSetHandler(ABC):
    """Finishes tasks that need no call, many in one statement.

    Nobody waits for them, so no commit wakes the dispatcher for them: they are due at
    beat's next drain, which takes a whole second's tasks at once. A wake-up for each
    transfer cost more than the transfer itself.
    """

    @abstractmethod
    def finish_due(self, *, ledger_id: UUID, kind: str, limit: int) -> int:
        """Finishes up to ``limit`` due tasks of a ledger; returns how many."""


class NoEndpointHandler(TaskSetHandler):
    """Nobody listens to these tasks: they are done at dispatch, without an attempt."""

    # Claim and finish are one statement, so there is no lease to lose: a crash rolls
    # it back and the tasks are due still. No other dispatcher waits for it either. See
    # Note [A locked row is found by its place] in the dispatcher.
    SQL = """
        WITH due AS (
            SELECT ctid AS place FROM outbox_task
            WHERE ledger_id = %(ledger_id)s AND kind = %(kind)s
              AND state IN ('pending', 'leased') AND due_at <= now()
            ORDER BY due_at, id
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        )
        UPDATE outbox_task AS task
        SET state = 'done', lease_token = NULL, finished_at = now()
        FROM due
        WHERE task.ledger_id = %(ledger_id)s AND task.ctid = due.place
    """

    def finish_due(self, *, ledger_id: UUID, kind: str, limit: int) -> int:
        """Finishes up to ``limit`` due tasks of a ledger; returns how many."""
        with connection.cursor() as cursor:
            cursor.execute(
                self.SQL, {"ledger_id": ledger_id, "kind": kind, "limit": limit}
            )
            finished: int = cursor.rowcount
            return finished


TaskHandler = PayoutTaskHandler | TaskSetHandler


@cache
def handlers_from_settings() -> Mapping[str, TaskHandler]:
    """One instance of each class named in ``settings.OUTBOX_HANDLERS``, by kind.

    Raises:
        ImproperlyConfigured: a kind is unknown, or its class extends neither base.
    """
    handlers: dict[str, TaskHandler] = {}
    for kind, path in settings.OUTBOX_HANDLERS.items():
        handler = import_string(path)()
        if kind not in TaskKind.values:
            raise ImproperlyConfigured(f"OUTBOX_HANDLERS: unknown kind {kind!r}")
        if not isinstance(handler, PayoutTaskHandler | TaskSetHandler):
            raise ImproperlyConfigured(
                f"OUTBOX_HANDLERS: {path} extends neither PayoutTaskHandler "
                "nor TaskSetHandler"
            )
        handlers[kind] = handler
    return handlers


@cache
def kinds_to_wake_for() -> frozenset[str]:
    """Kinds of tasks that end in a call, so that a commit which adds one wakes us."""
    return frozenset(
        kind
        for kind, handler in handlers_from_settings().items()
        if not isinstance(handler, TaskSetHandler)
    )
