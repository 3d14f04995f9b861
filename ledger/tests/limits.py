"""Limits for tests, through the service; and the passing of time, through the back."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from ledger.enums import LimitDirection, LimitPeriod, Permission
from ledger.models import Account
from ledger.selectors.limits import AccountLimits, limits_get
from ledger.services.limits import Limit, limits_set
from payflow.actors import Actor
from payflow.errors import Problem

BOSS = Actor("boss", permissions=frozenset(Permission.values))

#: One limit as ``(direction, period, max_amount, max_count)``.
LimitRow = tuple[str, str, int | None, int | None]


def limit(account: Account, *limits: LimitRow, **fields: Any) -> AccountLimits:
    """Sets an account's velocity limits, all of them, and perhaps its floor."""
    outcome = set_limits(account, *limits, **fields)
    assert isinstance(outcome, AccountLimits), outcome
    return outcome


def set_limits(
    account: Account, *limits: LimitRow, **fields: Any
) -> AccountLimits | Problem:
    """As :func:`limit`, where a refusal may be wanted."""
    wanted = [Limit(LimitDirection(d), LimitPeriod(p), a, c) for d, p, a, c in limits]
    return limits_set(
        ledger_id=account.ledger_id,
        account_id=account.id,
        changes={"velocity_limits": wanted, **fields},
        actor=BOSS,
    )


def used(account: Account) -> dict[tuple[str, str], tuple[int, int]]:
    """Amount and count that are used of each limit, by direction and period."""
    limits = limits_get(ledger_id=account.ledger_id, account_id=account.id)
    return {(w.direction, w.period): (w.amount, w.count) for w in limits.windows}


def age(ledger_id: UUID, by: timedelta) -> None:
    """Lets all that counts in a ledger have happened earlier than it did."""
    for table, columns in (
        ("ledger_transfer", ("created_at", "effective_at")),
        ("ledger_entry", ("created_at", "effective_at")),
        ("ledger_usage", ("created_at",)),
        ("ledger_hold_posting", ("created_at",)),
    ):
        earlier = ", ".join(f"{name} = {name} - %(by)s" for name in columns)
        execute_unguarded(
            table,
            f"UPDATE {table} SET {earlier} WHERE ledger_id = %(ledger_id)s",
            {"by": by, "ledger_id": ledger_id},
        )


def execute_unguarded(
    table: str, statement: str, parameters: Mapping[str, Any]
) -> None:
    """Executes a statement on a table whose triggers would refuse it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgname FROM pg_trigger"
            " WHERE tgrelid = %s::regclass AND NOT tgisinternal",
            [table],
        )
        triggers = [name for (name,) in cursor.fetchall()]
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute(statement, parameters)
        for name in triggers:
            cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
