"""Every request has an id, answers with it, and leaves one line in the log."""

import logging
from typing import Any
from uuid import UUID

import pytest
import structlog
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import ResolverMatch

from payflow.middleware import LargeBodyMiddleware, RequestContextMiddleware


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


def large_request() -> HttpRequest:
    request = HttpRequest()
    request.method = "POST"
    view = lambda request: HttpResponse()  # noqa: E731
    view.body_limit = "BATCH_MAX_BYTES"  # type: ignore[attr-defined]
    request.resolver_match = ResolverMatch(view, (), {})
    return request


def test_no_more_large_bodies_are_let_in_than_there_are_permits(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LARGE_BODIES_AT_ONCE = 1
    monkeypatch.setattr("payflow.middleware.LARGE_BODY_WAIT_SECONDS", 0.01)
    refused: list[int] = []

    def while_one_is_in(request: HttpRequest) -> HttpResponse:
        if not refused:
            refused.append(middleware(large_request()).status_code)
        return HttpResponse()

    middleware = LargeBodyMiddleware(while_one_is_in)

    assert middleware(large_request()).status_code == 200
    assert refused == [503]
    # The permit was given back.
    assert middleware(large_request()).status_code == 200


def test_other_bodies_need_no_permit(settings: Any) -> None:
    settings.LARGE_BODIES_AT_ONCE = 0
    middleware = LargeBodyMiddleware(lambda request: HttpResponse())
    request = large_request()
    request.method = "GET"
    plain = HttpRequest()
    plain.method = "POST"
    plain.resolver_match = None

    assert middleware(request).status_code == 200
    assert middleware(plain).status_code == 200
