"""``/v1/assets`` and ``/v1/currencies``: what accounts can be kept in."""

from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.authentication import actor_of
from ledger.api.views import ApiView
from ledger.models import Asset
from ledger.selectors.assets import CODE_PATTERN, asset_get, asset_list
from ledger.services.assets import (
    MAX_EXPONENT,
    MAX_NAME,
    AssetRequest,
    asset_create,
)
from payflow.api.filters import PAGING
from payflow.api.pagination import page, read_cursor, read_limit
from payflow.api.shapes import Shape
from payflow.clock import format_instant
from payflow.errors import ProblemError
from payflow.money import iso_currencies

_MAX_CODE = 12


def asset_json(asset: Asset) -> dict[str, Any]:
    """An asset's resource."""
    return {
        "id": str(asset.id),
        "code": asset.code,
        "name": asset.name,
        "exponent": asset.exponent,
        "created_at": format_instant(asset.created_at),
    }


def location_of(code: str) -> str:
    """The path of an asset."""
    return f"/v1/assets/{code}"


def read_asset(body: Any) -> AssetRequest:
    """The asset that a body asks for.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    code = shape.text("code", maximum=_MAX_CODE, required=True, empty=False)
    if code and not CODE_PATTERN.fullmatch(code):
        message = "3-12 capital letters and digits, a letter first."
        shape.fail("code", "not_a_code", message)
    request = AssetRequest(
        code=code or "",
        name=shape.text("name", maximum=MAX_NAME, required=True, empty=False) or "",
        exponent=(
            shape.number("exponent", minimum=0, maximum=MAX_EXPONENT, required=True)
            or 0
        ),
    )
    shape.boolean("dry_run", default=False)
    shape.finish()
    return request


class AssetListView(ApiView):
    """POST makes an asset, GET lists the ledger's assets by code."""

    query_parameters = PAGING

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("asset.create", False)
    }

    def post(self, request: Request) -> HttpResponse:
        """Makes an asset."""
        wanted = read_asset(self.body())
        return self.run(
            lambda: asset_create(
                ledger_id=request.user.ledger_id,
                request=wanted,
                actor=actor_of(request._request),
            ),
            asset_json,
            status=201,
            resource_type="asset",
            location=location_of(wanted.code),
        )

    def get(self, request: Request) -> Response:
        """A page of assets."""
        limit = read_limit(request.query_params)
        after = read_cursor(request.query_params, kind="assets")
        if after is not None and not CODE_PATTERN.fullmatch(after):
            raise ProblemError("invalid_cursor", "The cursor is of no list of assets.")
        rows, next_cursor = page(
            asset_list(
                ledger_id=request.user.ledger_id,
                limit=limit,
                after=after,
            ),
            limit=limit,
            kind="assets",
            key="code",
        )
        return Response(
            {"data": [asset_json(row) for row in rows], "next_cursor": next_cursor}
        )


class AssetView(ApiView):
    """One asset."""

    def get(self, request: Request, code: str) -> Response:
        """The asset."""
        asset = asset_get(ledger_id=request.user.ledger_id, code=code)
        return Response(asset_json(asset))


class CurrencyListView(ApiView):
    """The currencies of ISO 4217."""

    def get(self, request: Request) -> Response:
        """All of them, by code: they are few, and the same for every ledger."""
        return Response(
            {
                "data": [
                    {
                        "code": currency.code,
                        "name": currency.name,
                        "exponent": currency.exponent,
                    }
                    for currency in iso_currencies()
                ],
                "next_cursor": None,
            }
        )


def asset_rebuild(*, ledger_id: UUID, resource_id: UUID) -> tuple[dict[str, Any], str]:
    """Resource and path of an asset, for a key whose stored response was purged."""
    asset = Asset.objects.get(ledger_id=ledger_id, id=resource_id)
    return asset_json(asset), location_of(asset.code)
