"""How many statements and Valkey commands an operation takes.

Counted in a short load of its own, because counting costs something: PostgreSQL's
``pg_stat_statements`` is told to count for its time only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from benchmarks.cases import Bench, Metrics, checked
from benchmarks.references import BATCH_SIZE
from payflow.embedded.postgres import LOGIN_ROLE

SECONDS = 2
TOP_STATEMENTS = 20

_STATEMENTS = """
SELECT s.calls, s.total_exec_time + s.total_plan_time, s.rows, s.query
FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
WHERE r.rolname = %s AND s.toplevel ORDER BY 2 DESC
"""


def count_all(bench: Bench) -> dict[str, Metrics]:
    """Counts for each kind of operation; the background processes stand still."""
    loads: dict[str, tuple[int, Any]] = {
        **{
            f"single.{spread}.{clients}": (
                1,
                {
                    "script": "transfers",
                    "connections": clients,
                    "hot": int(spread == "hot"),
                },
            )
            for spread, clients in (("uniform", 1), ("uniform", 32), ("hot", 32))
        },
        "batch.1000.atomic": (
            BATCH_SIZE,
            {
                "script": "batches",
                "connections": 2,
                "threads": 2,
                "size": BATCH_SIZE,
                "atomic": "true",
                "bodies": 10,
            },
        ),
    }
    found = {}
    with _counting(bench):
        for name, (size, options) in loads.items():
            found[name] = _count(bench, size, options)
            bench.settle()
    return found


def _count(bench: Bench, size: int, options: dict[str, Any]) -> Metrics:
    seconds, warm_up = bench.seconds, bench.warm_up_seconds
    bench.seconds, bench.warm_up_seconds = SECONDS, 0
    try:
        with (
            bench.background_halted(),
            redis.Redis.from_url(bench.stack.valkey.url) as valkey,
        ):
            bench.query("SELECT pg_stat_statements_reset()")
            valkey.config_resetstat()
            # Connections and their first statements are not of a request.
            metrics = checked(bench.http(**options), transfers_each=size)
            rows = bench.query(_STATEMENTS, [LOGIN_ROLE])
            commands: dict[str, Any] = valkey.info("commandstats")
    finally:
        bench.seconds, bench.warm_up_seconds = seconds, warm_up
    transfers = metrics["transfers"]
    calls = {
        name.removeprefix("cmdstat_"): stat["calls"]
        for name, stat in commands.items()
        if not name.startswith(("cmdstat_config", "cmdstat_info", "cmdstat_client"))
    }
    return {
        "transfers": transfers,
        "statements_each": sum(row[0] for row in rows) / transfers,
        "database_us_each": sum(row[1] for row in rows) * 1_000 / transfers,
        "valkey_commands_each": sum(calls.values()) / transfers,
        "valkey_commands": calls,
        "statements": [
            {
                "calls": calls,
                "us_each_call": milliseconds * 1_000 / calls,
                "rows": rows,
                "query": " ".join(query.split())[:300],
            }
            for calls, milliseconds, rows, query in rows[:TOP_STATEMENTS]
        ],
    }


@contextmanager
def _counting(bench: Bench) -> Iterator[None]:
    bench.query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    settings = {"compute_query_id": "on", "pg_stat_statements.track": "top"}
    for name, value in settings.items():
        bench.query(f"ALTER SYSTEM SET {name} = '{value}'")
    bench.query("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        for name in settings:
            bench.query(f"ALTER SYSTEM SET {name} = '{_OFF[name]}'")
        bench.query("SELECT pg_reload_conf()")


_OFF = {"compute_query_id": "off", "pg_stat_statements.track": "none"}
