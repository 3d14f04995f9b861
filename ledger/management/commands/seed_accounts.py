"""``manage.py seed_accounts``: the demo books, or bulk books of any size."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ledger.api.authentication import DEMO_CLIENT, DEMO_LEDGER
from ledger.management.base import (
    INTERRUPTED,
    LedgerCommand,
    ProgressLine,
    StopRequest,
    stop_between_steps,
)
from ledger.management.workers import WorkerError, run_in_workers
from ledger.models import Ledger
from ledger.services.posting import MAX_TRANSFERS
from ledger.services.seeding import (
    DEFAULT_BATCH_SIZE,
    DEMO_CURRENCY,
    MAX_SHARDS,
    BulkBatch,
    BulkBooks,
    BulkPlan,
    bulk_batch_write,
    demo_books_seed,
)
from payflow.actors import Actor
from payflow.clock import now
from payflow.db import retry_on_conflict, transaction_owner

ACTOR = Actor("command:seed_accounts")

HELP = """\
Makes the demo books: the ledger "demo" with Treasury, User_Alpha and Alpha_Bank, a
payout account. A second run changes nothing.

With --accounts or --transfers it makes bulk books instead, through the posting engine
like everything else: accounts with opening balances, and transfers among them. The
same seed gives the same references, owners, amounts and balances. Their outbox tasks
are written as done, so nobody is told of them. Stop it with Ctrl-C at any time.
"""

EPILOG = """\
examples:
  manage.py seed_accounts
  manage.py seed_accounts --accounts 10000 --transfers 100000 --seed 7
  manage.py seed_accounts --accounts 0 --transfers 50000 --append
  manage.py create_ledger bench --name Bench
  manage.py seed_accounts --ledger bench --currency EUR --accounts 1000 --transfers 0
