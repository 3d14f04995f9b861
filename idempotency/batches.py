"""Claims of a batch: the request's own key, and those of its items.

An item's key is the key of the single request that the item stands for: same ledger and
client, same operation, same digests. So whichever comes second, a batch or a single
request, finds what the first one did.

Note [No locks for items]. A single request says "in progress" by an advisory lock on
its key's hash. A batch takes none for its items: each lock fills a slot of a table in
PostgreSQL's shared memory that all sessions share. With the default settings 14,000
locks were taken and 16,000 were not, so two batches with 10,000 keys each would make
requests of others fail. What a batch does instead, in three statements however many
items it has:

* it looks who else has such a lock (a single request with an item's key), and gives
  that item up at once;
* it looks for the rows of the keys, and takes what it finds as the items' outcomes;
* it inserts the rows of the keys that it decided, in ascending order. The unique index
  is the authority: if a row is there already, or another transaction is about to commit
  it, this transaction rolls back and runs again, and then finds the row.

So one key never has two effects. A request that races with a batch for an item's key
may have to wait for the batch's accounts, for as long as any request waits for them.
See ``docs/adr/0013-a-batch-locks-no-keys.md``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db import connection

from idempotency.services import (
    KeyClaim,
    StoredOutcome,
    in_progress_problem,
    lock_number,
)
from payflow.errors import ProblemError
from payflow.execution import ClaimLostError, Rendered
from payflow.ids import new_id

# Locks on 64-bit numbers have objsubid 1 and show their halves as two object ids.
_LOCKED = """
SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_FIND = """
SELECT k.key, k.digests, k.status, k.response_headers, k.response_body,
    k.resource_type, k.resource_id, k.created_at
FROM unnest(%(keys)s::text[]) AS wanted (key)
JOIN idempotency_key k ON k.ledger_id = %(ledger_id)s
    AND k.client_id = %(client_id)s AND k.key = wanted.key
"""

# One JSON text instead of arrays: PostgreSQL takes apart what Python need not escape.
_STORE = """
INSERT INTO idempotency_key (
    ledger_id, id, client_id, key, operation, digests, status, resource_type,
    resource_id, response_headers, response_body)
SELECT %(ledger_id)s, i.id, %(client_id)s, i.key, %(operation)s, i.digests, i.status,
    i.resource_type, i.resource_id, i.headers, convert_to(i.body, 'UTF8')
FROM json_to_recordset(%(items)s::json) AS i (
    id uuid, key text, digests jsonb, status smallint, resource_type text,
    resource_id uuid, headers jsonb, body text)
ON CONFLICT (ledger_id, client_id, key) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class ItemKey:
    """The key of one item.

    Attributes:
        index: the item's place in the batch, from 0.
        key: as the client sent it; no two items have the same.
        digests: of the single request that the item stands for.
    """

    index: int
    key: str
    digests: Mapping[str, str]


class BatchClaim:
    """A batch's claim on its own key and its items' keys: the kernel's ``Claim``.

    Args:
        request: the claim on the request's own key.
        operation: the single request's operation.
        items: the keys of the items that have one.
    """

    def __init__(
        self, request: KeyClaim, *, operation: str, items: Sequence[ItemKey]
    ) -> None:
        self._request = request
        self._operation = operation
        self._items = sorted(items, key=lambda item: item.key)
        #: After ``acquire``: what the items' keys have decided already, by index: the
        #: earlier outcome, or why the key cannot be used now.
        self.earlier: dict[int, Rendered | ProblemError] = {}

    def acquire(self) -> Rendered | None:
        """The stored outcome of the whole batch, or ``None``; then see ``earlier``.

        Raises:
            ProblemError: as :meth:`KeyClaim.acquire`, of the request's own key.
        """
        stored = self._request.acquire()
        if stored is None and self._items:
            self.earlier = self._find()
        return stored

    def _find(self) -> dict[int, Rendered | ProblemError]:
        owner = {
            "ledger_id": self._request.ledger_id,
            "client_id": self._request.client_id,
        }
        with connection.cursor() as cursor:
            cursor.execute(_LOCKED)
            locked = {number for (number,) in cursor.fetchall()}
            cursor.execute(_FIND, {**owner, "keys": [item.key for item in self._items]})
            rows = {key: StoredOutcome(*row) for key, *row in cursor.fetchall()}
        earlier: dict[int, Rendered | ProblemError] = {}
        for item in self._items:
            row = rows.get(item.key)
            if row is not None:
                try:
                    earlier[item.index] = row.replay(
                        ledger_id=owner["ledger_id"], digests=item.digests
                    )
                except ProblemError as error:
                    earlier[item.index] = error
            elif locked and lock_number(**owner, key=item.key) in locked:
                earlier[item.index] = in_progress_problem()
        return earlier

    def store(self, rendered: Rendered) -> None:
        """Writes the rows of ``rendered.items`` and the request's own.

        Raises:
            ClaimLostError: another request's outcome is there already.
        """
        items = [item for item in self._items if item.key in rendered.items]
        if items:
            self._store_items(items, rendered.items)
        self._request.store(rendered)

    def _store_items(
        self, items: Sequence[ItemKey], rendered: Mapping[str, Rendered]
    ) -> None:
        rows = [
            {
                "id": new_id(),
                "key": item.key,
                "digests": dict(item.digests),
                "status": outcome.status,
                "resource_type": outcome.resource_type,
                "resource_id": outcome.resource_id,
                "headers": dict(outcome.headers),
                "body": outcome.body.decode(),
            }
            for item in items
            for outcome in (rendered[item.key],)
        ]
        with connection.cursor() as cursor:
            cursor.execute(
                _STORE,
                {
                    "ledger_id": self._request.ledger_id,
                    "client_id": self._request.client_id,
                    "operation": self._operation,
                    "items": json.dumps(rows, default=str, ensure_ascii=False),
                },
            )
            if cursor.rowcount != len(items):
                raise ClaimLostError(self._request.key)

    def committed(self, rendered: Rendered) -> None:
        """Makes the batch's outcome known in Valkey; its items' are in PostgreSQL."""
        self._request.committed(rendered)
