from django.db import migrations, models

import payflow.ids
from payflow.sql import sql_migration


class Migration(migrations.Migration):
    initial = True

    dependencies = [("payflow", "0001_append_only")]

    operations = [
        sql_migration(
            __file__,
            "0001_keys",
            state_operations=[
                migrations.CreateModel(
                    name="IdempotencyKey",
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
                        ("client_id", models.UUIDField()),
                        ("key", models.TextField()),
                        ("operation", models.TextField()),
                        ("digests", models.JSONField()),
                        (
                            "status",
                            models.SmallIntegerField(
                                help_text="the HTTP status of the outcome"
                            ),
                        ),
                        ("resource_type", models.TextField(blank=True, default="")),
                        ("resource_id", models.UUIDField(blank=True, null=True)),
                        ("response_headers", models.JSONField(blank=True, null=True)),
                        ("response_body", models.BinaryField(blank=True, null=True)),
                        ("created_at", models.DateTimeField()),
                        ("purged_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "db_table": "idempotency_key",
                        "ordering": ("-id",),
                        "indexes": [
                            models.Index(
                                condition=models.Q(("purged_at__isnull", True)),
                                fields=["ledger_id", "created_at"],
                                name="idempotency_key_unpurged",
                            )
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("ledger_id", "client_id", "key"),
                                name="idempotency_key_unique_per_client",
                            )
                        ],
                    },
                ),
            ],
        ),
    ]
