"""Closing periods, so that nothing becomes effective in them any more; reopening them.

A ledger has one boundary, ``closed_before``: closing moves it forwards, reopening back.
It is judged by ``effective_at`` and by nothing else. Why a transfer that is effective
now needs no lock for it is written in ``docs/adr/0017-closing-a-period.md``.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from ledger.days import Moment, moment_end
from ledger.enums import Permission
from ledger.locks import lock_ledger_row
from ledger.models import Ledger
from ledger.selectors.as_of import clock_read
from ledger.selectors.periods import CLOSED_BEFORE, REASON, Periods, periods_of
from ledger.services.accounts import change_record
from payflow.actors import Actor
from payflow.clock import format_instant
from payflow.errors import Problem

#: A period is closed so long after its end at the earliest, by PostgreSQL's clock,
#: which a trigger of the ledger's table knows too.
CLOSES_AFTER = timedelta(hours=1)


def period_close(*, ledger_id: UUID, end: Moment, actor: Actor) -> Periods | Problem:
    """Closes everything up to ``end``; what is closed that far already stays so.

    It waits for the backdated transfers that are being posted, and later ones wait for
    it; so of those that it meets, each is in the books before the period is closed, or
    refused (``period_closed``).

    Refused: ``period_not_over``, with ``closable_from``.

    Args:
        ledger_id: the ledger.
        end: the last day to close, by the ledger's time zone, or the first instant that
            stays open.
        actor: who closes; needs the permission ``close_period``.

    Raises:
        ProblemError: ``permission_denied``.
        RuntimeError: no transaction is open.
    """
    actor.require(Permission.CLOSE_PERIOD)
    ledger = lock_ledger_row(ledger_id=ledger_id)
    closing = _instant(end, ledger)
    if ledger.closed_before is not None and closing <= ledger.closed_before:
        return periods_of(ledger)
    closable_from = closing + CLOSES_AFTER
    if closable_from > clock_read():
        return Problem(
            "period_not_over",
            f"What ends at {format_instant(closing)} can be closed from "
            f"{format_instant(closable_from)} on.",
            {"closable_from": format_instant(closable_from)},
        )
    return _move(ledger, closing, actor)


def period_reopen(
    *, ledger_id: UUID, end: Moment | None, reason: str, actor: Actor
) -> Periods | Problem:
    """Opens everything after ``end`` again; what is open that far already stays so.

    Refused: ``period_not_closed`` (``end`` lies after what is closed).

    Args:
        ledger_id: the ledger.
        end: the last day that stays closed, or the first instant that is open; ``None``
            opens everything.
        reason: why, for the history.
        actor: who reopens; needs the permission ``reopen_period``.

    Raises:
        ProblemError: ``permission_denied``.
        RuntimeError: no transaction is open.
        ValueError: the reason is empty.
    """
    actor.require(Permission.REOPEN_PERIOD)
    if not reason:
        raise ValueError("a reason is needed")
    ledger = lock_ledger_row(ledger_id=ledger_id)
    reopening = None if end is None else _instant(end, ledger)
    if reopening == ledger.closed_before:
        return periods_of(ledger)
    if reopening is not None and (
        ledger.closed_before is None or reopening > ledger.closed_before
    ):
        return Problem(
            "period_not_closed",
            f"The ledger is not closed up to {format_instant(reopening)}.",
            {"closed_before": _text(ledger.closed_before)},
        )
    return _move(ledger, reopening, actor, reason=reason)


def _instant(end: Moment, ledger: Ledger) -> datetime:
    return moment_end(end, zone=ZoneInfo(ledger.time_zone)).astimezone(UTC)


def _move(
    ledger: Ledger, closed_before: datetime | None, actor: Actor, *, reason: str = ""
) -> Periods:
    old = ledger.closed_before
    ledger.closed_before = closed_before
    Ledger.objects.filter(id=ledger.id).update(closed_before=closed_before)
    change_record(
        ledger_id=ledger.id,
        account_id=None,
        old={CLOSED_BEFORE: _text(old)},
        new={CLOSED_BEFORE: _text(closed_before)}
        | ({REASON: reason} if reason else {}),
        actor=actor,
    )
    return periods_of(ledger)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else format_instant(instant)
