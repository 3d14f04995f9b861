"""The cases: what each one loads, and what it measures."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmarks import measure
from benchmarks.admin import admin_paths, admin_session
from benchmarks.load import Load, pgbench, run_measured, wrk
from benchmarks.references import BATCH_SIZE, References, new_key
from benchmarks.stack import ACCOUNT_COUNT, SEEDED_LEDGER, BenchmarkError, Stack
from payflow.embedded.environment import PROJECT_DIRECTORY
from payflow.embedded.postgres import LOGIN_ROLE

CLIENTS = (1, 8, 32, 128)
R1_CLIENTS = {"uniform": (4, 8, 16, 32), "hot": (1, 2, 4, 8)}
BATCH_SIZES = (10, 100, 1_000, 10_000)
#: So that a few of the large ones finish.
BATCH_SECONDS = {1_000: 4, 10_000: 8}
#: How many send batches at the same time, each on accounts of its own.
BATCH_CLIENTS = 2
MORE_BATCH_CLIENTS = 6
#: Of everything that is not measured at several counts of clients.
SOME_CLIENTS = 32
REPLAYED_KEYS = 1_000
DISPATCHED_TASKS = 20_000
SEEDED_TRANSFERS = 30_000
#: The hot account must have more entries than a page shows.
HOT_ENTRIES = 20_000
INSTANTS = 500
DISPATCH_SECONDS = 120
#: After so much WAL since the last checkpoint there is one before the next case, for at
#: twice as much PostgreSQL would begin one in the middle of it.
CHECKPOINT_BYTES = 500_000_000
#: Enough for each account's pages to have been changed since a checkpoint.
REFRESHING_TRANSFERS = 20_000

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        name: for ``--cases``.
        title: for the table.
        unit: of the rate.
        is_reference: it is measured with the background processes halted.
        measure: measures it once.
    """

    name: str
    title: str
    unit: str
    measure: Callable[["Bench"], Metrics]
    is_reference: bool = False


