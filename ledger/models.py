"""The ledger's tables: fields, named constraints and cheap properties; no writes.

The physical tables are written in ``migrations/sql``: primary keys are
``(ledger_id, id)`` and every unique index and foreign key between these tables carries
``ledger_id``. Django's state keeps ``id`` alone as the key, because the admin cannot
show composite ones. Amounts are integers of minor units; instants are UTC.
"""

from datetime import timedelta

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from ledger.enums import (
    AccountKind,
    AccountStatus,
    Direction,
    HoldEventKind,
    HoldStatus,
    LimitDirection,
    LimitPeriod,
    Permission,
    ReversalReason,
    ScheduledStatus,
    TransferKind,
)
from payflow.fields import LedgerForeignKey
from payflow.ids import new_id


class Ledger(models.Model):
    """An isolated set of books. Transfers never cross ledgers.

    ``time_zone`` is an IANA name and defines the ledger's days and months. Nothing
    becomes effective before ``closed_before`` any more.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    slug = models.TextField(unique=True, db_collation="C")
    name = models.TextField()
    time_zone = models.TextField(default="UTC")
    settings = models.JSONField(default=dict, blank=True)
    closed_before = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_ledger"
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class ApiClient(models.Model):
    """Who calls the API: the principal, whichever of its keys it uses."""

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.TextField()
    is_active = models.BooleanField(default=True)
    permissions = ArrayField(
        models.TextField(choices=Permission.choices), default=list, blank=True
    )
    created_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_api_client"
        verbose_name = "API client"
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "name"], name="api_client_name_unique_in_ledger"
            )
        ]

    def __str__(self) -> str:
        return self.name


class ApiKey(models.Model):
    """One secret of a client. Only its SHA-256 is stored; it has 256 random bits."""

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    client_id = models.UUIDField()
    client = LedgerForeignKey(ApiClient, column="client_id", related_name="keys")
    secret_hash = models.BinaryField(max_length=32)
    hint = models.TextField(help_text="the secret's last four characters")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "ledger_api_key"
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"…{self.hint}"


class Account(models.Model):
    """A holder of counters in one currency.

    The counters and ``version`` follow the account's entries; the database refuses any
    other change of them. ``min_balance`` is the floor of the available balance; null
    means none. A ``payout_destination`` makes it a payout account: it holds money in
    flight to a bank and nothing else.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    reference = models.TextField(null=True, blank=True, db_collation="C")
    owner_name = models.TextField(default="", blank=True)
    kind = models.TextField(choices=AccountKind.choices, default=AccountKind.LIABILITY)
    code = models.TextField(default="", blank=True)
    currency = models.TextField()
    status = models.TextField(choices=AccountStatus.choices, default=AccountStatus.OPEN)
    min_balance = models.BigIntegerField(null=True, blank=True, default=0)
    metadata = models.JSONField(default=dict, blank=True)
    payout_destination = models.TextField(null=True, blank=True)
    version = models.BigIntegerField(default=0)
    debits_posted = models.BigIntegerField(default=0)
    credits_posted = models.BigIntegerField(default=0)
    debits_pending = models.BigIntegerField(default=0)
    credits_pending = models.BigIntegerField(default=0)
    last_entry_at = models.DateTimeField(null=True, blank=True)
    has_velocity_limits = models.BooleanField(default=False)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_account"
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "reference"],
                name="account_reference_unique_in_ledger",
                condition=Q(reference__isnull=False),
            ),
            models.UniqueConstraint(
                fields=["ledger", "id", "currency"], name="account_currency_of_entries"
            ),
        ]
        indexes = [
            models.Index(
                fields=["ledger", "owner_name"],
                name="account_owner_name",
                opclasses=["uuid_ops", "text_pattern_ops"],
                condition=~Q(owner_name=""),
            ),
        ]

    def __str__(self) -> str:
        return self.reference or self.owner_name or str(self.id)

    @property
    def is_debit_normal(self) -> bool:
        """True where debits raise the balance."""
        return AccountKind(self.kind).is_debit_normal

    @property
    def posted(self) -> int:
        """The posted balance, in minor units."""
        net = self.credits_posted - self.debits_posted
        return -net if self.is_debit_normal else net

    @property
    def pending_out(self) -> int:
        """What the account's own holds would take, in minor units."""
        return self.credits_pending if self.is_debit_normal else self.debits_pending

    @property
    def pending_in(self) -> int:
        """What holds of others would bring, in minor units."""
        return self.debits_pending if self.is_debit_normal else self.credits_pending

    @property
    def available(self) -> int:
        """The posted balance less what is held, in minor units."""
        return self.posted - self.pending_out


