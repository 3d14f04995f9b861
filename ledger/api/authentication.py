"""Who is calling: an API key names a client of one ledger.

The middleware runs before idempotency, because a key's past answers may be shown to
nobody but the client that got them.
"""

import ipaddress
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission

from ledger.services.clients import principal_of_client, principal_of_token
from ledger.types import Principal
from payflow.actors import Actor
from payflow.api.rendering import problem_error_response, problem_response
from payflow.clock import now
from payflow.db import problem_of
from payflow.errors import Problem, ProblemError

#: The demo books' ledger and client, made by ``manage.py seed_accounts``.
DEMO_LEDGER = "demo"
DEMO_CLIENT = "demo"


class ApiKeyMiddleware:
    """Sets ``request.principal`` for API views, or answers 401."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Authenticates requests to views that need a client."""
        match = request.resolver_match
        if match is None or not getattr(match.func, "needs_client", False):
            return self._get_response(request)
        try:
            request.principal = _authenticate(request)  # type: ignore[attr-defined]
        except AuthenticationFailed as error:
            return problem_response(Problem("unauthenticated", str(error.detail)))
        except (DatabaseError, InterfaceError) as error:
            problem = problem_of(error)
            if not isinstance(problem, ProblemError):
                raise
            return problem_error_response(problem)
        return self._get_response(request)


def _authenticate(request: HttpRequest) -> Principal:
    header = request.META.get("HTTP_AUTHORIZATION", "")
    if not header:
        if settings.DEMO_ACCESS_WITHOUT_KEY and _is_loopback(request):
            return _demo_principal()
        raise AuthenticationFailed("No API key was sent.")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise AuthenticationFailed("The Authorization header is not a Bearer key.")
    principal = principal_of_token(token=token.strip(), now=now())
    if principal is None:
        raise AuthenticationFailed("The API key is unknown, revoked or expired.")
    return principal


def _is_loopback(request: HttpRequest) -> bool:
    # A page of another site that resolves its name to 127.0.0.1 has a foreign Host.
    request.get_host()
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _demo_principal() -> Principal:
    principal = principal_of_client(ledger_slug=DEMO_LEDGER, name=DEMO_CLIENT)
    if principal is None:
        raise AuthenticationFailed(
            "The demo books are missing: run `manage.py seed_accounts`."
        )
    return principal


def actor_of(request: Any) -> Actor:
    """The actor that the request's changes are recorded under."""
    principal: Principal = request.principal
    return Actor(
        label=f"client:{principal.client_name}",
        client_id=principal.client_id,
        key_id=principal.key_id,
        request_id=getattr(request, "request_id", ""),
        permissions=principal.permissions,
    )


class ClientAuthentication(BaseAuthentication):
    """Hands the middleware's finding to DRF."""

    def authenticate(self, request: Any) -> tuple[Any, None] | None:
        """The principal as DRF's user."""
        principal = getattr(request._request, "principal", None)
        return None if principal is None else (principal, None)

    def authenticate_header(self, request: Any) -> str:
        """Makes DRF answer 401, not 403."""
        return 'Bearer realm="payflow"'


class IsApiClient(BasePermission):
    """Lets API clients in, and nobody else: staff sessions do not call the API."""

    def has_permission(self, request: Any, view: Any) -> bool:
        """True for a request with a principal."""
        return isinstance(request.user, Principal)
