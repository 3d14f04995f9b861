"""How many statements, Valkey commands and round trips an operation takes.

Counted in a short load of its own, because counting costs something: PostgreSQL's
``pg_stat_statements`` is told to count for its time only, and web workers reach both
servers through proxies that count round trips.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from benchmarks.cases import Bench, Metrics, account_paths
from benchmarks.references import BATCH_SIZE
from benchmarks.round_trips import RoundTripProxy
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
    batches = {"threads": 2, "size": BATCH_SIZE, "atomic": "true", "bodies": 10}
    reads = {"paths": bench.write_lines("counted", account_paths(bench))}
    loads: list[tuple[str, str, int, dict[str, Any]]] = [
        ("single.uniform.1", "transfers", 1, {"hot": 0}),
        ("single.uniform.32", "transfers", 32, {"hot": 0}),
        ("single.hot.32", "transfers", 32, {"hot": 1}),
        ("batch.1000.atomic", "batches", 2, batches),
        ("hold", "holds", 32, {"capture": 0}),
        ("capture", "holds", 32, {"capture": 1}),
        ("read.account", "reads", 1, reads),
    ]
    found = {}
    with _counting(bench), _proxies(bench) as proxies:
        for name, script, connections, options in loads:
            found[name] = _count(bench, proxies, script, connections, options)
            bench.settle()
    return found


@contextmanager
def _proxies(bench: Bench) -> Iterator[dict[str, RoundTripProxy]]:
    """The web workers reach their servers through these, by the servers' names."""
    stack = bench.stack
    with (
        RoundTripProxy(stack.postgres.port).running() as postgres,
        RoundTripProxy(stack.valkey.port).running() as valkey,
    ):
        stack.restart_web(postgres_port=postgres.port, valkey_port=valkey.port)
        try:
            yield {"database": postgres, "valkey": valkey}
        finally:
            stack.restart_web()


def _count(
    bench: Bench,
    proxies: dict[str, RoundTripProxy],
    script: str,
    connections: int,
    options: dict[str, Any],
) -> Metrics:
    seconds, warm_up = bench.seconds, bench.warm_up_seconds
    bench.seconds, bench.warm_up_seconds = SECONDS, 0
    try:
        with (
            bench.background_halted(),
            redis.Redis.from_url(bench.stack.valkey.url) as valkey,
        ):
            # Connections and their first statements are not of a request.
            bench.http(script, connections=connections, **options)
            bench.query("SELECT pg_stat_statements_reset()")
            valkey.config_resetstat()
            began = bench.boundary()
            before = {name: proxy.count for name, proxy in proxies.items()}
            metrics = bench.http(script, connections=connections, **options)
            trips = {
                name: proxies[name].count - count for name, count in before.items()
            }
            rows = bench.query(_STATEMENTS, [LOGIN_ROLE])
            commands: dict[str, Any] = valkey.info("commandstats")  # type: ignore[assignment]
    finally:
        bench.seconds, bench.warm_up_seconds = seconds, warm_up
    # What wrk did not wait for was carried out, too: each key is a request.
    requests = bench.keys_since(began) or metrics["requests"]
    operations = requests * options.get("size", 1)
    calls = {
        name.removeprefix("cmdstat_"): stat["calls"]
        for name, stat in commands.items()
        if not name.startswith(("cmdstat_config", "cmdstat_info", "cmdstat_client"))
    }
    return {
        "operations": operations,
        "statements_each": sum(row[0] for row in rows) / operations,
        "database_us_each": sum(row[1] for row in rows) * 1_000 / operations,
        **{
            f"{name}_round_trips_each": count / operations
            for name, count in trips.items()
        },
        "valkey_commands_each": sum(calls.values()) / operations,
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
