"""``/v1/accounts/{id}/limits``: what limits an account, and what is used of it."""

from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.authentication import actor_of
from ledger.api.views import ApiView, path_id
from ledger.engine.velocity import Window
from ledger.enums import LimitDirection, LimitPeriod
from ledger.selectors.accounts import account_missing
from ledger.selectors.limits import AccountLimits, limits_get
from ledger.services.limits import Limit, limits_set
from payflow.api.shapes import Shape
from payflow.clock import format_instant

LOCATION = "/v1/accounts/{id}/limits"
#: One for each direction and period.
MAX_LIMITS = len(LimitDirection) * len(LimitPeriod)


def limits_json(limits: AccountLimits) -> dict[str, Any]:
    """The limits of an account. ``amount`` and ``count`` are null without a limit."""
    return {
        "account_id": str(limits.id),
        "min_balance": limits.min_balance,
        "velocity_limits": [_window_json(window) for window in limits.windows],
    }


def _window_json(window: Window) -> dict[str, Any]:
    return {
        "direction": window.direction,
        "period": window.period,
        "max_amount": window.max_amount,
        "max_count": window.max_count,
        "starts_at": format_instant(window.starts_at),
        "resets_at": format_instant(window.ends_at) if window.ends_at else None,
        **{
            measure: None
            if limit is None
            else {"used": used, "headroom": max(0, limit - used)}
            for measure, used, limit in window.measures()
        },
    }


def read_limits(body: Any) -> dict[str, Any]:
    """What a body sets; absent fields stay as they are.

    Raises:
        ProblemError: ``invalid_request`` with every field that is wrong.
    """
    shape = Shape(body)
    changes: dict[str, Any] = {}
    if shape.has("min_balance"):
        changes["min_balance"] = shape.balance("min_balance", default=None)
    if shape.has("velocity_limits"):
        changes["velocity_limits"] = shape.each(
            "velocity_limits", _read_limit, maximum=MAX_LIMITS, empty=True
        )
    if not changes:
        shape.fail("velocity_limits", "missing", "Give velocity_limits or min_balance.")
    shape.boolean("dry_run", default=False)
    shape.finish()
    return changes


def _read_limit(shape: Shape) -> Limit:
    limit = Limit(
        LimitDirection(_choice(shape, "direction", LimitDirection.values)),
        LimitPeriod(_choice(shape, "period", LimitPeriod.values)),
        shape.balance("max_amount", default=None),
        shape.balance("max_count", default=None),
    )
    for name, value in (
        ("max_amount", limit.max_amount),
        ("max_count", limit.max_count),
    ):
        if value is not None and value < 0:
            shape.fail(name, "negative", "A limit is 0 or more.")
    if not shape.has("max_amount") and not shape.has("max_count"):
        shape.fail("max_amount", "missing", "Give max_amount, max_count or both.")
    return limit


def _choice(shape: Shape, name: str, values: list[str]) -> str:
    if not shape.has(name):
        shape.fail(name, "missing", "This field is required.")
    return shape.choice(name, values, default=values[0])


class AccountLimitsView(ApiView):
    """GET shows the limits of an account, PUT sets them."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "PUT": ("account.limits", False)
    }

    def get(self, request: Request, account_id: str) -> Response:
        """The limits, and what is used of them now."""
        limits = limits_get(
            ledger_id=request.user.ledger_id,
            account_id=path_id(account_id, problem=account_missing(account_id)),
        )
        return Response(limits_json(limits))

    def put(self, request: Request, account_id: str) -> HttpResponse:
        """Sets what is given; the history keeps the change."""
        changes = read_limits(self.body())
        wanted_id = path_id(account_id, problem=account_missing(account_id))
        return self.run(
            lambda: limits_set(
                ledger_id=request.user.ledger_id,
                account_id=wanted_id,
                changes=changes,
                actor=actor_of(request._request),
            ),
            limits_json,
            status=200,
            resource_type="limits",
            location=LOCATION,
        )


def limits_rebuild(*, ledger_id: UUID, resource_id: UUID) -> tuple[dict[str, Any], str]:
    """Limits and path of an account, for a key whose stored response was purged."""
    resource = limits_json(limits_get(ledger_id=ledger_id, account_id=resource_id))
    return resource, LOCATION.format(id=resource_id)