"""


class Command(LedgerCommand):
    """Seeds demo or bulk books."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        bulk = parser.add_argument_group("bulk books")
        bulk.add_argument(
            "--accounts", type=int, metavar="N", help="how many accounts to add"
        )
        bulk.add_argument(
            "--transfers", type=int, metavar="M", help="how many transfers to add"
        )
        bulk.add_argument(
            "--seed", type=int, default=1, metavar="S", help="choices (default 1)"
        )
        bulk.add_argument(
            "--ledger",
            metavar="SLUG",
            default=DEMO_LEDGER,
            help=f"the ledger to fill (default {DEMO_LEDGER})",
        )
        bulk.add_argument(
            "--currency",
            metavar="CODE",
            default=DEMO_CURRENCY,
            help=f"of all bulk accounts (default {DEMO_CURRENCY})",
        )
        bulk.add_argument(
            "--batch-size",
            type=int,
            metavar="B",
            default=DEFAULT_BATCH_SIZE,
            help="transfers per database transaction, up to"
            f" {MAX_TRANSFERS:,} (default {DEFAULT_BATCH_SIZE:,})",
        )
        bulk.add_argument(
            "--jobs",
            type=int,
            metavar="J",
            default=min(os.cpu_count() or 1, MAX_SHARDS),
            help="processes that write transfers; the books do not depend on it"
            f" (default: one per core, at most {MAX_SHARDS})",
        )
        bulk.add_argument(
            "--append",
            action="store_true",
            help="add to the bulk books that the ledger has, and go on numbering",
        )

    def run(self, options: dict[str, Any]) -> None:
        """Seeds what the options ask for."""
        wants_bulk = options["accounts"] is not None or options["transfers"] is not None
        if not wants_bulk:
            if options["append"] or options["ledger"] != DEMO_LEDGER:
                raise self.failure(
                    "Say how much to add: --accounts N and --transfers M."
                )
            self._seed_demo()
            return
        if options["ledger"] == DEMO_LEDGER:
            self._seed_demo(quiet=True)
        self._seed_bulk(options)

    def _seed_demo(self, *, quiet: bool = False) -> None:
        def seed() -> list[str]:
            with transaction_owner():
                return demo_books_seed(
                    ledger_slug=DEMO_LEDGER,
                    client_name=DEMO_CLIENT,
                    actor=ACTOR,
                    now=now(),
                )

        made = retry_on_conflict(seed)
        if made:
            self.say("Made " + ", ".join(made) + ".")
        elif not quiet:
            self.say("The demo books are there already; nothing was changed.")

    def _seed_bulk(self, options: dict[str, Any]) -> None:
        slug = options["ledger"]
        ledger = Ledger.objects.filter(slug=slug).first()
        if ledger is None:
            raise self.failure(
                f"There is no ledger {slug!r}: make it with"
                f" `manage.py create_ledger {slug} --name NAME`."
            )
        plan = BulkPlan(
            ledger_id=ledger.id,
            currency=options["currency"],
            account_count=options["accounts"] or 0,
            transfer_count=options["transfers"] or 0,
            seed=options["seed"],
            batch_size=options["batch_size"],
        )
        books = BulkBooks(plan)
        if not books.is_new and not options["append"]:
            raise self.failure(
                f"Ledger {slug!r} has bulk books already: add to them with --append,"
                " or fill another ledger with --ledger."
            )
        self._write(plan, books, slug, options["jobs"])

    def _write(self, plan: BulkPlan, books: BulkBooks, slug: str, jobs: int) -> None:
        started = time.monotonic()
        accounts = transfers = 0
        total = plan.account_count + plan.transfer_count
        with stop_between_steps() as stop, ProgressLine("Seeding", total) as progress:
            for batch in books.account_batches():
                if stop.is_set:
                    break
                _write_batch(batch)
                accounts += len(batch.accounts)
                progress.advance(len(batch.accounts))
            if accounts == plan.account_count:
                for count in self._transfers(books, jobs=jobs, stop=stop):
                    transfers += count
                    progress.advance(count)
        seconds = time.monotonic() - started
        summary = (
            f"{accounts:,} accounts and {transfers:,} transfers in {seconds:.1f} s"
        )
        if accounts + transfers < total:
            raise CommandError(
                f"Stopped after {summary}; the books are whole. To go on:"
                f" manage.py seed_accounts --append --ledger {slug}"
                f" --currency {plan.currency} --seed {plan.seed}"
                f" --accounts {plan.account_count - accounts}"
                f" --transfers {plan.transfer_count - transfers}",
                returncode=INTERRUPTED,
            )
        rate = total / seconds if seconds else 0
        self.say(f"Added {summary} ({rate:,.0f} postings a second) to ledger {slug}.")

    def _transfers(
        self, books: BulkBooks, *, jobs: int, stop: StopRequest
    ) -> Iterator[int]:
        """Writes the transfers, and yields how many with each batch."""
        jobs = min(jobs, books.shard_count)
        if jobs > 1 and books.has_many_transfers:
            try:
                yield from run_in_workers(
                    jobs,
                    lambda worker, rounds: _write_rounds(
                        books, range(worker, books.shard_count, jobs), rounds.may_begin
                    ),
                    stop=stop,
                )
            except WorkerError as error:
                raise self.failure(str(error)) from error
        else:
            yield from _write_rounds(
                books, range(books.shard_count), lambda _round: not stop.is_set
            )


def _write_rounds(
    books: BulkBooks, shards: range, may_begin: Callable[[int], bool]
) -> Iterator[int]:
    """Writes the shards' batches, round by round."""
    rounds = zip(*(books.transfer_batches(shard) for shard in shards), strict=True)
    for number, batches in enumerate(rounds):
        if not may_begin(number):
            return
        for batch in batches:
            if batch.requests:
                _write_batch(batch)
                yield len(batch.requests)


def _write_batch(batch: BulkBatch) -> None:
    def write() -> None:
        with transaction_owner():
            bulk_batch_write(batch=batch, actor=ACTOR, now=now())

    retry_on_conflict(write)
