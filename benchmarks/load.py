"""The load generators: ``wrk`` for HTTP, ``pgbench`` for SQL."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.stack import BenchmarkError

_LUA = Path(__file__).with_name("lua")
#: Longer than any answer may take; a request that is later counts as an error.
_TIMEOUT_SECONDS = 20
_PGBENCH = {
    "latency_ms": r"latency average = ([\d.]+) ms",
    "requests": r"number of transactions actually processed: (\d+)",
    "failed": r"number of failed transactions: (\d+)",
    "rate": r"tps = ([\d.]+) \(without initial connection time\)",
}


@dataclass(frozen=True)
class Load:
    """What a generator measured.

    Attributes:
        requests: how many were answered.
        seconds: in which time.
        rate: of requests, a second.
        latency_ms: ``p50``, ``p95``, ``p99``, ``max``, ``mean``; pgbench has ``mean``.
        cpu_seconds: the generator's own processor time.
        threads: of the generator, each of which can use one processor.
        finished: what the script counted itself.
        late_ms: of a paced load, the longest that a request waited to be sent.
    """

    requests: int
    seconds: float
    rate: float
    latency_ms: dict[str, float]
    cpu_seconds: float
    threads: int = 1
    finished: int = 0
    late_ms: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)


def require_wrk() -> None:
    """Raises ``BenchmarkError`` if there is no wrk."""
    if shutil.which("wrk") is None:
        raise BenchmarkError(
            "There is no wrk, which makes the load: install it (Debian and Ubuntu:"
            " apt install wrk; macOS: brew install wrk)."
        )


def wrk(
    script: str,
    *,
    address: str,
    connections: int,
    seconds: float,
    threads: int = 1,
    **options: Any,
) -> Load:
    """Runs one of the scripts in ``lua/``.

    Args:
        script: its name.
        address: host and port.
        connections: each has one request under way at a time.
        seconds: rounded to whole ones, as wrk wants them.
        threads: each runs the script by itself, with its share of the connections.
        options: for the script.

    Raises:
        BenchmarkError: an answer was an error, so there is no result.
    """
    command = [
        *("wrk", "--threads", str(threads), "--connections", str(connections)),
        *("--duration", f"{max(1, round(seconds))}s"),
        *("--timeout", f"{_TIMEOUT_SECONDS}s"),
        *("--script", str(_LUA / f"{script}.lua"), f"http://{address}/", "--"),
        f"threads={threads}",
        *(f"{name}={value}" for name, value in options.items() if value is not None),
    ]
    run = run_measured(command, {**os.environ, "LUA_PATH": f"{_LUA}/?.lua;;"})
    try:
        said = json.loads(run.output.splitlines()[-1])
    except (ValueError, IndexError):
        raise BenchmarkError(f"wrk did not finish:\n{run.output}") from None
    if any(said["errors"].values()):
        raise BenchmarkError(
            f"Of {said['requests']} requests of {script} some failed:"
            f" {said['errors']}. The logs in the data folder say why."
        )
    return Load(
        requests=said["requests"],
        seconds=said["seconds"],
        rate=said["requests"] / said["seconds"],
        latency_ms={
            name: said[f"{name}_ms"] for name in ("p50", "p95", "p99", "max", "mean")
        },
        cpu_seconds=run.cpu_seconds,
        threads=threads,
        finished=said["finished"],
        late_ms=said["late_ms"],
    )


def pgbench(
    script: str, *, program: str, url: str, clients: int, seconds: float
) -> Load:
    """Runs a pgbench script with prepared statements.

    Raises:
        BenchmarkError: it failed, or one of its statements did.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        run = run_measured(
            [
                *(program, "--no-vacuum", "--protocol", "prepared"),
                *("--client", str(clients), "--jobs", str(min(clients, 2))),
                *("--time", str(max(1, round(seconds))), "--file", file.name, url),
            ]
        )
    found = {name: re.search(pattern, run.output) for name, pattern in _PGBENCH.items()}
    if not all(found.values()):
        raise BenchmarkError(f"pgbench did not finish:\n{run.output}")
    said = {name: float(match[1]) for name, match in found.items() if match}
    if said["failed"] or "aborted" in run.output:
        raise BenchmarkError(f"Statements of pgbench failed:\n{run.output}")
    return Load(
        requests=int(said["requests"]),
        seconds=said["requests"] / said["rate"],
        rate=said["rate"],
        latency_ms={"mean": said["latency_ms"]},
        cpu_seconds=run.cpu_seconds,
        threads=min(clients, 2),
    )


@dataclass(frozen=True)
class Run:
    """A command that has ended: what it printed, and what it cost."""

    output: str
    seconds: float
    cpu_seconds: float
    peak_mb: float


def run_measured(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Run:
    """Runs a command to its end; Ctrl-C ends it too.

    Raises:
        BenchmarkError: it failed.
    """
    with tempfile.TemporaryFile("w+") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise BenchmarkError(f"{command[0]} failed ({process.returncode}):\n{text}")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(text, seconds, cpu, usage.ru_maxrss / 1024)
