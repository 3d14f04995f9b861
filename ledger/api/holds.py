"""``/v1/holds``: money that is reserved, captured, released."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.authentication import actor_of
from ledger.api.coalescing import OperationView
from ledger.api.finding import read_hold_filters
from ledger.api.parts import read_parts
from ledger.api.resources import balance_json, read_postings, transfer_json
from ledger.api.transfers import LOCATION as TRANSFER_LOCATION
from ledger.api.views import ApiView, idempotency_key_of, path_id
from ledger.locks import LockedHoldPosting
from ledger.models import HoldPosting
from ledger.selectors.accounts import accounts_get
from ledger.selectors.holds import (
    HoldView,
    hold_get,
    hold_get_by_reference,
    hold_list,
    hold_missing,
)
from ledger.services.holds import CaptureRequest, VoidRequest, hold_extend
from ledger.types import HoldRequest
from payflow.api.shapes import MAX_DESCRIPTION, MAX_REFERENCE, Shape
from payflow.clock import format_instant, now

LOCATION = "/v1/holds/{id}"
#: The longest lifetime that any ledger allows, in seconds: 366 days.
MAX_LIFETIME_SECONDS = 366 * 86_400


def hold_json(view: HoldView) -> dict[str, Any]:
    """A hold's resource. One that has lapsed is expired, and holds nothing."""
    row = view.row
    ended_at = row.expires_at if view.is_lapsed else row.ended_at
    return {
        "id": str(row.id),
        "status": str(view.status),
        "postings": [_posting_json(view, posting) for posting in view.postings],
        "reference": row.reference,
        "description": row.description,
        "metadata": row.metadata,
        "expires_at": format_instant(row.expires_at),
        "created_at": format_instant(row.created_at),
        "ended_at": format_instant(ended_at) if ended_at else None,
    }


def hold_tried_json(view: HoldView) -> dict[str, Any]:
    """A hold in a dry run: with the balances that its accounts would have."""
    account_ids = (
        account_id
        for posting in view.postings
        for account_id in (posting.from_account_id, posting.to_account_id)
    )
    accounts = accounts_get(ledger_id=view.row.ledger_id, account_ids=account_ids)
    return {
        **hold_json(view),
        "balances": [
            {
                "account_id": str(account.id),
                "currency": account.currency,
                **balance_json(account),
            }
            for account in accounts
        ],
    }


def _posting_json(
    view: HoldView, posting: HoldPosting | LockedHoldPosting
) -> dict[str, Any]:
    held = view.held(posting)
    return {
        "number": posting.number,
        "from_account_id": str(posting.from_account_id),
        "to_account_id": str(posting.to_account_id),
        "currency": posting.currency,
        "amount": posting.amount,
        "held": held,
        "captured": posting.captured,
        "released": posting.amount - min(posting.captured, posting.amount) - held,
        "capturable": posting.capture_limit - posting.captured if held else 0,
    }


def read_hold(body: Any, *, idempotency_key: str | None) -> HoldRequest:
    """The hold that a body asks for, in the simple or the ``postings`` form.

    Args:
        body: the parsed JSON.
        idempotency_key: of the request.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    request = HoldRequest(
        postings=read_postings(shape),
        reference=shape.text("reference", maximum=MAX_REFERENCE, empty=False),
        description=shape.text("description", maximum=MAX_DESCRIPTION) or "",
        metadata=shape.metadata("metadata"),
        idempotency_key=idempotency_key,
        **_read_expiry(shape),
    )
    shape.boolean("dry_run", default=False)
    shape.finish()
    return request


def _read_expiry(shape: Shape) -> dict[str, Any]:
    """``expires_at`` or ``lifetime_seconds``, whichever is given."""
    expires_at = shape.instant("expires_at")
    seconds = shape.number("lifetime_seconds", maximum=MAX_LIFETIME_SECONDS)
    if expires_at is not None and seconds is not None:
        shape.fail(
            "expires_at", "two_forms", "Give either expires_at or lifetime_seconds."
        )
    lifetime = None if seconds is None else timedelta(seconds=seconds)
    return {"expires_at": expires_at, "lifetime": lifetime}


def read_capture(
    body: Any, *, hold_id: UUID, idempotency_key: str | None
) -> CaptureRequest:
    """The capture that a body asks for.

    Args:
        body: the parsed JSON.
        hold_id: the hold, from the path.
        idempotency_key: of the request.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    request = CaptureRequest(
        hold_id=hold_id,
        parts=read_parts(shape),
        is_final=shape.boolean("final", default=False),
        reference=shape.text("reference", maximum=MAX_REFERENCE, empty=False),
        description=shape.text("description", maximum=MAX_DESCRIPTION) or "",
        metadata=shape.metadata("metadata"),
        idempotency_key=idempotency_key,
    )
    shape.boolean("dry_run", default=False)
    shape.finish()
    return request


