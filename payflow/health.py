"""``/livez`` and ``/readyz``, for what restarts processes and what balances load."""

from typing import Any

import structlog
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from payflow.api.rendering import to_json
from payflow.db import database_refusals

log = structlog.get_logger(__name__)


def livez(request: HttpRequest) -> HttpResponse:
    """200 as long as the process answers; it asks nobody."""
    return HttpResponse(to_json({"status": "alive"}), content_type="application/json")


def readyz(request: HttpRequest) -> HttpResponse:
    """200 if this process can post transfers now, else 503 with the reasons.

    Valkey is reported and not demanded: without it everything works, more slowly.
    """
    try:
        reasons = database_refusals()
    except Error as error:
        log.error("database_unavailable", error=type(error).__name__)
        reasons = ["PostgreSQL does not answer"]
    document: dict[str, Any] = {
        "status": "not ready" if reasons else "ready",
        "valkey": _valkey_state(),
    }
    if reasons:
        document["reasons"] = reasons
    return HttpResponse(
        to_json(document),
        status=503 if reasons else 200,
        content_type="application/json",
    )


def _valkey_state() -> str:
    try:
        get_redis_connection("default").ping()
    except (RedisError, OSError):
        return "down"
    return "up"
