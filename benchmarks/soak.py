"""``--soak``: steady load for a long time, to see whether a process's memory grows."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from statistics import median
from typing import Any

import redis

from benchmarks import measure
from benchmarks.cases import SOME_CLIENTS, Bench, Metrics, checked
from benchmarks.stack import BenchmarkError

SAMPLE_SECONDS = 10
#: The load is made in parts of this length: an error ends it early.
PART_SECONDS = 60
#: The part of the time that a process may still fill its caches in.
SETTLING_PART = 0.25
#: Rate of the load, as a part of what was reached without a limit before.
LOAD_PART = 0.5
#: A log that is larger is emptied.
LOG_BYTES = 200_000_000
#: With less room on the disk the load ends, before PostgreSQL has to.
LEAST_FREE_BYTES = 5_000_000_000
#: A process grows if the median of the last quarter passes that of the second one by
#: more than both.
GROWTH_MB, GROWTH_PART = 5.0, 0.05
#: In less time caches and pools are still filling.
LEAST_SECONDS = 20 * 60

Points = list[tuple[float, float]]


def soak(bench: Bench, *, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Loads for ``minutes`` at half of the best rate, and samples every process.

    Returns:
        For each process samples of its private memory in megabytes, their slope after
        the first quarter, in megabytes an hour, and a verdict; and what the disk had
        to hold.

    Raises:
        BenchmarkError: a request failed, a process ended, or the disk is nearly full.
    """
    rate = LOAD_PART * bench.http("transfers", connections=SOME_CLIENTS)["rate"]
    bench.settle()
    say(f"Soaking at {rate:,.0f} transfers a second for {minutes:g} minutes ...")
    bench.seconds, bench.warm_up_seconds = min(PART_SECONDS, minutes * 60), 0
    samples: dict[str, Points] = {}
    size, most_wal, emptied = _database_bytes(bench), 0, 0
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
            emptied += _empty_logs(bench)
            most_wal = max(most_wal, _wal_bytes(bench))
            _require_room(bench)
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
        "disk": {
            "database_mb_before": size / 1e6,
            "database_mb_after": _database_bytes(bench) / 1e6,
            "most_wal_mb": most_wal / 1e6,
            "logs_emptied": emptied,
        },
        "processes": {
            name: judged(
                points,
                seconds=minutes * 60,
                bound_mb=_valkey_bound_mb(bench) if name.startswith("valkey") else None,
            )
            for name, points in samples.items()
        },
    }


def judged(
    points: Points, *, seconds: float, bound_mb: float | None = None
) -> dict[str, Any]:
    """A process's samples, and whether it grows.

    Args:
        points: seconds since the start, and megabytes.
        seconds: how long the load lasted.
        bound_mb: what it may fill, for a cache.
    """
    quarter = seconds * SETTLING_PART
    settled = [y for x, y in points if quarter <= x < 2 * quarter]
    last = [y for x, y in points if x >= 3 * quarter]
    if not settled or not last:
        verdict = "came or went"
    elif median(last) - median(settled) <= max(
        GROWTH_MB, GROWTH_PART * median(settled)
    ):
        verdict = "steady"
    elif bound_mb and max(last) <= bound_mb * (1 + 2 * GROWTH_PART):
        verdict = f"fills its {bound_mb:,.0f} MB"
    elif seconds < LEAST_SECONDS:
        verdict = "too short to tell"
    else:
        verdict = "grows"
    return {
        "start_mb": points[0][1],
        "settled_mb": settled[0] if settled else None,
        "end_mb": points[-1][1],
        "slope_mb_per_hour": slope(points, after=quarter),
        "verdict": verdict,
        "samples": points,
    }


def _sample(bench: Bench, samples: dict[str, Points], seconds: float) -> None:
    for name, used in measure.memory(bench.stack).items():
        samples.setdefault(name, []).append((seconds, used.private_mb))


def slope(points: Points, *, after: float) -> float | None:
    """By least squares, a hour, of the points after so many seconds."""
    late = [(x / 3600, y) for x, y in points if x >= after]
    if len(late) < 3:
        return None
    mean_x = sum(x for x, _ in late) / len(late)
    mean_y = sum(y for _, y in late) / len(late)
    return sum((x - mean_x) * (y - mean_y) for x, y in late) / sum(
        (x - mean_x) ** 2 for x, _ in late
    )


def _empty_logs(bench: Bench) -> int:
    """Empties those that are large, and returns how many they were."""
    logs = (bench.stack.directory / "logs").glob("*.log")
    large = [log for log in logs if log.stat().st_size > LOG_BYTES]
    for log in large:
        log.write_text("")
    return len(large)


def _database_bytes(bench: Bench) -> int:
    return int(bench.query("SELECT pg_database_size(current_database())")[0][0])


def _wal_bytes(bench: Bench) -> int:
    return int(bench.query("SELECT sum(size) FROM pg_ls_waldir()")[0][0])


def _valkey_bound_mb(bench: Bench) -> float:
    with redis.Redis.from_url(bench.stack.valkey.url) as valkey:
        found: dict[str, str] = valkey.config_get("maxmemory")
    return int(found["maxmemory"]) / 1024**2


def _require_room(bench: Bench) -> None:
    free = shutil.disk_usage(bench.stack.directory).free
    if free < LEAST_FREE_BYTES:
        raise BenchmarkError(
            f"The disk has {free / 1e9:.1f} GB left: name a folder on a larger one with"
            " --data, or soak for a shorter time."
        )