class Transfer(models.Model):
    """One immutable movement of one or more postings. Append-only.

    ``effective_at`` is when it happened, ``created_at`` when it was recorded. For a
    capture or a reversal, ``source_postings`` has for each posting the number of the
    posting that it comes from, of the hold or of the reversed transfer. ``permission``
    is the one without which the transfer would have been refused.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.TextField(choices=TransferKind.choices)
    posting_count = models.IntegerField()
    reference = models.TextField(null=True, blank=True, db_collation="C")
    description = models.TextField(default="", blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    effective_at = models.DateTimeField()
    created_at = models.DateTimeField()
    actor = models.TextField()
    client_id = models.UUIDField(null=True, blank=True)
    key_id = models.UUIDField(null=True, blank=True)
    request_id = models.TextField(default="", blank=True)
    idempotency_key = models.TextField(null=True, blank=True)
    reverses_transfer_id = models.UUIDField(null=True, blank=True)
    reverses_transfer = LedgerForeignKey(
        "ledger.Transfer",
        column="reverses_transfer_id",
        related_name="reversals",
        null=True,
    )
    hold_id = models.UUIDField(null=True, blank=True)
    hold = LedgerForeignKey(
        "ledger.Hold", column="hold_id", related_name="captures", null=True
    )
    source_postings = ArrayField(models.IntegerField(), null=True, blank=True)
    reason = models.TextField(null=True, blank=True, choices=ReversalReason.choices)
    permission = models.TextField(null=True, blank=True, choices=Permission.choices)
    exchange_rate = models.DecimalField(
        max_digits=38, decimal_places=18, null=True, blank=True
    )

    class Meta:
        db_table = "ledger_transfer"
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "reference"],
                name="transfer_reference_unique_in_ledger",
                condition=Q(reference__isnull=False),
            ),
        ]
        indexes = [
            models.Index(
                fields=["ledger", "reverses_transfer_id"],
                name="transfer_reverses",
                condition=Q(reverses_transfer_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Entry(models.Model):
    """One side of one posting on one account. Append-only.

    ``account_version`` numbers an account's entries 1, 2, 3 … without gaps;
    ``debits_after`` and ``credits_after`` are the account's running totals.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    transfer_id = models.UUIDField()
    transfer = LedgerForeignKey(Transfer, column="transfer_id", related_name="entries")
    posting_number = models.IntegerField()
    direction = models.TextField(choices=Direction.choices)
    account_id = models.UUIDField()
    account = LedgerForeignKey(Account, column="account_id", related_name="entries")
    currency = models.TextField()
    amount = models.BigIntegerField()
    account_version = models.BigIntegerField()
    debits_after = models.BigIntegerField()
    credits_after = models.BigIntegerField()
    effective_at = models.DateTimeField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_entry"
        ordering = ("-id",)
        verbose_name_plural = "entries"
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "transfer_id", "posting_number", "direction"],
                name="entry_unique_per_posting_side",
            ),
            models.UniqueConstraint(
                fields=["ledger", "account_id", "account_version"],
                name="entry_versions_unique_per_account",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.direction} {self.account_version} of {self.account_id}"


