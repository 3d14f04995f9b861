"""The posting engine: the only code that writes transfers, holds and counters.

A :class:`~ledger.engine.batch.Batch` works in the caller's transaction and in a
constant number of statements, however many operations it carries:

1. it locks every account that occurs, in ascending id;
2. the caller has each operation judged (``refusals``, ``velocity``) on the balances
   that the earlier ones leave, and either notes the refusal or adds it to the locked
   state in memory;
3. it writes everything in one statement (``writing``), whose triggers check the
   result once more (``ledger/migrations/sql``).

The services ``posting`` (transfers), ``holds`` and ``reversals`` are its callers.
"""
