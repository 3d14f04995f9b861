"""``/v1/exchanges``: transfers between accounts of two currencies."""

from decimal import Decimal
from typing import Any, ClassVar

from django.http import HttpResponse
from rest_framework.request import Request

from ledger.api.authentication import actor_of
from ledger.api.resources import transfer_json
from ledger.api.transfers import LOCATION
from ledger.api.views import ApiView, idempotency_key_of
from ledger.services.exchanges import ExchangeRequest, exchange_post
from payflow.api.shapes import MAX_DESCRIPTION, MAX_REFERENCE, Shape
from payflow.clock import now
from payflow.money import parse_rate

#: More than the longest rate, whose digits ``payflow.money`` counts.
_MAX_RATE_TEXT = 100


def read_exchange(body: Any) -> ExchangeRequest:
    """The exchange that a body asks for.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    shape.boolean("dry_run", default=False)
    fields = {
        "from_account_id": shape.id("from_account_id"),
        "to_account_id": shape.id("to_account_id"),
        "amount": shape.amount("amount"),
        "rate": _read_rate(shape),
        "to_amount": shape.amount("to_amount") if shape.has("to_amount") else None,
        "reference": shape.text("reference", maximum=MAX_REFERENCE, empty=False),
        "description": shape.text("description", maximum=MAX_DESCRIPTION) or "",
        "metadata": shape.metadata("metadata"),
        "effective_at": shape.instant("effective_at"),
    }
    shape.finish()
    return ExchangeRequest(**fields)  # type: ignore[arg-type]


def _read_rate(shape: Shape) -> Decimal | None:
    text = shape.text("rate", maximum=_MAX_RATE_TEXT, required=True)
    if text is None:
        return None
    try:
        return parse_rate(text)
    except ValueError as error:
        shape.fail("rate", "not_a_rate", str(error))
        return None


class ExchangeView(ApiView):
    """POST makes a transfer of kind ``exchange``, found under ``/v1/transfers``."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("exchange.create", True)
    }

    def post(self, request: Request) -> HttpResponse:
        """Posts one exchange."""
        wanted = read_exchange(self.body())
        return self.run(
            lambda: exchange_post(
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
