"""The audit: every invariant of the books as a query. It reports, never repairs.

It trusts no constraint and no trigger, because it looks for what happened while they
were off: that is why it also checks what a constraint makes impossible.

Note [Slices]. The audit may run while transfers are posted, on books of any size. So
it reads in slices, each in a short REPEATABLE READ snapshot of its own (one long
snapshot would keep the dead versions of hot accounts alive, and slow their owners
down). Everything that is compared is compared inside one snapshot, in which all of a
transfer is there or nothing is; so slices may also be read at the same time, on several
connections. A slice is a range of neighbouring keys, bounded by the rows that an index
has between its ends, so a hot account cannot make one large: its entries span several
slices, which overlap by one entry. Most entries are read by ranges of the table's pages
instead, see Note [Scans]. A walk ends where the books ended when it came there, so
traffic that is faster than the audit cannot keep it running; what comes later is left
to the next run.

Each slice asks one question: does any row break any rule? Only if one does are the
details read.
"""

import json
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection, connections
from django.db.models.functions import Now

from ledger.audit_origin_queries import (
    CAPTURES,
    HOLD_EVENTS,
    HOLD_POSTINGS,
    HOLD_SLICE_END,
    HOLDS,
    LAST_HOLD,
    LAST_ORIGINAL,
    ORIGINAL_SLICE_END,
    REVERSAL_TOTALS,
    REVERSALS,
)
from ledger.audit_queries import (
    ACCOUNT_SLICE_END,
    ACCOUNT_SUMS,
    ACCOUNTS,
    CLOSINGS,
    COMPLETIONS,
    DETAILS,
    ENTRIES,
    ENTRY_PAGES,
    ENTRY_SCAN,
    ENTRY_SLICE_END,
    ENTRY_SUMS,
    KEY_SLICE_END,
    KEYS,
    LAST_ENTRY_OF_ACCOUNT,
    LAST_KEY,
    LAST_SCHEDULED,
    LAST_TRANSFER,
    LAST_USAGE,
    LAST_VERSION,
    LEDGER_COLUMNS,
    LEDGERS_OF_TABLE,
    PAYOUT_ACCOUNTS,
    PAYOUT_POSTINGS,
    PAYOUT_TASKS,
    PERIODS,
    SCHEDULED,
    SCHEDULED_SLICE_END,
    TRANSFER_SCAN,
    TRANSFER_SLICE_END,
    TRANSFERS,
    USAGE,
    USAGE_SLICE_END,
    SliceBounds,
    Sweep,
)
from ledger.models import AuditRun, Ledger
from ledger.services.integrity import integrity_refresh
from payflow.clock import now
from payflow.db import transaction_owner
from payflow.errors import ProblemError
from payflow.ids import new_id

#: About how many entries, and how many of any other rows, one slice reads.
SLICE_ROWS = 200_000
#: How many entries there are on a page of the table, about.
ENTRIES_PER_PAGE = 50
#: A range of pages has so many times the rows of another slice: the fewer ranges, the
#: fewer entries whose previous one is not in theirs.
PAGE_SLICE_FACTOR = 4
#: With fewer entries than this for each page of the table, one ledger's are not looked
#: for among those of all ledgers, but read by the index.
SCAN_ENTRIES_PER_PAGE = 10
#: The most findings of one check that a report lists; all are counted.
MAX_FINDINGS_PER_CHECK = 50
#: What a slice's sorts and hashes may use before they go to disk.
WORK_MEMORY = "160MB"
#: How long a slice's query may take. A request's limits are not for it: on books that
#: have to come from a slow disk, the audit would never get to its end.
QUERY_TIMEOUT = "10min"

# --- What is checked --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant: a stable name, what it proves, and what rows it looks at."""

    name: str
    meaning: str
    rows: str


