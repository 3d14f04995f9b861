"""The closed sets of values that outbox rows take."""

from django.db import models


class TaskKind(models.TextChoices):
    """What is to be delivered."""

    TRANSFER_POSTED = "transfer.posted"
    PAYOUT = "payout"
    HOLD_PLACED = "hold.placed"
    HOLD_EXTENDED = "hold.extended"
    HOLD_CAPTURED = "hold.captured"
    HOLD_VOIDED = "hold.voided"
    HOLD_EXPIRED = "hold.expired"


class TaskState(models.TextChoices):
    """Where a task stands in the queue.

    ``pending`` waits for ``due_at``; ``leased`` is being worked on until ``due_at``,
    when the lease runs out; the others are final for the dispatcher.
    """

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    CANCELLED = "cancelled"
    DEAD = "dead"
    NEEDS_ATTENTION = "needs_attention", "needs attention"


class Delivery(models.TextChoices):
    """What is known of the other side's state, whatever the queue says.

    ``unsent``: it never heard of the task. ``unknown``: it may have; ask before sending
    again. ``accepted``: it has the task and will decide later.
    """

    UNSENT = "unsent"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    SETTLED = "settled"
    REJECTED = "rejected"


class AttemptAction(models.TextChoices):
    """What an attempt asked of the provider."""

    SEND = "send"
    INQUIRE = "inquire"


#: States in which the dispatcher may still work on a task.
LIVE_STATES = (TaskState.PENDING, TaskState.LEASED)

#: States in which a payout's money is still in its payout account.
IN_FLIGHT_STATES = (
    TaskState.PENDING,
    TaskState.LEASED,
    TaskState.DEAD,
    TaskState.NEEDS_ATTENTION,
)
