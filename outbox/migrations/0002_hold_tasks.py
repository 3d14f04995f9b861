from django.db import migrations, models

from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Tasks that tell of a hold."""

    dependencies = [("outbox", "0001_tasks")]
    operations = [
        sql_migration(
            __file__,
            "0002_hold_tasks",
            state_operations=[
                migrations.AddField(
                    model_name="outboxtask",
                    name="hold_event_id",
                    field=models.UUIDField(
                        blank=True,
                        help_text="what it tells of, where that is no transfer",
                        null=True,
                    ),
                ),
                migrations.AlterField(
                    model_name="outboxtask",
                    name="kind",
                    field=models.TextField(
                        choices=[
                            ("transfer.posted", "Transfer Posted"),
                            ("payout", "Payout"),
                            ("hold.placed", "Hold Placed"),
                            ("hold.extended", "Hold Extended"),
                            ("hold.captured", "Hold Captured"),
                            ("hold.voided", "Hold Voided"),
                            ("hold.expired", "Hold Expired"),
                        ]
                    ),
                ),
                migrations.AlterField(
                    model_name="outboxtask",
                    name="transfer_id",
                    field=models.UUIDField(blank=True, null=True),
                ),
                migrations.AddConstraint(
                    model_name="outboxtask",
                    constraint=models.UniqueConstraint(
                        condition=models.Q(("hold_event_id__isnull", False)),
                        fields=("ledger_id", "hold_event_id"),
                        name="task_unique_per_hold_event",
                    ),
                ),
            ],
        )
    ]
