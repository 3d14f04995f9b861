"""From rounds to medians, ratios and goals."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from benchmarks.cases import Case, Metrics

#: Groups of processes whose processor time is shown.
GROUPS = (
    *("web", "postgres", "valkey", "worker", "dispatcher", "beat", "audit"),
    "generator",
)


def summarize(
    cases: Sequence["Case"], rounds: Sequence[dict[str, "Metrics"]]
) -> dict[str, Any]:
    """For each case, the median of every number, and of the rate the spread."""
    names = {case.name: (case.title, case.unit) for case in cases}
    names["audit"] = ("full audit", "entries/s")
    summaries = {}
    for name, (title, unit) in names.items():
        measured = [found[name] for found in rounds if name in found]
        if not measured:
            continue
        rates = [metrics["rate"] for metrics in measured]
        summaries[name] = {
            "title": title,
            "unit": unit,
            **_medians(measured),
            "rate_min": min(rates),
            "rate_max": max(rates),
            "cpu_us_each": _cpu_us_each(measured),
        }
    return summaries


def _medians(measured: Sequence[Any]) -> dict[str, Any]:
    """Key by key; numbers of one key may be missing in some."""
    result: dict[str, Any] = {}
    for key in measured[0]:
        values = [metrics[key] for metrics in measured if key in metrics]
        if isinstance(values[0], dict):
            result[key] = _medians(values)
        elif not isinstance(values[0], list):
            result[key] = median(values)
    return result


def _cpu_us_each(measured: Sequence["Metrics"]) -> dict[str, float]:
    """Microseconds of processor time for each operation, by group."""
    found: dict[str, list[float]] = {}
    for metrics in measured:
        operations = metrics["rate"] * metrics["seconds"]
        for group, seconds in metrics["cpu_seconds"].items():
            found.setdefault(group, []).append(seconds * 1e6 / operations)
    return {group: median(values) for group, values in found.items()}


#: From so many processors on that others took, the numbers say little.
DISTURBED_CPUS = 0.2


def disturbance(result: dict[str, Any]) -> float:
    """How many processors other programs took while this was measured, the median."""
    found = [
        case["elsewhere_cpus"]
        for case in result["cases"].values()
        if "elsewhere_cpus" in case
    ]
    return median(found) if found else 0.0


# --- Goals ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """A ratio within one run.

    Attributes:
        name: for people.
        value: the ratio.
        bound: what it must reach, or must not pass.
        is_least: whether the bound is the least that is wanted.
    """

    name: str
    value: float
    bound: float
    is_least: bool = True

    @property
    def is_met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.bound if self.is_least else self.value <= self.bound


def best(cases: dict[str, Any], prefix: str) -> dict[str, Any] | None:
    """Of the cases whose names begin so, the one with the highest median rate."""
    found = [case for name, case in cases.items() if name.startswith(prefix)]
    return max(found, key=lambda case: case["rate"], default=None)


def goals(cases: dict[str, Any]) -> list[Goal]:
    """The goals that can be judged by the cases that were measured."""
    found = []

    def ratio(name: str, what: Any, reference: Any, bound: float) -> None:
        if what and reference:
            found.append(Goal(name, what["rate"] / reference["rate"], bound))

    r2 = cases.get("r2")
    for spread, bound in (("uniform", 0.40), ("hot", 1.0)):
        ratio(
            f"single transfers, {spread}, of R1 {spread}",
            best(cases, f"single.{spread}."),
            best(cases, f"r1.{spread}."),
            bound,
        )
    ratio("batches of 1,000, of R2", best(cases, "batch.1000."), r2, 0.70)
    ratio("seed_accounts, of R2", cases.get("seed"), r2, 0.80)
    for name, view in (
        ("constant.serializer", "a constant DRF view with a serializer"),
        ("constant", "a constant DRF view that reads nothing"),
    ):
        ratio(f"replays, of {view}", cases.get("replay"), cases.get(name), 0.8)
    for spread in ("uniform", "hot"):
        if half := cases.get(f"half.{spread}"):
            name = f"p99 of p50 at half of the best rate, {spread}"
            found.append(Goal(name, half["p99_to_p50"], 5.0, is_least=False))
    if full := cases.get("audit"):
        found.append(Goal("audit, of 1,000,000 entries/s", full["rate"] / 1e6, 1.0))
    if audited := cases.get("hot-while-audited"):
        found.append(Goal("hot account beside a paced audit", audited["kept"], 0.8))
    growths = [
        case["web_growth_mb"]
        for name, case in cases.items()
        if name.startswith("batch.10000.")
    ]
    if growths:
        name = "growth in a batch of 10,000, of 200 MB"
        found.append(Goal(name, max(growths) / 200, 1.0, is_least=False))
    return found


#: How much slower a case may be in big books than in small ones, by its name's start.
_SIZE_BOUNDS = (("read.", 1 / 1.3), ("admin.", 1 / 1.3), ("", 0.9))
#: What is no case of PayFlow, or is judged by other goals.
_NOT_COMPARED = ("r1", "r2", "constant", "audit", "half.")


@dataclass(frozen=True)
class SizeRatio:
    """A case's rate in big books as a part of that in small ones.

    Attributes:
        goal: the ratio; of books that were measured in turns the median of the rounds'.
        least: the smallest of the rounds' ratios.
        most: the largest of them.
        small: the case in small books.
        big: the case in big ones.
    """

    goal: Goal
    least: float
    most: float
    small: dict[str, Any]
    big: dict[str, Any]


def size_ratios(small: dict[str, Any], big: dict[str, Any]) -> list[SizeRatio]:
    """Compares the result of a run on big books with one on small books."""
    found = []
    for name, case in big["cases"].items():
        of_small = small["cases"].get(name)
        if of_small is None or name.startswith(_NOT_COMPARED):
            continue
        ratios = [case["rate"] / of_small["rate"]]
        if is_one_run(small, big):
            ratios = [
                in_big[name]["rate"] / in_small[name]["rate"]
                for in_small, in_big in zip(small["rounds"], big["rounds"], strict=True)
            ]
        bound = next(b for start, b in _SIZE_BOUNDS if name.startswith(start))
        goal = Goal(case["title"], median(ratios), bound)
        found.append(SizeRatio(goal, min(ratios), max(ratios), of_small, case))
    return found


def is_one_run(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results are of books that one run measured in turns."""
    return bool(one["began_at"] == other["began_at"])