_CHECKS = (
    Check("ledger_exists", "Every row belongs to a ledger that exists.", "ledgers"),
    Check(
        "account_sums_balance",
        "Per ledger and currency, the accounts' debits equal their credits.",
        "accounts",
    ),
    Check(
        "entry_sums_balance",
        "Per ledger and currency, the entries' debits equal their credits.",
        "entries by transfer",
    ),
    Check(
        "account_counters_equal_last_entry",
        "An account's counters, version and last time are those of its last entry.",
        "accounts",
    ),
    Check(
        "account_pending_equals_holds",
        "An account's pending counters equal what its holds reserve, lapsed ones that"
        " are not ended yet included.",
        "accounts",
    ),
    Check(
        "account_closed_is_empty",
        "A closed account is empty and no hold is on it.",
        "accounts",
    ),
    Check(
        "account_with_limits_says_so",
        "An account says that it has velocity limits if, and only if, it has some.",
        "accounts",
    ),
    Check(
        "payout_balance_is_in_flight",
        "A payout account's balance is the sum of its payouts in flight.",
        "accounts",
    ),
    Check("entry_has_account", "Every entry's account exists.", "entries"),
    Check(
        "entry_repeats_currency_of_account",
        "An entry is in its account's currency.",
        "entries",
    ),
    Check(
        "entry_versions_have_no_gaps",
        "An account's entries are numbered 1, 2, 3 and so on.",
        "entries",
    ),
    Check(
        "entry_totals_follow_previous",
        "An entry's running totals are the previous entry's and its amount.",
        "entries",
    ),
    Check(
        "entry_time_does_not_decrease",
        "Along an account's entries the recording time does not decrease.",
        "entries",
    ),
    Check("entry_has_transfer", "Every entry's transfer exists.", "transfers"),
    Check("transfer_has_entries", "Every transfer has entries.", "transfers"),
    Check(
        "transfer_entries_are_its_postings",
        "A transfer's entries are its postings 1, 2, 3 and so on, each one debit and"
        " one credit of one amount and currency on two accounts.",
        "transfers",
    ),
    Check(
        "entry_repeats_times_of_transfer",
        "Entries have the times of their transfer.",
        "transfers",
    ),
    Check(
        "transfer_not_recorded_in_future",
        "No transfer is recorded more than a minute ahead of the database's clock.",
        "transfers",
    ),
    Check(
        "transfer_states_its_origin",
        "A capture names its hold, a reversal its transfer, and both the posting there"
        " that each of their own comes from; nothing else names any.",
        "transfers that end or undo something",
    ),
    Check(
        "transfer_reverses_existing",
        "A transfer that reverses another names one that exists.",
        "transfers that end or undo something",
    ),
    Check(
        "transfer_has_posted_task",
        "Every transfer has exactly one transfer.posted task.",
        "transfers",
    ),
    Check("task_has_transfer", "Every task's transfer exists.", "transfers"),
    Check(
        "payout_posting_has_task",
        "Every posting into a payout account, and no other, has a payout task.",
        "entries into payout accounts",
    ),
    Check(
        "payout_task_matches_posting",
        "A payout task is the only one of a posting, with its amount, currency,"
        " account and the destination of that time.",
        "payout tasks",
    ),
    Check(
        "payout_end_has_completion",
        "A finished payout has a completion transfer of the right kind, out of its"
        " account, of its amount; a rejected one's goes back to where it came from.",
        "payout tasks",
    ),
    Check(
        "completion_ends_one_payout",
        "A completion transfer ends exactly one payout.",
        "transfers that end or undo something",
    ),
    Check(
        "hold_comes_with_its_postings",
        "A hold has its postings 1, 2, 3 and so on, recorded with it, each between two"
        " accounts of its currency; nothing else has any.",
        "holds",
    ),
    Check(
        "hold_is_active_while_it_holds",
        "A hold is active, and has not ended, while it holds something; it is captured"
        " only if something was.",
        "holds",
    ),
    Check(
        "hold_expires_when_it_has_lapsed",
        "No hold was recorded as expired before its time.",
        "holds",
    ),
    Check(
        "hold_postings_expire_together",
        "A hold's postings lapse when it does.",
        "holds",
    ),
    Check(
        "hold_events_tell_its_history",
        "A hold's events are its placing, one for each of its captures and its end,"
        " and say what was captured and released.",
        "holds",
    ),
    Check(
        "hold_event_has_its_task",
        "Every event of a hold has exactly one task, of its kind.",
        "events of holds",
    ),
    Check(
        "hold_captured_and_released_within_held",
        "What is captured of a hold's posting is within its limit, and with what is"
        " released within what was held.",
        "postings of holds",
    ),
    Check(
        "hold_captured_equals_captures",
        "What is captured of a hold's posting is what its captures moved.",
        "postings of holds",
    ),
    Check(
        "capture_moves_what_is_held",
        "Every capture's hold exists, and the capture moved money between the accounts"
        " of the hold's posting.",
        "postings of captures",
    ),
    Check(
        "capture_before_expiry",
        "Every capture was recorded before its hold lapsed or ended.",
        "postings of captures",
    ),
    Check(
        "reversal_is_not_reversed",
        "What was reversed is itself no reversal and no settlement.",
        "postings of reversals",
    ),
    Check(
        "reversal_moves_back_what_was_moved",
        "A reversal moves money back to where it came from; out of where it went, or,"
        " with the permission, out of receivables.",
        "postings of reversals",
    ),
    Check(
        "payout_is_reversed_by_payout_reversal",
        "Payouts, and nothing else, are given back by transfers of that kind.",
        "postings of reversals",
    ),
    Check(
        "reversal_total_equals_reversals",
        "What is noted as reversed of a posting is what its reversals moved back, and"
        " not more than it moved.",
        "postings that were reversed",
    ),
    Check(
        "exchange_is_reversed_whole",
        "Both sides of an exchange are reversed, and whole, or neither is.",
        "postings that were reversed",
    ),
    Check(
        "transfer_effective_in_open_period",
        "No transfer became effective in a period that had been closed.",
        "backdated transfers of ledgers that closed periods",
    ),
    Check(
        "scheduled_posted_has_transfer",
        "A scheduled transfer that was posted names the transfer with its postings and"
        " its key, and no other names any.",
        "scheduled transfers",
    ),
    Check(
        "usage_totals_never_decrease",
        "What counts against an account's velocity limits never gets less.",
        "usage",
    ),
    Check(
        "idempotency_key_has_resource",
        "What an idempotency key made exists.",
        "idempotency keys",
    ),
)
CHECKS: Mapping[str, Check] = {check.name: check for check in _CHECKS}

