"""``execute``: the only owner of a mutating request's transaction.

In one transaction it claims the idempotency key, runs the command, has the API layer
render the outcome to bytes and stores those bytes with the key; the view sends them
after the commit. So there is no moment at which the effect exists without its stored
answer, or the answer without the effect:

* killed before COMMIT: PostgreSQL rolls back, the key is free, a retry executes;
* killed after COMMIT: a retry finds the stored answer and replays it;
* COMMIT's own answer lost: either of the two, and a retry finds out which.

A *dry run* does the same and takes it back: the command runs under the same locks and
rules, its outcome is rendered, and the transaction rolls back, so nothing is written,
no key is taken, and what was to happen after the commit does not happen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from uuid import UUID

from django.db import connection, transaction

from payflow import failpoints
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import Problem, ProblemError

R = TypeVar("R")
T = TypeVar("T")

#: How often the losers of a race for one key look again for the winner's answer.
MAX_CLAIM_TRIES = 3
#: How long requests that share a transaction wait for a lock before each tries alone.
LOCK_TIMEOUT_TOGETHER_MS = 500


@dataclass(frozen=True, slots=True)
class Rendered:
    """A response, finished down to its bytes.

    Attributes:
        status: the HTTP status.
        body: the exact bytes.
        headers: those that belong to the outcome, for instance ``Location``.
        resource_type, resource_id: what was made, from which a purged response can be
            built again.
        is_replay: it was not made now but stored by an earlier request.
        items: outcomes of parts of the request that have idempotency keys of their own,
            by these keys, to be stored with them.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    resource_type: str = ""
    resource_id: UUID | None = None
    is_replay: bool = False
    items: Mapping[str, "Rendered"] = field(default_factory=dict)


class ClaimLostError(Exception):
    """Another request committed the same key first; its answer is there now."""


class Claim(Protocol):
    """A request's hold on its idempotency key. All calls inside the transaction."""

    def acquire(self) -> Rendered | None:
        """The stored answer of an earlier request, or ``None``: the key is ours.

        Raises:
            ProblemError: the key is in use right now, or was used for another request.
        """

    def store(self, rendered: Rendered) -> None:
        """Stores the answer with the key.

        Raises:
            ClaimLostError: somebody else's answer is there already.
        """

    def committed(self, rendered: Rendered) -> None:
        """Told after the commit, outside of the transaction."""


class Claims(Protocol):
    """Claims of several requests in one transaction; as :class:`Claim` for each."""

    def acquire(self) -> list[Rendered | ProblemError | None]:
        """For each, what ``Claim.acquire`` returns or raises."""

    def store(self, rendered: Sequence[Rendered | None]) -> None:
        """Stores the answers that there are.

        Raises:
            ClaimLostError: of one, somebody else's answer is there already.
        """


def execute_together(
    requests: Sequence[R],
    command: Callable[[Sequence[R]], Sequence[T]],
    render: Callable[[R, T], Rendered],
    *,
    claims: Claims,
) -> list[Rendered | ProblemError]:
    """Runs the commands of several requests in one transaction.

    Args:
        requests: what is asked.
        command: does the work of those requests whose keys are free, and returns an
            outcome for each: a resource, the ``Problem`` that refused it, which leaves
            the others alone, or, not raised, the ``ProblemError`` of which nothing is
            stored.
        render: makes the response of a request's outcome, as in :func:`execute`.
        claims: the requests' idempotency keys, in their order.

    Returns:
        For each request its response, or the problem of which nothing is stored.

    Raises:
        Exception: whatever went wrong, for all of them alike; then nothing was done,
            unless COMMIT's answer was lost. Running each alone finds out.
    """
    with transaction_owner():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_TOGETHER_MS}")
        answers = claims.acquire()
        free = [index for index, answer in enumerate(answers) if answer is None]
        if not free:
            return answers  # type: ignore[return-value] # none of them is None
        outcomes = command([requests[index] for index in free])
        made: list[Rendered | None] = [None] * len(requests)
        for index, outcome in zip(free, outcomes, strict=True):
            if isinstance(outcome, ProblemError):
                answers[index] = outcome
                continue
            try:
                answers[index] = made[index] = render(requests[index], outcome)
            except ProblemError as error:
                if not isinstance(outcome, Problem):
                    raise
                answers[index] = error
        claims.store(made)
        failpoints.reach("before_commit")
    failpoints.reach("after_commit")
    return answers  # type: ignore[return-value] # none of them is None now


def execute(
    command: Callable[[], T],
    render: Callable[[T], Rendered],
    *,
    claim: Claim | None = None,
    dry_run: bool = False,
) -> Rendered:
    """Runs one command of one request in one transaction.

    Args:
        command: does the work and returns its outcome, a resource or a refusal
            (``payflow.errors.Problem``); it may run again after a deadlock, so it has
            no effect outside of the database.
        render: makes the response of the outcome; it may read, and must not write.
        claim: the request's idempotency key, if it has one.
        dry_run: roll back in the end, whatever the outcome; such a request has no key.

    Returns:
        The response to send, of this run or of the one that is replayed.

    Raises:
        ProblemError: nothing was changed, and the key, if any, is free; but with
            ``database_unavailable`` a COMMIT may have happened: a retry finds out.
        ValueError: a dry run with a key.
    """
    if dry_run and claim is not None:
        raise ValueError("a dry run takes no idempotency key")

    def run() -> Rendered:
        with transaction_owner():
            if claim is not None and (earlier := claim.acquire()) is not None:
                return earlier
            rendered = render(command())
            if dry_run:
                transaction.set_rollback(True)
                return rendered
            if claim is not None:
                claim.store(rendered)
            failpoints.reach("before_commit")
        failpoints.reach("after_commit")
        return rendered

    for attempt in range(MAX_CLAIM_TRIES):
        try:
            rendered = retry_on_conflict(run)
        except ClaimLostError as error:
            if attempt == MAX_CLAIM_TRIES - 1:
                raise ProblemError(
                    "idempotency_in_progress",
                    "Requests with the same keys kept being faster; nothing was done.",
                    retry_after_seconds=1,
                ) from error
            continue
        if claim is not None:
            claim.committed(rendered)
        return rendered
    raise AssertionError("unreachable: the last attempt returns or raises")
