"""``--soak``: steady load for a long time, to see whether a process's memory grows."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from benchmarks import measure
from benchmarks.cases import SOME_CLIENTS, Bench, Metrics, checked

SAMPLE_SECONDS = 10
#: The load is made in parts of this length: an error ends it early.
PART_SECONDS = 60
#: The part of the time that a process may still fill its caches in.
SETTLING_PART = 0.25
#: Rate of the load, as a part of what was reached without a limit before.
LOAD_PART = 0.5
#: A log that is larger is emptied.
LOG_BYTES = 200_000_000


def soak(bench: Bench, *, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Loads for ``minutes`` at half of the best rate, and samples every process.

    Returns:
        For each process samples of its private memory in megabytes, and their slope
        after the first quarter, in megabytes an hour.

    Raises:
        BenchmarkError: a request failed, or a process ended.
    """
    rate = LOAD_PART * bench.http("transfers", connections=SOME_CLIENTS)["rate"]
    bench.settle()
    say(f"Soaking at {rate:,.0f} transfers a second for {minutes:g} minutes ...")
    bench.seconds, bench.warm_up_seconds = min(PART_SECONDS, minutes * 60), 0
    samples: dict[str, list[tuple[float, float]]] = {}
    parts: list[Metrics] = []
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=1) as pool:
        while (seconds := time.monotonic() - began) < minutes * 60:
            load = pool.submit(
                bench.http, "transfers", connections=SOME_CLIENTS, rate=f"{rate:.1f}"
            )
            while not load.done():
                _sample(bench, samples, time.monotonic() - began)
                wait([load], timeout=SAMPLE_SECONDS)
            parts.append(checked(load.result(), transfers_each=1))
            _empty_logs(bench)
            sizes = measure.memory_by_group(bench.stack).items()
            say(
                f"  {seconds / 60:6.1f} min  {parts[-1]['rate']:,.0f}/s  "
                + "  ".join(f"{group} {size:,.0f} MB" for group, size in sizes)
            )
    return {
        "minutes": minutes,
        "wanted_rate": rate,
        "rate": sum(part["requests"] for part in parts)
        / sum(part["seconds"] for part in parts),
        "parts": parts,
        "backlog": bench.settle(),
        "processes": {
            name: {
                "slope_mb_per_hour": slope(points, after=minutes * 60 * SETTLING_PART),
                "samples": points,
            }
            for name, points in samples.items()
        },
    }


def _sample(
    bench: Bench, samples: dict[str, list[tuple[float, float]]], seconds: float
) -> None:
    for name, used in measure.memory(bench.stack).items():
        samples.setdefault(name, []).append((seconds, used.private_mb))


def slope(points: list[tuple[float, float]], *, after: float) -> float | None:
    """By least squares, a hour, of the points after so many seconds."""
    late = [(x / 3600, y) for x, y in points if x >= after]
    if len(late) < 3:
        return None
    mean_x = sum(x for x, _ in late) / len(late)
    mean_y = sum(y for _, y in late) / len(late)
    return sum((x - mean_x) * (y - mean_y) for x, y in late) / sum(
        (x - mean_x) ** 2 for x, _ in late
    )


def _empty_logs(bench: Bench) -> None:
    for log in (bench.stack.directory / "logs").glob("*.log"):
        if log.stat().st_size > LOG_BYTES:
            log.write_text("")
