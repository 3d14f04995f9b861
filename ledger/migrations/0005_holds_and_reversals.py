import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

import payflow.fields
import payflow.ids
from payflow.sql import sql_migration


class Migration(migrations.Migration):
    """Holds, captures and reversals, and the permissions that some of it needs."""

    dependencies = [("ledger", "0004_as_of")]
    operations = [
        sql_migration(
            __file__,
            "0005_holds_and_reversals",
            state_operations=[
                migrations.AddField(
                    model_name="apiclient",
                    name="permissions",
                    field=django.contrib.postgres.fields.ArrayField(
                        base_field=models.TextField(
                            choices=[
                                ("capture_frozen", "capture holds on frozen accounts"),
                                (
                                    "force_reversal",
                                    "force reversals beyond what is available",
                                ),
                                ("manage_accounts", "freeze, close and limit accounts"),
                                ("close_period", "close periods"),
                                ("reopen_period", "reopen periods"),
                            ]
                        ),
                        blank=True,
                        default=list,
                        size=None,
                    ),
                ),
                migrations.AddField(
                    model_name="transfer",
                    name="exchange_rate",
                    field=models.DecimalField(
                        blank=True, decimal_places=18, max_digits=38, null=True
                    ),
                ),
                migrations.AddField(
                    model_name="transfer",
                    name="hold_id",
                    field=models.UUIDField(blank=True, null=True),
                ),
                migrations.AddField(
                    model_name="transfer",
                    name="permission",
                    field=models.TextField(
                        blank=True,
                        choices=[
                            ("capture_frozen", "capture holds on frozen accounts"),
                            (
                                "force_reversal",
                                "force reversals beyond what is available",
                            ),
                            ("manage_accounts", "freeze, close and limit accounts"),
                            ("close_period", "close periods"),
                            ("reopen_period", "reopen periods"),
                        ],
                        null=True,
                    ),
                ),
                migrations.AddField(
                    model_name="transfer",
                    name="reason",
                    field=models.TextField(
                        blank=True,
                        choices=[
                            ("duplicate", "Duplicate"),
                            ("fraud", "Fraud"),
                            ("customer_request", "customer request"),
                            ("error", "Error"),
                            ("other", "Other"),
                        ],
                        null=True,
                    ),
                ),
                migrations.AddField(
                    model_name="transfer",
                    name="source_postings",
                    field=django.contrib.postgres.fields.ArrayField(
                        base_field=models.IntegerField(),
                        blank=True,
                        null=True,
                        size=None,
                    ),
                ),
                migrations.AlterField(
                    model_name="transfer",
                    name="kind",
                    field=models.TextField(
                        choices=[
                            ("transfer", "Transfer"),
                            ("opening_balance", "opening balance"),
                            ("exchange", "Exchange"),
                            ("capture", "Capture"),
                            ("reversal", "Reversal"),
                            ("settlement", "Settlement"),
                            ("payout_reversal", "payout reversal"),
                        ]
                    ),
                ),
                migrations.CreateModel(
                    name="Hold",
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
                                    ("active", "Active"),
                                    ("captured", "Captured"),
                                    ("voided", "Voided"),
                                    ("expired", "Expired"),
                                ],
                                default="active",
                            ),
                        ),
                        ("posting_count", models.IntegerField()),
                        (
                            "reference",
                            models.TextField(blank=True, db_collation="C", null=True),
                        ),
                        ("description", models.TextField(blank=True, default="")),
                        ("metadata", models.JSONField(blank=True, default=dict)),
                        ("expires_at", models.DateTimeField()),
                        ("created_at", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        ("actor", models.TextField()),
                        ("client_id", models.UUIDField(blank=True, null=True)),
                        ("key_id", models.UUIDField(blank=True, null=True)),
                        ("request_id", models.TextField(blank=True, default="")),
                        ("idempotency_key", models.TextField(blank=True, null=True)),
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
                        "db_table": "ledger_hold",
                        "ordering": ("-id",),
                    },
                ),
                migrations.AddField(
                    model_name="transfer",
                    name="hold",
                    field=payflow.fields.LedgerForeignKey(
                        column="hold_id",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="captures",
                        to="ledger.hold",
                    ),
                ),
                migrations.CreateModel(
                    name="HoldEvent",
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
                        ("hold_id", models.UUIDField()),
                        (
                            "kind",
                            models.TextField(
                                choices=[
                                    ("placed", "Placed"),
                                    ("extended", "Extended"),
                                    ("captured", "Captured"),
                                    ("voided", "Voided"),
                                    ("expired", "Expired"),
                                ]
                            ),
                        ),
                        ("captured", models.BigIntegerField(default=0)),
                        ("released", models.BigIntegerField(default=0)),
                        ("transfer_id", models.UUIDField(blank=True, null=True)),
                        ("expires_at", models.DateTimeField(blank=True, null=True)),
                        ("reason", models.TextField(blank=True, default="")),
                        ("actor", models.TextField()),
                        ("client_id", models.UUIDField(blank=True, null=True)),
                        ("key_id", models.UUIDField(blank=True, null=True)),
                        ("request_id", models.TextField(blank=True, default="")),
                        ("created_at", models.DateTimeField()),
                        (
                            "hold",
                            payflow.fields.LedgerForeignKey(
                                column="hold_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="events",
                                to="ledger.hold",
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
                        "db_table": "ledger_hold_event",
                        "ordering": ("-id",),
                    },
                ),
                migrations.CreateModel(
                    name="HoldPosting",
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
                        ("hold_id", models.UUIDField()),
                        ("number", models.IntegerField()),
                        ("from_account_id", models.UUIDField()),
                        ("to_account_id", models.UUIDField()),
                        ("currency", models.TextField()),
                        ("amount", models.BigIntegerField()),
                        ("capture_limit", models.BigIntegerField()),
                        ("captured", models.BigIntegerField(default=0)),
                        ("released", models.BigIntegerField(default=0)),
                        ("expires_at", models.DateTimeField()),
                        ("created_at", models.DateTimeField()),
                        (
                            "from_account",
                            payflow.fields.LedgerForeignKey(
                                column="from_account_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="ledger.account",
                            ),
                        ),
                        (
                            "hold",
                            payflow.fields.LedgerForeignKey(
                                column="hold_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="postings",
                                to="ledger.hold",
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
                            "to_account",
                            payflow.fields.LedgerForeignKey(
                                column="to_account_id",
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="ledger.account",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "ledger_hold_posting",
                        "ordering": ("hold_id", "number"),
                    },
                ),
                migrations.CreateModel(
                    name="ReversalTotal",
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
                        ("amount", models.BigIntegerField()),
                        ("reversed", models.BigIntegerField()),
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
                                related_name="reversal_totals",
                                to="ledger.transfer",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "ledger_reversal_total",
                    },
                ),
                migrations.AddConstraint(
                    model_name="hold",
                    constraint=models.UniqueConstraint(
                        condition=models.Q(("reference__isnull", False)),
                        fields=("ledger", "reference"),
                        name="hold_reference_unique_in_ledger",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="holdposting",
                    constraint=models.UniqueConstraint(
                        fields=("ledger", "hold_id", "number"),
                        name="hold_posting_number_unique",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="reversaltotal",
                    constraint=models.UniqueConstraint(
                        fields=("ledger", "transfer_id", "posting_number"),
                        name="reversal_total_unique_per_posting",
                    ),
                ),
            ],
        )
    ]
