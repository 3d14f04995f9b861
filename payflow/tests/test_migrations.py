"""Every migration can be undone and done again, on a database of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from payflow.ids import new_id
from payflow.tests.processes import database_url

APPS = ("ledger", "idempotency", "outbox", "payflow")


@pytest.fixture
def empty_database(committed_db: None) -> Iterator[str]:
    """The URL of a new database, which goes after the test."""
    url = database_url()
    name = f"migrations_{new_id().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_all_migrations_go_back_to_nothing_and_forth_again(empty_database):
    def migrate(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0", *arguments],
            env={
                **os.environ,
                "DATABASE_URL": empty_database,
                "DJANGO_SETTINGS_MODULE": "payflow.settings.test",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def ours() -> set[str]:
        with psycopg.connect(empty_database) as connection:
            rows = connection.execute(
                "SELECT relname FROM pg_class"
                " JOIN pg_namespace n ON n.oid = relnamespace"
                " WHERE n.nspname = 'public'"
                " UNION SELECT proname FROM pg_proc JOIN pg_namespace n"
                " ON n.oid = pronamespace WHERE n.nspname = 'public'"
                " UNION SELECT conname FROM pg_constraint"
                " UNION SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
            ).fetchall()
        return {name for (name,) in rows}

    def functions() -> dict[str, str]:
        with psycopg.connect(empty_database) as connection:
            return dict(
                connection.execute(
                    "SELECT proname, pg_get_functiondef(p.oid) FROM pg_proc p"
                    " JOIN pg_namespace n ON n.oid = pronamespace"
                    " WHERE n.nspname = 'public' AND proname ~ '^(ledger|outbox)_'"
                ).fetchall()
            )

    migrate("ledger", "0004")
    migrate("outbox", "0001")
    before_holds = functions()
    migrate()
    first, latest = ours(), functions()
    assert {"ledger_entry", "outbox_task", "entry_insert_is_legal"} < first
    # A function that a migration replaces is, when that is undone, what it was.
    migrate("ledger", "0004")
    migrate("outbox", "0001")
    assert functions() == before_holds
    name = "ledger_check_new_entries"
    assert latest[name] != before_holds[name]
    for app in APPS:
        migrate(app, "zero")
    nothing = ours()
    assert [
        n for n in nothing if n.startswith(("ledger_", "outbox_task", "idem"))
    ] == []
    migrate()

    assert ours() == first
    assert functions() == latest
