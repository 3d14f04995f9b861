"""The outermost middleware, and the one where the API's requests leave the others."""

import re
import time
from collections.abc import Callable
from threading import BoundedSemaphore

import structlog
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, resolve

from payflow.api.parsing import DEFAULT_BODY_LIMIT
from payflow.api.rendering import problem_response
from payflow.errors import Problem
from payflow.ids import new_id
from payflow.metrics import request_finished

__all__ = ["ApiViewMiddleware", "LargeBodyMiddleware", "RequestContextMiddleware"]

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

#: Asked every few seconds by machines: logged for those who look for it.
PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})

#: Load balancers ask these by address, and they say nothing of the books.
ANY_HOST = frozenset({"/livez", "/readyz"})

#: How long a batch waits for others to be done.
LARGE_BODY_WAIT_SECONDS = 10.0

logger = structlog.get_logger(__name__)


class RequestContextMiddleware:
    """Sets ``request.request_id``, binds it to all logs, and answers with it.

    A well-formed ``X-Request-ID`` of the caller is kept, so that one id follows a
    request through all systems; anything else is replaced by a new UUIDv7.

    Refuses requests with a Host that ``ALLOWED_HOSTS`` does not name; Django itself
    looks at it only where a view asks for it, and the API's do not.

    Finds the request's view, so that the middleware after it knows what is wanted.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answers ``request`` and logs ``request_finished``."""
        started = time.perf_counter()
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        request_id = given if REQUEST_ID.fullmatch(given) else str(new_id())
        request.request_id = request_id  # type: ignore[attr-defined]
        # A thread serves many requests: what an earlier one left must not stay.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            response = _refused_host(request) or self._answered(request)
            response["X-Request-ID"] = request_id
            if not response.streaming and "Content-Length" not in response:
                # Without it gunicorn would send every answer in chunks.
                response["Content-Length"] = str(len(response.content))
            if request.method == "HEAD" and not response.streaming:
                # The headers tell of a body that is not sent (RFC 9110, section 9.3.2).
                response.content = b""
            match = request.resolver_match
            # The route and not the path: it groups, and holds no ids or names.
            route = match.route if match else None
            seconds = time.perf_counter() - started
            request_finished(
                route=route,
                method=request.method,
                status=response.status_code,
                seconds=seconds,
            )
            log = logger.debug if request.path in PROBES else logger.info
            log(
                "request_finished",
                method=request.method,
                route=route,
                status=response.status_code,
                duration_ms=round(seconds * 1000, 1),
            )
            return response
        finally:
            structlog.contextvars.clear_contextvars()

    def _answered(self, request: HttpRequest) -> HttpResponse:
        try:
            request.resolver_match = resolve(request.path_info)
        except Resolver404:
            # Django itself answers it, behind all middleware.
            request.resolver_match = None
        return self.get_response(request)


class ApiViewMiddleware:
    """Calls the API's views itself: what follows it in ``MIDDLEWARE`` is for pages.

    Sessions, CSRF, messages and static files are no business of a request that brings
    its key with it, and would cost it more than its own view.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answers ``request`` by its view if that is no page."""
        match = request.resolver_match
        if match is None or not getattr(match.func, "is_api", False):
            return self._get_response(request)
        response: HttpResponse = match.func(request, *match.args, **match.kwargs)
        return response


class LargeBodyMiddleware:
    """Lets in a few requests with large bodies at a time; the others wait unread.

    A body of a batch becomes many times its size in memory while it is worked on, and
    the number of connections is no bound on that.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._permits = BoundedSemaphore(settings.LARGE_BODIES_AT_ONCE)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answers ``request``, if it is about a large body when one may be read."""
        match = request.resolver_match
        view = match.func if match else None
        limit = getattr(view, "body_limit", DEFAULT_BODY_LIMIT)
        if limit == DEFAULT_BODY_LIMIT or request.method not in ("POST", "PUT"):
            return self._get_response(request)
        if not self._permits.acquire(timeout=LARGE_BODY_WAIT_SECONDS):
            return problem_response(
                Problem(
                    "ledger_busy",
                    "This server works on as many batches as it can; nothing was done.",
                ),
                retry_after_seconds=1,
            )
        try:
            return self._get_response(request)
        finally:
            self._permits.release()


def _refused_host(request: HttpRequest) -> HttpResponse | None:
    if request.path_info in ANY_HOST:
        return None
    try:
        request.get_host()
    except DisallowedHost:
        return problem_response(
            Problem(
                "invalid_request",
                "The Host header names no host that this server answers for.",
                {"errors": []},
            )
        )
    return None
