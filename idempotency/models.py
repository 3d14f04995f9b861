"""Which keys were used, for what, and with what outcome."""

from django.db import models

from payflow.ids import new_id


class IdempotencyKey(models.Model):
    """One key of one client and its outcome, written in the effect's transaction.

    A row is never deleted; after retention only the stored headers and body are
    emptied (``purged_at``), so a key that once worked never works twice.
    ``digests`` maps each top-level field of the request to a SHA-256 of its canonical
    form, so that a reuse with another body can name the fields that differ.
    """

    ledger_id = models.UUIDField(editable=False)
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    client_id = models.UUIDField()
    key = models.TextField()
    operation = models.TextField()
    digests = models.JSONField()
    status = models.SmallIntegerField(help_text="the HTTP status of the outcome")
    resource_type = models.TextField(default="", blank=True)
    resource_id = models.UUIDField(null=True, blank=True)
    response_headers = models.JSONField(null=True, blank=True)
    response_body = models.BinaryField(null=True, blank=True)
    created_at = models.DateTimeField()
    purged_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "idempotency_key"
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=["ledger_id", "client_id", "key"],
                name="idempotency_key_unique_per_client",
            ),
        ]
        indexes = [
            models.Index(
                fields=["ledger_id", "created_at"],
                name="idempotency_key_unpurged",
                condition=models.Q(purged_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return self.key
