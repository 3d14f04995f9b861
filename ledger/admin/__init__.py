"""The books in the back office: everything is shown and linked, nothing is written.

One module for each page, named as in the index; ``shared`` has what several need.
"""

from ledger.admin import accounts, audits, changes, clients, entries, ledgers, transfers

__all__ = [
    "accounts",
    "audits",
    "changes",
    "clients",
    "entries",
    "ledgers",
    "transfers",
]
