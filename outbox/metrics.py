"""What ``/metrics`` says of the outbox."""

from collections.abc import Iterator

from django.db import connection

from outbox.handlers import handlers_from_settings
from payflow.metrics import Reading

# By two partial indexes, which hold only what is not done.
_NOT_DONE = """
SELECT kind, state, count(*), extract(epoch FROM now() - min(due_at))::float8
FROM outbox_task WHERE state IN ('pending', 'leased') GROUP BY kind, state
UNION ALL
SELECT kind, state, count(*), NULL
FROM outbox_task WHERE state IN ('dead', 'needs_attention') GROUP BY kind, state
"""
_STATES = ("pending", "leased", "dead", "needs_attention")


def outbox_readings() -> Iterator[Reading]:
    """How many tasks of each kind are not done, and for how long the oldest is due.

    Raises:
        DatabaseError, InterfaceError: PostgreSQL does not answer.
    """
    counts = {
        (kind, state): 0 for kind in handlers_from_settings() for state in _STATES
    }
    oldest = dict.fromkeys(handlers_from_settings(), 0.0)
    with connection.cursor() as cursor:
        cursor.execute(_NOT_DONE)
        for kind, state, count, due_seconds in cursor.fetchall():
            counts[kind, state] = count
            oldest[kind] = max(oldest.get(kind, 0.0), due_seconds or 0.0)
    for labels, count in counts.items():
        yield Reading("payflow_outbox_tasks", count, labels)
    for kind, seconds in oldest.items():
        yield Reading("payflow_outbox_oldest_due_seconds", seconds, (kind,))
