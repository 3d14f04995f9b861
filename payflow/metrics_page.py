"""``/metrics``, where Prometheus reads."""

import ipaddress
import secrets

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST

from payflow.api.rendering import problem_response
from payflow.errors import Problem
from payflow.metrics import metrics_text

#: Headers of requests that a proxy has passed on; on this host it has our own address.
_SIGNS_OF_A_PROXY = (
    *("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO"),
    *("HTTP_X_REAL_IP", "HTTP_VIA"),
)


def metrics(request: HttpRequest) -> HttpResponse:
    """The metrics, for callers with ``METRICS_TOKEN``.

    Where none is set, for callers on this host: a request that a proxy passes on is not
    one of theirs.
    """
    if not settings.METRICS_ENABLED:
        return problem_response(Problem("not_found", "Metrics are switched off."))
    if not _may_read(request):
        return problem_response(
            Problem("unauthenticated", "Metrics are for the operators.")
        )
    return HttpResponse(metrics_text(), content_type=CONTENT_TYPE_LATEST)


def _may_read(request: HttpRequest) -> bool:
    if settings.METRICS_TOKEN:
        given = request.META.get("HTTP_AUTHORIZATION", "")
        wanted = f"Bearer {settings.METRICS_TOKEN}"
        return secrets.compare_digest(given.encode(), wanted.encode())
    if any(name in request.META for name in _SIGNS_OF_A_PROXY):
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
