"""``/health``: the books' health in one line, however large they are."""

from django.http import HttpRequest, HttpResponse

from ledger.services.integrity import integrity_get
from payflow.api.rendering import to_json
from payflow.clock import now


def health(request: HttpRequest) -> HttpResponse:
    """200 and ``healthy``, or 503 and ``unhealthy``, with the integrity sum."""
    integrity = integrity_get(now=now())
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
