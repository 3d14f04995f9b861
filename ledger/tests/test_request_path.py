"""What stands between a request and its view, and that nothing goes round it."""

from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.views import APIView

import ledger.api.urls
from ledger.services.clients import api_key_create
from ledger.tests.factories import AccountFactory, ApiClientFactory, LedgerFactory
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

#: What every answer has, whoever gave it.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def views(patterns: list[Any]) -> list[Any]:
    found = []
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            found += views(pattern.url_patterns)
        elif isinstance(pattern, URLPattern):
            found.append(pattern.callback)
    return found


def api_views() -> list[Any]:
    return [
        view
        for view in views(get_resolver().url_patterns)
        if issubclass(getattr(view, "cls", object), APIView)
    ]


class Caller:
    def __init__(self) -> None:
        self.ledger = LedgerFactory()
        key = api_key_create(client=ApiClientFactory(ledger=self.ledger))
        self.http = Client(headers={"Authorization": f"Bearer {key}"})
        self.body = {
            "from_account_id": str(AccountFactory(ledger=self.ledger, balance=9).id),
            "to_account_id": str(AccountFactory(ledger=self.ledger).id),
            "amount": 5,
        }

    def post(self, key: str | None = None, **headers: str) -> Any:
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.http.post(
            "/v1/transfers", self.body, "application/json", headers=headers
        )


@pytest.fixture
def caller(db: None) -> Caller:
    return Caller()


def test_that_every_api_view_demands_a_client_before_it_is_called():
    wrong = [
        view.cls for view in api_views() if not (view.is_api and view.needs_client)
    ]

    assert wrong == []
    assert len(api_views()) > 30


def test_that_keys_and_idempotency_come_before_the_api_views():
    order = [
        django_settings.MIDDLEWARE.index(path)
        for path in (
            "payflow.middleware.RequestContextMiddleware",
            "django.middleware.security.SecurityMiddleware",
            "ledger.api.authentication.ApiKeyMiddleware",
            "idempotency.middleware.IdempotencyMiddleware",
            "payflow.middleware.ApiViewMiddleware",
        )
    ]

    assert order == sorted(order)


@pytest.mark.parametrize(
    "view", api_views(), ids=lambda view: getattr(view, "__qualname__", "")
)
def test_that_operations_are_met_by_the_idempotency_middleware(
    caller, view, monkeypatch
):
    met = []
    monkeypatch.setattr(
        "idempotency.middleware.IdempotencyMiddleware._claim",
        lambda _self, _request, operation, *_: met.append(operation),
    )
    for method, (operation, _) in view.operations.items():
        assert hasattr(view.cls, method.lower())
        path = path_of(view)
        caller.http.generic(method, path, "{}", "application/json")
        assert met.pop() == operation


def path_of(view: Any) -> str:
    """A path that leads to the view, with an unknown id for each of its parameters."""
    (route,) = {
        str(pattern.pattern)
        for pattern in ledger.api.urls.urlpatterns
        if pattern.callback is view
    }
    parts = [str(new_id()) if "<" in part else part for part in route.split("/")]
    return "/" + "/".join(parts)


def test_that_every_answer_has_the_security_headers(caller):
    key = str(new_id())
    answers = {
        "made": caller.post(key),
        "replayed": caller.post(key),
        "without a key": caller.post(),
        "reused key": caller.http.post(
            "/v1/transfers",
            {**caller.body, "amount": 6},
            "application/json",
            headers={"Idempotency-Key": key},
        ),
        "read": caller.http.get("/v1/me"),
        "no client": Client().get("/v1/me"),
        "no such path": caller.http.get("/v1/nothing"),
        "no such method": caller.http.delete("/v1/me"),
        "foreign host": caller.http.get("/v1/me", headers={"Host": "a b"}),
        "probe": Client().get("/livez"),
        "admin": Client().get("/admin/login/"),
    }

    statuses = [answer.status_code for answer in answers.values()]
    assert statuses == [201, 201, 400, 422, 200, 401, 404, 405, 400, 200, 200]
    for name, answer in answers.items():
        if name != "foreign host":
            assert SECURITY_HEADERS.items() <= dict(answer.items()).items(), name
        assert answer["X-Request-ID"], name
        assert answer["Content-Length"] == str(len(answer.content)), name


def test_that_the_api_is_redirected_to_https_as_the_admin_is(settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 60

    for path in ("/v1/me", "/transfer", "/admin/"):
        assert Client().get(path)["Location"] == f"https://testserver{path}"
    assert Client().get("/v1/me", secure=True)["Strict-Transport-Security"]


def test_that_the_api_opens_no_session(caller, monkeypatch):
    def opened(*_: object) -> None:
        raise AssertionError("the API knows no sessions")

    monkeypatch.setattr(SessionMiddleware, "process_request", opened)
    monkeypatch.setattr(AuthenticationMiddleware, "process_request", opened)

    assert caller.post(str(new_id())).status_code == 201
    assert caller.http.get("/v1/me").status_code == 200
    assert Client().get("/health").status_code in (200, 503)
    with pytest.raises(AssertionError):
        Client().get("/admin/login/")


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (None, 200),
        ("*/*", 200),
        ("application/json", 200),
        ("application/*", 200),
        ("text/html, application/json;q=0.5", 200),
        ("text/html", 406),
        ("", 406),
    ],
)
def test_that_an_answer_in_json_must_be_acceptable(caller, accept, status):
    headers = {} if accept is None else {"Accept": accept}

    answer = caller.http.get("/v1/me", headers=headers)

    assert answer.status_code == status
    if status == 200:
        assert answer["Content-Type"] == "application/json"


def test_that_answers_of_views_say_what_is_allowed(caller):
    assert caller.http.get("/v1/transfers")["Allow"] == "GET, POST, HEAD, OPTIONS"
    assert caller.http.get("/v1/me")["Allow"] == "GET, HEAD, OPTIONS"
    assert caller.http.options("/v1/me").status_code == 200
