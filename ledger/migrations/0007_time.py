import django.db.models.deletion
from django.db import migrations, models

import payflow.fields
import payflow.ids
from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Closed periods and scheduled transfers."""

    dependencies = [("ledger", "0006_limits")]
    operations = [
        sql_migration(
            __file__,
            "0007_time",
            state_operations=[
                migrations.AddField(
                    model_name="ledger",
                    name="closed_before",
                    field=models.DateTimeField(blank=True, null=True),
                ),
                migrations.CreateModel(
                    name="ScheduledTransfer",
                    fields=[
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
                            "status",
                            models.TextField(
                                choices=[
                                    ("scheduled", "Scheduled"),
                                    ("posted", "Posted"),
                                    ("refused", "Refused"),
                                    ("cancelled", "Cancelled"),
                                ],
                                default="scheduled",
                            ),
                        ),
                        ("due_at", models.DateTimeField()),
                        ("postings", models.JSONField()),
                        (
                            "reference",
                            models.TextField(blank=True, db_collation="C", null=True),
                        ),
                        ("description", models.TextField(blank=True, default="")),
                        ("metadata", models.JSONField(blank=True, default=dict)),
                        ("retry_until", models.DateTimeField(blank=True, null=True)),
                        ("next_attempt_at", models.DateTimeField()),
                        ("attempt_count", models.IntegerField(default=0)),
                        ("last_problem", models.JSONField(blank=True, null=True)),
                        ("transfer_id", models.UUIDField(blank=True, null=True)),
                        ("end_reason", models.TextField(blank=True, default="")),
                        ("actor", models.TextField()),
                        ("client_id", models.UUIDField(blank=True, null=True)),
                        ("key_id", models.UUIDField(blank=True, null=True)),
                        ("request_id", models.TextField(blank=True, default="")),
                        ("idempotency_key", models.TextField(blank=True, null=True)),
                        ("created_at", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "ledger",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                to="ledger.ledger",
                            ),
                        ),
                        (
                            "transfer",
                            payflow.fields.LedgerForeignKey(
                                column="transfer_id",
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="ledger.transfer",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "ledger_scheduled_transfer",
                        "ordering": ("-id",),
                    },
                ),
            ],
        )
    ]
