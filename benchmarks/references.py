"""Makes the references, and shows that they leave the rows that the API leaves."""

import json
import secrets
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.stack import ACCOUNT_COUNT, LEDGER, BenchmarkError, Stack

_SQL = Path(__file__).with_name("references.sql")
BATCH_SIZE = 1_000
TABLES = ("ledger_transfer", "ledger_entry", "outbox_task", "idempotency_key")

# The rows that were written after an id, which is a time, by what they look like.
_KINDS_OF_ROWS = """
SELECT count(*), shape FROM (
    SELECT (
        SELECT jsonb_object_agg(c.key, CASE
            WHEN c.key = ANY (%(compared)s) OR c.value = 'null' THEN c.value
            ELSE '"..."' END)
        FROM jsonb_each(to_jsonb(r)) c) AS shape
    FROM {table} r WHERE r.ledger_id = %(ledger_id)s AND r.id > %(after)s) AS shapes
GROUP BY shape ORDER BY shape
"""
# Columns whose values must be the same; of the others, whether there is one.
_COMPARED = [
    *("actor", "attempt_count", "client_id", "currency", "delivery", "description"),
    *("direction", "failure_count", "key_id", "kind", "last_error", "metadata"),
    *("operation", "posting_count", "posting_number", "resource_type", "state"),
    "status",
]


class References:
    """The functions of one round, in the stack's database.

    Args:
        stack: it runs, without its background processes.
        accounts: the ids of the accounts, number 1 first.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        with stack.superuser() as connection:
            (self.ledger_id,) = _one(
                connection, "SELECT id FROM ledger_ledger WHERE slug = %s", [LEDGER]
            )
            self.accounts = [
                row[0]
                for row in connection.execute(
                    "SELECT id FROM ledger_account WHERE ledger_id = %s"
                    " AND reference LIKE 'books-account-%%' ORDER BY reference",
                    [self.ledger_id],
                )
            ]
        if len(self.accounts) != ACCOUNT_COUNT:
            raise BenchmarkError(f"The books have {len(self.accounts)} accounts.")

    def make(self) -> None:
        """Makes the functions, and writes one transfer and one batch each way.

        Raises:
            BenchmarkError: the two ways do not leave the same rows.
        """
        api_transfer = self._written(self._post_transfer)
        api_batch = self._written(self._post_batch)
        with self._stack.superuser() as connection:
            client_id, key_id, actor = _one(
                connection,
                "SELECT client_id, key_id, actor FROM ledger_transfer WHERE"
                " ledger_id = %s AND client_id IS NOT NULL ORDER BY id DESC LIMIT 1",
                [self.ledger_id],
            )
            text = _SQL.read_text()
            for name, value in (
                ("$ledger$", self.ledger_id),
                ("$client$", client_id),
                ("$key$", key_id),
                ("$actor$", actor),
            ):
                literal = sql.Literal(value).as_string(connection)
                text = text.replace(name, literal)
            connection.execute("DROP SCHEMA IF EXISTS benchmark CASCADE")
            connection.execute(text)
            connection.execute(
                "INSERT INTO benchmark.account SELECT n, id FROM"
                " unnest(%s::uuid[]) WITH ORDINALITY AS a (id, n)",
                [self.accounts],
            )
            connection.execute(
                "INSERT INTO benchmark.answer SELECT DISTINCT ON (operation) operation,"
                " digests, status, resource_type, response_headers, response_body FROM"
                " idempotency_key WHERE ledger_id = %s AND client_id = %s"
                " ORDER BY operation, id DESC",
                [self.ledger_id, client_id],
            )
            connection.execute("ANALYZE benchmark.account, benchmark.answer")
        for name, api, call in (
            ("transfer", api_transfer, "benchmark.transfer(1, 2, 5, true)"),
            ("batch", api_batch, f"benchmark.batch(1, 100, {BATCH_SIZE}, true)"),
        ):
            reference = self._written(lambda call=call: self._call(call))
            if reference != api:
                raise BenchmarkError(
                    f"The reference of a {name} leaves other rows than the API:\n"
                    + _difference(api, reference)
                    + "\nCorrect benchmarks/references.sql."
                )

    def _call(self, call: str) -> None:
        with self._stack.superuser() as connection:
            connection.execute(f"SELECT {call}")

    def _written(self, write: Any) -> dict[str, Any]:
        with self._stack.superuser() as connection:
            (before,) = _one(connection, "SELECT uuidv7()")
            write()
            return {
                table: connection.execute(
                    sql.SQL(_KINDS_OF_ROWS).format(table=sql.Identifier(table)),
                    {
                        "ledger_id": self.ledger_id,
                        "after": before,
                        "compared": _COMPARED,
                    },
                ).fetchall()
                for table in TABLES
            }

    def _post_transfer(self) -> None:
        self.post("/v1/transfers", self._item(0, 1, 5))

    def _post_batch(self) -> None:
        items = [self._item(n % 97, 97 + n % 3, 5) for n in range(BATCH_SIZE)]
        self.post("/v1/transfers/batch", {"atomic": True, "transfers": items})

    def _item(self, payer: int, payee: int, amount: int) -> dict[str, Any]:
        return {
            "from_account_id": str(self.accounts[payer]),
            "to_account_id": str(self.accounts[payee]),
            "amount": amount,
        }

    def post(self, path: str, body: Any, *, key: str | None = None) -> Any:
        """Sends one request, and returns its answer.

        Raises:
            BenchmarkError: it was not carried out.
        """
        (answer,) = self.post_all(path, [(key or new_key(), body)])
        return answer

    def post_all(self, path: str, requests: list[tuple[str, Any]]) -> list[Any]:
        """Sends requests one after the other; see ``post``."""
        host, _, port = self._stack.web_address.partition(":")
        connection = HTTPConnection(host, int(port), timeout=30)
        answers = []
        for key, body in requests:
            connection.request(
                "POST",
                path,
                body if isinstance(body, str) else json.dumps(body),
                {
                    "Authorization": f"Bearer {self._stack.known.api_key}",
                    "Content-Type": "application/json",
                    "Idempotency-Key": key,
                },
            )
            response = connection.getresponse()
            text = response.read()
            if response.status not in (200, 201):
                raise BenchmarkError(f"{path} answered {response.status}: {text!r}")
            answers.append(json.loads(text))
        connection.close()
        return answers


def new_key() -> str:
    """An idempotency key that nobody has used."""
    # With a letter first: the scripts take what looks like a number for one.
    return f"b{secrets.token_hex(8)}"


def _one(
    connection: psycopg.Connection, statement: str, parameters: Any = None
) -> tuple[Any, ...]:
    row = connection.execute(statement, parameters).fetchone()
    if row is None:
        raise BenchmarkError(f"There is nothing: {statement}")
    return row


def _difference(api: dict[str, Any], reference: dict[str, Any]) -> str:
    lines = []
    for table in TABLES:
        if api[table] != reference[table]:
            lines += [f"{table}:", f"  API       {api[table]}"]
            lines += [f"  reference {reference[table]}"]
    return "\n".join(lines)
