"""The one statement that writes a batch.

One statement, so that its triggers see the whole. The recording time is PostgreSQL's
clock, read after the accounts are locked and never below an account's last entry. Only
the parts that the batch has rows for are there: the plain transfer's statement stays
short, and no trigger runs for nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, cast
from uuid import UUID

from payflow.actors import Actor
from payflow.statements import (
    Packed,
    bigints,
    discard_plans,
    instant,
    instants,
    integers,
    intervals,
    run_prepared,
    text,
    texts,
    uuids,
)

#: From so many entries on, plans that the connection has kept for longer than these
#: seconds are made anew first. Foreign keys and triggers keep theirs, and one that was
#: made on nearly empty tables may read a whole table for each row, until autovacuum has
#: noticed that they grew. Making them costs some milliseconds.
REPLAN_ROWS = 200
REPLAN_SECONDS = 1.0

Row = tuple[Any, ...]


class Rows:
    """The rows that a batch writes, by the statement's parts."""

    def __init__(self) -> None:
        self.transfers: list[Row] = []
        self.postings: list[Row] = []
        self.tasks: list[Row] = []
        self.payouts: list[Row] = []
        self.accounts: list[Row] = []
        self.holds: list[Row] = []
        self.hold_postings: list[Row] = []
        self.hold_changes: list[Row] = []
        self.hold_posting_changes: list[Row] = []
        self.hold_events: list[Row] = []
        self.hold_tasks: list[Row] = []
        self.reversals: list[Row] = []
        self.usage: list[Row] = []


def write(
    rows: Rows,
    *,
    ledger_id: UUID,
    actors: Sequence[Actor],
    idempotency_key: str | None,
    not_before: datetime | None,
    tasks_are_done: bool,
) -> datetime:
    """Writes the rows, empties them and returns the recording time.

    Args:
        rows: what to write.
        ledger_id: the ledger of all of it.
        actors: who asked; the rows' ``by`` count them from 1.
        idempotency_key: of the rows that have none of their own.
        not_before: what the recording time must not precede.
        tasks_are_done: write ``transfer.posted`` tasks as done already.

    Raises:
        RuntimeError: a locked row was not there to be updated; roll back.
    """
    present = tuple(name for name in _PARTS if getattr(rows, name))
    row_count = 2 * len(rows.postings) + len(rows.hold_posting_changes)
    parameters: list[Any] = [
        ledger_id,
        instant(not_before),
        texts([actor.label for actor in actors]),
        uuids([actor.client_id for actor in actors]),
        uuids([actor.key_id for actor in actors]),
        texts([actor.request_id for actor in actors]),
        text(idempotency_key),
        text("done" if tasks_are_done else "pending"),
    ]
    expected = 0
    for name in present:
        part = _PARTS[name]
        values: list[Row] = getattr(rows, name)
        columns = zip(*values, strict=True)
        for (_, kind), column in zip(part.columns, columns, strict=True):
            parameters.append(_PACK[kind](column))
        if part.is_update:
            expected += len(values)
        # Ten thousand transfers are not kept twice while PostgreSQL works on them.
        values.clear()
    if row_count >= REPLAN_ROWS:
        discard_plans(older_than_seconds=REPLAN_SECONDS)
    ((recorded_at, updated),) = run_prepared(_statement(present), parameters)
    if updated != expected:
        raise RuntimeError("a locked row disappeared: refusing to commit")
    return cast("datetime", recorded_at)


_PACK: dict[str, Callable[[Sequence[Any]], Packed]] = {
    "uuid": uuids,
    "int": integers,
    "bigint": bigints,
    "text": texts,
    "timestamptz": instants,
    "interval": intervals,
}

# What every statement is given first: $1 … $8.
_GIVEN = {
    "ledger_id": "uuid",
    "not_before": "timestamptz",
    "actors": "text[]",
    "client_ids": "uuid[]",
    "key_ids": "uuid[]",
    "request_ids": "text[]",
    "idempotency_key": "text",
    "posted_state": "text",
}
# Actor, client, key and request of a row. There are as many actors as requests that
# share the batch, so an array is the shortest table.
_WHO = "{actors}[r.by], {client_ids}[r.by], {key_ids}[r.by], {request_ids}[r.by]"


class _Part:
    """One CTE: what it does with rows whose columns have these names and types."""

    def __init__(self, columns: str, sql: str, *, is_update: bool = False) -> None:
        self.columns = [column.split() for column in columns.split(",")]
        self._sql = sql
        self.is_update = is_update

    def cte(self, name: str, first: int, given: Mapping[str, str]) -> str:
        """Its text, with its columns' parameters from number ``first`` on."""
        arrays = ", ".join(
            f"${number}::{kind}[]"
            for number, (_, kind) in enumerate(self.columns, first)
        )
        names = ", ".join(column for column, _ in self.columns)
        source = f"unnest({arrays}) AS r ({names})"
        sql = self._sql.format(rows=source, who=_WHO.format(**given), **given)
        return f"{name} AS ({sql})"


