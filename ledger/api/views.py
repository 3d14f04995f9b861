"""The base of the API's views: one domain call each, and no rule."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ledger.selectors.finding import FoundPage
from payflow.api.filters import ListQuery, refuse_other_parameters
from payflow.api.parsing import (
    DEFAULT_BODY_LIMIT,
    request_json,
    wants_dry_run,
)
from payflow.api.rendering import (
    JSONRenderer,
    http_response,
    render_problem,
    to_json,
)
from payflow.errors import Problem
from payflow.execution import Claim, Rendered, execute
from payflow.ids import parse_id

_ANYTHING = "*/*"
#: What most clients say they accept; anything else is looked at closely.
_JSON_ACCEPTED = frozenset({_ANYTHING, "application/json"})


class ApiView(APIView):
    """A view for API clients.

    ``operations`` names, by HTTP method, the operations that the idempotency
    middleware looks after: a name for the fingerprint, and whether a key is demanded.
    ``body_limit`` is the name of the setting that limits its bodies.
    ``query_parameters`` are those that its GET takes, each once at most; ``None`` if it
    reads them all itself, as strictly. The other methods take none.
    """

    operations: ClassVar[dict[str, tuple[str, bool]]] = {}
    body_limit: ClassVar[str] = DEFAULT_BODY_LIMIT
    query_parameters: ClassVar[tuple[str, ...] | None] = ()

    # DRF makes these anew for each request; ours keep nothing from one to the next.
    _parsers: ClassVar[Sequence[Any]]
    _authenticators: ClassVar[Sequence[Any]]
    _permissions: ClassVar[Sequence[Any]]
    _headers: ClassVar[dict[str, str]]
    _negotiator = DefaultContentNegotiation()
    _renderer = JSONRenderer()

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """The view function, with what the middleware wants to know about it."""
        view: Any = super().as_view(**initkwargs)
        view.is_api = True
        view.needs_client = True
        view.operations = cls.operations
        view.body_limit = cls.body_limit
        example = cls()
        example.setup(HttpRequest())  # which adds HEAD where there is GET
        cls._headers = {"Allow": ", ".join(example.allowed_methods)}
        cls._parsers = example.get_parsers()
        cls._authenticators = example.get_authenticators()
        cls._permissions = [permission() for permission in cls.permission_classes]
        return view

    def initialize_request(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> Request:
        """DRF's request, which parses nothing by itself."""
        return Request(
            request,
            parsers=self._parsers,
            authenticators=self._authenticators,
            negotiator=self._negotiator,
        )

    @property
    def default_response_headers(self) -> dict[str, str]:
        """``Allow``, put together once and not for each request."""
        return self._headers

    def get_permissions(self) -> Sequence[Any]:
        """Those of ``permission_classes``."""
        return self._permissions

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Lets the client in, and refuses query parameters that nobody reads.

        Raises:
            ProblemError: ``invalid_request``; whatever the authentication raises.
        """
        self.perform_content_negotiation(request)
        self.perform_authentication(request)
        self.check_permissions(request)
        if not request._request.META.get("QUERY_STRING"):
            return
        taken = self.query_parameters if request.method in ("GET", "HEAD") else ()
        if taken is not None:
            refuse_other_parameters(request.query_params, taken=taken)

    def perform_content_negotiation(  # type: ignore[override]
        self, request: Request, force: bool = False
    ) -> None:
        """Refuses an ``Accept`` that leaves no room for JSON."""
        if request._request.META.get("HTTP_ACCEPT", _ANYTHING) not in _JSON_ACCEPTED:
            self._negotiator.select_renderer(request, [self._renderer])

    def finalize_response(  # type: ignore[override]
        self, request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """The response, down to its bytes."""
        if isinstance(response, Response):
            response = HttpResponse(
                to_json(response.data),
                status=response.status_code,
                content_type=self._renderer.media_type,
            )
        for name, value in self.headers.items():
            response[name] = value
        return response

    def body(self) -> Any:
        """The request's strict JSON."""
        return request_json(self.request._request)

    def run(
        self,
        command: Callable[[], Any],
        resource: Callable[[Any], dict[str, Any]],
        *,
        status: int,
        resource_type: str,
        location: str,
    ) -> HttpResponse:
        """Runs a mutating command by ``execute`` and sends what it rendered.

        Args:
            command: the service call; returns a resource or a ``Problem``.
            resource, status, resource_type, location: as of :meth:`renderer`.
        """
        render = self.renderer(
            resource, status=status, resource_type=resource_type, location=location
        )
        return self.send(command, render, claim=self.claim)

    def renderer(
        self,
        resource: Callable[[Any], dict[str, Any]],
        *,
        status: int,
        resource_type: str,
        location: str,
    ) -> Callable[[Any], Rendered]:
        """What makes the response of an outcome, which is a resource or a ``Problem``.

        A body that says ``"dry_run": true`` makes it a dry run; the view's only part in
        it is to know the field. See ``docs/dry-run.md``.

        Args:
            resource: the resource's JSON.
            status: the success's HTTP status.
            resource_type: stored with the key, to rebuild a purged response.
            location: the resource's path with ``{id}``.
        """

        def render(outcome: Any) -> Rendered:
            if isinstance(outcome, Problem):
                return render_problem(outcome)
            document = resource(outcome)
            if self.is_dry_run:
                # What would be made has no id; what would be changed keeps its own.
                made = {"id": None} if status == 201 else {}
                return render_json({**document, **made, "dry_run": True})
            return render_resource(
                document,
                status=status,
                resource_type=resource_type,
                resource_id=outcome.id,
                location=location,
            )

        return render

    @property
    def is_dry_run(self) -> bool:
        """True for a request of which nothing is to be kept."""
        return wants_dry_run(self.request._request)

    @property
    def claim(self) -> Any:
        """The request's claim on its idempotency key, or ``None``."""
        return getattr(self.request._request, "idempotency_claim", None)

    def send(
        self,
        command: Callable[[], Any],
        render: Callable[[Any], Rendered],
        *,
        claim: Claim | None,
    ) -> HttpResponse:
        """``execute``, as a dry run if the request asks for one, and its response."""
        rendered = execute(command, render, claim=claim, dry_run=self.is_dry_run)
        return http_response(rendered)

    def keyset_page(
        self,
        rows_of: Callable[..., FoundPage[Any]],
        resource: Callable[[Any], dict[str, Any]],
        *,
        kind: str,
        read_filters: Callable[[ListQuery], Any],
    ) -> Response:
        """A page of a list, newest first, with the filters that the query names.

        Args:
            rows_of: the selector.
            resource: a row's JSON.
            kind: the list's name, for its cursors.
            read_filters: reads the list's filters, which say what orders it.
        """
        query = ListQuery(self.request.query_params, kind=kind)
        filters = read_filters(query)
        query.finish()
        rows = rows_of(
            ledger_id=self.request.user.ledger_id,
            limit=query.limit,
            before=query.last_seen(filters.key_type),
            filters=filters,
        )
        return Response(
            {
                "data": [resource(row) for row in rows],
                "next_cursor": query.next_cursor(rows.after),
            }
        )


def render_json(document: dict[str, Any], *, status: int = 200) -> Rendered:
    """A JSON document that is not the resource of one row."""
    return Rendered(status, to_json(document), {"Content-Type": "application/json"})


def render_resource(
    document: dict[str, Any],
    *,
    status: int,
    resource_type: str,
    resource_id: UUID,
    location: str,
) -> Rendered:
    """A resource as the answer of the request that made or changed it.

    Args:
        document: the resource's JSON.
        status: 201 adds ``Location``.
        resource_type, resource_id: stored with the key, to rebuild a purged response.
        location: the resource's path with ``{id}``.
    """
    headers = {"Content-Type": "application/json"}
    if status == 201:
        headers["Location"] = location.format(id=resource_id)
    return Rendered(status, to_json(document), headers, resource_type, resource_id)


def path_id(text: str, *, problem: Exception) -> UUID:
    """The id in a path; what is no UUID is not found, like any unknown id."""
    value = parse_id(text.lower())
    if value is None:
        raise problem
    return value


def idempotency_key_of(request: HttpRequest) -> str | None:
    """The request's idempotency key, for the record, if it has one."""
    claim = getattr(request, "idempotency_claim", None)
    return None if claim is None else claim.key
