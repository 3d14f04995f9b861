"""The authority of idempotency: the key's row in PostgreSQL.

The row is written in the transaction of the effect, finished, so a key is either free
or has its outcome; there is no state in between to clean up after a crash. Who works on
a free key holds a transaction-level advisory lock on its hash: it says "in progress" to
others at once, waits for nobody, and goes with the connection that held it. The unique
index is the last word: should two requests pass the lock (a hash says nothing of
another node), one INSERT wins and the other request rolls everything back.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.utils.module_loading import import_string

from idempotency import store
from idempotency.fingerprint import differing_fields
from idempotency.store import Outcome
from payflow.api.rendering import to_json
from payflow.clock import format_instant
from payflow.db import require_transaction
from payflow.errors import ProblemError
from payflow.execution import ClaimLostError, Rendered
from payflow.ids import new_id
from payflow.statements import (
    Packed,
    bigints,
    blobs,
    integers,
    run_prepared,
    texts,
    uuids,
)

#: The largest number of stored responses that one purge statement empties.
PURGE_BATCH = 1_000

# LATERAL and OFFSET 0: each key is looked up by itself, whatever the planner believes
# of the table's size. ARRAY(SELECT ...): PostgreSQL keeps its plan, for it does not see
# how short the arrays are; planning anew cost more than running.
_ACQUIRE = """
SELECT pg_try_advisory_xact_lock(wanted.lock), k.*
FROM unnest(ARRAY(SELECT unnest($2::bigint[])), ARRAY(SELECT unnest($3::uuid[])),
        ARRAY(SELECT unnest($4::text[])))
    WITH ORDINALITY AS wanted (lock, client_id, key, number)
LEFT JOIN LATERAL (
    SELECT digests, status, response_headers, response_body, resource_type,
        resource_id, created_at
    FROM idempotency_key
    WHERE ledger_id = $1::uuid AND client_id = wanted.client_id AND key = wanted.key
    OFFSET 0
) k ON true
ORDER BY wanted.number
"""

_STORE = """
INSERT INTO idempotency_key (
    ledger_id, id, client_id, key, operation, digests, status, resource_type,
    resource_id, response_headers, response_body)
SELECT $1::uuid, r.id, r.client_id, r.key, r.operation, r.digests::jsonb, r.status,
    r.resource_type, r.resource_id, r.headers::jsonb, r.body
FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::int[],
    $8::text[], $9::uuid[], $10::text[], $11::bytea[]) AS r (
    id, client_id, key, operation, digests, status, resource_type, resource_id,
    headers, body)
ON CONFLICT (ledger_id, client_id, key) DO NOTHING
RETURNING 1
"""
_STORE_COLUMNS: tuple[Callable[[Sequence[Any]], Packed], ...] = (
    *(uuids, uuids, texts, texts, texts),
    *(integers, texts, uuids, texts, blobs),
)

# From one ledger to the next by index, however many keys each has.
_LEDGERS = """
WITH RECURSIVE found (ledger_id) AS (
    (SELECT ledger_id FROM idempotency_key WHERE purged_at IS NULL
     ORDER BY ledger_id LIMIT 1)
    UNION ALL
    SELECT (SELECT k.ledger_id FROM idempotency_key k
            WHERE k.purged_at IS NULL AND k.ledger_id > f.ledger_id
            ORDER BY k.ledger_id LIMIT 1)
    FROM found f WHERE f.ledger_id IS NOT NULL
)
SELECT ledger_id FROM found WHERE ledger_id IS NOT NULL
"""

_PURGE = """
UPDATE idempotency_key SET response_headers = NULL, response_body = NULL,
    purged_at = clock_timestamp()
