"""``/v1/periods``: how far the ledger is closed; closing and reopening."""

from typing import Any, ClassVar

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.authentication import actor_of
from ledger.api.finding import read_change_filters
from ledger.api.views import ApiView, render_json
from ledger.days import Moment, day_parse
from ledger.models import Change
from ledger.selectors.periods import (
    CLOSED_BEFORE,
    REASON,
    Periods,
    period_changes,
    periods_get,
)
from ledger.services.periods import period_close, period_reopen
from payflow.api.rendering import render_problem
from payflow.api.shapes import MAX_DESCRIPTION, Shape
from payflow.clock import format_instant
from payflow.errors import Problem, shape_errors
from payflow.execution import Rendered

_DAY_LENGTH = len("2026-11-22")


def periods_json(periods: Periods) -> dict[str, Any]:
    """How far a ledger is closed: as an instant, and as a day of its time zone."""
    before, through = periods.closed_before, periods.closed_through
    return {
        "closed_before": None if before is None else format_instant(before),
        "closed_through": None if through is None else through.isoformat(),
        "time_zone": periods.zone.key,
    }


def period_change_json(change: Change) -> dict[str, Any]:
    """A closing or reopening; its values are null once they are erased."""
    old, new = change.old or {}, change.new or {}
    return {
        "id": str(change.id),
        "action": "reopened" if REASON in change.fields else "closed",
        "closed_before": new.get(CLOSED_BEFORE),
        "closed_before_until_then": old.get(CLOSED_BEFORE),
        "reason": new.get(REASON),
        "actor": change.actor,
        "request_id": change.request_id,
        "created_at": format_instant(change.created_at),
    }


class PeriodsView(ApiView):
    """How far the ledger is closed, and its closings and reopenings, newest first."""

    query_parameters = None

    def get(self, request: Request) -> Response:
        """The state and a page of the history."""
        history = self.keyset_page(
            period_changes,
            period_change_json,
            kind="periods",
            read_filters=read_change_filters,
        )
        state = periods_json(periods_get(ledger_id=request.user.ledger_id))
        return Response({**state, **history.data})


class PeriodCloseView(ApiView):
    """``POST /v1/periods/close``: nothing becomes effective in it any more."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("period.close", False)
    }

    def post(self, request: Request) -> HttpResponse:
        """Closes; the answer is how far the ledger is closed."""
        shape = Shape(self.body())
        end = _read_end(shape)
        shape.boolean("dry_run", default=False)
        shape.finish()
        if end is None:
            message = "Give through, a day, or before, an instant."
            raise shape_errors([("through", "missing", message)])
        return self.send(
            lambda: period_close(
                ledger_id=request.user.ledger_id,
                end=end,
                actor=actor_of(request._request),
            ),
            self._render,
            claim=self.claim,
        )

    def _render(self, outcome: Periods | Problem) -> Rendered:
        if isinstance(outcome, Problem):
            return render_problem(outcome)
        dry_run = {"dry_run": True} if self.is_dry_run else {}
        return render_json(periods_json(outcome) | dry_run)


class PeriodReopenView(PeriodCloseView):
    """``POST /v1/periods/reopen``: what comes after a day is open again."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("period.reopen", False)
    }

    def post(self, request: Request) -> HttpResponse:
        """Reopens; the answer is how far the ledger is still closed."""
        shape = Shape(self.body())
        end = _read_end(shape)
        if not (shape.has("through") or shape.has("before")):
            message = "Give the last day to stay closed, or null to open everything."
            shape.fail("through", "missing", message)
        reason = shape.text(
            "reason", maximum=MAX_DESCRIPTION, required=True, empty=False
        )
        shape.boolean("dry_run", default=False)
        shape.finish()
        return self.send(
            lambda: period_reopen(
                ledger_id=request.user.ledger_id,
                end=end,
                reason=reason or "",
                actor=actor_of(request._request),
            ),
            self._render,
            claim=self.claim,
        )


def _read_end(shape: Shape) -> Moment | None:
    """``through``, a day, or ``before``, an instant; null is ``None``."""
    if shape.has("through") and shape.has("before"):
        shape.fail("through", "two_forms", "Give either through or before.")
    text = shape.text("through", maximum=_DAY_LENGTH)
    instant = shape.instant("before")
    if text is None:
        return instant
    day = day_parse(text)
    if day is None:
        shape.fail("through", "not_a_day", "A day as 2026-11-22, from 1970 on.")
    return day
