import django.db.models.deletion
from django.db import migrations, models

import payflow.fields
import payflow.ids
from payflow.sql import sql_migration


class Migration(migrations.Migration):
    initial = True

    dependencies = [("payflow", "0001_append_only")]

    operations = [
        sql_migration(
            __file__,
            "0001_tasks",
            state_operations=[
                migrations.CreateModel(
                    name="OutboxAttempt",
                    fields=[
                        ("ledger_id", models.UUIDField(editable=False)),
                        (
                            "id",
                            models.UUIDField(
                                default=payflow.ids.new_id,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("task_id", models.UUIDField()),
                        ("number", models.IntegerField()),
                        (
                            "action",
                            models.TextField(
                                choices=[("send", "Send"), ("inquire", "Inquire")]
                            ),
                        ),
                        ("lease_token", models.UUIDField()),
                        ("started_at", models.DateTimeField()),
                    ],
                    options={
                        "db_table": "outbox_attempt",
                        "ordering": ("number",),
                    },
                ),
                migrations.CreateModel(
                    name="OutboxAttemptOutcome",
                    fields=[
                        ("ledger_id", models.UUIDField(editable=False)),
                        (
                            "id",
                            models.UUIDField(
                                editable=False,
                                help_text="the attempt's id",
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("result", models.TextField()),
                        ("detail", models.TextField(blank=True, default="")),
                        ("finished_at", models.DateTimeField()),
                        (
                            "attempt",
                            payflow.fields.LedgerForeignKey(
                                column="id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="outcomes",
                                to="outbox.outboxattempt",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "outbox_attempt_outcome",
                    },
                ),
                migrations.CreateModel(
                    name="OutboxTask",
                    fields=[
                        ("ledger_id", models.UUIDField(editable=False)),
                        (
                            "id",
                            models.UUIDField(
                                default=payflow.ids.new_id,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        (
                            "kind",
                            models.TextField(
                                choices=[
                                    ("transfer.posted", "Transfer Posted"),
                                    ("payout", "Payout"),
                                ]
                            ),
                        ),
                        ("transfer_id", models.UUIDField()),
                        (
                            "posting_number",
                            models.IntegerField(
                                default=0,
                                help_text="the payout's posting; 0 stands for the whole transfer",
                            ),
                        ),
                        (
                            "account_id",
                            models.UUIDField(
                                blank=True,
                                help_text="the payout account that holds the money",
                                null=True,
                            ),
                        ),
                        ("destination", models.TextField(blank=True, null=True)),
                        (
                            "amount",
                            models.BigIntegerField(
                                blank=True, help_text="minor units", null=True
                            ),
                        ),
                        ("currency", models.TextField(blank=True, null=True)),
                        (
                            "state",
                            models.TextField(
                                choices=[
                                    ("pending", "Pending"),
                                    ("leased", "Leased"),
                                    ("done", "Done"),
                                    ("cancelled", "Cancelled"),
                                    ("dead", "Dead"),
                                    ("needs_attention", "needs attention"),
                                ],
                                default="pending",
                            ),
                        ),
                        (
                            "delivery",
                            models.TextField(
                                choices=[
                                    ("unsent", "Unsent"),
                                    ("unknown", "Unknown"),
                                    ("accepted", "Accepted"),
                                    ("settled", "Settled"),
                                    ("rejected", "Rejected"),
                                ],
                                default="unsent",
                            ),
                        ),
                        ("due_at", models.DateTimeField()),
                        ("lease_token", models.UUIDField(blank=True, null=True)),
                        ("attempt_count", models.IntegerField(default=0)),
                        (
                            "failure_count",
                            models.IntegerField(
                                default=0,
                                help_text="failed attempts since the last useful answer",
                            ),
                        ),
                        ("provider_reference", models.TextField(blank=True, null=True)),
                        ("last_error", models.TextField(blank=True, default="")),
                        (
                            "completion_transfer_id",
                            models.UUIDField(
                                blank=True,
                                help_text="the settlement or the reversal that ended it",
                                null=True,
                            ),
                        ),
                        ("request_id", models.TextField(blank=True, default="")),
                        ("created_at", models.DateTimeField()),
                        (
                            "retried_at",
                            models.DateTimeField(
                                blank=True,
                                help_text="a person took it up again; its age restarts",
                                null=True,
                            ),
                        ),
                        ("finished_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "db_table": "outbox_task",
                        "ordering": ("-id",),
                        "indexes": [
                            models.Index(
                                condition=models.Q(
                                    ("state__in", ["dead", "needs_attention"])
                                ),
                                fields=["ledger_id", "state", "id"],
                                name="outbox_task_attention",
                            ),
                            models.Index(
                                condition=models.Q(
                                    ("state__in", ["pending", "leased"])
                                ),
                                fields=["ledger_id", "kind", "due_at", "id"],
                                name="outbox_task_due",
                            ),
                            models.Index(
                                condition=models.Q(("account_id__isnull", False)),
                                fields=["ledger_id", "account_id", "state"],
                                name="outbox_task_payout_account",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=(
                                    "ledger_id",
                                    "transfer_id",
                                    "kind",
                                    "posting_number",
                                ),
                                name="task_unique_per_posting",
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(
                                    ("completion_transfer_id__isnull", False)
                                ),
                                fields=("ledger_id", "completion_transfer_id"),
                                name="task_completion_ends_one_payout",
                            ),
                        ],
                    },
                ),
                migrations.AddField(
                    model_name="outboxattempt",
                    name="task",
                    field=payflow.fields.LedgerForeignKey(
                        column="task_id",
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="attempts",
                        to="outbox.outboxtask",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="outboxattempt",
                    constraint=models.UniqueConstraint(
                        fields=("ledger_id", "task_id", "number"),
                        name="attempt_unique_per_task",
                    ),
                ),
            ],
        ),
    ]
