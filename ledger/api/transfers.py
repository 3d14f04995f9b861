"""``/transfer`` and ``/v1/transfers``."""

from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.coalescing import OperationView
from ledger.api.finding import read_transfer_filters
from ledger.api.resources import read_transfer, transfer_json
from ledger.api.views import (
    ApiView,
    idempotency_key_of,
    path_id,
    render_resource,
)
from ledger.selectors.transfers import (
    transfer_get,
    transfer_get_by_reference,
    transfer_list,
)
from ledger.types import PostedTransfer
from payflow.errors import ProblemError
from payflow.execution import Rendered

LOCATION = "/v1/transfers/{id}"
CREATE = ("transfer.create", True)


class TransferListView(OperationView):
    """POST makes a transfer, GET lists the ledger's transfers, newest first."""

    query_parameters = None

    operations: ClassVar[dict[str, tuple[str, bool]]] = {"POST": CREATE}

    def post(self, request: Request) -> HttpResponse:
        """Posts one transfer."""
        return self.operate(
            read_transfer(
                self.body(), idempotency_key=idempotency_key_of(request._request)
            ),
            transfer_json,
            status=201,
            resource_type="transfer",
            location=LOCATION,
        )

    def get(self, request: Request) -> Response:
        """A page of transfers."""
        return self.keyset_page(
            transfer_list,
            transfer_json,
            kind="transfers",
            read_filters=read_transfer_filters,
        )


class TransferSeedView(TransferListView):
    """``POST /transfer``: the same operation as ``POST /v1/transfers``, and only it."""

    http_method_names = ["post", "options"]


class TransferView(ApiView):
    """One transfer."""

    def get(self, request: Request, transfer_id: str) -> Response:
        """The transfer, with its postings and the balances that it left."""
        missing = ProblemError(
            "transfer_not_found", "There is no such transfer in this ledger."
        )
        transfer = transfer_get(
            ledger_id=request.user.ledger_id,
            transfer_id=path_id(transfer_id, problem=missing),
        )
        return Response(transfer_json(transfer))


class TransferByReferenceView(ApiView):
    """One transfer, by its reference."""

    def get(self, request: Request, reference: str) -> Response:
        """The transfer, with its postings and the balances that it left."""
        transfer = transfer_get_by_reference(
            ledger_id=request.user.ledger_id, reference=reference
        )
        return Response(transfer_json(transfer))


def render_transfer(transfer: PostedTransfer) -> Rendered:
    """A posted transfer as the answer of the request that made it."""
    return render_resource(
        transfer_json(transfer),
        status=201,
        resource_type="transfer",
        resource_id=transfer.id,
        location=LOCATION,
    )


def transfer_rebuild(
    *, ledger_id: UUID, resource_id: UUID
) -> tuple[dict[str, Any], str]:
    """Resource and path of a transfer, for a key whose stored response was purged."""
    resource = transfer_json(transfer_get(ledger_id=ledger_id, transfer_id=resource_id))
    return resource, LOCATION.format(id=resource_id)
