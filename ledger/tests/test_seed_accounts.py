"""The demo books, and bulk books of any size."""

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from ledger.audit import audit_run
from ledger.enums import Permission, TransferKind
from ledger.management.base import INTERRUPTED, StopRequest
from ledger.management.commands import seed_accounts
from ledger.models import Account, Entry, Ledger, Transfer
from ledger.services import seeding
from ledger.services.clients import principal_of_client
from ledger.tests.factories import LedgerFactory
from outbox.models import OutboxTask
from payflow.errors import ProblemError

pytestmark = pytest.mark.django_db


def seed(**options: Any) -> str:
    output = io.StringIO()
    call_command("seed_accounts", stdout=output, **options)
    return output.getvalue()


def bulk(ledger: Ledger, **options: Any) -> str:
    return seed(ledger=ledger.slug, **{"accounts": 20, "transfers": 60} | options)


def contents(ledger: Ledger) -> tuple[list[Any], list[Any]]:
    """Everything of the bulk books that the seed determines."""
    accounts = Account.objects.filter(ledger_id=ledger.id).order_by("reference")
    transfers = Transfer.objects.filter(ledger_id=ledger.id).order_by("reference")
    references = dict(accounts.values_list("id", "reference"))
    return (
        [(a.reference, a.owner_name, a.currency, a.posted) for a in accounts],
        [
            (
                t.reference,
                t.kind,
                t.description,
                *(
                    (e.direction, references[e.account_id], e.amount)
                    for e in Entry.objects.filter(transfer_id=t.id).order_by(
                        "direction"
                    )
                ),
            )
            for t in transfers
        ],
    )


# --- The demo books ---------------------------------------------------------------


def test_demo_books_are_what_the_readme_says() -> None:
    assert seed().startswith("Made ledger demo, API client demo, account Treasury")

    ledger = Ledger.objects.get(slug="demo")
    treasury, alpha, bank = Account.objects.filter(
        ledger_id=ledger.id, reference=None
    ).order_by("id")
    assert str(treasury.id) == "00000000-0000-0000-0000-000000000001"
    assert str(alpha.id) == "00000000-0000-0000-0000-000000000002"
    assert str(bank.id) == "00000000-0000-0000-0000-000000000003"
    assert [a.owner_name for a in (treasury, alpha, bank)] == [
        "Treasury",
        "User_Alpha",
        "Alpha_Bank",
    ]
    assert [a.posted for a in (treasury, alpha, bank)] == [1_000_000, 0, 0]
    assert {a.currency for a in (treasury, alpha, bank)} == {"USD"}
    assert [a.payout_destination is None for a in (treasury, alpha, bank)] == [
        True,
        True,
        False,
    ]
    equity = Account.objects.get(
        ledger_id=ledger.id, reference="system:opening-balances:USD"
    )
    assert equity.posted == -1_000_000
    assert Transfer.objects.get(ledger_id=ledger.id).kind == (
        TransferKind.OPENING_BALANCE
    )
    principal = principal_of_client(ledger_slug="demo", name="demo")
    assert principal is not None
    assert principal.permissions == set(Permission.values)
    assert audit_run(ledger_slug="demo").is_sound


def test_second_run_changes_nothing_and_says_so() -> None:
    seed()
    before = contents(Ledger.objects.get(slug="demo"))

    output = seed()

    assert output == "The demo books are there already; nothing was changed.\n"
    assert contents(Ledger.objects.get(slug="demo")) == before


def test_failure_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_arguments: Any) -> None:
        raise ProblemError("ledger_busy", "Somebody holds the accounts.")

    monkeypatch.setattr(seeding, "transfers_post", fail)
    with pytest.raises(CommandError, match="Somebody holds the accounts"):
        seed()
    assert not Ledger.objects.filter(slug="demo").exists()

    monkeypatch.undo()
    seed()
    assert audit_run(ledger_slug="demo").is_sound


def test_what_is_missing_is_completed_without_giving_money_twice() -> None:
    seed()
    before = contents(Ledger.objects.get(slug="demo"))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE ledger_account DISABLE TRIGGER ALL")
        cursor.execute(
            "DELETE FROM ledger_account WHERE id = %s", [seeding.ALPHA_BANK_ID]
        )
        cursor.execute("ALTER TABLE ledger_account ENABLE TRIGGER ALL")

    assert seed() == "Made account Alpha_Bank.\n"

    assert contents(Ledger.objects.get(slug="demo")) == before


# --- Bulk books -------------------------------------------------------------------


