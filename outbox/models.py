"""Durable intent: what must leave the system because something was posted.

The physical tables, constraints and triggers are in ``migrations/sql``; rows of kind
``payout`` carry a copy of the destination, amount and currency, so that nothing that
changes later can redirect money that is on its way.
"""

from django.db import models

from outbox.enums import AttemptAction, Delivery, TaskKind, TaskState
from payflow.fields import LedgerForeignKey
from payflow.ids import new_id


class OutboxTask(models.Model):
    """One thing to deliver, written in the transaction that causes it.

    ``due_at`` is the next time at which the dispatcher may take the task: its schedule
    while ``pending``, the end of the lease while ``leased``. The id is the provider's
    idempotency key for life. Tasks are never deleted.
    """

    ledger_id = models.UUIDField(editable=False)
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.TextField(choices=TaskKind.choices)
    transfer_id = models.UUIDField(null=True, blank=True)
    hold_event_id = models.UUIDField(
        null=True, blank=True, help_text="what it tells of, where that is no transfer"
    )
    posting_number = models.IntegerField(
        default=0, help_text="the payout's posting; 0 stands for the whole transfer"
    )
    account_id = models.UUIDField(
        null=True, blank=True, help_text="the payout account that holds the money"
    )
    destination = models.TextField(null=True, blank=True)
    amount = models.BigIntegerField(null=True, blank=True, help_text="minor units")
    currency = models.TextField(null=True, blank=True)

    state = models.TextField(choices=TaskState.choices, default=TaskState.PENDING)
    delivery = models.TextField(choices=Delivery.choices, default=Delivery.UNSENT)
    due_at = models.DateTimeField()
    lease_token = models.UUIDField(null=True, blank=True)
    attempt_count = models.IntegerField(default=0)
    failure_count = models.IntegerField(
        default=0, help_text="failed attempts since the last useful answer"
    )
    provider_reference = models.TextField(null=True, blank=True)
    last_error = models.TextField(default="", blank=True)
    completion_transfer_id = models.UUIDField(
        null=True, blank=True, help_text="the settlement or the reversal that ended it"
    )
    request_id = models.TextField(default="", blank=True)
    created_at = models.DateTimeField()
    retried_at = models.DateTimeField(
        null=True, blank=True, help_text="a person took it up again; its age restarts"
    )
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "outbox_task"
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=["ledger_id", "transfer_id", "kind", "posting_number"],
                name="task_unique_per_posting",
            ),
            models.UniqueConstraint(
                fields=["ledger_id", "hold_event_id"],
                name="task_unique_per_hold_event",
                condition=models.Q(hold_event_id__isnull=False),
            ),
            models.UniqueConstraint(
                fields=["ledger_id", "completion_transfer_id"],
                name="task_completion_ends_one_payout",
                condition=models.Q(completion_transfer_id__isnull=False),
            ),
        ]
        indexes = [
            models.Index(
                fields=["ledger_id", "state", "id"],
                name="outbox_task_attention",
                condition=models.Q(state__in=["dead", "needs_attention"]),
            ),
            models.Index(
                fields=["ledger_id", "kind", "due_at", "id"],
                name="outbox_task_due",
                condition=models.Q(state__in=["pending", "leased"]),
            ),
            models.Index(
                fields=["ledger_id", "account_id", "state"],
                name="outbox_task_payout_account",
                condition=models.Q(account_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class OutboxAttempt(models.Model):
    """One call to a provider, written and committed before the call. Append-only.

    An attempt without an outcome may have reached the provider.
    """

    ledger_id = models.UUIDField(editable=False)
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    task_id = models.UUIDField()
    task = LedgerForeignKey(OutboxTask, column="task_id", related_name="attempts")
    number = models.IntegerField()
    action = models.TextField(choices=AttemptAction.choices)
    lease_token = models.UUIDField()
    started_at = models.DateTimeField()

    class Meta:
        db_table = "outbox_attempt"
        ordering = ("number",)
        constraints = [
            models.UniqueConstraint(
                fields=["ledger_id", "task_id", "number"],
                name="attempt_unique_per_task",
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.task_id}"


class OutboxAttemptOutcome(models.Model):
    """How an attempt ended, as far as it could be learnt. Append-only.

    ``result`` is the provider protocol's result word; ``detail`` is for people.
    """

    ledger_id = models.UUIDField(editable=False)
    id = models.UUIDField(
        primary_key=True, editable=False, help_text="the attempt's id"
    )
    attempt = LedgerForeignKey(OutboxAttempt, column="id", related_name="outcomes")
    result = models.TextField()
    detail = models.TextField(default="", blank=True)
    finished_at = models.DateTimeField()

    class Meta:
        db_table = "outbox_attempt_outcome"

    def __str__(self) -> str:
        return self.result