class Hold(models.Model):
    """Money that is reserved and not yet moved: one or more postings held as a unit.

    A hold whose ``expires_at`` has passed is expired in fact, whatever ``status`` says:
    it cannot be captured, and what it held is available.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    status = models.TextField(choices=HoldStatus.choices, default=HoldStatus.ACTIVE)
    posting_count = models.IntegerField()
    reference = models.TextField(null=True, blank=True, db_collation="C")
    description = models.TextField(default="", blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    actor = models.TextField()
    client_id = models.UUIDField(null=True, blank=True)
    key_id = models.UUIDField(null=True, blank=True)
    request_id = models.TextField(default="", blank=True)
    idempotency_key = models.TextField(null=True, blank=True)

    class Meta:
        db_table = "ledger_hold"
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "reference"],
                name="hold_reference_unique_in_ledger",
                condition=Q(reference__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.reference or str(self.id)


class HoldPosting(models.Model):
    """One posting of a hold: what it holds, and what became of it, in minor units.

    ``capture_limit`` is the amount with the over-capture allowance of the day on which
    the hold was made.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    hold_id = models.UUIDField()
    hold = LedgerForeignKey(Hold, column="hold_id", related_name="postings")
    number = models.IntegerField()
    from_account_id = models.UUIDField()
    from_account = LedgerForeignKey(Account, column="from_account_id")
    to_account_id = models.UUIDField()
    to_account = LedgerForeignKey(Account, column="to_account_id")
    currency = models.TextField()
    amount = models.BigIntegerField()
    capture_limit = models.BigIntegerField()
    captured = models.BigIntegerField(default=0)
    released = models.BigIntegerField(default=0)
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_hold_posting"
        ordering = ("hold_id", "number")
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "hold_id", "number"],
                name="hold_posting_number_unique",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.number} of {self.hold_id}"

    @property
    def held(self) -> int:
        """What is still held, in minor units."""
        return self.amount - min(self.captured, self.amount) - self.released


class HoldEvent(models.Model):
    """One thing that happened to a hold, with its actor. Append-only."""

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    hold_id = models.UUIDField()
    hold = LedgerForeignKey(Hold, column="hold_id", related_name="events")
    kind = models.TextField(choices=HoldEventKind.choices)
    captured = models.BigIntegerField(default=0)
    released = models.BigIntegerField(default=0)
    transfer_id = models.UUIDField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    reason = models.TextField(default="", blank=True)
    actor = models.TextField()
    client_id = models.UUIDField(null=True, blank=True)
    key_id = models.UUIDField(null=True, blank=True)
    request_id = models.TextField(default="", blank=True)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_hold_event"
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.kind


class ReversalTotal(models.Model):
    """How much of one posting is reversed, from its first reversal on."""

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    transfer_id = models.UUIDField()
    transfer = LedgerForeignKey(
        Transfer, column="transfer_id", related_name="reversal_totals"
    )
    posting_number = models.IntegerField()
    amount = models.BigIntegerField()
    reversed = models.BigIntegerField()

    class Meta:
        db_table = "ledger_reversal_total"
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "transfer_id", "posting_number"],
                name="reversal_total_unique_per_posting",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.reversed} of {self.amount}"


class VelocityLimit(models.Model):
    """The most that an account may move in a window of time; null means no limit."""

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account_id = models.UUIDField()
    account = LedgerForeignKey(
        Account, column="account_id", related_name="velocity_limits"
    )
    direction = models.TextField(choices=LimitDirection.choices)
    period = models.TextField(choices=LimitPeriod.choices)
    max_amount = models.BigIntegerField(null=True, blank=True)
    max_count = models.BigIntegerField(null=True, blank=True)

    class Meta:
        db_table = "ledger_velocity_limit"
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "account_id", "direction", "period"],
                name="velocity_limit_unique_per_window",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.direction} per {self.get_period_display()}"