def _read_void(body: Any, *, hold_id: UUID) -> VoidRequest:
    shape = Shape(body)
    reason = shape.text("reason", maximum=MAX_DESCRIPTION) or ""
    shape.boolean("dry_run", default=False)
    shape.finish()
    return VoidRequest(hold_id, reason)


def _read_extension(body: Any, *, at: datetime) -> datetime:
    shape = Shape(body)
    expiry = _read_expiry(shape)
    if expiry == {"expires_at": None, "lifetime": None}:
        shape.fail("expires_at", "missing", "Give expires_at or lifetime_seconds.")
    shape.boolean("dry_run", default=False)
    shape.finish()
    expires_at: datetime = expiry["expires_at"] or at + expiry["lifetime"]
    return expires_at


class HoldListView(OperationView):
    """POST places a hold, GET lists the ledger's holds, newest first."""

    query_parameters = None

    operations: ClassVar[dict[str, tuple[str, bool]]] = {"POST": ("hold.place", True)}

    def post(self, request: Request) -> HttpResponse:
        """Places a hold."""
        key = idempotency_key_of(request._request)
        return self.operate(
            read_hold(self.body(), idempotency_key=key),
            hold_tried_json if self.is_dry_run else hold_json,
            status=201,
            resource_type="hold",
            location=LOCATION,
        )

    def get(self, request: Request) -> Response:
        """A page of holds."""
        return self.keyset_page(
            hold_list, hold_json, kind="holds", read_filters=read_hold_filters
        )


class HoldByReferenceView(ApiView):
    """One hold, by its reference."""

    def get(self, request: Request, reference: str) -> Response:
        """The hold as it stands now."""
        view = hold_get_by_reference(
            ledger_id=request.user.ledger_id, reference=reference
        )
        return Response(hold_json(view))


def _hold_id(text: str) -> UUID:
    return path_id(text, problem=hold_missing(text))


class HoldDetailView(ApiView):
    """One hold."""

    def get(self, request: Request, hold_id: str) -> Response:
        """The hold as it stands now."""
        view = hold_get(ledger_id=request.user.ledger_id, hold_id=_hold_id(hold_id))
        return Response(hold_json(view))


class HoldCaptureView(OperationView):
    """``POST /v1/holds/{id}/capture``: moves what is held, or a part of it."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {"POST": ("hold.capture", True)}

    def post(self, request: Request, hold_id: str) -> HttpResponse:
        """Captures; the answer is the transfer that moved the money."""
        key = idempotency_key_of(request._request)
        wanted_id = _hold_id(hold_id)
        return self.operate(
            read_capture(self.body(), hold_id=wanted_id, idempotency_key=key),
            transfer_json,
            status=201,
            resource_type="transfer",
            location=TRANSFER_LOCATION,
        )


class HoldVoidView(OperationView):
    """``POST /v1/holds/{id}/void``: gives up what is still held."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {"POST": ("hold.void", False)}

    def post(self, request: Request, hold_id: str) -> HttpResponse:
        """Voids the hold."""
        return self.operate(
            _read_void(self.body(), hold_id=_hold_id(hold_id)),
            hold_tried_json if self.is_dry_run else hold_json,
            status=200,
            resource_type="hold",
            location=LOCATION,
        )


class HoldExtendView(ApiView):
    """``POST /v1/holds/{id}/extend``: lets a hold lapse later."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {"POST": ("hold.extend", False)}

    def post(self, request: Request, hold_id: str) -> HttpResponse:
        """Extends the hold."""
        expires_at = _read_extension(self.body(), at=now())
        wanted_id = _hold_id(hold_id)
        return self.run(
            lambda: hold_extend(
                ledger_id=request.user.ledger_id,
                hold_id=wanted_id,
                expires_at=expires_at,
                actor=actor_of(request._request),
                now=now(),
            ),
            hold_tried_json if self.is_dry_run else hold_json,
            status=200,
            resource_type="hold",
            location=LOCATION,
        )


def hold_rebuild(*, ledger_id: UUID, resource_id: UUID) -> tuple[dict[str, Any], str]:
    """Resource and path of a hold, for a key whose stored response was purged."""
    resource = hold_json(hold_get(ledger_id=ledger_id, hold_id=resource_id))
    return resource, LOCATION.format(id=resource_id)
