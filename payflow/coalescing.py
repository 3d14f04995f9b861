"""Requests of one web worker that wait at the same time share a transaction.

A *lane* is a greenlet with a connection of its own. It takes what waits, runs it in one
transaction, hands out the answers, and looks again: so nobody waits for company, and
the busier the database, the more requests share a commit (group commit, as in DeWitt et
al., "Implementation Techniques for Main Memory Database Systems", 1984). In the same
way they share a round trip to Valkey.

Requests that share a resource (an account) with what a lane has in its hands wait for
it here, where it costs nothing, and not in PostgreSQL. Other requests do not wait
longer than ``PATIENCE_SECONDS`` for a lane that is held up: the next one takes them.
Some do not know what they will lock (the accounts of a hold); that is looked up when
there is a lane to be kept away from, and nothing is wrong if it cannot be.

Note [Alone]. Coalescing is a shortcut and decides nothing. Whatever goes wrong with a
shared transaction (a lock that somebody else keeps, a deadlock, a constraint, a bug),
it rolls back as a whole, and each of its requests then runs alone, with its own
idempotency key in its own transaction, as if there were no coalescing. So no request
gets another's error. Had the shared transaction been committed after all, because only
COMMIT's answer was lost, each finds its own stored outcome.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog
from django.db import DatabaseError, InterfaceError, connection
from gevent import Timeout, spawn
from gevent.event import AsyncResult, Event
from gevent.lock import BoundedSemaphore

from payflow.db import give_back_connection, problem_of
from payflow.errors import ProblemError

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: The most requests of one transaction.
MOST_TOGETHER = 128
#: The most requests that wait in one process; the next ones are told to come again.
MOST_WAITING = 400
#: How long a request waits to be taken.
WAIT_SECONDS = 5.0
#: Lanes of a coalescer, and so its connections; in ordinary times one of them works.
LANES = 3
#: How long a lane may be at work before the next one takes what need not wait for it.
PATIENCE_SECONDS = 0.05
#: How many requests of one process run alone at once after their shared transaction
#: failed; they wait for locks, and must leave connections to others.
ALONE_AT_ONCE = 3
#: How long one waits for its turn to run alone, before it is told to come again.
ALONE_WAIT_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Job(Generic[T, R]):
    identity: Hashable
    group: Hashable
    resources: Set[Hashable] | None
    request: T
    answer: "AsyncResult[R | _Failed]" = field(default_factory=AsyncResult)
    #: Nobody waits for the answer any more.
    is_over: bool = False

    @property
    def known_resources(self) -> Set[Hashable]:
        """What it locks, as far as that is known."""
        return self.resources or frozenset()


class _Failed:
    """The answer of a shared transaction that came to nothing."""


class Coalescer(Generic[T, R]):
    """Runs requests together.

    Args:
        run: runs requests of one group in one transaction, and returns for each what
            ``submit`` is to return. If it raises, nothing has happened, or each request
            can find out what has, by itself.
        delivered: called with the requests and answers after these were handed out.
        contended: after ``ledger_busy``, says which of a group's resources somebody
            else has; those that want none of them run together again.
        look_up: finds the resources of requests of one group that came without. It is
            asked where something is in others' hands, and not before.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        *,
        delivered: Callable[[Sequence[T], Sequence[R]], None] | None = None,
        contended: Callable[[Hashable, Set[Hashable]], Set[Hashable]] | None = None,
        look_up: Callable[[Hashable, Sequence[T]], Sequence[Set[Hashable]]]
        | None = None,
    ) -> None:
        self._run = run
        self._delivered = delivered
        self._contended = contended
        self._look_up = look_up
        self._waiting: deque[_Job[T, R]] = deque()
        self._present: set[Hashable] = set()
        self._news = Event()
        #: What each busy lane has in its hands, and since when (monotonic seconds).
        self._busy: dict[int, tuple[float, Sequence[_Job[T, R]]]] = {}
        #: Those whose shared transaction failed, until each is done by itself.
        self._failed: set[_Job[T, R]] = set()
        self._is_started = False
        self._alone = BoundedSemaphore(ALONE_AT_ONCE)

    @property
    def waiting(self) -> int:
        """How many requests no lane has taken yet."""
        return len(self._waiting)

    def has(self, identity: Hashable) -> bool:
        """Whether a request with this identity waits or runs here."""
        return identity in self._present

    def submit(
        self,
        request: T,
        *,
        identity: Hashable,
        group: Hashable,
        resources: Set[Hashable] | None,
        alone: Callable[[], R],
    ) -> R:
        """Runs a request together with others, or alone if that does not work out.

        Args:
            request: for ``run``.
            identity: no other request here has the same.
            group: only requests of the same group run together.
            resources: what the request locks; ``None`` if that must be looked up.
            alone: runs this request in a transaction of its own.

        Raises:
            ValueError: ``has(identity)``, or nobody can look the resources up.
            ProblemError: ``ledger_busy``: too many are waiting. What ``alone`` raises.
        """
        if self.has(identity):
            raise ValueError("the same request is here already")
        if resources is None and self._look_up is None:
            raise ValueError("nobody can look the resources up")
        if len(self._waiting) >= MOST_WAITING:
            raise _too_busy()
        give_back_connection()
        if not self._is_started:
            self._is_started = True
            for lane in range(LANES):
                spawn(self._work, lane)
        job: _Job[T, R] = _Job(identity, group, resources, request)
        self._present.add(identity)
        try:
            self._waiting.append(job)
            if not self._busy:
                self._news.set()
            answer = self._answer_of(job)
            if not isinstance(answer, _Failed):
                return answer
            return self._run_alone(alone)
        finally:
            job.is_over = True
            self._present.discard(identity)
            if job in self._failed:
                self._failed.discard(job)
                self._news.set()

    def _answer_of(self, job: _Job[T, R]) -> R | _Failed:
        answer: R | _Failed
        try:
            answer = job.answer.get(timeout=WAIT_SECONDS)
        except Timeout:
            if job in self._waiting:
                self._waiting.remove(job)
                raise _too_busy() from None
            answer = job.answer.get()  # a lane has it: what it does has bounds
        return answer

    def _run_alone(self, alone: Callable[[], R]) -> R:
        if not self._alone.acquire(timeout=ALONE_WAIT_SECONDS):
            raise _too_busy()
        try:
            return alone()
        finally:
            self._alone.release()

    def _work(self, lane: int) -> None:
        while True:
            jobs = self._take(lane)
            if not jobs:
                self._news.clear()
                self._news.wait(PATIENCE_SECONDS if self._busy else None)
                continue
            self._news.set()  # the other lanes' patience begins
            try:
                self._run_together(jobs)
            finally:
                del self._busy[lane]

    def _take(self, lane: int) -> list[_Job[T, R]]:
        """What waits and touches nothing that is in others' hands; claims it."""
        if self._is_patient():
            return []
        # Others may come while it is looked up.
        while unknown := self._unknown():
            self._learn(unknown)
        if self._is_patient():
            return []
        held: set[Hashable] = set()
        for job in self._in_hands():
            held |= job.known_resources
        taken: list[_Job[T, R]] = []
        left: deque[_Job[T, R]] = deque()
        while self._waiting and len(taken) < MOST_TOGETHER:
            job = self._waiting.popleft()
            is_fit = not taken or job.group == taken[0].group
            if is_fit and held.isdisjoint(job.known_resources):
                taken.append(job)
            else:
                left.append(job)
                # Whoever comes later must not overtake on the same account.
                held |= job.known_resources
        self._waiting.extendleft(reversed(left))
        if taken:
            self._busy[lane] = (time.monotonic(), taken)
        return taken

    def _is_patient(self) -> bool:
        """Whether a busy lane began so lately that the others still leave it alone."""
        at = time.monotonic()
        return any(at - since < PATIENCE_SECONDS for since, _ in self._busy.values())

    def _in_hands(self) -> Iterator[_Job[T, R]]:
        for _, jobs in self._busy.values():
            yield from jobs
        yield from self._failed

    def _unknown(self) -> list[_Job[T, R]]:
        """Those whose resources must be known now, and are not."""
        if not self._waiting or not (self._busy or self._failed):
            return []  # there is nobody to be kept away from
        jobs = (*self._in_hands(), *self._waiting)
        return [job for job in jobs if job.resources is None]

    def _learn(self, jobs: Sequence[_Job[T, R]]) -> None:
        """Looks up what resources these want. Other greenlets run meanwhile."""
        asked_by_group: dict[Hashable, list[_Job[T, R]]] = {}
        for job in jobs:
            asked_by_group.setdefault(job.group, []).append(job)
        for group, asked in asked_by_group.items():
            assert self._look_up is not None, "submit would have refused it"
            found: Sequence[Set[Hashable]] = [frozenset()] * len(asked)
            try:
                found = self._look_up(group, [job.request for job in asked])
            except Exception:
                # They keep nobody away then; what is safe is PostgreSQL's locks.
                log.exception("resources_not_found", requests=len(asked))
                connection.close()
            for job, resources in zip(asked, found, strict=True):
                job.resources = resources

    def _run_together(self, jobs: Sequence[_Job[T, R]]) -> None:
        try:
            self._answer(jobs)
        except Exception:
            log.exception("coalescing_failed", requests=len(jobs))
        finally:
            self._fail([job for job in jobs if not job.answer.ready()])

    def _fail(self, jobs: Sequence[_Job[T, R]]) -> None:
        self._failed.update(job for job in jobs if not job.is_over)
        for job in jobs:
            job.answer.set(_Failed())

    def _answer(self, jobs: Sequence[_Job[T, R]]) -> None:
        requests = [job.request for job in jobs]
        try:
            answers = self._run_or_repeat(requests)
        except Exception as error:
            problem = _problem(error)
            log.warning(
                "coalesced_requests_failed", requests=len(jobs), exc_info=problem
            )
            connection.close()
            if _has_code(problem, "database_unavailable"):
                # It touches all of them alike.
                for job in jobs:
                    job.answer.set_exception(problem)
            elif _has_code(problem, "ledger_busy"):
                self._answer_those_who_can_go_on(jobs)
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set(answer)
        if self._delivered is not None:
            self._delivered(requests, answers)

    def _answer_those_who_can_go_on(self, jobs: Sequence[_Job[T, R]]) -> None:
        if self._contended is None:
            return
        self._learn([job for job in jobs if job.resources is None])
        wanted = frozenset().union(*(job.known_resources for job in jobs))
        contended = self._contended(jobs[0].group, wanted)
        free = [job for job in jobs if contended.isdisjoint(job.known_resources)]
        if len(free) == len(jobs):
            return  # whoever it was has gone
        # The others begin at once, each alone, for as long as a request may wait.
        self._fail([job for job in jobs if job not in free])
        if free:
            self._answer(free)

    def _run_or_repeat(self, requests: Sequence[T]) -> Sequence[R]:
        """Once more on a new connection, should ours have been cut meanwhile.

        Raises:
            ProblemError: ``database_unavailable``, if it was, whatever becomes of the
                repetition: the first one may have been committed.
        """
        try:
            return self._run(requests)
        except (DatabaseError, InterfaceError) as error:
            problem = problem_of(error)
            if not _has_code(problem, "database_unavailable"):
                raise
            connection.close()
        try:
            return self._run(requests)
        except Exception as error:
            raise problem from error


def _problem(error: Exception) -> Exception:
    if isinstance(error, DatabaseError | InterfaceError):
        return problem_of(error)
    return error


def _has_code(problem: Exception, code: str) -> bool:
    return isinstance(problem, ProblemError) and problem.problem.code == code


def _too_busy() -> ProblemError:
    return ProblemError(
        "ledger_busy",
        "More requests are waiting than this server takes on; nothing was changed.",
        retry_after_seconds=1,
    )
