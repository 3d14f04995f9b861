"""Makes the README's part about speed, its pictures, and all the numbers, from results.

``python -m benchmarks.report RESULT.json [RESULT-OF-BIGGER-BOOKS.json ...]`` replaces
what stands in README.md between ``<!-- benchmarks:begin -->`` and
``<!-- benchmarks:end -->``, and writes docs/benchmark.md, with the results of soaks
that are given, too. With ``--print`` it prints both instead.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import SOME_CLIENTS
from benchmarks.plots import Chart, Line, svg
from benchmarks.results import (
    SOAK_COLUMNS,
    Goal,
    SizeRatio,
    best,
    cpu_text,
    disk_each,
    goals,
    is_one_run,
    size_ratios,
    soak_rows,
    soak_text,
)
from benchmarks.soak import GROWTH_MB, GROWTH_PART
from payflow.embedded.environment import PROJECT_DIRECTORY

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
NUMBERS = Path("docs/benchmark.md")
_IMAGES = Path("docs/images")
CLIENTS_IMAGE = _IMAGES / "benchmark-clients.svg"
SIZE_IMAGE = _IMAGES / "benchmark-size.svg"


def summary(results: Sequence[dict[str, Any]]) -> str:
    """What the README shows, from the results in ascending size of the books."""
    cases = results[0]["cases"]
    lines = [
        *_origin(results[0]),
        "",
        *_goal_table(goals(cases)),
        "",
        f"![Throughput and latency against clients]({CLIENTS_IMAGE})",
    ]
    if len(results) > 1:
        lines += ["", f"![Throughput against the size of the books]({SIZE_IMAGE})"]
    return "\n".join([*lines, "", f"[All the numbers]({NUMBERS})."])


def numbers(
    results: Sequence[dict[str, Any]], soaks: Sequence[dict[str, Any]] = ()
) -> str:
    """Everything that was measured, from the results in ascending size of the books."""
    first = results[0]
    cases = first["cases"]
    lines = [
        "# All numbers of the benchmark",
        "",
        "Made by `python -m benchmarks.report`; [benchmarks/README.md]"
        "(../benchmarks/README.md) says what each case is.",
        "",
        *_origin(first),
        "",
        *_goal_table(goals(cases)),
        "",
        *_case_table(cases),
    ]
    if counts := first.get("counts"):
        lines += ["", *_count_table(counts)]
    lines += ["", *_memory_table(first["rounds"][-1]["stack"])]
    for bigger in results[1:]:
        title = f"## Books of {bigger['options']['entries']:,} entries"
        lines += ["", title, "", *_origin(bigger), ""]
        lines += _goal_table(goals(bigger["cases"]))
        lines += ["", *_size_table(first, bigger)]
        lines += ["", *_case_table(bigger["cases"])]
    for soaked in soaks:
        lines += ["", *_soak_table(soaked)]
    return "\n".join(lines) + "\n"


def _origin(result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    rounds = len(result.get("rounds", ()))
    counted = f"; {rounds} round{'s' if rounds > 1 else ''}" if rounds else ""
    return [
        f"Measured by `make bench` on {machine['cpus']} processors ({machine['cpu']},"
        f" {machine['memory_gb']:g} GB), which the load generator uses too;",
        f"PostgreSQL {machine['versions']['postgresql']}, Python {machine['python']},"
        f" commit {machine['commit']}{counted}.",
    ]


def _goal_table(found: Sequence[Goal]) -> list[str]:
    rows = [
        f"| {goal.name} | {goal.value:.2f} |"
        f" {'≥' if goal.is_least else '≤'} {goal.bound:.2f} |"
        f" {'yes' if goal.is_met else 'no'} |"
        for goal in found
    ]
    return ["| ratio within one run | is | goal | met |", "|---|--:|--:|---|", *rows]


def _size_table(small: dict[str, Any], big: dict[str, Any]) -> list[str]:
    """The rates as a part of those in small books, and what the disk was given."""

    def each(ratio: SizeRatio, what: str, digits: int) -> str:
        pair = (disk_each(ratio.small, what), disk_each(ratio.big, what))
        return " / ".join(f"{n:,.{digits}f}" for n in pair if n is not None)

    rows = [
        f"| {ratio.goal.name} | {ratio.goal.value:.2f} |"
        f" {ratio.least:.2f} to {ratio.most:.2f} | ≥ {ratio.goal.bound:.2f} |"
        f" {'yes' if ratio.goal.is_met else 'no'} | {each(ratio, 'wal_fpi', 2)} |"
        f" {each(ratio, 'wal_kb', 1)} | {each(ratio, 'read_kb', 1)} |"
        for ratio in size_ratios(small, big)
    ]
    how = (
        "both measured in turns, case by case, in one run: medians and range of the"
        " rounds' ratios"
        if is_one_run(small, big)
        else "measured in two runs, so the machine may have changed between"
    )
    return [
        f"As a part of the rate at {small['options']['entries']:,} entries, {how}."
        " Beside it, for each operation in small and in big books, pages that were"
        " written whole to the WAL, kB of WAL, and kB that were read from disk.",
        "",
        "| case | is | range | goal | met | whole pages | WAL kB | read kB |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
        *rows,
        *_drift(small["cases"], big["cases"]),
    ]


def _drift(small: dict[str, Any], big: dict[str, Any]) -> list[str]:
    """How much faster the machine itself was, which two runs have to be read by."""
    if "constant" not in small or "constant" not in big:
        return []
    drift = big["constant"]["rate"] / small["constant"]["rate"]
    return ["", f"The constant view, which has no database: {drift:.2f}."]


def _case_table(cases: dict[str, Any]) -> list[str]:
    rows = []
    for case in cases.values():
        latency = case.get("latency_ms", {})
        times = (
            f"{latency[p]:,.1f}" if p in latency else "" for p in ("p50", "p95", "p99")
        )
        rows.append(
            f"| {case['title']} | {case['rate']:,.0f} {case['unit']} |"
            f" {case['rate_min']:,.0f} to {case['rate_max']:,.0f} |"
            f" {' | '.join(times)} | {cpu_text(case)} |"
        )
    return [
        "| case | median | range | p50 ms | p95 ms | p99 ms | CPU µs for each |",
        "|---|--:|--:|--:|--:|--:|---|",
        *rows,
    ]


def _count_table(counts: dict[str, Any]) -> list[str]:
    return [
        "| for each operation | statements | round trips to PostgreSQL | Valkey"
        " commands | round trips to Valkey |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| {name} |"
            + "|".join(
                f" {count[key]:.2f} " if key in count else "  "
                for key in (
                    *("statements_each", "database_round_trips_each"),
                    *("valkey_commands_each", "valkey_round_trips_each"),
                )
            )
            + "|"
            for name, count in counts.items()
        ),
    ]


def _memory_table(stack: dict[str, Any]) -> list[str]:
    """Of each group of processes, the sum of what is its share."""

    def sums(memory: dict[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, used in memory.items():
            group = name.partition(".")[0]
            found[group] = found.get(group, 0) + used["pss_mb"]
        return found

    before, after = sums(stack["memory_before"]), sums(stack["memory_after"])
    return [
        "| processes | MB at the start of a round | MB at its end |",
        "|---|--:|--:|",
        *(
            f"| {group} | {before[group]:,.0f} | {after.get(group, 0):,.0f} |"
            for group in before
        ),
    ]


def _soak_table(result: dict[str, Any]) -> list[str]:
    soak, entries = result["soak"], result["options"]["entries"]
    return [
        f"## {soak['minutes']:g} minutes of steady load",
        "",
        *_origin(result),
        "",
        f"At half of the best rate of {SOME_CLIENTS} clients, on books of {entries:,}"
        f" entries: {soak_text(soak)} Each process's own memory in MB; it grows if the"
        " median of the last quarter passes that of the second by more than"
        f" {GROWTH_MB:g} MB and {GROWTH_PART:.0%}.",
        "",
        f"| {' | '.join(SOAK_COLUMNS)} |",
        "|---|--:|--:|--:|--:|---|",
        *(f"| {' | '.join(row)} |" for row in soak_rows(soak)),
    ]


def clients_chart(result: dict[str, Any]) -> str:
    """Throughput and latency against clients."""
    cases = result["cases"]
    rates, latencies = [], []
    for spread in ("uniform", "hot"):
        points = sorted(
            (int(name.rpartition(".")[2]), case)
            for name, case in cases.items()
            if name.startswith(f"single.{spread}.")
        )
        if not points:
            continue
        rates.append(Line(f"HTTP, {spread}", [(x, case["rate"]) for x, case in points]))
        latencies += [
            Line(f"{p}, {spread}", [(x, case["latency_ms"][p]) for x, case in points])
            for p in ("p50", "p99")
        ]
        if reference := best(cases, f"r1.{spread}."):
            ends = (points[0][0], points[-1][0])
            level = [(x, reference["rate"]) for x in ends]
            rates.append(Line(f"R1, {spread} (SQL)", level, is_dashed=True))
    return svg(
        [
            Chart("transfers a second", "clients", rates),
            Chart("latency, ms", "clients", latencies, is_log_y=True),
        ]
    )


def size_chart(results: Sequence[dict[str, Any]]) -> str:
    """Throughput against the size of the books."""
    shown = (
        ("single.uniform.", "HTTP, uniform"),
        ("single.hot.", "HTTP, hot"),
        ("r1.uniform.", "R1, uniform (SQL)"),
        ("batch.1000.", "batches of 1,000"),
        ("r2", "R2 (SQL)"),
    )
    lines = []
    for prefix, name in shown:
        found = [
            (result["options"]["entries"], case["rate"])
            for result in results
            if (case := best(result["cases"], prefix))
        ]
        if found:
            lines.append(Line(name, found, is_dashed=name.endswith("(SQL)")))
    chart = Chart("transfers a second", "entries in the books", lines, is_log_y=True)
    return svg([chart])


def replace_between(text: str, part: str) -> str:
    """``text`` with ``part`` between the markers.

    Raises:
        ValueError: it has not both of them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"There is no place for it: write {BEGIN} and {END} there.")
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


def main() -> None:
    """Reads the command line and writes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("--print", action="store_true", help="print, change nothing")
    options = parser.parse_args()
    given = [json.loads(path.read_text()) for path in options.results]
    soaks = [result for result in given if "soak" in result]
    results = [result for result in given if "cases" in result]
    results.sort(key=lambda result: result["options"]["entries"])
    if not results:
        sys.exit("These are soaks only: name a result of cases, too.")
    text = summary(results)
    if options.print:
        print(text, numbers(results, soaks), sep="\n\n")
        return
    readme = PROJECT_DIRECTORY / "README.md"
    try:
        changed = replace_between(readme.read_text(), text)
    except ValueError as error:
        sys.exit(f"README.md: {error}")
    readme.write_text(changed)
    (PROJECT_DIRECTORY / NUMBERS).write_text(numbers(results, soaks))
    (PROJECT_DIRECTORY / CLIENTS_IMAGE).write_text(clients_chart(results[0]))
    if len(results) > 1:
        (PROJECT_DIRECTORY / SIZE_IMAGE).write_text(size_chart(results))


if __name__ == "__main__":
    main()
