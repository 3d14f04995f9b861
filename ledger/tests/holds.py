"""Holds for tests, through the services; and the passing of time, through the back."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import connection

from ledger.models import Account
from ledger.selectors.holds import HoldView
from ledger.services.holds import CaptureRequest, VoidRequest, hold_extend
from ledger.services.operations import operation_run
from ledger.tests.factories import ACTOR
from ledger.types import HoldRequest, PostingRequest
from payflow.actors import Actor
from payflow.clock import now
from payflow.errors import Problem


def place(source: Account, target: Account, amount: int, **fields: Any) -> Any:
    """Places a hold of one posting: a ``HoldView``, or the problem."""
    return operation_run(
        ledger_id=source.ledger_id,
        request=HoldRequest((PostingRequest(source.id, target.id, amount),), **fields),
        actor=ACTOR,
        now=now(),
    )


def capture(
    hold: HoldView,
    parts: Mapping[int, int] | int | None = None,
    *,
    actor: Actor = ACTOR,
    **fields: Any,
) -> Any:
    """Captures of a hold: a ``PostedTransfer``, or the problem."""
    return operation_run(
        ledger_id=hold.row.ledger_id,
        request=CaptureRequest(hold.id, parts=parts, **fields),
        actor=actor,
        now=now(),
    )


def void(hold: HoldView, reason: str = "") -> Any:
    """Voids a hold: a ``HoldView``, or the problem."""
    return operation_run(
        ledger_id=hold.row.ledger_id,
        request=VoidRequest(hold.id, reason),
        actor=ACTOR,
        now=now(),
    )


def extend(hold: HoldView, expires_at: datetime) -> HoldView | Problem:
    """Extends a hold."""
    return hold_extend(
        ledger_id=hold.row.ledger_id,
        hold_id=hold.id,
        expires_at=expires_at,
        actor=ACTOR,
        now=now(),
    )


def lapse(hold: HoldView) -> None:
    """Lets the hold's time pass: its expiry becomes now, which no service could do."""
    tables = ("ledger_hold", "ledger_hold_posting")
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute("SELECT clock_timestamp()")
        (at,) = cursor.fetchone()
        for table, column in zip(tables, ("id", "hold_id"), strict=True):
            cursor.execute(
                f"UPDATE {table} SET expires_at = %s"
                f" WHERE ledger_id = %s AND {column} = %s",
                [at, hold.row.ledger_id, hold.id],
            )
        for table, triggers in zip(tables, _triggers(cursor, tables), strict=True):
            for name in triggers:
                cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def _triggers(cursor: Any, tables: tuple[str, ...]) -> list[list[str]]:
    found = []
    for table in tables:
        cursor.execute(
            "SELECT tgname FROM pg_trigger"
            " WHERE tgrelid = %s::regclass AND NOT tgisinternal",
            [table],
        )
        found.append([name for (name,) in cursor.fetchall()])
    return found