def test_same_seed_gives_the_same_books() -> None:
    first, second, other = LedgerFactory(), LedgerFactory(), LedgerFactory()

    bulk(first, seed=7)
    bulk(second, seed=7, batch_size=7)
    bulk(other, seed=8)

    assert contents(first) == contents(second)
    assert contents(first) != contents(other)


def test_bulk_books_are_sound_and_their_tasks_done() -> None:
    ledger = LedgerFactory()

    output = bulk(ledger, batch_size=25)

    assert output.startswith("Added 20 accounts and 60 transfers in ")
    assert audit_run(ledger_slug=ledger.slug).is_sound
    assert Transfer.objects.filter(ledger_id=ledger.id).count() == 20 + 60
    states = OutboxTask.objects.filter(ledger_id=ledger.id).values_list("state")
    assert set(states) == {("done",)}


def test_bulk_books_may_have_any_currency() -> None:
    ledger = LedgerFactory()

    bulk(ledger, currency="JPY", transfers=5)

    currencies = Account.objects.filter(ledger_id=ledger.id).values_list("currency")
    assert set(currencies) == {("JPY",)}


def test_bulk_books_are_made_once_unless_appended_to() -> None:
    ledger = LedgerFactory()
    bulk(ledger)

    with pytest.raises(CommandError, match="--append"):
        bulk(ledger)
    bulk(ledger, accounts=3, transfers=10, append=True)

    accounts, transfers = contents(ledger)
    names = [reference for reference, *_ in accounts + transfers]
    assert "bulk-account-000000023" in names
    assert "bulk-account-000000024" not in names
    assert "bulk-transfer-000000070" in names
    assert "bulk-transfer-000000071" not in names
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_transfers_can_be_appended_without_accounts() -> None:
    ledger = LedgerFactory()
    bulk(ledger, transfers=0)

    bulk(ledger, accounts=0, transfers=30, append=True)

    assert Transfer.objects.filter(ledger_id=ledger.id).count() == 20 + 30


def test_bulk_books_in_the_demo_ledger_come_with_the_demo_books() -> None:
    seed(accounts=3, transfers=4)

    assert Account.objects.filter(owner_name="Treasury").exists()
    assert audit_run(ledger_slug="demo").is_sound


def test_stopping_keeps_whole_batches_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = LedgerFactory()
    stop = StopRequest()
    written = []

    def write(batch: Any) -> None:
        real_write(batch)
        written.append(batch)
        # As Ctrl-C would, while the third batch is being written.
        stop.is_set = len(written) == 3

    real_write = seed_accounts._write_batch
    monkeypatch.setattr(seed_accounts, "_write_batch", write)
    monkeypatch.setattr(StopRequest, "__new__", lambda _cls: stop)
    monkeypatch.setattr(StopRequest, "__init__", lambda _self: None)
    with pytest.raises(CommandError) as caught:
        bulk(ledger, batch_size=10)
    monkeypatch.undo()

    assert caught.value.returncode == INTERRUPTED
    message = str(caught.value)
    assert message.startswith("Stopped after 20 accounts and 10 transfers")
    assert message.endswith("--seed 1 --accounts 0 --transfers 50")
    assert audit_run(ledger_slug=ledger.slug).is_sound
    bulk(ledger, accounts=0, transfers=50, append=True)
    assert Transfer.objects.filter(ledger_id=ledger.id).count() == 20 + 60


def test_refused_transfer_stops_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = LedgerFactory()
    bulk(ledger, transfers=0)
    # As if somebody else had emptied the accounts meanwhile.
    monkeypatch.setattr(
        seeding,
        "_existing_holders",
        lambda plan: [
            seeding._Holder(account_id, 10**12)
            for account_id in Account.objects.filter(
                ledger_id=plan.ledger_id, reference__startswith="bulk-"
            ).values_list("id", flat=True)
        ],
    )
    monkeypatch.setattr(seeding, "_AMOUNT_CEILINGS", (10**12,))

    with pytest.raises(CommandError, match="bulk-transfer-000000001 was refused"):
        bulk(ledger, accounts=0, append=True)

    assert Transfer.objects.filter(ledger_id=ledger.id).count() == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ledger": "nowhere", "accounts": 1}, "create_ledger nowhere"),
        ({"currency": "XYZ", "accounts": 1}, "'XYZ' is not a current ISO 4217 code"),
        ({"accounts": -1}, "A run makes 0 to"),
        ({"accounts": 1, "transfers": 1}, "at least two bulk accounts"),
        ({"accounts": 1, "batch_size": 10_001}, "1 to 10,000"),
        ({"accounts": 1, "batch_size": 0}, "1 to 10,000"),
        ({"append": True}, "--accounts N and --transfers M"),
    ],
)
def test_impossible_wishes_are_refused_by_name(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        seed(**options)
