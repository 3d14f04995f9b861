"""Writes big books in minutes, to measure on: millions of entries, written by SQL.

``python -m benchmarks.books --transfers 5000000`` adds them to the demo ledger of the
running stack (or of ``--database-url``, as the owner of the tables). Everything is one
PostgreSQL transaction: foreign keys and triggers are off in it only, and PostgreSQL
checks all foreign keys before it commits. The books are such that ``manage.py
audit_ledger`` finds them sound. As it locks the tables, nothing else should run.

The same arguments give the same accounts, amounts and balances; ids and times, which
end an hour ago, differ.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from ledger.management.base import ProgressLine
from payflow.embedded.environment import load_stack_environment

_SQL = Path(__file__).with_name("books.sql")
#: How long ago the first transfer was recorded, and the last one.
_BEGAN, _ENDED = timedelta(days=300), timedelta(hours=1)
#: How many transfers one statement writes.
_SLICE = 250_000
_HOT_ACCOUNTS = 5
_BACKDATED_ACCOUNTS = 5
#: The most that all opening balances come to, so that equity fits into JSON.
_ALL_OPENINGS = 4 * 10**15
_MAX_OPENING = 10**11
#: The tables that are filled, whose guards are off meanwhile; of the accounts, which
#: are updated once at the end, the guards stay.
_TABLES = [
    "ledger_transfer",
    "ledger_entry",
    "ledger_hold",
    "ledger_hold_posting",
    "ledger_hold_event",
    "outbox_task",
]


@dataclass(frozen=True, slots=True)
class BigBooks:
    """What to write.

    Attributes:
        ledger_slug: the ledger, which exists and has no big books yet.
        account_count: ordinary accounts, the hot and the backdated ones among them.
        transfer_count: transfers of one posting each, opening balances included.
        hold_count: holds, every hundredth of them active.
        seed: what the choices depend on.
    """

    ledger_slug: str = "demo"
    account_count: int = 10_000
    transfer_count: int = 5_000_000
    hold_count: int = 100_000
    seed: int = 1


def books_write(*, url: str, books: BigBooks, progress: ProgressLine) -> None:
    """Writes the books, and vacuums and analyzes the tables.

    Args:
        url: the database, for the role that owns the tables.
        books: what to write.
        progress: is told of transfers.

    Raises:
        ValueError: there is no such ledger, or it has big books, or they are too small.
        psycopg.Error: the database refused.
    """
    if books.account_count <= _HOT_ACCOUNTS + _BACKDATED_ACCOUNTS:
        raise ValueError("Big books need more accounts.")
    if books.transfer_count < books.account_count:
        raise ValueError("Each account has an opening balance: ask for more transfers.")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT set_config(name, '0', false) FROM unnest(%s::text[]) AS name",
            [["statement_timeout", "transaction_timeout", "lock_timeout"]],
        )
        connection.execute(_SQL.read_bytes())
        with connection.transaction():
            _write(connection, books, progress)
        for table in ["ledger_account", *_TABLES]:
            connection.execute(f"VACUUM (ANALYZE) {table}")  # type: ignore[arg-type]


def _write(
    connection: psycopg.Connection, books: BigBooks, progress: ProgressLine
) -> None:
    connection.execute("SET LOCAL work_mem = '256MB'")
    connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
    ledger_id = _ledger_id(connection, books.ledger_slug)
    began = connection.execute("SELECT clock_timestamp() - %s", [_BEGAN]).fetchone()
    values: dict[str, Any] = {
        "ledger_id": ledger_id,
        "accounts": books.account_count,
        "hot": _HOT_ACCOUNTS,
        "backdated": _BACKDATED_ACCOUNTS,
        "opening": min(_MAX_OPENING, _ALL_OPENINGS // books.account_count),
        "began": began[0] if began else None,
        "pace": (_BEGAN - _ENDED) / books.transfer_count,
        "holds": books.hold_count,
        "held_at": began[0] + _BEGAN - _ENDED if began else None,
        # Room for the functions' own numbers beside it.
        "seed": books.seed * 1_000,
        "tables": _TABLES,
    }

    def call(function: str) -> None:
        connection.execute(f"SELECT pg_temp.{function}", values)  # type: ignore[arg-type]

    call("books_disarm(%(tables)s::regclass[])")
    call(
        "books_begin(%(ledger_id)s, %(accounts)s, %(hot)s, %(began)s::timestamptz,"
        " %(seed)s)"
    )
    for first in range(1, books.transfer_count + 1, _SLICE):
        last = min(first + _SLICE - 1, books.transfer_count)
        values |= {"first": first, "last": last}
        call(
            "books_slice(%(ledger_id)s, %(accounts)s, %(hot)s, %(backdated)s,"
            " %(opening)s, %(first)s, %(last)s, %(began)s::timestamptz, %(pace)s,"
            " %(seed)s)"
        )
        progress.advance(last - first + 1)
    call(
        "books_holds(%(ledger_id)s, %(accounts)s, %(holds)s, %(held_at)s::timestamptz,"
        " %(seed)s)"
    )
    call("books_arm()")
    call("books_end(%(ledger_id)s)")


def _ledger_id(connection: psycopg.Connection, slug: str) -> UUID:
    row = connection.execute(
        "SELECT l.id, EXISTS (SELECT FROM ledger_account a WHERE a.ledger_id = l.id"
        " AND a.reference = 'books-opening-balances')"
        " FROM ledger_ledger l WHERE l.slug = %s",
        [slug],
    ).fetchone()
    if row is None:
        raise ValueError(f"There is no ledger {slug!r}: make it first.")
    if row[1]:
        raise ValueError(f"The ledger {slug!r} has its big books already.")
    ledger_id: UUID = row[0]
    return ledger_id


def main() -> None:
    """Reads the command line and writes the books."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.books", description=__doc__
    )
    defaults = BigBooks()
    parser.add_argument("--ledger", default=defaults.ledger_slug, metavar="SLUG")
    parser.add_argument("--accounts", type=int, default=defaults.account_count)
    parser.add_argument("--transfers", type=int, default=defaults.transfer_count)
    parser.add_argument("--holds", type=int, default=defaults.hold_count)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--database-url", help="for the owner of the tables (default: the stack's)"
    )
    options = parser.parse_args()
    load_stack_environment()
    url = options.database_url or os.environ.get("DATABASE_OWNER_URL")
    if not url:
        parser.error("no stack runs: start it (`make run`) or give --database-url")
    books = BigBooks(
        ledger_slug=options.ledger,
        account_count=options.accounts,
        transfer_count=options.transfers,
        hold_count=options.holds,
        seed=options.seed,
    )
    started = time.monotonic()
    try:
        with ProgressLine("Writing transfers", books.transfer_count) as progress:
            books_write(url=url, books=books, progress=progress)
    except ValueError as error:
        sys.exit(str(error))
    print(
        f"{2 * books.transfer_count:,} entries of {books.account_count:,} accounts in"
        f" {time.monotonic() - started:.0f} s."
    )


if __name__ == "__main__":
    main()
