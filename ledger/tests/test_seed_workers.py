"""Bulk books that several processes write together; these tests commit."""

import multiprocessing
import os
import signal
from typing import Any

import pytest
from django.core.management import CommandError

from ledger.audit import audit_run
from ledger.management import workers
from ledger.management.base import INTERRUPTED, StopRequest
from ledger.management.commands import seed_accounts
from ledger.models import Ledger, Transfer
from ledger.services import seeding
from ledger.tests.factories import LedgerFactory
from ledger.tests.test_seed_accounts import bulk, contents
from payflow.db import transaction_owner
from payflow.errors import ProblemError

MANY = {"accounts": seeding._SHARDED_ACCOUNTS, "transfers": 250, "batch_size": 20}


def committed_ledger() -> Ledger:
    with transaction_owner():
        return LedgerFactory()


def test_the_books_do_not_depend_on_how_many_processes_write_them(
    committed_db: None,
) -> None:
    alone, together = committed_ledger(), committed_ledger()

    bulk(alone, **MANY | {"batch_size": 7}, jobs=1)
    output = bulk(together, **MANY, jobs=3)

    assert output.startswith("Added 64 accounts and 250 transfers in ")
    assert contents(alone) == contents(together)
    assert len(contents(together)[1]) == 64 + 250
    assert audit_run(ledger_slug=together.slug).is_sound


def test_what_one_process_cannot_do_ends_all_with_its_reason(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(batch: Any) -> None:
        if any(r.reference == "bulk-transfer-000000123" for r in batch.requests):
            raise ProblemError("insufficient_funds", "Somebody took the money.")
        real_write(batch)

    real_write = seed_accounts._write_batch
    monkeypatch.setattr(seed_accounts, "_write_batch", write)
    ledger = committed_ledger()

    with pytest.raises(CommandError, match="Somebody took the money"):
        bulk(ledger, **MANY, jobs=4)

    assert not multiprocessing.active_children()
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_a_process_that_is_killed_ends_all(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(batch: Any) -> None:
        if any(r.reference == "bulk-transfer-000000123" for r in batch.requests):
            os.kill(os.getpid(), signal.SIGKILL)
        real_write(batch)

    real_write = seed_accounts._write_batch
    monkeypatch.setattr(seed_accounts, "_write_batch", write)
    ledger = committed_ledger()

    with pytest.raises(CommandError, match=r"A worker died \(exit -9\)"):
        bulk(ledger, **MANY, jobs=4)

    assert not multiprocessing.active_children()
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_stopping_lets_all_processes_finish_the_same_round(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = committed_ledger()
    stop = StopRequest()

    def read(*_arguments: Any) -> Any:
        report = real_report(*_arguments)
        # As Ctrl-C would, when the first batch is reported.
        stop.is_set = True
        return report

    real_report = workers._report
    monkeypatch.setattr(workers, "_report", read)
    monkeypatch.setattr(StopRequest, "__new__", lambda _cls: stop)
    monkeypatch.setattr(StopRequest, "__init__", lambda _self: None)
    options = MANY | {"transfers": 8_000}
    with pytest.raises(CommandError) as caught:
        bulk(ledger, **options, jobs=2)
    monkeypatch.undo()

    assert caught.value.returncode == INTERRUPTED
    made = Transfer.objects.filter(
        ledger_id=ledger.id, reference__startswith="bulk-transfer-"
    ).order_by("reference")
    numbers = [int(t.reference.removeprefix("bulk-transfer-")) for t in made]
    # Whole rounds: no number is left out.
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) % (20 * seeding.MAX_SHARDS) == 0
    assert 0 < len(numbers) < 8_000
    assert f"--transfers {8_000 - len(numbers)}" in str(caught.value)
    assert audit_run(ledger_slug=ledger.slug).is_sound
