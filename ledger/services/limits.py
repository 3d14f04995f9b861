"""Setting what limits an account: its floor, and how much it may move in a window.

The engine enforces both (``ledger.engine``): the floor against the available balance,
velocity limits against running totals of what counts (``ledger_usage``). It keeps those
totals only for accounts that have limits, so an account's first limit brings their
history with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from ledger.enums import COUNTED_KINDS, LimitDirection, LimitPeriod, Permission
from ledger.locks import lock_account_row
from ledger.models import Account, VelocityLimit
from ledger.selectors.accounts import account_missing
from ledger.selectors.limits import AccountLimits, limits_get
from ledger.services.accounts import (
    change_record,
    floor_forbidden,
    system_account_forbids,
)
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem, shape_errors
from payflow.ids import new_id

#: What :func:`limits_set` can change.
LIMIT_FIELDS = ("min_balance", "velocity_limits")


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that an account may move in one direction in one window.

    Attributes:
        direction: ``out`` is what lowers the account's balance.
        period: the window; days and months are the ledger's time zone's.
        max_amount: minor units, 0 or more; ``None`` is no limit.
        max_count: operations, 0 or more; ``None`` is no limit.
    """

    direction: LimitDirection
    period: LimitPeriod
    max_amount: int | None = None
    max_count: int | None = None


def limits_set(
    *, ledger_id: UUID, account_id: UUID, changes: Mapping[str, Any], actor: Actor
) -> AccountLimits | Problem:
    """Sets some of :data:`LIMIT_FIELDS` and writes the change to the history.

    What is already as wanted is not written. Money that is there stays there: a floor
    above the available balance, or a limit below what was moved already, only refuses
    what comes next.

    Refused for the first of: ``system_account_protected``,
    ``payout_account_floor_must_be_zero``.

    Args:
        ledger_id, account_id: the account.
        changes: ``min_balance`` in minor units, negative for a credit line, ``None``
            for no floor; ``velocity_limits``, a list of :class:`Limit` that replaces
            all that the account has. What is not in it stays as it is.
        actor: needs the permission ``manage_accounts``.

    Raises:
        ProblemError: ``permission_denied``; ``account_not_found``; ``invalid_request``
            (a limit that limits nothing, or two for one window).
        RuntimeError: no transaction is open.
        ValueError: a field is none of these.
    """
    require_transaction()
    if not set(changes) <= set(LIMIT_FIELDS):
        raise ValueError(f"only {', '.join(LIMIT_FIELDS)} can be set")
    actor.require(Permission.MANAGE_ACCOUNTS)
    _require_sound(changes.get("velocity_limits", ()))
    account = lock_account_row(ledger_id=ledger_id, account_id=account_id)
    if account is None:
        raise account_missing(account_id)
    if (problem := system_account_forbids(account)) is not None:
        return problem
    old = {"min_balance": account.min_balance, "velocity_limits": _limits_of(account)}
    new = dict(changes)
    if "velocity_limits" in new:
        new["velocity_limits"] = _as_json(new["velocity_limits"])
    new = {name: value for name, value in new.items() if value != old[name]}
    if not new:
        return limits_get(ledger_id=ledger_id, account_id=account_id)
    if account.payout_destination is not None and new.get("min_balance", 0) != 0:
        return floor_forbidden(new["min_balance"])

    fields = {name: value for name, value in new.items() if name == "min_balance"}
    if "velocity_limits" in new:
        fields["has_velocity_limits"] = bool(new["velocity_limits"])
        _replace(account, new["velocity_limits"])
    Account.objects.filter(ledger_id=ledger_id, id=account_id).update(**fields)
    change_record(
        ledger_id=ledger_id,
        account_id=account_id,
        old={name: old[name] for name in new},
        new=new,
        actor=actor,
    )
    return limits_get(ledger_id=ledger_id, account_id=account_id)


def _require_sound(limits: Sequence[Limit]) -> None:
    windows = set()
    errors = []
    for index, limit in enumerate(limits):
        field = f"velocity_limits[{index}]"
        name = f"{limit.direction} per {limit.period}"
        if limit.max_amount is None and limit.max_count is None:
            message = f"The limit {name} needs max_amount or max_count."
            errors.append((f"{field}.max_amount", "missing", message))
        if name in windows:
            errors.append((field, "repeated", f"There are two limits {name}."))
        windows.add(name)
    if errors:
        raise shape_errors(errors)


def _limits_of(account: Account) -> list[dict[str, Any]]:
    rows = VelocityLimit.objects.filter(
        ledger_id=account.ledger_id, account_id=account.id
    )
    return _as_json(rows)


def _as_json(limits: Iterable[Any]) -> list[dict[str, Any]]:
    """Limits as the history keeps them, in an order that does not depend on theirs."""
    return [
        {
            "direction": str(limit.direction),
            "period": str(limit.period),
            "max_amount": limit.max_amount,
            "max_count": limit.max_count,
        }
        for limit in sorted(limits, key=lambda x: (str(x.direction), str(x.period)))
    ]


def _replace(account: Account, limits: Sequence[Mapping[str, Any]]) -> None:
    if limits and not account.has_velocity_limits:
        _count_history(account)
    VelocityLimit.objects.filter(
        ledger_id=account.ledger_id, account_id=account.id
    ).delete()
    VelocityLimit.objects.bulk_create(
        VelocityLimit(
            id=new_id(), ledger_id=account.ledger_id, account_id=account.id, **limit
        )
        for limit in limits
    )


