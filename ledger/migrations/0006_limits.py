import django.db.models.deletion
from django.db import migrations, models

import payflow.fields
import payflow.ids
from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Velocity limits and the usage that counts against them."""

    dependencies = [("ledger", "0005_holds_and_reversals")]
    operations = [
        sql_migration(
            __file__,
            "0006_limits",
            state_operations=[
                migrations.AddField(
                    model_name="account",
                    name="has_velocity_limits",
                    field=models.BooleanField(default=False),
                ),
                migrations.CreateModel(
                    name="Usage",
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
                        ("account_id", models.UUIDField()),
                        ("created_at", models.DateTimeField()),
                        ("out_amount", models.BigIntegerField()),
                        ("out_count", models.BigIntegerField()),
                        ("in_amount", models.BigIntegerField()),
                        ("in_count", models.BigIntegerField()),
                        (
                            "account",
                            payflow.fields.LedgerForeignKey(
                                column="account_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="ledger.account",
                            ),
                        ),
                        (
                            "ledger",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                to="ledger.ledger",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name_plural": "usage",
                        "db_table": "ledger_usage",
                        "ordering": ("-id",),
                    },
                ),
                migrations.CreateModel(
                    name="VelocityLimit",
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
                        ("account_id", models.UUIDField()),
                        (
                            "direction",
                            models.TextField(choices=[("in", "In"), ("out", "Out")]),
                        ),
                        (
                            "period",
                            models.TextField(
                                choices=[
                                    ("rolling_day", "rolling day"),
                                    ("day", "Day"),
                                    ("month", "Month"),
                                ]
                            ),
                        ),
                        ("max_amount", models.BigIntegerField(blank=True, null=True)),
                        ("max_count", models.BigIntegerField(blank=True, null=True)),
                        (
                            "account",
                            payflow.fields.LedgerForeignKey(
                                column="account_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="velocity_limits",
                                to="ledger.account",
                            ),
                        ),
                        (
                            "ledger",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                to="ledger.ledger",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "ledger_velocity_limit",
                    },
                ),
                migrations.AddConstraint(
                    model_name="usage",
                    constraint=models.UniqueConstraint(
                        fields=("ledger", "account_id", "created_at"),
                        name="usage_unique_per_instant",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="velocitylimit",
                    constraint=models.UniqueConstraint(
                        fields=("ledger", "account_id", "direction", "period"),
                        name="velocity_limit_unique_per_window",
                    ),
                ),
            ],
        )
    ]
