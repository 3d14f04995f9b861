"""What a case costs, by group of processes: processor time and memory."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.stack import BACKGROUND, START_SECONDS, Stack, wait_until

#: How long the background processes must be almost idle to have started.
_STARTED_SECONDS = 1.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def group_processes(stack: Stack) -> dict[str, list[psutil.Process]]:
    """The processes of each group of the stack, parents first."""
    return {
        group: _family(process.popen.pid) for group, process in stack.processes.items()
    }


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """Processor time of each group since its start, ended children included."""
    return {
        group: _family_ticks(process.popen.pid) / _TICKS_PER_SECOND
        for group, process in stack.processes.items()
    }


def _family_ticks(pid: int) -> int:
    while True:
        try:
            return sum(_ticks(process.pid) for process in _family(pid))
        except (FileNotFoundError, ProcessLookupError):
            # A child ended after its parent, who has its time from then on, was read.
            if not psutil.pid_exists(pid):
                raise


def _ticks(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    # utime, stime, cutime and cstime, after the name, which may have spaces.
    return sum(map(int, stat.rpartition(")")[2].split()[11:15]))


def wait_until_started(stack: Stack) -> None:
    """Waits until worker, dispatcher and beat have done what they do at their start.

    Raises:
        BenchmarkError: they have not within a minute.
    """

    def is_started() -> bool:
        before = cpu_seconds(stack)
        time.sleep(_STARTED_SECONDS)
        used = difference(before, cpu_seconds(stack))
        return sum(used[group] for group in BACKGROUND) < _STARTED_SECONDS / 10

    wait_until(
        is_started,
        START_SECONDS,
        lambda: f"After {START_SECONDS} s the background processes are still starting.",
    )


def machine_cpu_seconds() -> float:
    """Processor time that anything on this machine has taken, or was kept from taking.

    What it grows by beyond the stack and its load generator was taken by others.
    """
    times = psutil.cpu_times()
    fields = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times, field, 0.0) for field in fields)


_WRITTEN = """
SELECT wal_fpi, pg_current_wal_flush_lsn() - '0/0' AS wal_bytes, num_done,
    buffers_written FROM pg_stat_wal, pg_stat_checkpointer
"""


def disk_work(stack: Stack) -> dict[str, float]:
    """What went to and from the disk since the servers' start.

    ``wal_fpi`` counts whole pages in the WAL, which each page is at its first change
    after a checkpoint; PostgreSQL tells of them up to a second late. ``read_kb`` and
    ``written_kb`` are the whole machine's.
    """
    with stack.superuser() as connection:
        row = connection.execute(_WRITTEN).fetchone()
    pages, wal_bytes, checkpoints, buffers = row or (0, 0, 0, 0)
    disk = psutil.disk_io_counters()
    return {
        "wal_fpi": float(pages),
        "wal_kb": float(wal_bytes) / 1e3,
        "checkpoints": float(checkpoints),
        "checkpoint_buffers": float(buffers),
        "read_kb": disk.read_bytes / 1e3 if disk else 0.0,
        "written_kb": disk.write_bytes / 1e3 if disk else 0.0,
    }


def difference(
    before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, float]:
    """By how much each number has grown."""
    return {name: value - before.get(name, 0) for name, value in after.items()}


@dataclass(frozen=True)
class Memory:
    """Of one process, in megabytes.

    Attributes:
        rss_mb: resident, whoever shares it.
        pss_mb: resident, of what is shared its share.
        private_mb: what nobody shares, in which a leak would be.
        peak_mb: the most that was ever resident.
    """

    rss_mb: float
    pss_mb: float
    private_mb: float
    peak_mb: float


def memory(stack: Stack) -> dict[str, Memory]:
    """The memory of each process by group and process id, as ``web.4711``."""
    found = {}
    for group, processes in group_processes(stack).items():
        for process in processes:
            try:
                found[f"{group}.{process.pid}"] = _memory_of(process.pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def memory_by_group(stack: Stack) -> dict[str, float]:
    """Proportional set size of each group, in megabytes: shared pages count once."""
    sums: dict[str, float] = {}
    for name, used in memory(stack).items():
        group = name.partition(".")[0]
        sums[group] = sums.get(group, 0) + used.pss_mb
    return sums


def reset_peaks(processes: Iterable[psutil.Process]) -> None:
    """Lets the peaks of ``memory`` begin anew."""
    for process in processes:
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def _memory_of(pid: int) -> Memory:
    rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
    status = _kilobytes(Path(f"/proc/{pid}/status"))
    return Memory(
        rollup.get("Rss", 0) / 1024,
        rollup.get("Pss", 0) / 1024,
        (rollup.get("Private_Clean", 0) + rollup.get("Private_Dirty", 0)) / 1024,
        status.get("VmHWM", 0) / 1024,
    )


def _kilobytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {
        words[0].rstrip(":"): int(words[1])
        for words in lines
        if len(words) == 3 and words[2] == "kB"
    }