@dataclass
class Bench:
    """What the cases of one round share.

    Attributes:
        stack: it runs.
        references: of this round.
        seconds: how long each load lasts.
        warm_up_seconds: how long the same load runs before that, unmeasured.
        seed: of the round's random choices.
        rates: the best rate of each kind of single transfers, so far in the run.
    """

    stack: Stack
    references: References
    seconds: float
    warm_up_seconds: float
    seed: int
    rates: dict[str, tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._files = self.stack.directory / "load"
        self._files.mkdir(exist_ok=True)
        self.accounts = self.write_lines("accounts", map(str, self.references.accounts))

    def write_lines(self, name: str, lines: Any) -> str:
        """Writes a file for a script of wrk, and returns its path."""
        path = self._files / f"{name}.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)

    # --- Loads --------------------------------------------------------------------

    def http(
        self, script: str, *, connections: int, at_least: float = 0, **options: Any
    ) -> Metrics:
        """Loads the API for ``at_least`` so many seconds; options are the script's."""
        known = {
            "seed": self.seed,
            "token": self.stack.known.api_key,
            "accounts": self.accounts,
        }
        return self._loaded(
            lambda seconds: wrk(
                script,
                address=self.stack.web_address,
                connections=connections,
                seconds=max(seconds, at_least),
                **{**known, "key": new_key(), **options},
            )
        )

    def sql(self, script: str, *, clients: int) -> Metrics:
        """Loads PostgreSQL, as the application's role."""
        known = self.stack.known
        url = self.stack.postgres.url_of(LOGIN_ROLE, known.login_password)
        program = self.stack.postgres_program("pgbench")
        return self._loaded(
            lambda seconds: pgbench(
                script, program=program, url=url, clients=clients, seconds=seconds
            )
        )

    def constant(self) -> Metrics:
        """Loads the constant view."""
        return self._constant("reads", paths=self.write_lines("constant", ["/"]))

    def constant_checked(self) -> Metrics:
        """Loads the constant view behind a serializer."""
        return self._constant("constant")

    def _constant(self, script: str, **options: Any) -> Metrics:
        self.stack.start_constant()
        try:
            return self._loaded(
                lambda seconds: wrk(
                    script,
                    address=f"127.0.0.1:{self.stack.constant_port}",
                    connections=SOME_CLIENTS,
                    seconds=seconds,
                    seed=self.seed,
                    **options,
                )
            )
        finally:
            self.stack.stop_constant()

    def _loaded(self, run: Callable[[float], Load]) -> Metrics:
        if self.warm_up_seconds:
            run(self.warm_up_seconds)
            self.stack.wait_until_idle()
        written = self.boundary()
        disk = measure.disk_work(self.stack)
        before = measure.cpu_seconds(self.stack)
        machine = measure.machine_cpu_seconds()
        load = run(self.seconds)
        machine = measure.machine_cpu_seconds() - machine
        cpu = measure.difference(before, measure.cpu_seconds(self.stack))
        cpu["generator"] = load.cpu_seconds
        elsewhere = max(0.0, machine - sum(cpu.values())) / load.seconds
        disk = measure.difference(disk, measure.disk_work(self.stack))
        self.stack.check_alive()
        if not load.requests:
            raise BenchmarkError(
                f"Nothing was answered within {load.seconds:.0f} s: measure for longer,"
                " with --seconds."
            )
        self.stack.wait_until_idle()
        return {
            "rate": load.rate,
            "requests": load.requests,
            "seconds": load.seconds,
            "latency_ms": load.latency_ms,
            "cpu_seconds": cpu,
            "generator_busy": load.cpu_seconds / load.seconds / load.threads,
            "elsewhere_cpus": elsewhere,
            "disk": disk,
            "finished": load.finished,
            "late_ms": load.late_ms,
            "transfers": self.transfers_since(written),
        }

    def refresh(self, *, always: bool = False) -> None:
        """Puts PostgreSQL in the middle between two checkpoints, where it mostly is.

        After a checkpoint the first change of each page writes all of it to the WAL: in
        big books for each account a few, in small ones hardly any. At once after one,
        a case of seconds would measure nothing else.
        """
        ((written,),) = self.query(
            "SELECT pg_current_wal_lsn() - redo_lsn FROM pg_control_checkpoint()"
        )
        if always or written > CHECKPOINT_BYTES:
            with self.background_halted():
                self.query("CHECKPOINT")
                self.write_batches(REFRESHING_TRANSFERS)
                self.settle()

    # --- The database -------------------------------------------------------------

    def boundary(self) -> Any:
        """An id that is greater than those of all rows so far."""
        return self.query("SELECT uuidv7()")[0][0]

    def transfers_since(self, boundary: Any) -> int:
        """How many transfers were written after a boundary."""
        return self._rows_since("ledger_transfer", boundary)

    def keys_since(self, boundary: Any) -> int:
        """How many requests with idempotency keys were carried out after a boundary."""
        return self._rows_since("idempotency_key", boundary)

    def _rows_since(self, table: str, boundary: Any) -> int:
        rows = self.query(
            f"SELECT count(*) FROM {table} WHERE ledger_id = %s AND id > %s",  # noqa: S608
            [self.references.ledger_id, boundary],
        )
        return int(rows[0][0])

    def query(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """The rows of a statement of the superuser."""
        with self.stack.superuser() as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def pending_tasks(self) -> int:
        """How many outbox tasks nobody has delivered."""
        return int(
            self.query(
                "SELECT count(*) FROM outbox_task WHERE state IN ('pending', 'leased')"
            )[0][0]
        )

    def settle(self) -> int:
        """Ends the tasks that are left, for the next case; returns how many they were.

        The dispatcher would do it too; what it can do is measured by its own case.
        """
        left = self.pending_tasks()
        if left:
            with self.background_halted():
                self.query(
                    "UPDATE outbox_task SET state = 'done',"
                    " finished_at = clock_timestamp() WHERE state = 'pending'"
                )
        return left

    @contextmanager
    def background_halted(self) -> Iterator[None]:
        """Worker, dispatcher and beat stand still; then they are as before."""
        halted = self.stack.pause_background()
        try:
            yield
        finally:
            self.stack.resume(*halted)

    def write_batches(self, transfers: int, *, hot: bool = False) -> None:
        """Writes transfers by SQL; ``hot``: they are all the first account's."""
        for _ in range(transfers // BATCH_SIZE):
            last = 2 if hot else ACCOUNT_COUNT
            self.query(f"SELECT benchmark.batch(1, {last}, {BATCH_SIZE}, false)")


# --- References ---------------------------------------------------------------------

_UNIFORM_SQL = f"""\
\\set payer random(1, {ACCOUNT_COUNT})
\\set payee 1 + (:payer - 1 + random(1, {ACCOUNT_COUNT - 1})) % {ACCOUNT_COUNT}
\\set amount random(1, 100)
SELECT benchmark.transfer(:payer, :payee, :amount, {{with_key}});
"""
_SQL = {
    "uniform": _UNIFORM_SQL,
    "hot": _UNIFORM_SQL.replace(f"random(1, {ACCOUNT_COUNT})\n", "1\n", 1),
}
_HALF = ACCOUNT_COUNT // 2
_BATCH_SQL = f"""\
\\set first 1 + :client_id * {_HALF}
\\set last :first + {_HALF - 1}
SELECT benchmark.batch(:first, :last, {BATCH_SIZE}, {{with_key}});
"""


def _r1(spread: str, clients: int, with_key: bool = True) -> Callable[[Bench], Metrics]:
    script = _SQL[spread].format(with_key=str(with_key).lower())

    def run(bench: Bench) -> Metrics:
        metrics = bench.sql(script, clients=clients)
        return checked(metrics, transfers_each=1)

    return run


def _r2(with_key: bool) -> Callable[[Bench], Metrics]:
    script = _BATCH_SQL.format(with_key=str(with_key).lower())

    def run(bench: Bench) -> Metrics:
        metrics = checked(bench.sql(script, clients=2), transfers_each=BATCH_SIZE)
        return _times(metrics, BATCH_SIZE)

    return run


def checked(metrics: Metrics, *, transfers_each: int) -> Metrics:
    """Whether each answer is backed by rows."""
    expected = metrics["requests"] * transfers_each
    if metrics["transfers"] < expected:
        raise BenchmarkError(
            f"{metrics['requests']:,} requests were answered, which is {expected:,}"
            f" transfers, and {metrics['transfers']:,} were written."
        )
    return metrics


def _times(metrics: Metrics, size: int) -> Metrics:
    """The rate of what a request has several of."""
    return {**metrics, "rate": metrics["rate"] * size, "each": size}


# --- Writing over HTTP ----------------------------------------------------------------


def _single(spread: str, clients: int) -> Callable[[Bench], Metrics]:
    def run(bench: Bench) -> Metrics:
        metrics = checked(
            bench.http("transfers", connections=clients, hot=int(spread == "hot")),
            transfers_each=1,
        )
        best, _ = bench.rates.get(spread, (0.0, 0))
        if metrics["rate"] > best:
            bench.rates[spread] = (metrics["rate"], clients)
        return {**metrics, "backlog": bench.settle()}

    return run


def _half_rate(spread: str) -> Callable[[Bench], Metrics]:
    def run(bench: Bench) -> Metrics:
        if spread not in bench.rates:
            _single(spread, SOME_CLIENTS)(bench)
        rate = bench.rates[spread][0] / 2
        metrics = bench.http(
            "transfers", connections=128, hot=int(spread == "hot"), rate=f"{rate:.1f}"
        )
        latency = metrics["latency_ms"]
        return {
            **checked(metrics, transfers_each=1),
            "wanted_rate": rate,
            "p99_to_p50": latency["p99"] / latency["p50"],
            "backlog": bench.settle(),
        }

    return run


def _batch(
    size: int, is_atomic: bool, clients: int = BATCH_CLIENTS
) -> Callable[[Bench], Metrics]:
    def run(bench: Bench) -> Metrics:
        web = measure.group_processes(bench.stack)["web"]
        measure.reset_peaks(web)
        before = measure.memory(bench.stack)
        metrics = bench.http(
            "batches",
            connections=clients,
            threads=clients,
            size=size,
            atomic=str(is_atomic).lower(),
            at_least=BATCH_SECONDS.get(size, 0),
            bodies=max(2, min(50, 20_000 // size)),
        )
        after = measure.memory(bench.stack)
        growth = max(
            after[name].peak_mb - before[name].rss_mb
            for name in after
            if name.startswith("web.") and name in before
        )
        metrics = _times(checked(metrics, transfers_each=size), size)
        return {**metrics, "web_growth_mb": growth, "backlog": bench.settle()}

    return run


def _holds(bench: Bench) -> Metrics:
    metrics = bench.http("holds", connections=SOME_CLIENTS, capture=0)
    return {**metrics, "backlog": bench.settle()}


def _holds_captured(bench: Bench) -> Metrics:
    metrics = bench.http("holds", connections=SOME_CLIENTS, capture=1)
    metrics["rate"] = metrics["finished"] / metrics["seconds"]
    return {**metrics, "backlog": bench.settle()}


def _replay(bench: Bench) -> Metrics:
    key = new_key()
    ids = bench.references.accounts
    requests = [
        (
            f"{key}-{n}",
            f'{{"from_account_id":"{ids[n - 1]}",'
            f'"to_account_id":"{ids[n % ACCOUNT_COUNT]}","amount":{n % 100 + 1}}}',
        )
        for n in range(1, REPLAYED_KEYS + 1)
    ]
    bench.references.post_all("/v1/transfers", requests)
    metrics = bench.http(
        "transfers", connections=SOME_CLIENTS, key=key, keys=REPLAYED_KEYS
    )
    if metrics["transfers"]:
        raise BenchmarkError(f"Replays wrote {metrics['transfers']} transfers.")
    bench.settle()
    return metrics


# --- Reading over HTTP ----------------------------------------------------------------


def _read(name: str, paths: Callable[[Bench], list[str]]) -> Callable[[Bench], Metrics]:
    def run(bench: Bench) -> Metrics:
        file = bench.write_lines(name, paths(bench))
        return bench.http("reads", connections=1, paths=file)

    return run


def account_paths(bench: Bench) -> list[str]:
    """A path for each account."""
    return [f"/v1/accounts/{account}" for account in bench.references.accounts]


def _entries_paths(bench: Bench) -> list[str]:
    return [f"/v1/accounts/{_hot_account(bench)}/entries?limit=50"]


def _balance_paths(bench: Bench) -> list[str]:
    path = f"/v1/accounts/{_hot_account(bench)}/balance?at="
    return [path + at for at in _instants(bench)]


def _statement_paths(bench: Bench) -> list[str]:
    path = f"/v1/accounts/{_hot_account(bench)}/statement?limit=50&from="
    return [path + at for at in _instants(bench)]


def _hot_account(bench: Bench) -> str:
    """The first account, with a history."""
    account = bench.references.accounts[0]
    while True:
        ((version,),) = bench.query(
            "SELECT version FROM ledger_account WHERE id = %s", [account]
        )
        if version >= HOT_ENTRIES:
            return str(account)
        bench.write_batches(BATCH_SIZE, hot=True)
        bench.settle()


def _instants(bench: Bench) -> list[str]:
    """When entries of the hot account were written, spread over its history."""
    rows = bench.query(
        "SELECT to_char(e.effective_at AT TIME ZONE 'UTC',"
        ' \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')'
        " FROM ledger_account a, generate_series(1, %s) n"
        " JOIN LATERAL (SELECT 1) one ON true, ledger_entry e"
        " WHERE a.id = %s AND e.ledger_id = a.ledger_id AND e.account_id = a.id"
        " AND e.account_version = 1 + (a.version - 100) * n / (%s + 1)",
        [INSTANTS, bench.references.accounts[0], INSTANTS],
    )
    return [text for (text,) in rows]


def _admin(name: str) -> Callable[[Bench], Metrics]:
    def run(bench: Bench) -> Metrics:
        cookie = admin_session(bench.stack)
        file = bench.write_lines(f"admin-{name}", admin_paths(name))
        return bench.http("reads", connections=1, paths=file, token=None, cookie=cookie)

    return run


# --- Background and commands ----------------------------------------------------------


def _dispatch(bench: Bench) -> Metrics:
    with bench.background_halted():
        bench.settle()
        bench.write_batches(DISPATCHED_TASKS)
        before = measure.cpu_seconds(bench.stack)
    tasks, began = bench.pending_tasks(), time.monotonic()
    while left := bench.pending_tasks():
        if time.monotonic() - began > DISPATCH_SECONDS:
            raise BenchmarkError(f"The dispatcher has {left} of {tasks} tasks left.")
        time.sleep(0.05)
    seconds = time.monotonic() - began
    return {
        "rate": tasks / seconds,
        "requests": tasks,
        "seconds": seconds,
        "cpu_seconds": measure.difference(before, measure.cpu_seconds(bench.stack)),
    }


def _seed(bench: Bench) -> Metrics:
    disk = measure.disk_work(bench.stack)
    before = measure.cpu_seconds(bench.stack)
    run = run_measured(
        [
            *(sys.executable, str(PROJECT_DIRECTORY / "manage.py"), "seed_accounts"),
            *("--ledger", SEEDED_LEDGER, "--append", "--accounts", "0"),
            *("--transfers", str(SEEDED_TRANSFERS), "--seed", str(bench.seed)),
        ],
        bench.stack.environment,
    )
    found = re.search(r"([\d,]+) transfers in ([\d.]+) s", run.output)
    if found is None or int(found[1].replace(",", "")) != SEEDED_TRANSFERS:
        raise BenchmarkError(f"seed_accounts did not finish:\n{run.output}")
    cpu = measure.difference(before, measure.cpu_seconds(bench.stack))
    return {
        "rate": SEEDED_TRANSFERS / float(found[2]),
        "requests": SEEDED_TRANSFERS,
        "seconds": float(found[2]),
        "disk": measure.difference(disk, measure.disk_work(bench.stack)),
        "cpu_seconds": {**cpu, "command": run.cpu_seconds},
    }


def audit(stack: Stack, *options: str) -> Metrics:
    """Audits all books, and measures it.

    Args:
        stack: whose books.
        options: of ``audit_ledger``, beside ``--json``.

    Raises:
        BenchmarkError: they are not sound, or it could not run.
    """
    before = measure.cpu_seconds(stack)
    run = run_measured(
        [
            *(sys.executable, str(PROJECT_DIRECTORY / "manage.py")),
            *("audit_ledger", "--json", *options),
        ],
        stack.environment,
    )
    report = json.loads(run.output[run.output.index("{") :])
    if not report["is_sound"]:
        raise BenchmarkError(f"The books are not sound:\n{run.output}")
    entries = max(c["row_count"] for c in report["checks"] if c["rows"] == "entries")
    cpu = measure.difference(before, measure.cpu_seconds(stack))
    return {
        "rate": entries / run.seconds,
        "requests": entries,
        "seconds": run.seconds,
        "peak_mb": run.peak_mb,
        "cpu_seconds": {**cpu, "command": run.cpu_seconds},
    }


#: One connection that works a quarter of the time.
PACED_AUDIT = ("--jobs", "1", "--share", "25")


def _hot_while_audited(bench: Bench) -> Metrics:
    """The hot account's rate while audits run one after the other, and without them.

    The audits are paced, as they are to be beside a load: at full speed they want all
    of a small machine's cores, which the load has. They are halted and let go on in
    turns, so that growth and noise meet both alike: without, with, with, without.
    """
    if "hot" not in bench.rates:
        _single("hot", SOME_CLIENTS)(bench)
    _, clients = bench.rates["hot"]
    parts: dict[bool, list[Metrics]] = {False: [], True: []}
    first = bench.seed % 2 == 0
    bench.stack.start_audits(*PACED_AUDIT)
    try:
        bench.stack.wait_for_audit()
        for is_audited in (first, not first, not first, first):
            if is_audited:
                bench.stack.resume("audit")
            else:
                bench.stack.halt("audit")
            metrics = bench.http("transfers", connections=clients, hot=1)
            parts[is_audited].append(checked(metrics, transfers_each=1))
            bench.settle()
    finally:
        bench.stack.stop_audits()
    alone, beside = (mean(part["rate"] for part in parts[key]) for key in parts)
    return {
        **parts[True][-1],
        "rate": beside,
        "rate_alone": alone,
        "kept": beside / alone,
        "rates_alone": [part["rate"] for part in parts[False]],
        "rates_beside": [part["rate"] for part in parts[True]],
    }


# --- All of them ----------------------------------------------------------------------


def all_cases() -> list[Case]:
    """Every case, in the order of the first round."""
    cases = []
    for spread, clients in R1_CLIENTS.items():
        cases += [
            Case(
                f"r1.{spread}.{count}",
                f"R1, one transfer as one SQL call, {spread}, {count} clients",
                "transfers/s",
                _r1(spread, count),
                is_reference=True,
            )
            for count in clients
        ]
    cases += [
        Case(
            f"r1-without-key.{spread}.{count}",
            f"R1 without the key's row, {spread}, {count} clients",
            "transfers/s",
            _r1(spread, count, with_key=False),
            is_reference=True,
        )
        for spread, count in (("uniform", 16), ("hot", 4))
    ]
    cases += [
        Case(
            name,
            f"R2, batches of {BATCH_SIZE:,} in SQL, two connections{less}",
            "transfers/s",
            _r2(with_key),
            is_reference=True,
        )
        for name, less, with_key in (
            ("r2", "", True),
            ("r2-without-key", ", without the key's row", False),
        )
    ]
    cases.append(
        Case(
            "constant",
            f"constant DRF view, {SOME_CLIENTS} clients",
            "requests/s",
            Bench.constant,
            is_reference=True,
        )
    )
    cases.append(
        Case(
            "constant.serializer",
            f"constant DRF view with a serializer, {SOME_CLIENTS} clients",
            "requests/s",
            Bench.constant_checked,
            is_reference=True,
        )
    )
    for spread in ("uniform", "hot"):
        cases += [
            Case(
                f"single.{spread}.{count}",
                f"single transfers, {spread}, {count} clients",
                "transfers/s",
                _single(spread, count),
            )
            for count in CLIENTS
        ]
        cases.append(
            Case(
                f"half.{spread}",
                f"single transfers, {spread}, at half of the best rate",
                "transfers/s",
                _half_rate(spread),
            )
        )
    cases += [
        Case(
            f"batch.{size}.{'atomic' if is_atomic else 'each'}",
            f"batches of {size:,}, {'all or none' if is_atomic else 'each alone'}",
            "transfers/s",
            _batch(size, is_atomic),
        )
        for size in BATCH_SIZES
        for is_atomic in (True, False)
    ]
    cases.append(
        Case(
            f"batch.{BATCH_SIZE}.clients",
            f"batches of {BATCH_SIZE:,}, all or none, {MORE_BATCH_CLIENTS} clients",
            "transfers/s",
            _batch(BATCH_SIZE, True, MORE_BATCH_CLIENTS),
        )
    )
    cases += [
        Case("hold", f"holds, {SOME_CLIENTS} clients", "holds/s", _holds),
        Case(
            "capture",
            f"hold and capture, {SOME_CLIENTS} clients",
            "pairs/s",
            _holds_captured,
        ),
        Case(
            "replay",
            f"replays of a finished key, {SOME_CLIENTS} clients",
            "requests/s",
            _replay,
        ),
    ]
    reads: dict[str, tuple[str, Callable[[Bench], list[str]]]] = {
        "account": ("an account", account_paths),
        "entries": ("a page of 50 entries of the hot account", _entries_paths),
        "balance": ("the hot account's balance at a time", _balance_paths),
        "statement": (
            "a page of 50 lines of the hot account's statement",
            _statement_paths,
        ),
        "health": ("/health", lambda _: ["/health"]),
    }
    cases += [
        Case(f"read.{name}", f"read {title}, 1 client", "requests/s", _read(name, of))
        for name, (title, of) in reads.items()
    ]
    cases += [
        Case(f"admin.{name}", f"admin list: {name}, 1 client", "pages/s", _admin(name))
        for name in ("transfers", "entries", "accounts", "holds", "tasks", "keys")
    ]
    return [
        *cases,
        Case("dispatch", "dispatching outbox tasks", "tasks/s", _dispatch),
        Case("seed", "seed_accounts", "transfers/s", _seed),
        Case(
            "hot-while-audited",
            "single transfers, hot, while audits run",
            "transfers/s",
            _hot_while_audited,
        ),
    ]
