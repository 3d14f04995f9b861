import django.db.models.deletion
from django.db import migrations, models

import payflow.ids
from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Assets that a ledger defines itself."""

    dependencies = [("ledger", "0007_time")]
    operations = [
        sql_migration(
            __file__,
            "0008_assets",
            state_operations=[
                migrations.CreateModel(
                    name="Asset",
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
                        ("code", models.TextField(db_collation="C")),
                        ("name", models.TextField()),
                        ("exponent", models.SmallIntegerField()),
                        ("created_at", models.DateTimeField()),
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
                        "db_table": "ledger_asset",
                        "ordering": ("code",),
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("ledger", "code"),
                                name="asset_code_unique_in_ledger",
                            )
                        ],
                    },
                ),
            ],
        )
    ]
