"""The ledger's commands as an operator meets them: real processes, real exit codes.

These tests commit, and damage what they commit, so each has a database of its own: a
copy of the test database, made by ``CREATE DATABASE … TEMPLATE``.
"""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, connections

from ledger import audit
from ledger.audit import audit_run
from ledger.models import ApiKey, AuditRun, Change, Ledger, Transfer
from ledger.selectors.ledgers import HoldSettings, hold_settings
from ledger.services.clients import principal_of_token
from ledger.tests.books import Books
from ledger.tests.factories import AccountFactory, LedgerFactory
from payflow.clock import now
from payflow.db import transaction_owner
from payflow.ids import new_id
from payflow.tests.fixtures import committed_database, committed_db

__all__ = ["committed_database", "committed_db"]

PROJECT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_SECONDS = 60


def database_url(name: str) -> str:
    settings = connection.settings_dict
    return (
        f"postgresql://{settings['USER']}:{settings['PASSWORD']}"
        f"@{settings['HOST'] or '127.0.0.1'}:{settings['PORT'] or 5432}/{name}"
    )


@pytest.fixture
def own_database(committed_db: None) -> Iterator[str]:
    """The URL of a copy of the test database, to which Django is connected too."""
    template = connection.settings_dict["NAME"]
    name = f"{template}_{new_id().hex}"
    connections.close_all()
    with psycopg.connect(database_url("postgres"), autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        connection.settings_dict["NAME"] = name
        try:
            yield database_url(name)
        finally:
            connection.settings_dict["NAME"] = template
            connections.close_all()
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def books(own_database: str) -> Books:
    with transaction_owner():
        return Books()


def manage(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def environment(url: str) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "payflow.settings.test",
    }


def damage(books: Books) -> None:
    with transaction_owner(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE ledger_entry DISABLE TRIGGER ALL")
        cursor.execute(
            "UPDATE ledger_entry SET amount = amount + 7 WHERE transfer_id = %s",
            [books.transfer],
        )


# --- audit_ledger -----------------------------------------------------------------


def test_audit_of_sound_books_ends_with_0(own_database: str, books: Books) -> None:
    result = manage(own_database, "audit_ledger", "--ledger", books.ledger.slug)

    assert result.returncode == 0, result.stderr
    assert f"Ledger {books.ledger.slug}: sound." in result.stdout
    assert "entry_versions_have_no_gaps" in result.stdout


def test_audit_of_broken_books_ends_with_1_and_names_the_damage(
    own_database: str, books: Books
) -> None:
    damage(books)

    result = manage(
        own_database, "audit_ledger", "--ledger", books.ledger.slug, "--json"
    )

    assert result.returncode == 1, result.stderr
    report = json.loads(result.stdout)
    assert not report["is_sound"]
    assert report["difference"] == "14"
    (check,) = [c for c in report["checks"] if c["finding_count"]]
    assert check["name"] == "entry_totals_follow_previous"
    assert check["findings"][0]["ids"]["account_id"] in {
        str(books.alice.id),
        str(books.bob.id),
    }
    assert "BROKEN, 2 findings, differences of 14 minor units" in result.stderr
    run = AuditRun.objects.latest("id")
    assert (run.is_sound, run.difference) == (False, 14)


def test_audit_without_database_ends_with_2(own_database: str) -> None:
    result = manage(own_database + "_gone", "audit_ledger")

    assert result.returncode == 2
    assert "check DATABASE_URL" in result.stderr
    assert "Traceback" not in result.stderr


def test_audit_of_a_database_without_tables_ends_with_2(own_database: str) -> None:
    result = manage(database_url("postgres"), "audit_ledger")

    assert result.returncode == 2
    assert "manage.py migrate" in result.stderr


@pytest.mark.parametrize("arguments", [("--ledger", "nowhere"), ("--unknown",)])
def test_audit_with_bad_arguments_ends_with_2(
    own_database: str, arguments: tuple[str, ...]
) -> None:
    assert manage(own_database, "audit_ledger", *arguments).returncode == 2


def test_interrupted_audit_ends_with_2_and_stores_nothing(
    own_database: str, books: Books
) -> None:
    runs = AuditRun.objects.count()
    with psycopg.connect(own_database) as blocker:
        # The audit reads the table, so it waits here until it is interrupted.
        blocker.execute("LOCK TABLE ledger_entry IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(
            [sys.executable, "manage.py", "audit_ledger"],
            cwd=PROJECT,
            env=environment(own_database),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_lock(own_database, blocker)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)

    assert process.returncode == 2
    assert "Interrupted." in errors
    assert AuditRun.objects.count() == runs


def wait_for_lock(url: str, blocker: "psycopg.Connection[Any]") -> None:
    """Returns once another session waits for a lock of ours."""
    pid = blocker.info.backend_pid
    with psycopg.connect(url, autocommit=True) as observer:
        for _ in range(1_000_000):
            row = observer.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE %s = ANY (pg_blocking_pids(pid))",
                [pid],
            ).fetchone()
            if row and row[0]:
                return
    raise AssertionError("nobody waits")


def test_audit_sees_no_damage_in_transfers_that_are_posted_meanwhile(
    books: Books,
) -> None:
    posted = 0

    def post_meanwhile(execute: Any, sql: str, params: Any, many: Any, ctx: Any) -> Any:
        nonlocal posted
        result = execute(sql, params, many, ctx)
        # After each of the audit's statements, on another connection.
        in_thread(lambda: post_some(books))
        posted += 1
        return result

    with connection.execute_wrapper(post_meanwhile):
        report = audit_run(ledger_slug=books.ledger.slug, slice_rows=20)

    assert report.findings == []
    assert posted > 50
    assert audit_run(ledger_slug=books.ledger.slug).is_sound


def post_some(books: Books) -> None:
    with transaction_owner():
        books.move(books.alice, books.bob, 2)
        books.move(books.bob, books.alice, 1)
        books.payout(1)


def in_thread(work: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told to the test below
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors, errors


def test_full_audit_covers_every_ledger(own_database: str, books: Books) -> None:
    damage(books)

    report = audit_run()

    assert books.ledger.id in report.differences
    assert report.differences[books.ledger.id] == 14


def test_audit_says_the_same_on_several_connections(
    own_database: str, books: Books
) -> None:
    damage(books)

    alone = audit_run()
    together = audit_run(jobs=3, slice_rows=1_000, share=0.9)

    assert together.differences == alone.differences
    assert [(r.check.name, r.row_count, r.finding_count) for r in together.checks] == [
        (r.check.name, r.row_count, r.finding_count) for r in alone.checks
    ]


def test_audit_that_fails_on_one_connection_fails(
    own_database: str, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ENTRY_SCAN", "SELECT 1 / 0")

    with pytest.raises(DatabaseError):
        audit_run(jobs=2)

    assert not AuditRun.objects.exists()


# --- seed_accounts ----------------------------------------------------------------


def test_interrupted_seeding_leaves_whole_batches(own_database: str) -> None:
    with transaction_owner():
        ledger = LedgerFactory()
    process = subprocess.Popen(
        [
            *(sys.executable, "manage.py", "seed_accounts", "--ledger", ledger.slug),
            *("--accounts", "100", "--transfers", "1000000", "--batch-size", "50"),
        ],
        cwd=PROJECT,
        env=environment(own_database),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while Transfer.objects.filter(ledger_id=ledger.id).count() < 300:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_SECONDS)

    assert process.returncode == 130
    assert "the books are whole. To go on: manage.py seed_accounts --append" in errors
    assert Transfer.objects.filter(ledger_id=ledger.id).count() % 50 == 0
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_two_first_seedings_at_once_make_one_set_of_demo_books(
    own_database: str,
) -> None:
    commands = [
        subprocess.Popen(
            [sys.executable, "manage.py", "seed_accounts"],
            cwd=PROJECT,
            env=environment(own_database),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = sorted(c.communicate(timeout=TIMEOUT_SECONDS)[0] for c in commands)

    assert [c.returncode for c in commands] == [0, 0]
    assert outputs[0].startswith("Made ledger demo")
    assert outputs[1].startswith("The demo books are there already")
    assert audit_run(ledger_slug="demo").is_sound


# --- statement, report, close_period, reopen_period -------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("statement", "user-1", "--from=2026-01-01", "--csv=-"),
        ("statement", "user-1", "--from=2026-01-01", "--json"),
        ("report", "trial-balance", "--accounts", "--csv=-"),
        ("report", "trial-balance", "--json"),
    ],
)
def test_a_reader_that_has_enough_ends_a_command_quietly(
    own_database: str, arguments: tuple[str, ...]
) -> None:
    with transaction_owner():
        ledger = LedgerFactory()
        AccountFactory(ledger=ledger, reference="user-1")
    reading, writing = os.pipe()
    os.close(reading)  # As `head -0` does.

    result = subprocess.run(
        [sys.executable, "manage.py", *arguments, f"--ledger={ledger.slug}"],
        cwd=PROJECT,
        env=environment(own_database),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )

    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("close_period", "--through=2026-10-31", "--yes"), 0),
        (("close_period", "--through=2999-10-31", "--yes"), 1),
        (("close_period", "--through=2026-10-31"), 1),
        (("close_period", "--through=October", "--yes"), 2),
        (("close_period", "--yes"), 2),
        (("reopen_period", "--all", "--reason=x", "--yes"), 0),
        (("reopen_period", "--all", "--yes"), 2),
        (("reopen_period", "--all", "--reason= ", "--yes"), 2),
    ],
)
def test_the_commands_for_periods_exit_as_their_help_says(
    own_database: str, arguments: tuple[str, ...], code: int
) -> None:
    with transaction_owner():
        ledger = LedgerFactory()

    result = manage(own_database, *arguments, f"--ledger={ledger.slug}")

    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr


# --- create_ledger, set_ledger, create_api_key ------------------------------------


def command(name: str, *arguments: str) -> str:
    output = io.StringIO()
    call_command(name, *arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def ledger(db: None) -> Ledger:
    ledger: Ledger = LedgerFactory(slug=f"acme-{new_id().hex}", name="Acme")
    return ledger


def test_create_ledger_makes_it_and_keeps_who_did(db: None) -> None:
    output = command(
        "create_ledger", "acme-eu", "--name", "Acme", "--time-zone", "Europe/Berlin"
    )

    ledger = Ledger.objects.get(slug="acme-eu")
    assert (ledger.name, ledger.time_zone) == ("Acme", "Europe/Berlin")
    assert Change.objects.get(ledger_id=ledger.id).actor == "command:create_ledger"
    assert "create_api_key --ledger acme-eu" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Not A Slug", "--name", "x"), "is no slug"),
        (("fine", "--name", "x", "--time-zone", "Mars/Base"), "is no IANA time zone"),
        (("fine",), "--name"),
    ],
)
def test_create_ledger_says_what_is_wrong(
    db: None, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        command("create_ledger", *arguments)


def test_create_ledger_prints_the_ledger_as_set_ledger_does(db: None) -> None:
    made = json.loads(command("create_ledger", "acme", "--name", "Acme", "--json"))
    changed = json.loads(command("set_ledger", "acme", "--name", "Acme", "--json"))

    assert (made["ledger"], made["time_zone"]) == ("acme", "UTC")
    assert made == changed


def test_create_ledger_refuses_a_taken_slug(ledger: Ledger) -> None:
    with pytest.raises(CommandError, match="already"):
        command("create_ledger", ledger.slug, "--name", "x")


def test_set_ledger_changes_and_keeps_history(ledger: Ledger) -> None:
    output = command("set_ledger", ledger.slug, "--time-zone", "America/New_York")

    assert "time zone America/New_York" in output
    change = Change.objects.filter(ledger_id=ledger.id).latest("id")
    assert change.actor == "command:set_ledger"
    assert (change.old, change.new) == (
        {"time_zone": "UTC"},
        {"time_zone": "America/New_York"},
    )


def test_set_ledger_says_what_is_wrong(ledger: Ledger) -> None:
    with pytest.raises(CommandError, match="Nothing to change: give --name"):
        command("set_ledger", ledger.slug)
    with pytest.raises(CommandError, match="no ledger 'nowhere'"):
        command("set_ledger", "nowhere", "--name", "x")


def test_set_ledger_sets_what_it_says_about_holds(ledger: Ledger) -> None:
    output = command(
        "set_ledger",
        ledger.slug,
        "--hold-default-lifetime",
        "1d12h",
        "--hold-max-lifetime",
        "60d",
        "--over-capture-percent",
        "12.5",
    )

    settings = hold_settings(ledger_id=ledger.id)
    assert settings == HoldSettings(timedelta(hours=36), timedelta(days=60), 1_250)
    assert (
        "lapse after 1 day 12 hours by default, after 60 days at the latest" in output
    )
    assert "12.5% more than was held" in output
    change = Change.objects.filter(ledger_id=ledger.id).latest("id")
    assert (change.old, change.new) == (
        HoldSettings().as_json(),
        HoldSettings(timedelta(hours=36), timedelta(days=60), 1_250).as_json(),
    )


def test_set_ledger_prints_json_and_writes_only_what_changes(ledger: Ledger) -> None:
    changes = Change.objects.filter(ledger_id=ledger.id)
    before = changes.count()

    outputs = [
        json.loads(
            command(
                "set_ledger", ledger.slug, "--hold-default-lifetime", text, "--json"
            )
        )
        for text in ("7d", "2h", "120m")
    ]

    assert outputs[0] == {
        "ledger": ledger.slug,
        "name": "Acme",
        "time_zone": "UTC",
        "hold_default_lifetime_seconds": 604_800,
        "hold_max_lifetime_seconds": 2_678_400,
        "hold_over_capture_basis_points": 0,
    }
    assert [out["hold_default_lifetime_seconds"] for out in outputs[1:]] == [7_200] * 2
    assert changes.count() == before + 1
    assert changes.latest("id").old == {"hold_default_lifetime_seconds": 604_800}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hold-default-lifetime", "32d"), "32 days, is above the longest, 31 days"),
        (("--hold-max-lifetime", "6d"), "7 days, is above the longest, 6 days"),
        (("--hold-max-lifetime", "366d1s"), "1 second to 366 days"),
        (("--hold-default-lifetime", "0s"), "1 second to 366 days"),
        (("--hold-default-lifetime", "7"), "is no duration"),
        (("--hold-default-lifetime", "-7d"), "expected one argument"),
        (("--hold-default-lifetime", "1h1d"), "is no duration"),
        (("--hold-default-lifetime", ""), "is no duration"),
        (("--over-capture-percent", "12.345"), "two decimals at most"),
        (("--over-capture-percent", "nan"), "is no percentage"),
        (("--over-capture-percent", "inf"), "is no percentage"),
        (("--over-capture-percent", "100.01"), "0 to 100 percent"),
        (("--over-capture-percent=-1",), "0 to 100 percent"),
    ],
)
def test_set_ledger_refuses_settings_that_make_no_sense(
    ledger: Ledger, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        command("set_ledger", ledger.slug, *arguments)

    assert hold_settings(ledger_id=ledger.id) == HoldSettings()


def test_create_api_key_prints_a_key_that_works_once(ledger: Ledger) -> None:
    output = command("create_api_key", "--ledger", ledger.slug, "--client", "checkout")

    key, note = output.splitlines()
    assert note == "Keep it now: it will not be shown again."
    principal = principal_of_token(token=key, now=now())
    assert principal is not None
    assert (principal.ledger_id, principal.client_name) == (ledger.id, "checkout")


def test_create_api_key_gives_one_client_several_keys(ledger: Ledger) -> None:
    arguments = ("--ledger", ledger.slug, "--client", "ci", "--json")

    first = json.loads(command("create_api_key", *arguments, "--expires-in-days", "9"))
    second = json.loads(command("create_api_key", *arguments))

    assert first["client_id"] == second["client_id"]
    assert first["key"] != second["key"]
    expiries = ApiKey.objects.filter(ledger_id=ledger.id).order_by("id")
    days = [k.expires_at and (k.expires_at - k.created_at).days for k in expiries]
    assert days == [9, None]


def test_create_api_key_sets_the_permissions_of_the_client(ledger: Ledger) -> None:
    arguments = ("--ledger", ledger.slug, "--client", "ops", "--json")

    def permissions(*options: str) -> tuple[list[str], frozenset[str]]:
        made = json.loads(command("create_api_key", *arguments, *options))
        principal = principal_of_token(token=made["key"], now=now())
        assert principal is not None
        return made["permissions"], principal.permissions

    given = ["close_period", "manage_accounts"]
    options = [f"--permission={name}" for name in reversed(given)]

    assert permissions() == ([], frozenset())
    assert permissions(*options) == (given, frozenset(given))
    assert permissions() == (given, frozenset(given))
    assert permissions(*options) == (given, frozenset(given))
    assert permissions("--no-permissions") == ([], frozenset())
    changes = Change.objects.filter(
        ledger_id=ledger.id, fields=["client_permissions"]
    ).order_by("id")
    assert [(c.old, c.new, c.actor) for c in changes] == [
        (
            {"client_permissions": {"client": "ops", "permissions": old}},
            {"client_permissions": {"client": "ops", "permissions": new}},
            "command:create_api_key",
        )
        for old, new in [([], given), (given, [])]
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--client", "x", "--ledger", "y", "--permission", "fly"), "'fly'"),
        (("--client", "x", "--ledger", "nowhere"), "create_ledger nowhere"),
        (("--client", " ", "--ledger", "nowhere"), "--client NAME"),
        (("--client", "x", "--ledger", "y", "--expires-in-days", "0"), "1 to 36,500"),
    ],
)
def test_create_api_key_says_what_is_wrong(
    db: None, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        command("create_api_key", *arguments)


@pytest.mark.parametrize(
    "name",
    ["audit_ledger", "create_api_key", "create_ledger", "seed_accounts", "set_ledger"],
)
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command(name, "--help")

    assert "examples:\n  manage.py" in capsys.readouterr().out