class Usage(models.Model):
    """Running totals of what counts against an account's velocity limits.

    One row for each instant at which something did; only accounts with limits have any.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account_id = models.UUIDField()
    account = LedgerForeignKey(Account, column="account_id")
    created_at = models.DateTimeField()
    out_amount = models.BigIntegerField()
    out_count = models.BigIntegerField()
    in_amount = models.BigIntegerField()
    in_count = models.BigIntegerField()

    class Meta:
        db_table = "ledger_usage"
        ordering = ("-id",)
        verbose_name_plural = "usage"
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "account_id", "created_at"],
                name="usage_unique_per_instant",
            ),
        ]

    def __str__(self) -> str:
        return str(self.created_at)


class ScheduledTransfer(models.Model):
    """A transfer to be posted at ``due_at``, under the rules of that time.

    ``postings`` is a list of objects with ``from_account_id``, ``to_account_id`` and
    ``amount``. A refusal before ``retry_until`` is tried again.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    status = models.TextField(
        choices=ScheduledStatus.choices, default=ScheduledStatus.SCHEDULED
    )
    due_at = models.DateTimeField()
    postings = models.JSONField()
    reference = models.TextField(null=True, blank=True, db_collation="C")
    description = models.TextField(default="", blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    retry_until = models.DateTimeField(null=True, blank=True)
    next_attempt_at = models.DateTimeField()
    attempt_count = models.IntegerField(default=0)
    last_problem = models.JSONField(null=True, blank=True)
    transfer_id = models.UUIDField(null=True, blank=True)
    transfer = LedgerForeignKey(Transfer, column="transfer_id", null=True)
    end_reason = models.TextField(default="", blank=True)
    actor = models.TextField()
    client_id = models.UUIDField(null=True, blank=True)
    key_id = models.UUIDField(null=True, blank=True)
    request_id = models.TextField(default="", blank=True)
    idempotency_key = models.TextField(null=True, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "ledger_scheduled_transfer"
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.reference or str(self.id)


class Asset(models.Model):
    """A unit of account that a ledger defines beside ISO 4217's currencies.

    Append-only. ``exponent`` is the number of decimals of its minor unit, 0 to 8.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    code = models.TextField(db_collation="C")
    name = models.TextField()
    exponent = models.SmallIntegerField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_asset"
        ordering = ("code",)
        constraints = [
            models.UniqueConstraint(
                fields=["ledger", "code"], name="asset_code_unique_in_ledger"
            ),
        ]

    def __str__(self) -> str:
        return self.code


class Change(models.Model):
    """One change of an account or of the ledger itself, with its actor. Append-only.

    ``old`` and ``new`` map each changed field to its value. They may hold personal
    data (an owner's name, metadata), so they, and nothing else of the row, can be
    erased: both set to null together with ``erased_at``.
    """

    ledger = models.ForeignKey(
        Ledger, on_delete=models.PROTECT, db_constraint=False, db_index=False
    )
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account_id = models.UUIDField(null=True, blank=True)
    account = LedgerForeignKey(
        Account, column="account_id", related_name="changes", null=True
    )
    fields = models.JSONField(help_text="names of the changed fields")
    old = models.JSONField(null=True, blank=True)
    new = models.JSONField(null=True, blank=True)
    actor = models.TextField()
    client_id = models.UUIDField(null=True, blank=True)
    key_id = models.UUIDField(null=True, blank=True)
    request_id = models.TextField(default="", blank=True)
    created_at = models.DateTimeField()
    erased_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "ledger_change"
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=["ledger", "account_id", "id"], name="ledger_change_account"
            ),
        ]

    def __str__(self) -> str:
        return ", ".join(self.fields)


class AuditRun(models.Model):
    """The result of one audit of every ledger. Append-only."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()
    is_sound = models.BooleanField()
    difference = models.DecimalField(max_digits=40, decimal_places=0)
    counts = models.JSONField(default=dict)
    findings = models.JSONField(default=list)

    class Meta:
        db_table = "ledger_audit_run"
        ordering = ("-id",)

    def __str__(self) -> str:
        return "sound" if self.is_sound else f"{len(self.findings)} findings"


class IntegrityStatus(models.Model):
    """The one row that ``/health`` reads, recomputed every few seconds by beat.

    ``integrity_sum`` is, over every ledger and currency, the absolute value of credits
    minus debits, plus the absolute differences that the last audit found. ``took`` is
    how long that was computed.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    integrity_sum = models.DecimalField(max_digits=40, decimal_places=0)
    computed_at = models.DateTimeField()
    took = models.DurationField(default=timedelta)

    class Meta:
        db_table = "ledger_integrity_status"

    def __str__(self) -> str:
        return str(self.integrity_sum)