# --- What comes out ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken invariant.

    Attributes:
        check: the name in :data:`CHECKS`.
        ledger_id: whose books.
        ids: what to look at, for instance ``account_id``.
        expected, actual: for people.
        difference: minor units, at least 1, so that no two findings cancel.
    """

    check: str
    ledger_id: UUID
    ids: Mapping[str, Any]
    expected: str
    actual: str
    difference: int

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON values; the difference as text, for it may be large."""
        return {
            "check": self.check,
            "ledger_id": str(self.ledger_id),
            "ids": dict(self.ids),
            "expected": self.expected,
            "actual": self.actual,
            "difference": str(self.difference),
        }


@dataclass(slots=True)
class CheckResult:
    """What one check looked at and found; ``findings`` are the first few."""

    check: Check
    row_count: int = 0
    finding_count: int = 0
    difference: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The outcome of one audit.

    Attributes:
        ledger_slug: the ledger that it was limited to, or ``None``.
        differences: by ledger, the sum of its findings' differences, where not zero.
    """

    started_at: datetime
    finished_at: datetime
    ledger_slug: str | None
    checks: Sequence[CheckResult]
    differences: Mapping[UUID, int]

    @property
    def is_sound(self) -> bool:
        """True if no check found anything."""
        return self.finding_count == 0

    @property
    def finding_count(self) -> int:
        """How many findings there are, listed or not."""
        return sum(result.finding_count for result in self.checks)

    @property
    def difference(self) -> int:
        """The sum of all findings' differences, in minor units."""
        return sum(self.differences.values())

    @property
    def findings(self) -> list[Finding]:
        """The listed findings of all checks."""
        return [finding for result in self.checks for finding in result.findings]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "is_sound": self.is_sound,
            "ledger": self.ledger_slug,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "difference": str(self.difference),
            "finding_count": self.finding_count,
            "checks": [
                {
                    "name": result.check.name,
                    "meaning": result.check.meaning,
                    "rows": result.check.rows,
                    "row_count": result.row_count,
                    "finding_count": result.finding_count,
                    "difference": str(result.difference),
                    "findings": [finding.as_json() for finding in result.findings],
                }
                for result in self.checks
            ],
        }


