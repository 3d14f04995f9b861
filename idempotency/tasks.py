"""The retention of stored responses."""

from datetime import timedelta

import structlog
from celery import shared_task
from django.conf import settings

from idempotency.services import ledgers_with_responses, responses_purge
from payflow.db import transaction_owner

log = structlog.get_logger(__name__)

#: The most batches of one run and ledger; the next run goes on where this one stopped.
MAX_BATCHES = 200


@shared_task(name="idempotency.purge_responses")
def purge_responses() -> None:
    """Empties the stored responses that are older than the retention."""
    retention = timedelta(days=settings.IDEMPOTENCY_RESPONSE_RETENTION_DAYS)
    total = 0
    for ledger_id in ledgers_with_responses():
        for _ in range(MAX_BATCHES):
            with transaction_owner():
                purged = responses_purge(ledger_id=ledger_id, older_than=retention)
            total += purged
            if not purged:
                break
    if total:
        log.info("responses_purged", count=total)