# Counts what the engine would have counted, had the account had limits (see
# ledger.engine.velocity): a transfer or a hold once per direction, with the sum of its
# postings on this account; of captures, what they took beyond their hold, which is what
# the last capture of a posting made its total exceed the posting by.
#
# It begins where the running totals end that the account has from an earlier time with
# limits, or, if that is longer ago or there are none, where no window can have begun
# before: a day ago, and at the beginning of the month by whatever time zone the ledger
# may be given.
#
# Holds are found by the index on those that were not captured whole; the others have
# captures, so entries.
_COUNT_HISTORY = """
INSERT INTO ledger_usage (ledger_id, id, account_id, created_at, out_amount, out_count,
    in_amount, in_count)
WITH last AS (
    SELECT u.* FROM ledger_usage u
    WHERE u.ledger_id = %(ledger_id)s AND u.account_id = %(account_id)s
    ORDER BY u.created_at DESC LIMIT 1
), since AS MATERIALIZED (
    SELECT greatest((SELECT created_at FROM last), least(
        clock.at - interval '24 hours',
        date_trunc('month', clock.at - interval '12 hours', 'UTC')
            - interval '14 hours')) AS at
    FROM (SELECT clock_timestamp() AS at) clock
), entries AS MATERIALIZED (
    SELECT e.transfer_id, e.direction, e.amount, e.created_at, e.account_version,
        t.kind, t.hold_id, t.source_postings[e.posting_number] AS number
    FROM ledger_entry e
    JOIN ledger_transfer t ON t.ledger_id = e.ledger_id AND t.id = e.transfer_id
    WHERE e.ledger_id = %(ledger_id)s AND e.account_id = %(account_id)s
      AND e.account_version > (SELECT ledger_version_at(
          %(ledger_id)s, %(account_id)s, since.at) FROM since)
), holds AS (
    SELECT p.hold_id FROM since, ledger_hold_posting p
    WHERE p.ledger_id = %(ledger_id)s AND p.from_account_id = %(account_id)s
      AND p.created_at > since.at AND p.captured < p.amount
    UNION
    SELECT p.hold_id FROM since, ledger_hold_posting p
    WHERE p.ledger_id = %(ledger_id)s AND p.to_account_id = %(account_id)s
      AND p.created_at > since.at AND p.captured < p.amount
    UNION
    SELECT e.hold_id FROM entries e WHERE e.hold_id IS NOT NULL
), movements AS (
    SELECT e.created_at, e.direction, sum(e.amount) AS amount, 1 AS count
    FROM entries e
    WHERE e.kind = ANY (%(counted_kinds)s)
    GROUP BY e.created_at, e.transfer_id, e.direction
    UNION ALL
    SELECT p.created_at, side.direction, sum(p.amount), 1
    FROM holds h
    JOIN ledger_hold_posting p
        ON p.ledger_id = %(ledger_id)s AND p.hold_id = h.hold_id
    CROSS JOIN LATERAL (
        VALUES ('debit', p.from_account_id), ('credit', p.to_account_id)
        ) side (direction, account_id)
    WHERE side.account_id = %(account_id)s AND p.created_at > (SELECT at FROM since)
    GROUP BY p.created_at, p.hold_id, side.direction
    UNION ALL
    SELECT e.created_at, e.direction, p.captured - p.amount, 0
    FROM (
        SELECT DISTINCT ON (hold_id, number) * FROM entries
        WHERE hold_id IS NOT NULL
        ORDER BY hold_id, number, account_version DESC) e
    JOIN ledger_hold_posting p ON p.ledger_id = %(ledger_id)s
        AND p.hold_id = e.hold_id AND p.number = e.number
    WHERE p.captured > p.amount
), instants AS (
    SELECT m.created_at,
        coalesce(sum(m.amount) FILTER (WHERE side.is_out), 0) AS out_amount,
        coalesce(sum(m.count) FILTER (WHERE side.is_out), 0) AS out_count,
        coalesce(sum(m.amount) FILTER (WHERE NOT side.is_out), 0) AS in_amount,
        coalesce(sum(m.count) FILTER (WHERE NOT side.is_out), 0) AS in_count
    FROM movements m
    CROSS JOIN LATERAL (
        SELECT (m.direction = 'debit') <> %(is_debit_normal)s AS is_out) side
    GROUP BY m.created_at
)
SELECT %(ledger_id)s, gen_random_uuid(), %(account_id)s, i.created_at,
    coalesce(last.out_amount, 0) + sum(i.out_amount) OVER so_far,
    coalesce(last.out_count, 0) + sum(i.out_count) OVER so_far,
    coalesce(last.in_amount, 0) + sum(i.in_amount) OVER so_far,
    coalesce(last.in_count, 0) + sum(i.in_count) OVER so_far
FROM instants i
LEFT JOIN last ON true
WINDOW so_far AS (ORDER BY i.created_at)
"""


def _count_history(account: Account) -> None:
    """Writes the usage that the account's windows may look at, under its lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            _COUNT_HISTORY,
            {
                "ledger_id": account.ledger_id,
                "account_id": account.id,
                "is_debit_normal": account.is_debit_normal,
                "counted_kinds": [str(kind) for kind in COUNTED_KINDS],
            },
        )