_PARTS = {
    "transfers": _Part(
        "id uuid, kind text, posting_count int, reference text, description text,"
        " metadata text, effective_at timestamptz, idempotency_key text, origin text,"
        " by int",
        """
        INSERT INTO ledger_transfer (
            ledger_id, id, kind, posting_count, reference, description, metadata,
            effective_at, created_at, actor, client_id, key_id, request_id,
            idempotency_key, reverses_transfer_id, hold_id, source_postings, reason,
            permission, exchange_rate)
        SELECT {ledger_id}, r.id, r.kind, r.posting_count, r.reference,
            r.description, r.metadata::jsonb,
            least(coalesce(r.effective_at, clock.at), clock.at), clock.at,
            {who},
            coalesce(r.idempotency_key, {idempotency_key}),
            (o.json ->> 'reverses_transfer_id')::uuid,
            (o.json ->> 'hold_id')::uuid,
            (o.json ->> 'source_postings')::int[],
            o.json ->> 'reason', o.json ->> 'permission',
            (o.json ->> 'exchange_rate')::numeric
        FROM clock, {rows}, LATERAL (SELECT r.origin::jsonb AS json) o
        """,
    ),
    "postings": _Part(
        "debit_id uuid, credit_id uuid, transfer_id uuid, number int, source_id uuid,"
        " target_id uuid, currency text, amount bigint, source_version bigint,"
        " source_debits bigint, source_credits bigint, target_version bigint,"
        " target_debits bigint, target_credits bigint, effective_at timestamptz",
        """
        INSERT INTO ledger_entry (
            ledger_id, id, transfer_id, posting_number, direction, account_id,
            currency, amount, account_version, debits_after, credits_after,
            effective_at, created_at)
        SELECT {ledger_id}, e.id, r.transfer_id, r.number, e.direction, e.account_id,
            r.currency, r.amount, e.version, e.debits, e.credits,
            least(coalesce(r.effective_at, clock.at), clock.at), clock.at
        FROM clock, {rows}, LATERAL (VALUES
            (r.debit_id, 'debit', r.source_id, r.source_version, r.source_debits,
             r.source_credits),
            (r.credit_id, 'credit', r.target_id, r.target_version, r.target_debits,
             r.target_credits)
        ) AS e (id, direction, account_id, version, debits, credits)
        """,
    ),
    "tasks": _Part(
        "id uuid, transfer_id uuid, by int",
        """
        INSERT INTO outbox_task (
            ledger_id, id, kind, transfer_id, posting_number, state, due_at,
            created_at, finished_at, request_id)
        SELECT {ledger_id}, r.id, 'transfer.posted', r.transfer_id, 0, {posted_state},
            clock.at, clock.at, CASE {posted_state} WHEN 'done' THEN clock.at END,
            {request_ids}[r.by]
        FROM clock, {rows}
        """,
    ),
    "payouts": _Part(
        "id uuid, transfer_id uuid, posting_number int, account_id uuid,"
        " destination text, amount bigint, currency text, by int",
        """
        INSERT INTO outbox_task (
            ledger_id, id, kind, transfer_id, posting_number, account_id,
            destination, amount, currency, due_at, created_at, request_id)
        SELECT {ledger_id}, r.id, 'payout', r.transfer_id, r.posting_number,
            r.account_id, r.destination, r.amount, r.currency, clock.at, clock.at,
            {request_ids}[r.by]
        FROM clock, {rows}
        """,
    ),
    "accounts": _Part(
        "id uuid, version bigint, debits_posted bigint, credits_posted bigint,"
        " debits_pending bigint, credits_pending bigint",
        """
        UPDATE ledger_account a
        SET version = r.version, debits_posted = r.debits_posted,
            credits_posted = r.credits_posted, debits_pending = r.debits_pending,
            credits_pending = r.credits_pending,
            last_entry_at = CASE WHEN r.version > a.version THEN clock.at
                ELSE a.last_entry_at END
        FROM clock, {rows}
        WHERE a.ledger_id = {ledger_id} AND a.id = r.id
        RETURNING 1
        """,
        is_update=True,
    ),
    "holds": _Part(
        "id uuid, posting_count int, reference text, description text, metadata text,"
        " expires_at timestamptz, lifetime interval, idempotency_key text, by int",
        """
        INSERT INTO ledger_hold (
            ledger_id, id, posting_count, reference, description, metadata,
            expires_at, created_at, actor, client_id, key_id, request_id,
            idempotency_key)
        SELECT {ledger_id}, r.id, r.posting_count, r.reference,
            r.description, r.metadata::jsonb,
            coalesce(r.expires_at, clock.at + r.lifetime), clock.at, {who},
            coalesce(r.idempotency_key, {idempotency_key})
        FROM clock, {rows}
        """,
    ),
    "hold_postings": _Part(
        "id uuid, hold_id uuid, number int, from_account_id uuid, to_account_id uuid,"
        " currency text, amount bigint, capture_limit bigint, expires_at timestamptz,"
        " lifetime interval",
        """
        INSERT INTO ledger_hold_posting (
            ledger_id, id, hold_id, number, from_account_id, to_account_id,
            currency, amount, capture_limit, expires_at, created_at)
        SELECT {ledger_id}, r.id, r.hold_id, r.number, r.from_account_id,
            r.to_account_id, r.currency, r.amount, r.capture_limit,
            coalesce(r.expires_at, clock.at + r.lifetime), clock.at
        FROM clock, {rows}
        """,
    ),
    "hold_changes": _Part(
        "id uuid, status text, expires_at timestamptz",
        """
        UPDATE ledger_hold h
        SET status = r.status, expires_at = r.expires_at,
            ended_at = CASE WHEN r.status <> 'active' THEN clock.at END
        FROM clock, {rows}
        WHERE h.ledger_id = {ledger_id} AND h.id = r.id
        RETURNING 1
        """,
        is_update=True,
    ),
    "hold_posting_changes": _Part(
        "id uuid, captured bigint, released bigint, expires_at timestamptz",
        """
        UPDATE ledger_hold_posting p
        SET captured = r.captured, released = r.released, expires_at = r.expires_at
        FROM {rows}
        WHERE p.ledger_id = {ledger_id} AND p.id = r.id
        RETURNING 1
        """,
        is_update=True,
    ),
    "hold_events": _Part(
        "id uuid, hold_id uuid, kind text, captured bigint, released bigint,"
        " transfer_id uuid, expires_at timestamptz, lifetime interval, reason text,"
        " by int",
        """
        INSERT INTO ledger_hold_event (
            ledger_id, id, hold_id, kind, captured, released, transfer_id,
            expires_at, reason, actor, client_id, key_id, request_id, created_at)
        SELECT {ledger_id}, r.id, r.hold_id, r.kind, r.captured, r.released,
            r.transfer_id, coalesce(r.expires_at, clock.at + r.lifetime), r.reason,
            {who},
            clock.at
        FROM clock, {rows}
        """,
    ),
    "hold_tasks": _Part(
        "id uuid, kind text, hold_event_id uuid, by int",
        """
        INSERT INTO outbox_task (
            ledger_id, id, kind, hold_event_id, due_at, created_at, request_id)
        SELECT {ledger_id}, r.id, r.kind, r.hold_event_id, clock.at, clock.at,
            {request_ids}[r.by]
        FROM clock, {rows}
        """,
    ),
    "reversals": _Part(
        "id uuid, transfer_id uuid, posting_number int, amount bigint, reversed bigint",
        """
        INSERT INTO ledger_reversal_total AS t (
            ledger_id, id, transfer_id, posting_number, amount, reversed)
        SELECT {ledger_id}, r.id, r.transfer_id, r.posting_number, r.amount,
            r.reversed
        FROM {rows}
        ON CONFLICT (ledger_id, transfer_id, posting_number)
            DO UPDATE SET reversed = excluded.reversed
        """,
    ),
    "usage": _Part(
        "id uuid, account_id uuid, out_amount bigint, out_count bigint,"
        " in_amount bigint, in_count bigint",
        """
        INSERT INTO ledger_usage AS u (
            ledger_id, id, account_id, created_at, out_amount, out_count, in_amount,
            in_count)
        SELECT {ledger_id}, r.id, r.account_id, clock.at, r.out_amount,
            r.out_count, r.in_amount, r.in_count
        FROM clock, {rows}
        ON CONFLICT (ledger_id, account_id, created_at) DO UPDATE
        SET out_amount = excluded.out_amount, out_count = excluded.out_count,
            in_amount = excluded.in_amount, in_count = excluded.in_count
        """,
    ),
}


@cache
def _statement(present: tuple[str, ...]) -> str:
    given = {
        name: f"(${number}::{kind})"
        for number, (name, kind) in enumerate(_GIVEN.items(), start=1)
    }
    ctes, first = [], len(_GIVEN) + 1
    for name in present:
        ctes.append(_PARTS[name].cte(name, first, given))
        first += len(_PARTS[name].columns)
    counts = [f"(SELECT count(*) FROM {n})" for n in present if _PARTS[n].is_update]  # noqa: S608
    # Every parameter is named here, so that each has a type, used or not.
    return f"""
    WITH given AS (SELECT {", ".join(given.values())}), clock AS MATERIALIZED (
        SELECT greatest(clock_timestamp(), {given["not_before"]}) AS at
    ), {", ".join(ctes)}
    SELECT clock.at, {" + ".join(counts) or 0} FROM clock
    """  # noqa: S608 - the parts above, and nothing from outside