# --- Running it -------------------------------------------------------------------


def audit_run(
    *,
    ledger_slug: str | None = None,
    progress: Callable[[int], None] = lambda rows: None,
    slice_rows: int = SLICE_ROWS,
    jobs: int = 1,
    share: float = 1.0,
) -> AuditReport:
    """Checks every invariant, stores the result and updates what ``/health`` says.

    Inside a transaction of the caller everything is read in that one, which is for
    small books only; otherwise each slice has its own, see Note [Slices].

    Args:
        ledger_slug: look at this ledger only. What the last run found in the others
            then stands, so a limited run cannot make sick books look healthy.
        progress: told, now and then, how many more rows were looked at.
        slice_rows: about how many rows one slice reads.
        jobs: on how many connections to read; inside a transaction it is one.
        share: of the time, how much to work; the rest is rests between the slices.

    Raises:
        ProblemError: ``not_found``: there is no such ledger.
    """
    if connection.in_atomic_block:
        jobs = 1
    audit = _Audit(progress, slice_rows, jobs, share)
    started_at = now()
    audit.run(ledger_slug)
    report = AuditReport(
        started_at=started_at,
        finished_at=now(),
        ledger_slug=ledger_slug,
        checks=tuple(audit.results.values()),
        differences={k: v for k, v in audit.differences.items() if v},
    )
    with _transaction():
        _store(report, audit.ledger_ids)
        integrity_refresh()
    return report


def audit_row_estimate() -> int:
    """About how many rows a full audit looks at, from the planner's statistics."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(greatest(c.reltuples, 0) * w.weight)::bigint FROM pg_class c"
            " JOIN (VALUES ('ledger_entry', 1), ('ledger_transfer', 1),"
            " ('ledger_account', 1), ('ledger_hold', 1), ('ledger_reversal_total', 1),"
            " ('ledger_usage', 1), ('idempotency_key', 1)) AS w (name, weight)"
            " ON c.oid = w.name::regclass"
        )
        (rows,) = cursor.fetchone()
    return int(rows or 0)


def _store(report: AuditReport, ledger_ids: Sequence[UUID]) -> None:
    """Appends the run; a limited one carries the other ledgers' findings over."""
    differences = {str(k): str(v) for k, v in report.differences.items()}
    findings = [finding.as_json() for finding in report.findings]
    if report.ledger_slug is not None:
        last = AuditRun.objects.order_by("-id").first()
        if last is not None:
            looked_at = {str(ledger_id) for ledger_id in ledger_ids}
            findings += [f for f in last.findings if f["ledger_id"] not in looked_at]
            differences |= {
                ledger_id: difference
                for ledger_id, difference in last.counts["differences"].items()
                if ledger_id not in looked_at
            }
    AuditRun.objects.create(
        id=new_id(),
        started_at=report.started_at,
        finished_at=Now(),
        is_sound=not differences,
        difference=sum(int(difference) for difference in differences.values()),
        counts={
            "ledger": report.ledger_slug,
            "differences": differences,
            "checks": {
                result.check.name: {
                    "rows": result.row_count,
                    "findings": result.finding_count,
                }
                for result in report.checks
            },
        },
        findings=findings,
    )


@contextmanager
def _transaction() -> Iterator[None]:
    if connection.in_atomic_block:
        yield
        return
    with transaction_owner():
        yield


class _Stopped(Exception):
    """Another connection's work has failed, so this one's is of no use."""


