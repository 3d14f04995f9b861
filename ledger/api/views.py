"""The base of the API's views: one domain call each, and no rule."""

from collections.abc import Callable
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from rest_framework.response import Response
from rest_framework.views import APIView

from payflow.api.pagination import (
    page,
    read_id_cursor,
    read_limit,
    read_text_filter,
)
from payflow.api.parsing import request_json
from payflow.api.rendering import http_response, render_problem, to_json
from payflow.errors import Problem
from payflow.execution import Rendered, execute
from payflow.ids import parse_id


class ApiView(APIView):
    """A view for API clients.

    ``operations`` names, by HTTP method, the operations that the idempotency
    middleware looks after: a name for the fingerprint, and whether a key is demanded.
    """

    operations: ClassVar[dict[str, tuple[str, bool]]] = {}

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """The view function, with what the middleware wants to know about it."""
        view: Any = super().as_view(**initkwargs)
        view.needs_client = True
        view.operations = cls.operations
        return view

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
            resource: the resource's JSON.
            status: the success's HTTP status.
            resource_type: stored with the key, to rebuild a purged response.
            location: the resource's path with ``{id}``.
        """

        def render(outcome: Any) -> Rendered:
            if isinstance(outcome, Problem):
                return render_problem(outcome)
            headers = {}
            if status == 201:
                headers["Location"] = location.format(id=outcome.id)
            return Rendered(
                status=status,
                body=to_json(resource(outcome)),
                headers={"Content-Type": "application/json", **headers},
                resource_type=resource_type,
                resource_id=outcome.id,
            )

        claim = getattr(self.request._request, "idempotency_claim", None)
        return http_response(execute(command, render, claim=claim))

    def keyset_page(
        self,
        rows_of: Callable[..., list[Any]],
        resource: Callable[[Any], dict[str, Any]],
        *,
        kind: str,
    ) -> Response:
        """A page of a list that is ordered by id, newest first.

        Args:
            rows_of: the selector.
            resource: a row's JSON.
            kind: the list's name, for its cursors.
        """
        query = self.request.query_params
        limit = read_limit(query)
        rows, next_cursor = page(
            rows_of(
                ledger_id=self.request.user.ledger_id,
                limit=limit,
                before=read_id_cursor(query, kind=kind),
                reference=read_text_filter(query, "reference"),
            ),
            limit=limit,
            kind=kind,
            key="id",
        )
        return Response(
            {"data": [resource(row) for row in rows], "next_cursor": next_cursor}
        )


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
