"""The few pages outside of the API and the admin: the root, and what problems mean."""

from django.http import Http404, HttpRequest, HttpResponse

from payflow.api.problems import PROBLEMS
from payflow.api.rendering import to_json


def root(request: HttpRequest) -> HttpResponse:
    """Where things are, for whoever opens the address."""
    return HttpResponse(
        to_json(
            {
                "name": "PayFlow",
                "api": "/v1",
                "transfer": "/transfer",
                "admin": "/admin/",
                "health": "/health",
                "ready": "/readyz",
                "problems": "/problems",
            }
        ),
        content_type="application/json",
    )


def problem_index(request: HttpRequest) -> HttpResponse:
    """Every problem code, with its status, title and remedy."""
    return HttpResponse(
        to_json({"data": [_document(code) for code in PROBLEMS]}),
        content_type="application/json",
    )


def problem(request: HttpRequest, code: str) -> HttpResponse:
    """One problem code: what a problem document's ``type`` leads to."""
    if code not in PROBLEMS:
        raise Http404
    return HttpResponse(to_json(_document(code)), content_type="application/json")


def _document(code: str) -> dict[str, object]:
    kind = PROBLEMS[code]
    return {
        "code": code,
        "status": kind.status,
        "title": kind.title,
        "remedy": kind.remedy,
        "retryable": kind.retryable,
    }
