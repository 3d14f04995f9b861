"""Idempotency before the view: the key's form, the fingerprint, and the fast path.

It opens no transaction: an exception in a view reaches a middleware as a finished 500
response, and half of the work would commit. The claim itself is made by
``payflow.execution.execute``, inside the effect's own transaction.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from idempotency import store
from idempotency.fingerprint import differing_fields, request_digests
from idempotency.keys import key_fault
from idempotency.services import KeyClaim, reused_problem
from payflow.api.parsing import request_json, wants_dry_run
from payflow.api.rendering import http_response, problem_error_response
from payflow.errors import ProblemError

#: Both names mean the same: the IETF draft's, and the older one.
HEADERS = ("Idempotency-Key", "X-Idempotency-Key")
#: Where WSGI puts them; ``request.headers`` would turn all headers round to find them.
_META = tuple("HTTP_" + name.upper().replace("-", "_") for name in HEADERS)


class IdempotencyMiddleware:
    """Gives ``request.idempotency_claim`` to operations that a view declares."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answers replays and malformed keys; lets everything else through."""
        match = request.resolver_match
        operations = getattr(match.func, "operations", {}) if match else {}
        if match is None or request.method not in operations:
            return self._get_response(request)
        operation, is_required = operations[request.method]
        try:
            replay = self._claim(request, operation, is_required, match.kwargs)
        except ProblemError as error:
            return problem_error_response(error)
        if replay is not None:
            return replay
        try:
            return self._get_response(request)
        finally:
            claim = getattr(request, "idempotency_claim", None)
            if claim is not None:
                claim.close()

    def _claim(
        self,
        request: HttpRequest,
        operation: str,
        is_required: bool,
        path_parameters: dict[str, str],
    ) -> HttpResponse | None:
        if not is_required and not has_key(request):
            return None
        body = request_json(request)
        if wants_dry_run(request):
            # Nothing will be written, so there is nothing to be done only once.
            return None
        key = read_key(request)
        if key is None:
            raise ProblemError(
                "idempotency_key_missing",
                "Send an Idempotency-Key header with this request.",
            )
        digests = request_digests(
            operation=operation, path_parameters=path_parameters, body=body
        )
        principal = request.principal  # type: ignore[attr-defined]
        owner = {"ledger_id": principal.ledger_id, "client_id": principal.client_id}
        found = store.claim_or_find(**owner, key=key)
        if isinstance(found, store.Finished):
            if fields := differing_fields(found.digests, digests):
                raise reused_problem(fields)
            return http_response(found.rendered)
        request.idempotency_claim = KeyClaim(  # type: ignore[attr-defined]
            **owner, key=key, operation=operation, digests=digests, mark=found
        )
        return None


def has_key(request: HttpRequest) -> bool:
    """True if the request has a header for a key, of whatever form."""
    return any(name in request.META for name in _META)


def read_key(request: HttpRequest) -> str | None:
    """The request's idempotency key, or ``None`` if it has none.

    The draft's quoted form (a structured-field string) is the key inside its quotes.

    Raises:
        ProblemError: ``idempotency_key_invalid``.
    """
    given = [request.META[name] for name in _META if name in request.META]
    if not given:
        return None
    keys = {_unquoted(value.strip()) for value in given}
    if len(keys) > 1:
        raise ProblemError(
            "idempotency_key_invalid",
            f"{HEADERS[0]} and {HEADERS[1]} are both given, and differ.",
        )
    key = keys.pop()
    if (fault := key_fault(key)) is not None:
        raise ProblemError("idempotency_key_invalid", fault)
    return key


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value
