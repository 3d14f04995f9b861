"""The fast path of idempotency, in Valkey. It may be lost at any time.

A *finished* outcome found here is replayed without PostgreSQL. Everything else, an "in
progress", a miss, an error or a slow answer, continues to PostgreSQL, which decides.
So a server that is down, flushed, failed over or evicting costs speed and nothing more.

Values are ``P`` and an owner's token while a request runs, ``F`` and the outcome when
one has finished. One command claims and looks up at once: ``SET … NX GET PX``.

Note [Epoch]. Every key carries an epoch that PostgreSQL gives: the server's identifier
and the time at which it started, and the object ids of the database and of the key
table. A failover or a restore of the server's files means another start; a dump that is
restored makes another table, and mostly another database. So an answer that the
database has lost is never replayed from here. A mere restart changes the epoch too,
which costs one trip to PostgreSQL per key. A process believes the epoch that it knows
for ``EPOCH_SECONDS`` and forgets it with each new database connection.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from payflow import greenlets, metrics
from payflow.coalescing import Coalescer
from payflow.db import give_back_connection, is_new
from payflow.errors import ProblemError
from payflow.execution import Rendered

log = structlog.get_logger(__name__)

#: An owner that died leaves its mark for this long; PostgreSQL is asked meanwhile.
IN_PROGRESS_MS = 60_000
#: Larger outcomes are replayed from PostgreSQL only.
MAX_CACHED_BYTES = 64_000
#: How long a process believes the epoch that it knows.
EPOCH_SECONDS = 1.0
#: After this many errors in a row nobody asks for BREAKER_SECONDS.
BREAKER_ERRORS = 3
BREAKER_SECONDS = 5.0

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """An outcome found in Valkey, with the digests of the request that it answers."""

    digests: Mapping[str, str]
    rendered: Rendered


@dataclass(frozen=True, slots=True)
class Mark:
    """A request's place in Valkey; ``token`` is empty if another request has it."""

    name: str
    token: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """A committed outcome, the digests of the request that it answers, its place."""

    mark: Mark
    digests: Mapping[str, str]
    rendered: Rendered


class _Breaker:
    """Stops asking a server that does not answer, for a while, in this process."""

    def __init__(self) -> None:
        self.errors = 0
        self.closed_until = 0.0

    def allows(self) -> bool:
        return time.monotonic() >= self.closed_until

    def failed(self, error: Exception) -> None:
        self.errors += 1
        metrics.idempotency_cache_failed()
        log.warning(
            "idempotency_cache_unavailable",
            error=type(error).__name__,
            errors_in_a_row=self.errors,
        )
        if self.errors >= BREAKER_ERRORS:
            self.closed_until = time.monotonic() + BREAKER_SECONDS

    def succeeded(self) -> None:
        self.errors = 0


breaker = _Breaker()


class _KnownEpoch:
    """The epoch that this process believes, and since when (monotonic seconds)."""

    def __init__(self) -> None:
        self.value: str | None = None
        self.asked_at = 0.0
        self.asking = Lock()
        self.failure: DatabaseError | InterfaceError | None = None
        self.failed_at = 0.0

    def has_just_failed(self) -> bool:
        return time.monotonic() - self.failed_at < EPOCH_SECONDS

    def is_fresh(self) -> bool:
        return time.monotonic() - self.asked_at < EPOCH_SECONDS


_known = _KnownEpoch()


@receiver(connection_created)
def _forget_epoch(connection: Any, **_kwargs: Any) -> None:
    if is_new(connection, "epoch"):
        _known.value = None


def current_epoch() -> str:
    """The installation's epoch; see the Note in the module's text.

    Raises:
        DatabaseError, InterfaceError: PostgreSQL cannot be asked.
    """
    if (value := _known.value) is not None and _known.is_fresh():
        return value
    with _known.asking:
        # Who waited for another's question has its answer, or that there was none.
        if (value := _known.value) is not None and _known.is_fresh():
            return value
        if _known.failure is not None and _known.has_just_failed():
            raise _known.failure
        try:
            return _ask_epoch()
        except (DatabaseError, InterfaceError) as error:
            _known.failure, _known.failed_at = error, time.monotonic()
            raise


def _ask_epoch() -> str:
    asked_at = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT system_identifier FROM pg_control_system()),"
            " extract(epoch FROM pg_postmaster_start_time()),"
            " (SELECT oid FROM pg_database WHERE datname = current_database()),"
            " 'idempotency_key'::regclass::oid"
        )
        system, started, database, table = cursor.fetchone()
    give_back_connection()
    value = f"{system:x}-{int(started * 1_000_000):x}-{database:x}-{table:x}"
    _known.value, _known.asked_at = value, asked_at
    return value


