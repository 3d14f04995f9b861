"""``/v1/accounts/{id}/freeze``, ``unfreeze``, ``close`` and ``history``."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.accounts import LOCATION
from ledger.api.authentication import actor_of
from ledger.api.finding import read_change_filters
from ledger.api.resources import account_json
from ledger.api.views import ApiView, path_id
from ledger.models import Account, Change
from ledger.selectors.accounts import account_get, account_missing
from ledger.selectors.history import account_changes
from ledger.services.account_status import (
    MAX_REASON,
    account_close,
    account_freeze,
    account_unfreeze,
)
from payflow.api.shapes import Shape
from payflow.clock import format_instant, now
from payflow.errors import Problem

#: What a freeze stops.
SCOPES = ("all", "outgoing")


def change_json(change: Change) -> dict[str, Any]:
    """One row of an account's history; of erased values only the names are left."""
    return {
        "id": str(change.id),
        "fields": change.fields,
        "old": change.old,
        "new": change.new,
        "actor": change.actor,
        "client_id": str(change.client_id) if change.client_id else None,
        "key_id": str(change.key_id) if change.key_id else None,
        "request_id": change.request_id,
        "created_at": format_instant(change.created_at),
        "erased_at": format_instant(change.erased_at) if change.erased_at else None,
    }


def _read_reason(shape: Shape) -> str:
    reason = shape.text("reason", maximum=MAX_REASON, required=True, empty=False) or ""
    if reason and not reason.strip():
        shape.fail("reason", "empty", "The text must not be empty.")
    shape.boolean("dry_run", default=False)
    shape.finish()
    return reason


class _StatusView(ApiView):
    """What the views that change an account's status share."""

    def change(self, command: Callable[[], Account | Problem]) -> HttpResponse:
        return self.run(
            command,
            account_json,
            status=200,
            resource_type="account",
            location=LOCATION,
        )

    def account_id(self, text: str) -> UUID:
        return path_id(text, problem=account_missing(text))


class AccountFreezeView(_StatusView):
    """``POST /v1/accounts/{id}/freeze``."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("account.freeze", False)
    }

    def post(self, request: Request, account_id: str) -> HttpResponse:
        """Lets nothing move, or nothing leave."""
        shape = Shape(self.body())
        outgoing_only = shape.choice("scope", SCOPES, default="all") == "outgoing"
        reason = _read_reason(shape)
        wanted_id = self.account_id(account_id)
        return self.change(
            lambda: account_freeze(
                ledger_id=request.user.ledger_id,
                account_id=wanted_id,
                outgoing_only=outgoing_only,
                reason=reason,
                actor=actor_of(request._request),
            )
        )


class AccountUnfreezeView(_StatusView):
    """``POST /v1/accounts/{id}/unfreeze``."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("account.unfreeze", False)
    }

    def post(self, request: Request, account_id: str) -> HttpResponse:
        """Opens the account again."""
        reason = _read_reason(Shape(self.body()))
        wanted_id = self.account_id(account_id)
        return self.change(
            lambda: account_unfreeze(
                ledger_id=request.user.ledger_id,
                account_id=wanted_id,
                reason=reason,
                actor=actor_of(request._request),
            )
        )


class AccountCloseView(_StatusView):
    """``POST /v1/accounts/{id}/close``."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("account.close", False)
    }

    def post(self, request: Request, account_id: str) -> HttpResponse:
        """Closes the account for good."""
        reason = _read_reason(Shape(self.body()))
        wanted_id = self.account_id(account_id)
        return self.change(
            lambda: account_close(
                ledger_id=request.user.ledger_id,
                account_id=wanted_id,
                reason=reason,
                actor=actor_of(request._request),
                now=now(),
            )
        )


class AccountHistoryView(ApiView):
    """``GET /v1/accounts/{id}/history``: who changed what of the account, and when."""

    query_parameters = None

    def get(self, request: Request, account_id: str) -> Response:
        """A page of changes, newest first."""
        account = account_get(
            ledger_id=request.user.ledger_id,
            account_id=path_id(account_id, problem=account_missing(account_id)),
        )
        return self.keyset_page(
            partial(account_changes, account_id=account.id),
            change_json,
            kind="history",
            read_filters=read_change_filters,
        )
