"""The ledger's tables: fields, named constraints and cheap properties; no writes.

The physical tables are written in ``migrations/sql``: primary keys are
``(ledger_id, id)`` and every unique index and foreign key between these tables carries
``ledger_id``. Django's state keeps ``id`` alone as the key, because the admin cannot
show composite ones. Amounts are integers of minor units; instants are UTC.
"""

from django.db import models
from django.db.models import Q

from ledger.enums import AccountKind, AccountStatus, Direction, TransferKind
from payflow.fields import LedgerForeignKey
from payflow.ids import new_id


class Ledger(models.Model):
    """An isolated set of books. Transfers never cross ledgers.

    ``time_zone`` is an IANA name and defines the ledger's days and months.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    slug = models.TextField(unique=True, db_collation="C")
    name = models.TextField()
    time_zone = models.TextField(default="UTC")
    settings = models.JSONField(default=dict, blank=True)
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

    ``effective_at`` is when it happened, ``created_at`` when it was recorded.
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
    minus debits, plus the absolute differences that the last audit found.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    integrity_sum = models.DecimalField(max_digits=40, decimal_places=0)
    computed_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_integrity_status"

    def __str__(self) -> str:
        return str(self.integrity_sum)