def claim_or_find(
    *, ledger_id: UUID, client_id: UUID, key: str
) -> Finished | Mark | None:
    """Claims a key or finds what is there, in one round trip, shared if others wait.

    Returns:
        The finished outcome; or a mark, whose token is empty if another request is in
        progress; or ``None`` if Valkey (or the epoch) cannot be had now.
    """
    found = _look_up(ledger_id, client_id, key)
    if found is None:
        metrics.idempotency_looked_up("unavailable")
    elif isinstance(found, Finished):
        metrics.idempotency_looked_up("hit")
    else:
        metrics.idempotency_looked_up("miss" if found.token else "in_progress")
    return found


def _look_up(ledger_id: UUID, client_id: UUID, key: str) -> Finished | Mark | None:
    if not breaker.allows():
        return None
    try:
        epoch = current_epoch()
    except (DatabaseError, InterfaceError) as error:
        # The request goes on to PostgreSQL, which says what is wrong.
        log.warning("idempotency_epoch_unavailable", error=type(error).__name__)
        return None
    name = f"payflow:idempotency:{epoch}:{ledger_id.hex}:{client_id.hex}:{key}"
    mark = Mark(name, b"P" + secrets.token_hex(16).encode())
    if not greenlets.are_in_use():
        return _claim_or_find([mark])[0]
    try:
        return _round_trips.submit(
            mark,
            identity=mark.token,
            group=None,
            resources=frozenset(),
            alone=lambda: _claim_or_find([mark])[0],
        )
    except ProblemError:
        return None  # too many wait for Valkey: PostgreSQL decides without it


def _claim_or_find(marks: Sequence[Mark]) -> list[Finished | Mark | None]:
    try:
        with _client().pipeline(transaction=False) as pipeline:
            for mark in marks:
                pipeline.set(
                    mark.name, mark.token, nx=True, get=True, px=IN_PROGRESS_MS
                )
            found = pipeline.execute()
    except (RedisError, OSError) as error:
        breaker.failed(error)
        return [None] * len(marks)
    breaker.succeeded()
    return [
        mark if value is None else _decode(value) or Mark(mark.name, b"")
        for mark, value in zip(marks, found, strict=True)
    ]


_round_trips: Coalescer[Mark, Finished | Mark | None] = Coalescer(_claim_or_find)


def publish(outcomes: Sequence[Outcome]) -> None:
    """Puts committed outcomes where their marks are: the truth, whoever wrote it."""
    small = [it for it in outcomes if 0 < len(it.rendered.body) <= MAX_CACHED_BYTES]
    milliseconds = settings.IDEMPOTENCY_REPLAY_CACHE_SECONDS * 1000

    def write(client: Any) -> None:
        with client.pipeline(transaction=False) as pipeline:
            for it in small:
                value = _encode(it.digests, it.rendered)
                pipeline.set(it.mark.name, value, px=milliseconds)
            pipeline.execute()

    if small:
        _best_effort(write)
    for it in outcomes:
        if len(it.rendered.body) > MAX_CACHED_BYTES:
            release(it.mark)


def release(mark: Mark) -> None:
    """Takes the mark away, if it is still this request's own (compare and delete)."""
    if mark.token:
        _best_effort(lambda client: client.eval(_RELEASE, 1, mark.name, mark.token))


def _best_effort(action: Any) -> None:
    if not breaker.allows():
        return
    try:
        action(_client())
    except (RedisError, OSError) as error:
        breaker.failed(error)
    else:
        breaker.succeeded()


def _client() -> Any:
    return get_redis_connection("default")


def _encode(digests: Mapping[str, str], rendered: Rendered) -> bytes:
    head = json.dumps(
        {
            "digests": dict(digests),
            "status": rendered.status,
            "headers": dict(rendered.headers),
        }
    )
    return b"F" + head.encode() + b"\n" + rendered.body


def _decode(value: bytes) -> Finished | None:
    if not value.startswith(b"F"):
        return None
    head, _, body = value[1:].partition(b"\n")
    try:
        data = json.loads(head)
        return Finished(
            data["digests"],
            Rendered(data["status"], body, data["headers"], is_replay=True),
        )
    except (ValueError, KeyError, TypeError):
        log.warning("idempotency_cache_value_damaged")
        return None
