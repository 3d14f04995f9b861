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
            "0001_books",
            state_operations=[
                migrations.CreateModel(
                    name="ApiClient",
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
                        ("name", models.TextField()),
                        ("is_active", models.BooleanField(default=True)),
                        ("created_at", models.DateTimeField()),
                    ],
                    options={
                        "verbose_name": "API client",
                        "db_table": "ledger_api_client",
                    },
                ),
                migrations.CreateModel(
                    name="AuditRun",
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
                        ("started_at", models.DateTimeField()),
                        ("finished_at", models.DateTimeField()),
                        ("is_sound", models.BooleanField()),
                        (
                            "difference",
                            models.DecimalField(decimal_places=0, max_digits=40),
                        ),
                        ("counts", models.JSONField(default=dict)),
                        ("findings", models.JSONField(default=list)),
                    ],
                    options={
                        "db_table": "ledger_audit_run",
                        "ordering": ("-id",),
                    },
                ),
                migrations.CreateModel(
                    name="IntegrityStatus",
                    fields=[
                        (
                            "id",
                            models.SmallIntegerField(
                                default=1, primary_key=True, serialize=False
                            ),
                        ),
                        (
                            "integrity_sum",
                            models.DecimalField(decimal_places=0, max_digits=40),
                        ),
                        ("computed_at", models.DateTimeField()),
                    ],
                    options={
                        "db_table": "ledger_integrity_status",
                    },
                ),
                migrations.CreateModel(
                    name="Ledger",
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
                        ("slug", models.TextField(db_collation="C", unique=True)),
                        ("name", models.TextField()),
                        ("time_zone", models.TextField(default="UTC")),
                        ("settings", models.JSONField(blank=True, default=dict)),
                        ("created_at", models.DateTimeField()),
                    ],
                    options={
                        "db_table": "ledger_ledger",
                        "ordering": ("slug",),
                    },
                ),
                migrations.CreateModel(
                    name="ApiKey",
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
                        ("client_id", models.UUIDField()),
                        ("secret_hash", models.BinaryField(max_length=32)),
                        (
                            "hint",
                            models.TextField(
                                help_text="the secret's last four characters"
                            ),
                        ),
                        ("created_at", models.DateTimeField()),
                        ("expires_at", models.DateTimeField(blank=True, null=True)),
                        ("revoked_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "client",
                            payflow.fields.LedgerForeignKey(
                                column="client_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="keys",
                                to="ledger.apiclient",
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
                        "verbose_name": "API key",
                        "db_table": "ledger_api_key",
                    },
                ),
                migrations.AddField(
                    model_name="apiclient",
                    name="ledger",
                    field=models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="ledger.ledger",
                    ),
                ),
                migrations.CreateModel(
                    name="Account",
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
                            "reference",
                            models.TextField(blank=True, db_collation="C", null=True),
                        ),
                        ("owner_name", models.TextField(blank=True, default="")),
                        (
                            "kind",
                            models.TextField(
                                choices=[
                                    ("asset", "Asset"),
                                    ("liability", "Liability"),
                                    ("equity", "Equity"),
                                    ("income", "Income"),
                                    ("expense", "Expense"),
                                ],
                                default="liability",
                            ),
                        ),
                        ("code", models.TextField(blank=True, default="")),
                        ("currency", models.TextField()),
                        (
                            "status",
                            models.TextField(
                                choices=[
                                    ("open", "Open"),
                                    ("frozen_out", "frozen for outgoing"),
                                    ("frozen", "Frozen"),
                                    ("closed", "Closed"),
                                ],
                                default="open",
                            ),
                        ),
                        (
                            "min_balance",
                            models.BigIntegerField(blank=True, default=0, null=True),
                        ),
                        ("metadata", models.JSONField(blank=True, default=dict)),
                        ("payout_destination", models.TextField(blank=True, null=True)),
                        ("version", models.BigIntegerField(default=0)),
                        ("debits_posted", models.BigIntegerField(default=0)),
                        ("credits_posted", models.BigIntegerField(default=0)),
                        ("debits_pending", models.BigIntegerField(default=0)),
                        ("credits_pending", models.BigIntegerField(default=0)),
                        ("last_entry_at", models.DateTimeField(blank=True, null=True)),
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
                        "db_table": "ledger_account",
                        "ordering": ("-id",),
                    },
                ),
                migrations.CreateModel(
                    name="Transfer",
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
                            "kind",
                            models.TextField(
                                choices=[
                                    ("transfer", "Transfer"),
                                    ("opening_balance", "opening balance"),
                                    ("settlement", "Settlement"),
                                    ("payout_reversal", "payout reversal"),
                                ]
                            ),
                        ),
                        ("posting_count", models.IntegerField()),
                        (
                            "reference",
                            models.TextField(blank=True, db_collation="C", null=True),
                        ),
                        ("description", models.TextField(blank=True, default="")),
                        ("metadata", models.JSONField(blank=True, default=dict)),
                        ("effective_at", models.DateTimeField()),
                        ("created_at", models.DateTimeField()),
                        ("actor", models.TextField()),
                        ("client_id", models.UUIDField(blank=True, null=True)),
                        ("key_id", models.UUIDField(blank=True, null=True)),
                        ("request_id", models.TextField(blank=True, default="")),
                        ("idempotency_key", models.TextField(blank=True, null=True)),
                        (
                            "reverses_transfer_id",
                            models.UUIDField(blank=True, null=True),
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
                        (
                            "reverses_transfer",
                            payflow.fields.LedgerForeignKey(
                                column="reverses_transfer_id",
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="reversals",
                                to="ledger.transfer",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "ledger_transfer",
                        "ordering": ("-id",),
                    },
                ),
                migrations.CreateModel(
                    name="Entry",
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
                        ("transfer_id", models.UUIDField()),
                        ("posting_number", models.IntegerField()),
                        (
                            "direction",
                            models.TextField(
                                choices=[("debit", "Debit"), ("credit", "Credit")]
                            ),
                        ),
                        ("account_id", models.UUIDField()),
                        ("currency", models.TextField()),
                        ("amount", models.BigIntegerField()),
                        ("account_version", models.BigIntegerField()),
                        ("debits_after", models.BigIntegerField()),
                        ("credits_after", models.BigIntegerField()),
                        ("effective_at", models.DateTimeField()),
                        ("created_at", models.DateTimeField()),
                        (
                            "account",
                            payflow.fields.LedgerForeignKey(
                                column="account_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="entries",
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
                        (
                            "transfer",
                            payflow.fields.LedgerForeignKey(
                                column="transfer_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="entries",
                                to="ledger.transfer",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name_plural": "entries",
                        "db_table": "ledger_entry",
                        "ordering": ("-id",),
                    },
                ),
                migrations.CreateModel(
                    name="Change",
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
                        ("account_id", models.UUIDField(blank=True, null=True)),
                        (
                            "fields",
                            models.JSONField(help_text="names of the changed fields"),
                        ),
                        ("old", models.JSONField(blank=True, null=True)),
                        ("new", models.JSONField(blank=True, null=True)),
                        ("actor", models.TextField()),
                        ("client_id", models.UUIDField(blank=True, null=True)),
                        ("key_id", models.UUIDField(blank=True, null=True)),
                        ("request_id", models.TextField(blank=True, default="")),
                        ("created_at", models.DateTimeField()),
                        ("erased_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "account",
                            payflow.fields.LedgerForeignKey(
                                column="account_id",
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="changes",
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
                        "db_table": "ledger_change",
                        "ordering": ("-id",),
                        "indexes": [
                            models.Index(
                                fields=["ledger", "account_id", "id"],
                                name="ledger_change_account",
                            )
                        ],
                    },
                ),
                migrations.AddConstraint(
                    model_name="apiclient",
                    constraint=models.UniqueConstraint(
                        fields=("ledger", "name"),
                        name="api_client_name_unique_in_ledger",
                    ),
                ),
                migrations.AddIndex(
                    model_name="account",
                    index=models.Index(
                        fields=["ledger", "owner_name"],
                        name="account_owner_name",
                        opclasses=["uuid_ops", "text_pattern_ops"],
                        condition=models.Q(("owner_name", ""), _negated=True),
                    ),
                ),
                migrations.AddConstraint(
                    model_name="account",
                    constraint=models.UniqueConstraint(
                        condition=models.Q(("reference__isnull", False)),
                        fields=("ledger", "reference"),
                        name="account_reference_unique_in_ledger",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="account",
                    constraint=models.UniqueConstraint(
                        fields=("ledger", "id", "currency"),
                        name="account_currency_of_entries",
                    ),
                ),
                migrations.AddIndex(
                    model_name="transfer",
                    index=models.Index(
                        condition=models.Q(("reverses_transfer_id__isnull", False)),
                        fields=["ledger", "reverses_transfer_id"],
                        name="transfer_reverses",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="transfer",
                    constraint=models.UniqueConstraint(
                        condition=models.Q(("reference__isnull", False)),
                        fields=("ledger", "reference"),
                        name="transfer_reference_unique_in_ledger",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="entry",
                    constraint=models.UniqueConstraint(
                        fields=("ledger", "transfer_id", "posting_number", "direction"),
                        name="entry_unique_per_posting_side",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="entry",
                    constraint=models.UniqueConstraint(
                        fields=("ledger", "account_id", "account_version"),
                        name="entry_versions_unique_per_account",
                    ),
                ),
            ],
        ),
    ]