WHERE ledger_id = %(ledger_id)s AND id IN (
    SELECT id FROM idempotency_key
    WHERE ledger_id = %(ledger_id)s AND purged_at IS NULL
        AND created_at < clock_timestamp() - make_interval(secs => %(seconds)s)
    ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
"""


def reused_problem(fields: list[str]) -> ProblemError:
    """The problem of a key that comes with another request than before."""
    return ProblemError(
        "idempotency_key_reused",
        f"This key was used for a request with other {', '.join(fields)}.",
        differing_fields=fields,
    )


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """What a key's row says; headers and body are ``None`` once they are purged."""

    digests: Any
    status: int
    headers: Any
    body: bytes | None
    resource_type: str
    resource_id: UUID | None
    created_at: datetime

    def replay(self, *, ledger_id: UUID, digests: Mapping[str, str]) -> Rendered:
        """The outcome again, for the request with these digests.

        Raises:
            ProblemError: ``idempotency_key_reused``, ``idempotency_outcome_expired``,
                ``idempotency_response_expired``.
        """
        if fields := differing_fields(_from_json(self.digests), digests):
            raise reused_problem(fields)
        if self.body is None:
            return self._rebuilt(ledger_id)
        return Rendered(
            self.status,
            bytes(self.body),
            _from_json(self.headers),
            self.resource_type,
            self.resource_id,
            is_replay=True,
        )

    def _rebuilt(self, ledger_id: UUID) -> Rendered:
        if self.status >= 300:
            raise ProblemError(
                "idempotency_outcome_expired",
                "This key was refused once; the details are no longer stored.",
            )
        rebuild = _rebuilders().get(self.resource_type)
        if rebuild is None or self.resource_id is None:
            at = format_instant(self.created_at)
            raise ProblemError(
                "idempotency_response_expired",
                f"The request was carried out at {at}; its answer is no longer stored.",
                carried_out_at=at,
            )
        resource, location = rebuild(ledger_id=ledger_id, resource_id=self.resource_id)
        headers = {"Content-Type": "application/json"}
        if self.status == 201:
            headers["Location"] = location
        return Rendered(
            self.status,
            to_json(resource),
            headers,
            self.resource_type,
            self.resource_id,
            is_replay=True,
        )


def lock_number(*, ledger_id: UUID, client_id: UUID, key: str) -> int:
    """The advisory lock that says "in progress" of a client's key."""
    text = f"{ledger_id}:{client_id}:{key}"
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"idempotency")
    return int.from_bytes(digest.digest(), "big", signed=True)


def in_progress_problem() -> ProblemError:
    """The problem of a key whose first request is running."""
    return ProblemError(
        "idempotency_in_progress",
        "The first request with this key has not finished.",
        retry_after_seconds=1,
    )


class KeyClaim:
    """One request's claim on its key; the kernel's ``Claim`` protocol.

    Args:
        ledger_id, client_id: the principal, whom the key belongs to.
        key: as the client sent it.
        operation: the operation's stable name.
        digests: of the request, from :func:`idempotency.fingerprint.request_digests`.
        mark: the request's place in Valkey, if that could be had.
    """

    def __init__(
        self,
        *,
        ledger_id: UUID,
        client_id: UUID,
        key: str,
        operation: str,
        digests: Mapping[str, str],
        mark: store.Mark | None,
    ) -> None:
        self.key = key
        self.ledger_id = ledger_id
        self.client_id = client_id
        self._operation = operation
        self._digests = digests
        self._mark = mark
        self._is_committed = False
        self._is_rebuilt = False

    def acquire(self) -> Rendered | None:
        """The stored outcome, or ``None``: the key is this transaction's.

        Raises:
            ProblemError: ``idempotency_in_progress``, ``idempotency_key_reused``,
                ``idempotency_outcome_expired``, ``idempotency_response_expired``.
        """
        (found,) = KeyClaims([self]).acquire()
        if isinstance(found, ProblemError):
            raise found
        return found

    def store(self, rendered: Rendered) -> None:
        """Writes the key's row with its outcome.

        Raises:
            ClaimLostError: another request's outcome is there already.
        """
        KeyClaims([self]).store([rendered])

    def committed(self, rendered: Rendered) -> None:
        """Makes the outcome known in Valkey, now that it cannot be undone.

        A rebuilt answer is not: it shows the resource of now, and tomorrow's will
        be another one.
        """
        self.settle()
        KeyClaims([self]).publish([rendered])

    def settle(self) -> None:
        """Keeps the mark: an outcome is committed, and will be put in its place."""
        self._is_committed = not self._is_rebuilt

    @property
    def is_published(self) -> bool:
        """Whether the outcome belongs into Valkey: committed, marked, not rebuilt."""
        return self._is_committed and self._mark is not None

    @property
    def is_contested(self) -> bool:
        """Whether Valkey has another request with the key in progress."""
        return self._mark is not None and not self._mark.token

    @property
    def lock_number(self) -> int:
        """The advisory lock of the key."""
        return lock_number(
            ledger_id=self.ledger_id, client_id=self.client_id, key=self.key
        )

    def found(
        self, row: Sequence[Any], *, is_ours: bool
    ) -> Rendered | ProblemError | None:
        """What the key's row, if there is one, means for this request.

        Args:
            row: the columns of :class:`StoredOutcome`; all null if there is none.
            is_ours: whether this request got the key's lock.
        """
        outcome = StoredOutcome(*row)
        if outcome.status is None:
            return None if is_ours else in_progress_problem()
        self._is_rebuilt = outcome.body is None
        try:
            return outcome.replay(ledger_id=self.ledger_id, digests=self._digests)
        except ProblemError as error:
            return error

    def row(self, rendered: Rendered) -> tuple[Any, ...]:
        """The key's row with the outcome, but for its ledger."""
        return (
            new_id(),
            self.client_id,
            self.key,
            self._operation,
            json.dumps(dict(self._digests)),
            rendered.status,
            rendered.resource_type,
            rendered.resource_id,
            json.dumps(dict(rendered.headers)),
            rendered.body,
        )

    def outcome(self, rendered: Rendered) -> Outcome:
        """What :func:`idempotency.store.publish` takes; it must be published."""
        assert self._mark is not None, "there is no mark to publish at"
        return Outcome(self._mark, self._digests, rendered)

    def close(self) -> None:
        """At the end of the request: takes the mark away if nothing was committed."""
        if self._mark is not None and not self._is_committed:
            store.release(self._mark)


