"""``POST /v1/transfers/{id}/reverse``: moves back what a transfer moved."""

from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request

from ledger.api.authentication import actor_of
from ledger.api.parts import read_parts
from ledger.api.resources import transfer_json
from ledger.api.transfers import LOCATION
from ledger.api.views import ApiView, idempotency_key_of, path_id
from ledger.enums import ReversalReason
from ledger.selectors.transfers import transfer_missing
from ledger.services.reversals import ReversalRequest, transfer_reverse
from payflow.api.shapes import MAX_DESCRIPTION, MAX_REFERENCE, Shape
from payflow.clock import now


def read_reversal(body: Any, *, transfer_id: UUID) -> ReversalRequest:
    """The reversal that a body asks for.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    if not shape.has("reason"):
        shape.fail("reason", "missing", "This field is required.")
    request = ReversalRequest(
        transfer_id=transfer_id,
        reason=ReversalReason(
            shape.choice("reason", ReversalReason.values, default=ReversalReason.OTHER)
        ),
        parts=read_parts(shape),
        is_forced=shape.boolean("force", default=False),
        reference=shape.text("reference", maximum=MAX_REFERENCE, empty=False),
        description=shape.text("description", maximum=MAX_DESCRIPTION) or "",
        metadata=shape.metadata("metadata"),
    )
    shape.boolean("dry_run", default=False)
    shape.finish()
    return request


class TransferReverseView(ApiView):
    """Reverses a transfer, or a part of it."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("transfer.reverse", True)
    }

    def post(self, request: Request, transfer_id: str) -> HttpResponse:
        """Posts the reversal, a transfer of its own."""
        wanted_id = path_id(transfer_id, problem=transfer_missing(transfer_id))
        wanted = read_reversal(self.body(), transfer_id=wanted_id)
        return self.run(
            lambda: transfer_reverse(
                ledger_id=request.user.ledger_id,
                request=wanted,
                actor=actor_of(request._request),
                now=now(),
                idempotency_key=idempotency_key_of(request._request),
            ),
            transfer_json,
            status=201,
            resource_type="transfer",
            location=LOCATION,
        )
