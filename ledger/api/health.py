"""``/health``: the books' health in one line, however large they are."""

import structlog
from django.db import Error
from django.http import HttpRequest, HttpResponse

from ledger.services.integrity import Integrity, integrity_get
from payflow.api.rendering import to_json

log = structlog.get_logger(__name__)


class _LastKnown:
    """The sum that this process has read last; 0 before the first."""

    integrity_sum = 0


def health(request: HttpRequest) -> HttpResponse:
    """200 and ``healthy``, or 503 and ``unhealthy``, with the integrity sum.

    Without PostgreSQL nobody knows whether the books balance, so they are not called
    healthy; the sum is then the last one that was read.
    """
    try:
        integrity = integrity_get()
    except Error as error:
        log.error("database_unavailable", error=type(error).__name__)
        integrity = Integrity(_LastKnown.integrity_sum, is_healthy=False)
    _LastKnown.integrity_sum = integrity.integrity_sum
    return HttpResponse(
        to_json(
            {
                "status": "healthy" if integrity.is_healthy else "unhealthy",
                "ledger_integrity_sum": integrity.integrity_sum,
            }
        ),
        status=200 if integrity.is_healthy else 503,
        content_type="application/json",
    )
