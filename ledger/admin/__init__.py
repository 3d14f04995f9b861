"""The books in the back office: everything is shown and linked, nothing is written.

One module for each page, named as in the index; ``shared`` has what several need.
"""

from ledger.admin import (
    accounts,
    assets,
    audits,
    changes,
    clients,
    entries,
    holds,
    ledgers,
    limits,
    scheduled,
    transfers,
)

__all__ = [
    "accounts",
    "assets",
    "audits",
    "changes",
    "clients",
    "entries",
    "holds",
    "ledgers",
    "limits",
    "scheduled",
    "transfers",
]
