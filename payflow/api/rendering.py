"""From resources and problems to the exact bytes of a response."""

import json
from typing import Any
from uuid import UUID

import orjson
from django.http import HttpResponse
from rest_framework.renderers import BaseRenderer

from payflow.api.problems import PROBLEMS, STORED_REFUSAL_STATUSES
from payflow.errors import Problem, ProblemError
from payflow.execution import Rendered

PROBLEM_CONTENT_TYPE = "application/problem+json"

#: How many items of a list are encoded by one call: about a millisecond of work.
ENCODED_AT_ONCE = 200
#: What the standard library's encoder refuses, is refused here too.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def _text_of(value: object) -> str:
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{value!r} has no form in JSON")


_EXACT = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_text_of
)


def to_json(data: Any) -> bytes:
    """Compact UTF-8 JSON (RFC 8259), with UUIDs as texts.

    Raises:
        TypeError: ``data`` holds what JSON has no form for.
    """
    try:
        return orjson.dumps(data, option=_OPTIONS)
    except orjson.JSONEncodeError:
        # It takes integers of 64 bits; the total of a report may have more.
        return _EXACT.encode(data).encode()


class JsonItems:
    """The items of a JSON list, added one after the other.

    Documents are encoded many at a time, as :func:`to_json` does: a call for each of
    some hundred bytes costs more than the encoding.
    """

    def __init__(self) -> None:
        self._documents: list[Any] = []
        self._texts: list[bytes] = []

    def add(self, document: Any) -> None:
        """Adds an item that is yet to be encoded."""
        self._documents.append(document)
        if len(self._documents) >= ENCODED_AT_ONCE:
            self._encode()

    def add_text(self, text: bytes) -> None:
        """Adds an item that is JSON already."""
        self._encode()
        self._texts.append(text)

    def to_json(self) -> bytes:
        """All items, with commas between them and without brackets."""
        self._encode()
        return b",".join(self._texts)

    def _encode(self) -> None:
        if self._documents:
            self._texts.append(to_json(self._documents)[1:-1])
            self._documents.clear()


def problem_document(problem: Problem) -> dict[str, Any]:
    """The RFC 9457 document of a problem, without anything of a single request."""
    kind = PROBLEMS[problem.code]
    return {
        "type": f"/problems/{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        "code": problem.code,
        "retryable": kind.retryable,
        **problem.fields,
    }


def render_problem(problem: Problem) -> Rendered:
    """A returned problem as a response that is stored with the key.

    Raises:
        ProblemError: its status is none of those that commit, so it must roll back.
    """
    if PROBLEMS[problem.code].status not in STORED_REFUSAL_STATUSES:
        raise ProblemError.of(problem)
    return render_item_problem(problem)


def render_item_problem(problem: Problem) -> Rendered:
    """A problem of whatever status as the outcome of one item of a batch."""
    return Rendered(
        status=PROBLEMS[problem.code].status,
        body=to_json(problem_document(problem)),
        headers={"Content-Type": PROBLEM_CONTENT_TYPE},
    )


def problem_response(
    problem: Problem, *, retry_after_seconds: int | None = None
) -> HttpResponse:
    """A problem as a response that is sent and not stored."""
    response = HttpResponse(
        to_json(problem_document(problem)),
        status=PROBLEMS[problem.code].status,
        content_type=PROBLEM_CONTENT_TYPE,
    )
    if retry_after_seconds is not None:
        response["Retry-After"] = str(retry_after_seconds)
    if response.status_code == 401:
        response["WWW-Authenticate"] = 'Bearer realm="payflow"'
    return response


def problem_error_response(error: ProblemError) -> HttpResponse:
    """The response of a problem that was raised."""
    return problem_response(
        error.problem, retry_after_seconds=error.retry_after_seconds
    )


def http_response(rendered: Rendered) -> HttpResponse:
    """The Django response that sends ``rendered`` byte for byte."""
    response = HttpResponse(
        rendered.body,
        status=rendered.status,
        content_type=rendered.headers.get("Content-Type", "application/json"),
    )
    for name, value in rendered.headers.items():
        response[name] = value
    if rendered.is_replay:
        response["Idempotent-Replayed"] = "true"
    return response


class JSONRenderer(BaseRenderer):
    """The API's one renderer."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Any = None,
    ) -> bytes:
        """``data`` as compact JSON; nothing for an empty body."""
        return b"" if data is None else to_json(data)
