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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from idempotency.services import (
    KeyClaim,
    KeyClaims,
    StoredOutcome,
    in_progress_problem,
    lock_number,
)
from payflow.errors import ProblemError
from payflow.execution import Rendered
from payflow.statements import run_prepared, texts

# Locks on 64-bit numbers have objsubid 1 and show their halves as two object ids.
_LOCKED = """
SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_FIND = """
SELECT k.key, k.digests, k.status, k.response_headers, k.response_body,
    k.resource_type, k.resource_id, k.created_at
FROM unnest($3::text[]) AS wanted (key)
CROSS JOIN LATERAL (
    SELECT * FROM idempotency_key
    WHERE ledger_id = $1::uuid AND client_id = $2::uuid AND key = wanted.key OFFSET 0
) k
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
        keys = texts([item.key for item in self._items])
        locked = {number for (number,) in run_prepared(_LOCKED, [])}
        found = run_prepared(_FIND, [*owner.values(), keys])
        rows = {key: StoredOutcome(*row) for key, *row in found}
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
            claims = [
                KeyClaim(
                    ledger_id=self._request.ledger_id,
                    client_id=self._request.client_id,
                    key=item.key,
                    operation=self._operation,
                    digests=item.digests,
                    mark=None,
                )
                for item in items
            ]
            KeyClaims(claims).store([rendered.items[item.key] for item in items])
        self._request.store(rendered)

    def committed(self, rendered: Rendered) -> None:
        """Makes the batch's outcome known in Valkey; its items' are in PostgreSQL."""
        self._request.committed(rendered)
