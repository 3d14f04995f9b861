"""``/v1/scheduled-transfers``: transfers that are posted at a later time."""

from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.authentication import actor_of
from ledger.api.finding import read_scheduled_filters
from ledger.api.resources import read_postings
from ledger.api.views import ApiView, idempotency_key_of, path_id
from ledger.enums import ScheduledStatus
from ledger.models import ScheduledTransfer
from ledger.selectors.scheduled import (
    scheduled_get,
    scheduled_list,
    scheduled_missing,
)
from ledger.services.scheduled import (
    ScheduleRequest,
    scheduled_cancel,
    scheduled_create,
)
from payflow.api.rendering import problem_document
from payflow.api.shapes import MAX_DESCRIPTION, MAX_REFERENCE, Shape
from payflow.clock import format_instant, now
from payflow.errors import Problem, shape_errors

LOCATION = "/v1/scheduled-transfers/{id}"


def scheduled_json(row: ScheduledTransfer) -> dict[str, Any]:
    """A scheduled transfer's resource; ``last_problem`` is its latest refusal."""
    is_waiting = row.status == ScheduledStatus.SCHEDULED
    problem = row.last_problem
    return {
        "id": str(row.id),
        "status": str(row.status),
        "due_at": format_instant(row.due_at),
        "retry_until": format_instant(row.retry_until) if row.retry_until else None,
        "postings": [
            {
                "from_account_id": posting["from_account_id"],
                "to_account_id": posting["to_account_id"],
                "amount": posting["amount"],
            }
            for posting in row.postings
        ],
        "reference": row.reference,
        "description": row.description,
        "metadata": row.metadata,
        "attempt_count": row.attempt_count,
        "next_attempt_at": format_instant(row.next_attempt_at) if is_waiting else None,
        "last_problem": problem and problem_document(Problem(**problem)),
        "transfer_id": str(row.transfer_id) if row.transfer_id else None,
        "end_reason": row.end_reason or None,
        "created_at": format_instant(row.created_at),
        "ended_at": format_instant(row.ended_at) if row.ended_at else None,
    }


def read_schedule(body: Any) -> ScheduleRequest:
    """The scheduled transfer that a body asks for.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    due_at = shape.instant("due_at")
    if not shape.has("due_at"):
        shape.fail("due_at", "missing", "This field is required.")
    postings = read_postings(shape)
    reference = shape.text("reference", maximum=MAX_REFERENCE, empty=False)
    description = shape.text("description", maximum=MAX_DESCRIPTION) or ""
    metadata = shape.metadata("metadata")
    retry_until = shape.instant("retry_until")
    shape.boolean("dry_run", default=False)
    shape.finish()
    if due_at is None:
        raise shape_errors([("due_at", "missing", "An instant, not null.")])
    return ScheduleRequest(
        postings=postings,
        due_at=due_at,
        retry_until=retry_until,
        reference=reference,
        description=description,
        metadata=metadata,
    )


class ScheduledListView(ApiView):
    """POST schedules a transfer, GET lists the ledger's, newest first."""

    query_parameters = None

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("scheduled.create", True)
    }

    def post(self, request: Request) -> HttpResponse:
        """Schedules a transfer."""
        wanted = read_schedule(self.body())
        return self.run(
            lambda: scheduled_create(
                ledger_id=request.user.ledger_id,
                request=wanted,
                actor=actor_of(request._request),
                now=now(),
                idempotency_key=idempotency_key_of(request._request),
            ),
            scheduled_json,
            status=201,
            resource_type="scheduled_transfer",
            location=LOCATION,
        )

    def get(self, request: Request) -> Response:
        """A page of scheduled transfers."""
        return self.keyset_page(
            scheduled_list,
            scheduled_json,
            kind="scheduled-transfers",
            read_filters=read_scheduled_filters,
        )


class ScheduledDetailView(ApiView):
    """One scheduled transfer."""

    def get(self, request: Request, scheduled_id: str) -> Response:
        """The scheduled transfer, and what became of it."""
        row = scheduled_get(
            ledger_id=request.user.ledger_id, scheduled_id=_id(scheduled_id)
        )
        return Response(scheduled_json(row))


class ScheduledCancelView(ApiView):
    """``POST /v1/scheduled-transfers/{id}/cancel``: it will not be posted."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("scheduled.cancel", False)
    }

    def post(self, request: Request, scheduled_id: str) -> HttpResponse:
        """Cancels it."""
        shape = Shape(self.body())
        reason = shape.text("reason", maximum=MAX_DESCRIPTION) or ""
        shape.boolean("dry_run", default=False)
        shape.finish()
        wanted_id = _id(scheduled_id)
        return self.run(
            lambda: scheduled_cancel(
                ledger_id=request.user.ledger_id,
                scheduled_id=wanted_id,
                reason=reason,
                actor=actor_of(request._request),
            ),
            scheduled_json,
            status=200,
            resource_type="scheduled_transfer",
            location=LOCATION,
        )


def _id(text: str) -> UUID:
    return path_id(text, problem=scheduled_missing(text))


def scheduled_rebuild(
    *, ledger_id: UUID, resource_id: UUID
) -> tuple[dict[str, Any], str]:
    """Resource and path of a scheduled transfer, for a key whose answer was purged."""
    row = scheduled_get(ledger_id=ledger_id, scheduled_id=resource_id)
    return scheduled_json(row), LOCATION.format(id=resource_id)
