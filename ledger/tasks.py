"""The ledger's periodic tasks."""

from celery import shared_task

from ledger.services.integrity import integrity_refresh


@shared_task(name="ledger.refresh_integrity")
def refresh_integrity() -> None:
    """Computes the number behind ``/health`` anew."""
    integrity_refresh()