class _Audit:
    """One run: goes through ledgers and slices and gathers what the queries say."""

    def __init__(
        self,
        progress: Callable[[int], None],
        slice_rows: int,
        jobs: int,
        share: float,
    ) -> None:
        self._progress_callback = progress
        self._slice_rows = slice_rows
        self._jobs = jobs
        self._share = share
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # What hashes depend on in this run; PostgreSQL takes it as a signed number.
        self._seed = secrets.randbits(62) | 1 << 62
        self.results = {name: CheckResult(check) for name, check in CHECKS.items()}
        self.differences: dict[UUID, int] = defaultdict(int)
        self.ledger_ids: list[UUID] = []
        # By ledger, how many entries its transfers have, and by currency what those of
        # slices that could be broken come to.
        self._entry_counts: dict[UUID, int] = defaultdict(int)
        self._entry_sums: dict[tuple[UUID, str], list[int]] = defaultdict(
            lambda: [0, 0]
        )
        # The ledgers in which some entries are not right behind each other.
        self._suspects: set[UUID] = set()

    def run(self, ledger_slug: str | None) -> None:
        if ledger_slug is not None:
            ledger = Ledger.objects.filter(slug=ledger_slug).first()
            if ledger is None:
                raise ProblemError("not_found", f"There is no ledger {ledger_slug!r}.")
            self.ledger_ids = [ledger.id]
            self.results["ledger_exists"].row_count = 1
        else:
            self._find_ledgers()
        entries = sum(self._sum_accounts(ledger_id) for ledger_id in self.ledger_ids)
        with self._snapshot() as cursor:
            cursor.execute(ENTRY_PAGES)
            (pages,) = cursor.fetchone()
        scans = ledger_slug is None or entries >= SCAN_ENTRIES_PER_PAGE * pages
        self._do(self._pieces(pages if scans else 0))
        self._do(
            partial(self._walk_entries, ledger_id)
            for ledger_id in self.ledger_ids
            if not scans or ledger_id in self._suspects
        )
        for ledger_id in set(self.ledger_ids) - self._suspects if scans else ():
            self._count(ENTRIES.checks, self._entry_counts[ledger_id])
        for (ledger_id, currency), (debits, credits) in self._entry_sums.items():
            self._compare_sums(
                "entry_sums_balance", ledger_id, currency, debits, credits
            )

    def _pieces(self, pages: int) -> Iterator[Callable[[], None]]:
        """Everything but the walks over entries; the short pieces are the last."""
        for ledger_id in self.ledger_ids:
            yield partial(self._walk_accounts, ledger_id)
            for name, slice_end, last, check in (
                ("hold", HOLD_SLICE_END, LAST_HOLD, self._check_holds),
                ("original", ORIGINAL_SLICE_END, LAST_ORIGINAL, self._check_reversals),
                (
                    "scheduled",
                    SCHEDULED_SLICE_END,
                    LAST_SCHEDULED,
                    partial(self._check_rows, SCHEDULED),
                ),
                (
                    "usage",
                    USAGE_SLICE_END,
                    LAST_USAGE,
                    partial(self._check_rows, USAGE),
                ),
                ("key", KEY_SLICE_END, LAST_KEY, partial(self._check_rows, KEYS)),
            ):
                for bounds in self._id_slices(ledger_id, name, slice_end, last):
                    yield partial(check, bounds)
        step = max(1, PAGE_SLICE_FACTOR * self._slice_rows // ENTRIES_PER_PAGE)
        for page in range(0, pages, step):
            yield partial(self._scan_entries, page, page + step)
        for ledger_id in self.ledger_ids:
            for bounds in self._id_slices(
                ledger_id, "transfer", TRANSFER_SLICE_END, LAST_TRANSFER
            ):
                yield partial(self._check_transfers, bounds)

    def _do(self, pieces: Iterator[Callable[[], None]]) -> None:
        """Does pieces of work, on several connections if there are several jobs."""
        if self._jobs == 1:
            for piece in pieces:
                piece()
            return
        # Finding the next piece reads, too, and only one at a time can do it.
        turn = threading.Lock()

        def next_piece() -> Callable[[], None] | None:
            with turn:
                return None if self._stop.is_set() else next(pieces, None)

        def take_turns() -> None:
            try:
                while piece := next_piece():
                    piece()
            except _Stopped:
                return
            finally:
                connections.close_all()

        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                turns = [pool.submit(take_turns) for _ in range(self._jobs)]
                for turn_taken in as_completed(turns):
                    turn_taken.result()
            except BaseException:
                self._stop.set()
                raise

    @contextmanager
    def _snapshot(self) -> Iterator[Any]:
        """A cursor in a snapshot of its own, or in the caller's transaction."""
        if self._stop.is_set():
            raise _Stopped
        is_own = not connection.in_atomic_block
        started = time.monotonic()
        with _transaction(), connection.cursor() as cursor:
            if is_own:
                cursor.execute(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
                )
            # See Note [Plans]. Compiling a slice's query would cost more than running
            # it, and how many processes read is for the caller to say.
            cursor.execute(
                "SELECT set_config('enable_seqscan', 'off', true),"
                " set_config('enable_bitmapscan', 'off', true),"
                " set_config('enable_nestloop', 'off', true),"
                " set_config('enable_sort', 'off', true),"
                " set_config('max_parallel_workers_per_gather', '0', true),"
                " set_config('jit', 'off', true), set_config('work_mem', %s, true),"
                " set_config('statement_timeout', %s, true)",
                [WORK_MEMORY, QUERY_TIMEOUT],
            )
            if connection.pg_version >= 170000:  # type: ignore[attr-defined]
                cursor.execute("SET LOCAL transaction_timeout = 0")
            yield cursor
        if self._share < 1:
            worked = time.monotonic() - started
            self._stop.wait(worked / self._share - worked)

    def _progress(self, rows: int) -> None:
        with self._lock:
            self._progress_callback(rows)

    def _count(self, checks: Sequence[str], rows: int) -> None:
        with self._lock:
            for name in checks:
                self.results[name].row_count += rows

    def _find_ledgers(self) -> None:
        """All ledgers, also those that only rows without a ledger name."""
        with self._snapshot() as cursor:
            for table, column in LEDGER_COLUMNS.items():
                cursor.execute(LEDGERS_OF_TABLE.format(table=table, column=column))
                for ledger_id, exists in cursor.fetchall():
                    if ledger_id in self.ledger_ids:
                        continue
                    self.ledger_ids.append(ledger_id)
                    if not exists:
                        self._found(
                            Finding(
                                "ledger_exists",
                                ledger_id,
                                {"table": table},
                                "a ledger",
                                "none",
                                1,
                            )
                        )
        self.results["ledger_exists"].row_count = len(self.ledger_ids)

    def _sum_accounts(self, ledger_id: UUID) -> int:
        """Compares the accounts' counters; returns how many entries they count."""
        entry_count = 0
        with self._snapshot() as cursor:
            cursor.execute(ACCOUNT_SUMS, [ledger_id])
            for currency, accounts, debits, credits, entries in cursor.fetchall():
                entry_count += entries
                self._count(["account_sums_balance"], accounts)
                self._compare_sums(
                    "account_sums_balance", ledger_id, currency, debits, credits
                )
        return entry_count

    def _compare_sums(
        self, check: str, ledger_id: UUID, currency: str, debits: int, credits: int
    ) -> None:
        if debits != credits:
            self._found(
                Finding(
                    check,
                    ledger_id,
                    {"currency": currency},
                    f"credits {debits}",
                    f"credits {credits}",
                    abs(int(debits) - int(credits)),
                )
            )

    def _walk_accounts(self, ledger_id: UUID) -> None:
        """Accounts, what their entries and holds come to, and postings of payouts."""
        after: UUID | None = None
        while True:
            with self._snapshot() as cursor:
                bounds = SliceBounds(ledger_id, account_after=after)
                cursor.execute(
                    ACCOUNT_SLICE_END.format(**bounds.sql()),
                    bounds.parameters | {"offset": self._slice_rows},
                )
                (end,) = cursor.fetchone()
                bounds = SliceBounds(ledger_id, account_after=after, account_until=end)
                self._progress(self._sweep(cursor, ACCOUNTS, bounds))
                cursor.execute(
                    PAYOUT_ACCOUNTS.format(**bounds.sql()), bounds.parameters
                )
                payout_accounts = cursor.fetchall()
            for ranges in self._entry_ranges(payout_accounts):
                with self._snapshot() as cursor:
                    bounds = SliceBounds(ledger_id)
                    columns = zip(*ranges, strict=True)
                    for name in ("account_ids", "afters", "untils"):
                        bounds.parameters[name] = list(next(columns))
                    self._sweep(cursor, PAYOUT_POSTINGS, bounds)
            if end is None:
                return
            after = end

    def _entry_ranges(
        self, accounts: Sequence[tuple[UUID, int]]
    ) -> Iterator[list[tuple[UUID, int, int]]]:
        """Ranges of versions that cover the accounts' entries, a slice's at a time.

        The last range of an account is open: it may have entries that it does not know.
        """
        ranges: list[tuple[UUID, int, int]] = []
        size = 0
        for account_id, version in accounts:
            after = 0
            while size + version - after > self._slice_rows:
                until = after + max(1, self._slice_rows - size)
                yield [*ranges, (account_id, after, until)]
                ranges, size, after = [], 0, until
            ranges.append((account_id, after, LAST_VERSION))
            size += max(1, version - after)
        if ranges:
            yield ranges

    def _scan_entries(self, page: int, end_page: int) -> None:
        """The entries in a range of the table's pages, see Note [Scans]."""
        with self._snapshot() as cursor:
            cursor.execute(
                ENTRY_SCAN, {"page": page, "end_page": end_page, "seed": self._seed}
            )
            entries, suspects = cursor.fetchone()
        with self._lock:
            self._suspects.update(suspects or ())
        self._progress(entries)

    def _walk_entries(self, ledger_id: UUID) -> None:
        """Entries in the order of their accounts and versions."""
        after: tuple[UUID, int] | None = None
        # Where the entries of an account ended at first sight.
        last_versions: dict[UUID, int] = {}
        while True:
            with self._snapshot() as cursor:
                end = self._entry_slice_end(cursor, ledger_id, after, last_versions)
                bounds = SliceBounds(ledger_id, entry_after=after, entry_until=end)
                self._progress(self._sweep(cursor, ENTRIES, bounds))
            if end is None:
                return
            after = end

    def _entry_slice_end(
        self,
        cursor: Any,
        ledger_id: UUID,
        after: tuple[UUID, int] | None,
        last_versions: dict[UUID, int],
    ) -> tuple[UUID, int] | None:
        """The key up to which to read: so many entries on."""
        bounds = SliceBounds(ledger_id, entry_after=after)
        limits = bounds.parameters | {"offset": self._slice_rows}
        cursor.execute(ENTRY_SLICE_END.format(**bounds.sql()), limits)
        end: tuple[UUID, int] | None = cursor.fetchone()
        if end is None:
            return None
        account_id, version = end
        if account_id not in last_versions:
            cursor.execute(LAST_ENTRY_OF_ACCOUNT, [ledger_id, account_id])
            last_versions[account_id] = cursor.fetchone()[0]
        if version >= last_versions[account_id]:
            return account_id, LAST_VERSION
        return end

    def _check_transfers(self, bounds: SliceBounds) -> None:
        """Transfers, their entries and their tasks, see Note [Scans].

        Entries that are pairs balance: only those of slices that could be broken are
        summed up.
        """
        with self._snapshot() as cursor:
            cursor.execute(
                TRANSFER_SCAN.format(**bounds.sql()),
                bounds.parameters | {"seed": self._seed},
            )
            transfers, entries, origins, payouts, is_suspect = cursor.fetchone()
            if is_suspect:
                transfers = self._sweep(cursor, TRANSFERS, bounds)
                self._sum_entries(cursor, bounds)
            else:
                self._count(TRANSFERS.checks, transfers)
            if origins or is_suspect:
                self._sweep(cursor, COMPLETIONS, bounds)
            if payouts or is_suspect:
                self._sweep(cursor, PAYOUT_TASKS, bounds)
            cursor.execute(CLOSINGS, bounds.parameters)
            starts, ends, befores = cursor.fetchone()
            if starts:
                bounds.parameters["closing_starts"] = starts
                bounds.parameters["closing_ends"] = ends
                bounds.parameters["closing_befores"] = befores
                self._sweep(cursor, PERIODS, bounds)
        self._count(["entry_sums_balance"], entries)
        with self._lock:
            self._entry_counts[bounds.ledger_id] += entries
        self._progress(transfers)

    def _sum_entries(self, cursor: Any, bounds: SliceBounds) -> None:
        cursor.execute(ENTRY_SUMS.format(**bounds.sql()), bounds.parameters)
        with self._lock:
            for currency, debits, credits in cursor.fetchall():
                sums = self._entry_sums[bounds.ledger_id, currency]
                sums[0] += int(debits)
                sums[1] += int(credits)

    def _check_holds(self, bounds: SliceBounds) -> None:
        """Holds, their postings, events and captures."""
        with self._snapshot() as cursor:
            self._progress(self._sweep(cursor, HOLDS, bounds))
            self._sweep(cursor, HOLD_POSTINGS, bounds)
            self._sweep(cursor, HOLD_EVENTS, bounds)
            self._sweep(cursor, CAPTURES, bounds)

    def _check_reversals(self, bounds: SliceBounds) -> None:
        """Reversals and their totals, by the ids of what they reverse."""
        with self._snapshot() as cursor:
            self._progress(self._sweep(cursor, REVERSAL_TOTALS, bounds))
            self._sweep(cursor, REVERSALS, bounds)

    def _check_rows(self, sweep: Sweep, bounds: SliceBounds) -> None:
        """The rows of one table."""
        with self._snapshot() as cursor:
            self._progress(self._sweep(cursor, sweep, bounds))

    def _id_slices(
        self, ledger_id: UUID, name: str, slice_end: str, last: str
    ) -> Iterator[SliceBounds]:
        """Slices of ascending ids, up to the last one that is there at first sight."""
        after: UUID | None = None
        ceiling: UUID | None = None
        while ceiling is None or after != ceiling:
            with self._snapshot() as cursor:
                if ceiling is None:
                    cursor.execute(last, {"ledger_id": ledger_id})
                    (ceiling,) = cursor.fetchone() or (None,)
                    if ceiling is None:
                        return
                bounds = SliceBounds(ledger_id, **{f"{name}_after": after})
                cursor.execute(
                    slice_end.format(**bounds.sql()),
                    bounds.parameters | {"offset": self._slice_rows},
                )
                (end,) = cursor.fetchone() or (None,)
            until = min(end, ceiling) if end else ceiling
            yield SliceBounds(
                ledger_id, **{f"{name}_after": after, f"{name}_until": until}
            )
            after = until

    def _sweep(self, cursor: Any, sweep: Sweep, bounds: SliceBounds) -> int:
        """Asks one question of a slice; returns how many rows it looked at."""
        source = sweep.source.format(**bounds.sql())
        cursor.execute(
            f"SELECT count(*), count(*) FILTER (WHERE {sweep.is_broken})"  # noqa: S608
            f" FROM ({source}) AS s",
            bounds.parameters,
        )
        rows, broken = cursor.fetchone()
        self._count(sweep.checks, rows)
        if broken:
            cursor.execute(
                DETAILS.format(
                    source=source, is_broken=sweep.is_broken, findings=sweep.findings
                ),
                bounds.parameters | {"cap": MAX_FINDINGS_PER_CHECK},
            )
            for check, ids, expected, actual, difference, count, total in cursor:
                finding = Finding(
                    check,
                    bounds.ledger_id,
                    json.loads(ids),
                    expected,
                    actual,
                    int(difference),
                )
                self._found(finding, count=count, total=total)
        return int(rows)

    def _found(
        self, finding: Finding, *, count: int | None = 1, total: int | None = None
    ) -> None:
        """Notes a finding; ``count`` and ``total`` stand for unlisted ones with it."""
        with self._lock:
            result = self.results[finding.check]
            if len(result.findings) < MAX_FINDINGS_PER_CHECK:
                result.findings.append(finding)
            if count is not None:
                difference = finding.difference if total is None else int(total)
                result.finding_count += count
                result.difference += difference
                self.differences[finding.ledger_id] += difference