class KeyClaims:
    """Claims of requests that share a transaction; the kernel's ``Claims`` protocol.

    Args:
        claims: at least one, all of one ledger.
    """

    def __init__(self, claims: Sequence[KeyClaim]) -> None:
        self._claims = claims
        self.ledger_id = claims[0].ledger_id

    def acquire(self) -> list[Rendered | ProblemError | None]:
        """For each, its stored outcome or its problem; ``None``: the key is free."""
        require_transaction()
        locks = [claim.lock_number for claim in self._claims]
        rows = run_prepared(
            _ACQUIRE,
            [
                self.ledger_id,
                bigints(locks),
                uuids([claim.client_id for claim in self._claims]),
                texts([claim.key for claim in self._claims]),
            ],
        )
        seen: set[int] = set()
        found: list[Rendered | ProblemError | None] = []
        for claim, lock, (is_ours, *row) in zip(self._claims, locks, rows, strict=True):
            # This session would get the lock of a key twice: one of the two waits.
            found.append(claim.found(row, is_ours=is_ours and lock not in seen))
            seen.add(lock)
        return found

    def store(self, rendered: Sequence[Rendered | None]) -> None:
        """Writes the rows of the outcomes that there are.

        Raises:
            ClaimLostError: of one, another request's outcome is there already.
        """
        rows = [
            claim.row(outcome)
            for claim, outcome in zip(self._claims, rendered, strict=True)
            if outcome is not None
        ]
        if not rows:
            return
        # In one order everywhere: who meets another's key waits for it.
        rows.sort(key=lambda row: (row[1], row[2]))
        columns = zip(_STORE_COLUMNS, zip(*rows, strict=True), strict=True)
        stored = run_prepared(
            _STORE, [self.ledger_id, *(pack(column) for pack, column in columns)]
        )
        if len(stored) != len(rows):
            raise ClaimLostError(f"one of {len(rows)} keys")

    def settle(self, answers: Sequence[Rendered | ProblemError]) -> None:
        """Told right after the commit, before anybody is answered."""
        for claim, answer in zip(self._claims, answers, strict=True):
            if isinstance(answer, Rendered):
                claim.settle()

    def publish(self, answers: Sequence[Rendered | ProblemError]) -> None:
        """Makes the committed outcomes known in Valkey, in one round trip."""
        store.publish(
            [
                claim.outcome(answer)
                for claim, answer in zip(self._claims, answers, strict=True)
                if isinstance(answer, Rendered) and claim.is_published
            ]
        )


def _from_json(value: Any) -> Any:
    # Django leaves jsonb of raw cursors as text.
    return json.loads(value) if isinstance(value, str) else value


def _rebuilders() -> dict[str, Callable[..., tuple[dict[str, Any], str]]]:
    return {
        kind: import_string(path)
        for kind, path in settings.IDEMPOTENCY_REBUILDERS.items()
    }


def ledgers_with_responses() -> list[UUID]:
    """The ids of the ledgers that have stored responses."""
    with connection.cursor() as cursor:
        cursor.execute(_LEDGERS)
        return [ledger_id for (ledger_id,) in cursor.fetchall()]


def responses_purge(*, ledger_id: UUID, older_than: timedelta) -> int:
    """Empties the stored responses of a ledger's old keys; the keys stay.

    Args:
        ledger_id: whose.
        older_than: the retention.

    Returns:
        How many were emptied, up to :data:`PURGE_BATCH`; call again until it is 0.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    with connection.cursor() as cursor:
        cursor.execute(
            _PURGE,
            {
                "ledger_id": ledger_id,
                "seconds": older_than.total_seconds(),
                "limit": PURGE_BATCH,
            },
        )
        return int(cursor.rowcount)
