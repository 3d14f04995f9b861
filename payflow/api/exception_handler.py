"""Everything that is raised in a view becomes a problem, and rolls back."""

from typing import Any

import structlog
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse
from django.views import csrf
from rest_framework import exceptions

from payflow.api.rendering import problem_error_response, problem_response
from payflow.db import problem_of
from payflow.errors import Problem, ProblemError

log = structlog.get_logger(__name__)

_INTERNAL = Problem(
    "internal_error",
    "The request failed on our side. Whether it was carried out, a retry with the same "
    "idempotency key finds out.",
)


def problem_exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """DRF's ``EXCEPTION_HANDLER``: a problem+json response for every exception.

    By the time it runs, ``execute`` has rolled back whatever was open. The body of a
    500 says nothing of the exception; the log says everything.
    """
    if isinstance(exc, DatabaseError | InterfaceError):
        exc = problem_of(exc)
    if isinstance(exc, ProblemError):
        return problem_error_response(exc)
    if isinstance(exc, Http404 | exceptions.NotFound):
        return problem_response(Problem("not_found", "Nothing is found there."))
    if isinstance(exc, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        return problem_response(Problem("unauthenticated", str(exc.detail)))
    if isinstance(exc, PermissionDenied | exceptions.PermissionDenied):
        return problem_response(
            Problem("permission_denied", "This client may not do that.")
        )
    if isinstance(exc, exceptions.MethodNotAllowed):
        response = problem_response(
            Problem("method_not_allowed", f"{context['request'].method} is not known.")
        )
        response["Allow"] = ", ".join(context["view"].allowed_methods)
        return response
    if isinstance(exc, exceptions.NotAcceptable):
        return problem_response(Problem("not_acceptable", "Only JSON is spoken here."))
    if isinstance(exc, exceptions.UnsupportedMediaType):
        return problem_response(
            Problem("unsupported_media_type", "The body must be application/json.")
        )
    log.error("request_failed", exc_info=exc)
    return problem_response(_INTERNAL)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """The problem for a path that no URL pattern knows."""
    return problem_response(Problem("not_found", "There is no such path."))


def handler500(request: HttpRequest) -> HttpResponse:
    """The problem for what broke outside of a view."""
    return problem_response(_INTERNAL)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's page for people in the admin, and a problem for everybody else."""
    if request.path == "/admin" or request.path.startswith("/admin/"):
        return csrf.csrf_failure(request, reason=reason)
    return problem_response(
        Problem("permission_denied", "This is not done from another site's page.")
    )


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """The problem for what Django itself found suspicious, a foreign Host say."""
    return problem_response(
        Problem("invalid_request", "The request is not acceptable.", {"errors": []})
    )
