"""What lies beside the API: which methods and hosts it answers, and how it refuses."""

from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client, RequestFactory

from ledger.services.integrity import integrity_get, integrity_refresh
from payflow.api.exception_handler import csrf_failure
from payflow.embedded.ports import choose_port

PLAIN = ["/", "/health", "/livez", "/readyz", "/problems", "/problems/not_found"]


def problem(response: Any) -> dict[str, Any]:
    assert response["Content-Type"] == "application/problem+json", response.content
    document: dict[str, Any] = response.json()
    assert response.status_code == document["status"]
    return document


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("method", ["post", "put", "delete", "options"])
def test_a_method_that_changes_things_is_refused_as_a_problem(db, path, method):
    client = Client(enforce_csrf_checks=True)

    response = getattr(client, method)(path)

    assert problem(response)["code"] == "method_not_allowed"
    assert response["Allow"] == "GET, HEAD"


def test_a_forged_request_is_a_problem_outside_of_the_admin():
    factory = RequestFactory()

    outside = csrf_failure(factory.post("/v1/transfers"), "no cookie")
    inside = csrf_failure(factory.post("/admin/login/"), "no cookie")

    assert outside.status_code == inside.status_code == 403
    assert outside["Content-Type"] == "application/problem+json"
    assert inside["Content-Type"].startswith("text/html")


def test_the_csrf_setting_is_the_view_that_was_tested(settings):
    path = f"{csrf_failure.__module__}.{csrf_failure.__name__}"

    assert path == settings.CSRF_FAILURE_VIEW
    client = Client(enforce_csrf_checks=True)
    assert client.post("/admin/login/")["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/", "/health", "/v1/me", "/nothing", "/transfer"])
def test_a_host_that_is_not_ours_is_refused(db, settings, path):
    settings.ALLOWED_HOSTS = ["ledger.example.com"]

    refused = Client().get(path, headers={"Host": "evil.example.com"})
    ours = Client().get(path, headers={"Host": "ledger.example.com"})

    assert refused.status_code == 400
    assert problem(refused)["code"] == "invalid_request"
    assert refused["X-Request-ID"]
    assert ours.status_code != 400


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_are_answered_by_address(db, settings, path):
    settings.ALLOWED_HOSTS = ["ledger.example.com"]

    assert Client().get(path, headers={"Host": "192.0.2.7"}).status_code == 200


def test_health_without_postgresql_is_unhealthy_with_the_last_known_sum(
    committed_db, monkeypatch
):
    from ledger.api import health

    connections.close_all()
    monkeypatch.setitem(connection.settings_dict, "PORT", str(choose_port()))
    for known in (0, 7):
        monkeypatch.setattr(health._LastKnown, "integrity_sum", known)

        response = Client(raise_request_exception=False).get("/health")

        assert response.status_code == 503
        assert response.json() == {"status": "unhealthy", "ledger_integrity_sum": known}


@pytest.mark.parametrize(("age", "is_healthy"), [(0, True), (25, True), (35, False)])
def test_the_age_of_the_sum_is_told_by_postgresql(db, monkeypatch, age, is_healthy):
    def another_hosts_clock() -> None:
        raise AssertionError("only PostgreSQL's clock may be asked")

    monkeypatch.setattr("payflow.clock.now", another_hosts_clock)
    integrity_refresh()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE ledger_integrity_status SET integrity_sum = 0,"
            " computed_at = clock_timestamp() - make_interval(secs => %s)",
            [age],
        )

    assert integrity_get().is_healthy is is_healthy