def disk_each(case: dict[str, Any], what: str) -> float | None:
    """What the disk had to do for each operation; ``None`` where nobody looked."""
    if "disk" not in case:
        return None
    return float(case["disk"][what] / (case["rate"] * case["seconds"]))


# --- Showing --------------------------------------------------------------------------


def print_table(result: dict[str, Any]) -> None:
    """The table on the terminal."""
    console = Console(width=None if _is_wide() else 150)
    if "soak" in result:
        _print_soak(console, result["soak"])
        return
    cases = result["cases"]
    table = Table(
        "case", "rate", "min-max", "p50", "p95", "p99", "CPU µs each by group"
    )
    for column in table.columns[1:6]:
        column.justify = "right"
    for case in cases.values():
        latency = case.get("latency_ms", {})
        table.add_row(
            case["title"],
            f"{case['rate']:,.0f} {case['unit']}",
            f"{case['rate_min']:,.0f}-{case['rate_max']:,.0f}",
            *(
                f"{latency[p]:,.1f} ms" if p in latency else ""
                for p in ("p50", "p95", "p99")
            ),
            cpu_text(case),
        )
    console.print(table)
    for name, counts in result.get("counts", {}).items():
        console.print(
            f"{name}: {counts['statements_each']:.2f} statements in"
            f" {counts['database_round_trips_each']:.2f} round trips and"
            f" {counts['valkey_commands_each']:.2f} Valkey commands in"
            f" {counts['valkey_round_trips_each']:.2f} for each"
        )
    judged = Table("goal", "ratio", "wanted", "")
    for goal in goals(cases):
        judged.add_row(
            goal.name,
            f"{goal.value:.2f}",
            f"{'≥' if goal.is_least else '≤'} {goal.bound:.2f}",
            "[green]met[/green]" if goal.is_met else "[red]not met[/red]",
        )
    console.print(judged)
    if (elsewhere := disturbance(result)) > DISTURBED_CPUS:
        console.print(
            f"[red]Other programs took {elsewhere:.1f} processors meanwhile: the rates"
            " say little, the processor times and ratios a bit more.[/red]"
        )


def print_sizes(results: Sequence[dict[str, Any]]) -> None:
    """How the rates in bigger books compare with those in the smallest."""
    for big in results[1:] if "cases" in results[0] else []:
        entries = big["options"]["entries"]
        table = Table(f"{entries:,} entries", "ratio", "rounds", "wanted", "")
        for ratio in size_ratios(results[0], big):
            goal = ratio.goal
            table.add_row(
                goal.name,
                f"{goal.value:.2f}",
                f"{ratio.least:.2f}-{ratio.most:.2f}",
                f"≥ {goal.bound:.2f}",
                "[green]met[/green]" if goal.is_met else "[red]not met[/red]",
            )
        Console(width=None if _is_wide() else 150).print(table)


def cpu_text(case: dict[str, Any]) -> str:
    """As ``web 310, postgres 200``; what rounds to nothing is left out."""
    each = case.get("cpu_us_each", {})
    shown = [group for group in (*GROUPS, "command") if each.get(group, 0) >= 0.5]
    return ", ".join(f"{group} {each[group]:,.0f}" for group in shown)


def _print_soak(console: Console, soak: dict[str, Any]) -> None:
    table = Table(*SOAK_COLUMNS)
    for row in soak_rows(soak):
        table.add_row(*row)
    console.print(table)
    console.print(soak_text(soak))


SOAK_COLUMNS = ("process", "at first", "after a quarter", "at last", "MB/h", "verdict")


def soak_rows(soak: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each process that was there all the time, its own memory in MB.

    Connections of PostgreSQL, which come and go, are left out.
    """
    return [
        (
            name,
            *(f"{process[key]:,.1f}" for key in ("start_mb", "settled_mb", "end_mb")),
            f"{process['slope_mb_per_hour'] or 0:+,.1f}",
            process["verdict"],
        )
        for name, process in soak["processes"].items()
        if process["verdict"] != "came or went"
    ]


def soak_text(soak: dict[str, Any]) -> str:
    """What was done, and what the disk had to hold."""
    disk, minutes = soak["disk"], soak["minutes"]
    grown = disk["database_mb_after"] - disk["database_mb_before"]
    gone = sum(p["verdict"] == "came or went" for p in soak["processes"].values())
    return (
        f"{soak['rate']:,.0f} transfers a second for {minutes:g} minutes. The database"
        f" grew by {grown:,.0f} MB to {disk['database_mb_after']:,.0f} MB; its WAL had"
        f" at most {disk['most_wal_mb']:,.0f} MB. {gone} processes came or went"
        " meanwhile, such as PostgreSQL's for a connection."
    )


def _is_wide() -> bool:
    import shutil

    return shutil.get_terminal_size((0, 0)).columns > 120
