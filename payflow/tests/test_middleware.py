"""Every request has an id, answers with it, and leaves one line in the log."""

import logging
from typing import Any
from uuid import UUID

import pytest
import structlog
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory

from payflow.middleware import RequestContextMiddleware


def handled(**headers: str) -> tuple[HttpRequest, HttpResponse, dict[str, Any]]:
    """A request through the middleware, its response, and what was bound to logs."""
    bound: dict[str, Any] = {}

    def view(request: HttpRequest) -> HttpResponse:
        bound.update(structlog.contextvars.get_contextvars())
        return HttpResponse()

    request = RequestFactory().get("/", headers=headers)
    return request, RequestContextMiddleware(view)(request), bound


def test_a_well_formed_id_of_the_caller_is_kept() -> None:
    request, response, bound = handled(x_request_id="a.B_c-1")

    assert request.request_id == "a.B_c-1"  # type: ignore[attr-defined]
    assert response["X-Request-ID"] == "a.B_c-1"
    assert bound == {"request_id": "a.B_c-1"}


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'a"b', "ä", "a\n", "a/b"])
def test_any_other_id_is_replaced_by_a_new_one(given: str) -> None:
    _, response, _ = handled(x_request_id=given)

    assert UUID(response["X-Request-ID"]).version == 7


def test_nothing_of_a_request_is_left_in_the_log_context() -> None:
    structlog.contextvars.bind_contextvars(left="over")

    _, _, bound = handled(x_request_id="one")

    assert bound == {"request_id": "one"}
    assert structlog.contextvars.get_contextvars() == {}


def test_a_request_leaves_one_line(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "payflow.middleware"):
        response = client.get("/livez", headers={"X-Request-ID": "r1"})

    [record] = [r for r in caplog.records if r.name == "payflow.middleware"]
    event: dict[str, Any] = record.msg  # type: ignore[assignment]
    assert record.levelno == logging.DEBUG, "probes are not for everybody's log"
    assert event["event"] == "request_finished"
    assert event["method"] == "GET"
    assert event["route"] == "livez"
    assert event["status"] == response.status_code == 200
    assert event["request_id"] == response["X-Request-ID"] == "r1"
    assert event["duration_ms"] >= 0
