"""Views that are no part of the versioned API, and answer its callers all the same."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from payflow.api.rendering import problem_response
from payflow.errors import Problem

_SAFE = ("GET", "HEAD")


def plain_view(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A view that only shows something; what it refuses, it refuses as a problem.

    It changes nothing and knows no session, so there is nothing to forge: a POST gets
    405 and not Django's page about cookies.
    """

    @wraps(view)
    def safe(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method in _SAFE:
            return view(request, *args, **kwargs)
        response = problem_response(
            Problem("method_not_allowed", f"{request.method} is not known.")
        )
        response["Allow"] = ", ".join(_SAFE)
        return response

    safe.is_api = True  # type: ignore[attr-defined]
    return csrf_exempt(safe)
