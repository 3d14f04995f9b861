"""Delivers what is due: claim, call, finish, each in a transaction of its own.

1. **Claim**: a batch of one ledger's due tasks gets a lease: a token made here and an
   end on PostgreSQL's clock, written under ``FOR UPDATE SKIP LOCKED``, committed.
2. **Begin**, just before each call: an attempt row is appended and the lease renewed,
   guarded by the token, committed. A send sets ``delivery`` to ``unknown`` here, while
   nothing has left yet, so that the row always says what must be feared.
3. **Call**: no transaction is open.
4. **Finish**: the outcome is appended, the ledger's handler books the end, and the task
   moves on, guarded by the token, in one transaction.

Note [What a crash leaves behind]. Whoever comes next sees only committed rows:

- after 1: a lease without an attempt. It runs out; the task is taken over and is
  ``unsent`` still, so it is sent.
- after 2, during 3, or after 3 before 4: an attempt without an outcome, and
  ``unknown``. The lease runs out and the successor inquires before it sends. The call
  may not have been made, may be under way or may have paid: the inquiry tells, and
  "not found" is believed only when the last send has had time to arrive.
- during 4: nothing of it was committed; the same as after 3. The inquiry finds the
  decision, and the handler books it then.
- after 4: the task is done.

Every send of a task carries the same key, so even a process that was suspended in the
middle of 3, and wakes up after its successor has finished, cannot pay twice: the
provider knows the key. Its own finish finds another token, or none, and is rolled back
whole, the handler's transfer included.

Note [A decision that cannot be booked]. If the ledger refuses (``CompensationRefused``)
the task needs a person's attention, and its ``delivery`` keeps the provider's decision.
If booking fails otherwise, after a few immediate tries for deadlocks and lock timeouts,
the decision and the outcome are recorded without the booking and the task is due again
later. Either way a later claim finds ``settled`` or ``rejected`` and only books; the
provider is not called again. If not even that can be written, the next note applies.

Note [A task that breaks its dispatcher]. What nobody expected, of whatever kind, is one
task's trouble: it is logged, counted as a failure of that task, and the others of the
batch go on. So the task comes back at growing intervals and ends ``dead`` (or, if its
provider has decided, in ``needs_attention``), where a person sees it. Its ``delivery``
stays what the last committed write says. Only if PostgreSQL itself is away does the
drain end; leases then run out.

Note [Accounts before tasks]. The handler locks accounts first; the task's row is
updated after it, as the ledger's lock order has it. Claim and begin lock nothing but
task rows, and claim waits for none, so no cycle can form.

Note [A locked row is found by its place]. Claims join by ``ctid``: a row that the same
statement has locked stays where it is. By the key, the planner could look through all
of the ledger's tasks for each one that is due: it expects a single row of a ledger that
ANALYZE has not met. A row that somebody else changed since the statement began is left
to the next claim.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.db.models import Max
from django.db.models.functions import Now
from django.utils.module_loading import import_string

from outbox import retry
from outbox.enums import AttemptAction, Delivery, TaskState
from outbox.handlers import (
    CompensationRefused,
    PayoutTaskHandler,
    TaskHandler,
    TaskSetHandler,
    handlers_from_settings,
)
from outbox.models import OutboxAttempt, OutboxAttemptOutcome, OutboxTask
from outbox.providers.base import (
    DECISIONS,
    PayoutInstruction,
    PayoutProvider,
    ProviderAnswer,
    ProviderResult,
)
from payflow import failpoints
from payflow.db import transaction_owner
from payflow.ids import new_id

log = structlog.get_logger(__name__)

#: How long a worker may be silent before others take its task over. Longer than the
#: hard time limit of the Celery task (50 s), which is longer than the soft one (40 s).
LEASE_SECONDS = 60
#: No task is begun later than this after the start of a drain. The last one may take
#: two calls more, an inquiry that finds nothing and the send after it (12 s each), and
#: has 6 s for its bookkeeping then until the soft limit.
DRAIN_SECONDS = 10.0
#: Tasks with calls that one claim leases. Each call renews its own task's lease.
PAYOUT_BATCH = 10
#: Tasks without calls that one statement finishes, in some 60 ms. Fewer would cost more
#: in all: each round begins with a look at all that is due.
SET_BATCH = 5_000
#: Ledgers and kinds looked at in one round; the others have their turn in the next.
MAX_QUEUES_PER_ROUND = 200
#: Immediate tries of a finishing transaction that met a deadlock or a lock timeout.
FINISH_TRIES = 3
FINISH_PAUSE_SECONDS = 0.05
MAX_ERROR_CHARACTERS = 500

#: serialization_failure, deadlock_detected, lock_not_available
CONFLICT_SQLSTATES = frozenset({"40001", "40P01", "55P03"})
#: SQLSTATE classes that say that the server is away or out of resources, whatever the
#: task: connection, resources, shutdown, input and output. No SQLSTATE: no server.
SERVER_TROUBLE = ("08", "53", "57P", "58")


class LeaseLost(Exception):
    """The task is no longer ours: taken over, finished or cancelled."""


@dataclass(slots=True)
class DrainReport:
    """What a drain did.

    Attributes:
        finished_set_wise: tasks that needed no call.
        called: tasks that were worked on one by one.
        released: claimed tasks that went back untouched.
    """

    finished_set_wise: int = 0
    called: int = 0
    released: int = 0


@dataclass(slots=True)
class Leased:
    """A payout task under our lease, and what is known of it."""

    task: OutboxTask
    token: UUID
    age_seconds: float
    delivery: Delivery = field(init=False)
    attempt_count: int = field(init=False)

    def __post_init__(self) -> None:
        self.delivery = Delivery(self.task.delivery)
        self.attempt_count = self.task.attempt_count

    @property
    def instruction(self) -> PayoutInstruction:
        """The payout as the provider is told of it."""
        task = self.task
        # The database's constraint task_payout_is_complete has these filled.
        assert task.amount is not None
        assert task.currency is not None
        assert task.destination is not None
        return PayoutInstruction(
            key=task.id,
            amount=task.amount,
            currency=task.currency,
            destination=task.destination,
            reference=str(task.transfer_id),
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call that has been announced in the attempts' table."""

    id: UUID
    action: AttemptAction
    delivery_before: Delivery


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Drains the outbox.

    Args:
        provider: who pays out.
        handlers: what the end of a task of each kind means.
        should_stop: asked between tasks; once true, the drain returns what it has
            claimed and not begun, and ends.
    """

    provider: PayoutProvider
    handlers: Mapping[str, TaskHandler]
    should_stop: Callable[[], bool] = _never

    # --- the loop ---------------------------------------------------------------

    def drain(
        self,
        *,
        seconds: float = DRAIN_SECONDS,
        ledger_id: UUID | None = None,
    ) -> DrainReport:
        """Works until nothing is due, ``should_stop`` says so, or time is up.

        No task is begun after ``seconds``; the call then under way is finished.

        Args:
            seconds: how long to go on.
            ledger_id: work on this ledger only.
        """
        report = DrainReport()
        failed: set[tuple[UUID, str]] = set()
        until = time.monotonic() + seconds

        def over() -> bool:
            return time.monotonic() >= until or self.should_stop()

        while not over():
            before = report.finished_set_wise + report.called
            # What needs no call goes first: a slow bank delays only payouts.
            queues = [q for q in self._due_queues(ledger_id) if q not in failed]
            queues.sort(
                key=lambda queue: isinstance(self.handlers[queue[1]], PayoutTaskHandler)
            )
            for queue_ledger_id, kind in queues:
                if over():
                    break
                handler = self.handlers[kind]
                try:
                    if isinstance(handler, TaskSetHandler):
                        report.finished_set_wise += handler.finish_due(
                            ledger_id=queue_ledger_id, kind=kind, limit=SET_BATCH
                        )
                    else:
                        self._drain_batch(queue_ledger_id, kind, handler, over, report)
                except Exception as error:
                    if _is_server_trouble(error):
                        raise
                    # One ledger's trouble; the others must not wait for its end.
                    failed.add((queue_ledger_id, kind))
                    log.exception(
                        "outbox_queue_failed",
                        ledger_id=str(queue_ledger_id),
                        kind=kind,
                    )
            if report.finished_set_wise + report.called == before:
                break  # nothing due, or others have it
        return report

    def _due_queues(self, ledger_id: UUID | None) -> list[tuple[UUID, str]]:
        """Ledgers and kinds with something due, the one that waits longest first."""
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT ledger_id, kind FROM outbox_task
                WHERE state IN ('pending', 'leased') AND due_at <= now()
                  AND kind = ANY(%(kinds)s)
                  AND (%(ledger_id)s::uuid IS NULL OR ledger_id = %(ledger_id)s)
                GROUP BY ledger_id, kind
                ORDER BY min(due_at)
                LIMIT %(limit)s
                """,
                {
                    "kinds": list(self.handlers),
                    "ledger_id": ledger_id,
                    "limit": MAX_QUEUES_PER_ROUND,
                },
            )
            queues: list[tuple[UUID, str]] = cursor.fetchall()
            return queues

    def _drain_batch(
        self,
        ledger_id: UUID,
        kind: str,
        handler: PayoutTaskHandler,
        over: Callable[[], bool],
        report: DrainReport,
    ) -> None:
        claimed = self.claim(ledger_id=ledger_id, kind=kind)
        failpoints.reach("outbox_claimed")
        for position, leased in enumerate(claimed):
            if over():
                report.released += self.release(claimed[position:])
                return
            self.work(leased, handler)
            report.called += 1

    # --- claim ------------------------------------------------------------------

    def claim(
        self, *, ledger_id: UUID, kind: str, limit: int = PAYOUT_BATCH
    ) -> list[Leased]:
        """Leases up to ``limit`` due tasks of a ledger, oldest first.

        A lease that has run out is taken over like a task that waits.
        """
        token = uuid4()
        rows = OutboxTask.objects.raw(
            """
            WITH due AS (
                SELECT ctid AS place FROM outbox_task
                WHERE ledger_id = %(ledger_id)s AND kind = %(kind)s
                  AND state IN ('pending', 'leased') AND due_at <= now()
                ORDER BY due_at, id
                LIMIT %(limit)s
                FOR UPDATE SKIP LOCKED
            )
            UPDATE outbox_task AS task
            SET state = 'leased', lease_token = %(token)s,
                due_at = now() + make_interval(secs => %(lease_seconds)s)
            FROM due
            WHERE task.ledger_id = %(ledger_id)s AND task.ctid = due.place
            RETURNING task.*, extract(
                epoch FROM now() - coalesce(task.retried_at, task.created_at)
            )::float8 AS age_seconds
            """,
            {
                "ledger_id": ledger_id,
                "kind": kind,
                "limit": limit,
                "token": token,
                "lease_seconds": LEASE_SECONDS,
            },
        )
        # age_seconds is an extra column, which raw() hands on as an attribute.
        leased = [Leased(row, token, vars(row)["age_seconds"]) for row in rows]
        return sorted(leased, key=lambda each: each.task.id)

    def release(self, claimed: Sequence[Leased]) -> int:
        """Returns tasks that were not begun to the queue; says how many were ours."""
        released = 0
        for leased in claimed:
            released += self._ours(leased).update(
                state=TaskState.PENDING, lease_token=None, due_at=Now()
            )
        return released

    @staticmethod
    def _ours(leased: Leased) -> Any:
        """The task's row, if the lease on it is still this one."""
        return OutboxTask.objects.filter(
            ledger_id=leased.task.ledger_id,
            id=leased.task.id,
            state=TaskState.LEASED,
            lease_token=leased.token,
        )

    # --- one task ---------------------------------------------------------------

    def work(self, leased: Leased, handler: PayoutTaskHandler) -> None:
        """Delivers one leased payout as far as it gets now.

        See Note [A task that breaks its dispatcher].

        Raises:
            django.db.OperationalError, django.db.InterfaceError: PostgreSQL is away;
                the lease is left to run out.
        """
        with structlog.contextvars.bound_contextvars(
            ledger_id=str(leased.task.ledger_id),
            outbox_task_id=str(leased.task.id),
            request_id=leased.task.request_id,
        ):
            try:
                self._deliver(leased, handler)
            except LeaseLost:
                log.warning("payout_lease_lost")
            except Exception as error:
                if _is_server_trouble(error):
                    raise
                if _is_conflict(error):
                    log.warning("payout_left_to_lease", sqlstate=_sqlstate(error))
                    return
                log.exception("payout_task_failed")
                self._count_failure(leased, error)

    def _count_failure(self, leased: Leased, error: Exception) -> None:
        """Has a task that broke its dispatcher wait, or end where a person sees it."""
        failures = leased.task.failure_count + 1
        decided = leased.delivery in (Delivery.SETTLED, Delivery.REJECTED)
        next_step = retry.after_failure(
            failures=failures,
            # As in `_keep_decision`: the provider may have taken days.
            age_seconds=0.0 if decided else leased.age_seconds,
            max_age_seconds=_max_age_seconds(leased.delivery),
        )
        try:
            with transaction_owner():
                self._update(
                    leased,
                    failure_count=failures,
                    # The kind alone: what it says may be what could not be written.
                    last_error=f"the dispatcher failed: {type(error).__name__}",
                    **_schedule(
                        next_step,
                        TaskState.NEEDS_ATTENTION if decided else TaskState.DEAD,
                    ),
                )
        except LeaseLost:
            log.warning("payout_lease_lost")
        except Exception as uncounted:
            if _is_server_trouble(uncounted):
                raise
            log.exception("payout_failure_not_counted")
        else:
            if isinstance(next_step, retry.GiveUp):
                log.error("payout_gave_up", failures=failures)

    def _deliver(self, leased: Leased, handler: PayoutTaskHandler) -> None:
        if leased.delivery in (Delivery.SETTLED, Delivery.REJECTED):
            # See Note [A decision that cannot be booked].
            self._book(leased, handler, None, self._recorded_decision(leased))
            return
        if leased.delivery == Delivery.UNSENT:
            attempt = self._begin(leased, AttemptAction.SEND)
            answer = self._call(self.provider.send, leased)
        else:
            attempt = self._begin(leased, AttemptAction.INQUIRE)
            answer = self._call(self.provider.inquire, leased)
            if (
                answer.result == ProviderResult.NOT_FOUND
                and leased.delivery == Delivery.UNKNOWN
            ):
                wait = retry.resend_wait_seconds(
                    since_send_seconds=self._since_send_seconds(leased),
                    settle_delay_seconds=settings.PAYOUT_SETTLE_DELAY_SECONDS,
                )
                if wait > 0:
                    self._wait_for_arrival(leased, attempt, answer, wait)
                    return
                self._record_outcome(leased, attempt, answer)
                attempt = self._begin(leased, AttemptAction.SEND)
                answer = self._call(self.provider.send, leased)
        failpoints.reach("outbox_called")
        if answer.result in DECISIONS:
            self._book(leased, handler, attempt, answer)
        else:
            self._postpone(leased, attempt, answer)

    def _begin(self, leased: Leased, action: AttemptAction) -> Attempt:
        """Announces a call, and renews the lease for it."""
        task = leased.task
        attempt = Attempt(new_id(), action, leased.delivery)
        delivery = Delivery.UNKNOWN if action == AttemptAction.SEND else leased.delivery
        number = leased.attempt_count + 1
        with transaction_owner():
            self._update(
                leased,
                attempt_count=number,
                delivery=delivery,
                due_at=Now() + timedelta(seconds=LEASE_SECONDS),
            )
            OutboxAttempt.objects.create(
                ledger_id=task.ledger_id,
                id=attempt.id,
                task_id=task.id,
                number=number,
                action=action,
                lease_token=leased.token,
                started_at=Now(),
            )
        leased.attempt_count, leased.delivery = number, delivery
        failpoints.reach("outbox_begun")
        return attempt

    def _call(
        self, method: Callable[[PayoutInstruction], ProviderAnswer], leased: Leased
    ) -> ProviderAnswer:
        assert not connection.in_atomic_block
        try:
            return method(leased.instruction)
        except Exception:
            # Providers raise for nothing; one that does has a bug, which must not be
            # taken for an answer. It may have sent first.
            log.exception("payout_provider_raised")
            return ProviderAnswer(
                result=ProviderResult.UNKNOWN, detail="the provider's code failed"
            )

    def _since_send_seconds(self, leased: Leased) -> float:
        """Seconds since the last send began, on PostgreSQL's clock."""
        row = OutboxAttempt.objects.filter(
            ledger_id=leased.task.ledger_id,
            task_id=leased.task.id,
            action=AttemptAction.SEND,
        ).aggregate(since=Now() - Max("started_at"))
        since: timedelta | None = row["since"]
        return since.total_seconds() if since is not None else 0.0

    # --- finish -----------------------------------------------------------------

    def _update(self, leased: Leased, **changes: Any) -> None:
        """Changes the task if it is still ours.

        Raises:
            LeaseLost: it is not; the surrounding transaction must be rolled back.
        """
        if self._ours(leased).update(**changes) == 0:
            raise LeaseLost

    def _record_outcome(
        self, leased: Leased, attempt: Attempt | None, answer: ProviderAnswer
    ) -> None:
        if attempt is None:
            return
        OutboxAttemptOutcome.objects.create(
            ledger_id=leased.task.ledger_id,
            id=attempt.id,
            result=answer.result,
            detail=answer.detail,
            finished_at=Now(),
        )

    def _book(
        self,
        leased: Leased,
        handler: PayoutTaskHandler,
        attempt: Attempt | None,
        answer: ProviderAnswer,
    ) -> None:
        """Books the provider's decision and ends the task."""
        decision = _delivery_of(answer.result)
        for tries_left in reversed(range(FINISH_TRIES)):
            try:
                with transaction_owner():
                    if decision == Delivery.SETTLED:
                        transfer_id = handler.settle(task=leased.task)
                    else:
                        transfer_id = handler.reject(
                            task=leased.task, reason=answer.detail
                        )
                    self._update(
                        leased,
                        state=TaskState.DONE,
                        delivery=decision,
                        completion_transfer_id=transfer_id,
                        failure_count=0,
                        last_error="",
                        lease_token=None,
                        finished_at=Now(),
                        **_reference(answer),
                    )
                    self._record_outcome(leased, attempt, answer)
            except LeaseLost:
                raise
            except CompensationRefused as refusal:
                self._refuse(leased, attempt, answer, refusal)
            except OperationalError as error:
                if _is_server_trouble(error):
                    raise
                # A statement that timed out would only take as long again.
                if _is_conflict(error) and tries_left:
                    time.sleep(retry.jitter(FINISH_PAUSE_SECONDS))
                    continue
                self._keep_decision(leased, attempt, answer, _sqlstate(error))
            except Exception as error:
                log.exception("payout_booking_failed")
                self._keep_decision(leased, attempt, answer, type(error).__name__)
            else:
                log.info(_EVENTS[answer.result], attempts=leased.attempt_count)
            return

    def _refuse(
        self,
        leased: Leased,
        attempt: Attempt | None,
        answer: ProviderAnswer,
        refusal: CompensationRefused,
    ) -> None:
        """The ledger said no: a person must look."""
        with transaction_owner():
            self._update(
                leased,
                state=TaskState.NEEDS_ATTENTION,
                delivery=_delivery_of(answer.result),
                last_error=str(refusal)[:MAX_ERROR_CHARACTERS],
                lease_token=None,
                finished_at=Now(),
                **_reference(answer),
            )
            self._record_outcome(leased, attempt, answer)
        log.error("payout_needs_attention", code=refusal.code)

    def _keep_decision(
        self,
        leased: Leased,
        attempt: Attempt | None,
        answer: ProviderAnswer,
        error: str,
    ) -> None:
        """Writes down the decision alone; it will be booked later."""
        failures = leased.task.failure_count + 1
        # Age does not count: the provider may have taken days over its decision.
        next_step = retry.after_failure(failures=failures, age_seconds=0.0)
        with transaction_owner():
            self._update(
                leased,
                delivery=_delivery_of(answer.result),
                failure_count=failures,
                last_error=f"booking failed: {error}"[:MAX_ERROR_CHARACTERS],
                **_schedule(next_step, TaskState.NEEDS_ATTENTION),
                **_reference(answer),
            )
            self._record_outcome(leased, attempt, answer)
        log.warning("payout_booking_postponed", failures=failures)

    def _recorded_decision(self, leased: Leased) -> ProviderAnswer:
        """The decision that an earlier attempt brought, as it was written down."""
        outcome = (
            OutboxAttemptOutcome.objects.filter(
                ledger_id=leased.task.ledger_id,
                attempt__task_id=leased.task.id,
                result=leased.delivery.value,
            )
            .order_by("-finished_at")
            .first()
        )
        return ProviderAnswer(
            result=ProviderResult(leased.delivery.value),
            detail=outcome.detail if outcome is not None else "",
        )

    def _wait_for_arrival(
        self,
        leased: Leased,
        attempt: Attempt,
        answer: ProviderAnswer,
        wait_seconds: float,
    ) -> None:
        """ "Not found" so soon after a send proves nothing: ask again later."""
        with transaction_owner():
            self._update(
                leased,
                last_error="sent, and not found by the provider yet",
                **_schedule(
                    retry.TryAgain(wait_seconds + retry.jitter(1.0)), TaskState.DEAD
                ),
            )
            self._record_outcome(leased, attempt, answer)
        log.info("payout_arrival_awaited")

    def _postpone(
        self, leased: Leased, attempt: Attempt, answer: ProviderAnswer
    ) -> None:
        """Nothing is decided: due again later, or dead."""
        if answer.result == ProviderResult.ACCEPTED:
            failures, error = 0, ""
            delivery = Delivery.ACCEPTED
            next_step = retry.after_acceptance(age_seconds=leased.age_seconds)
        else:
            failures = leased.task.failure_count + 1
            error = f"{answer.result.value}: {answer.detail}"
            delivery = leased.delivery
            if answer.result == ProviderResult.NOT_SENT:
                # This call changed nothing; an earlier one may have.
                delivery = attempt.delivery_before
            next_step = retry.after_failure(
                failures=failures,
                age_seconds=leased.age_seconds,
                max_age_seconds=_max_age_seconds(delivery),
                retry_after_seconds=answer.retry_after_seconds,
            )
        if isinstance(next_step, retry.GiveUp):
            error = f"{next_step.reason}; {error}" if error else next_step.reason
        with transaction_owner():
            self._update(
                leased,
                delivery=delivery,
                failure_count=failures,
                last_error=error[:MAX_ERROR_CHARACTERS],
                **_schedule(next_step, TaskState.DEAD),
                **_reference(answer),
            )
            self._record_outcome(leased, attempt, answer)
        if isinstance(next_step, retry.GiveUp):
            log.error("payout_dead", delivery=delivery.value, failures=failures)
        else:
            log.info(_EVENTS[answer.result], failures=failures)


#: The log's event for each answer.
_EVENTS = {
    ProviderResult.SETTLED: "payout_settled",
    ProviderResult.REJECTED: "payout_rejected",
    ProviderResult.ACCEPTED: "payout_accepted",
    ProviderResult.NOT_SENT: "payout_not_sent",
    ProviderResult.RETRY_LATER: "payout_retry_later",
    ProviderResult.UNKNOWN: "payout_outcome_unknown",
    ProviderResult.NOT_FOUND: "payout_not_found",
}


@cache
def _provider_from_settings() -> PayoutProvider:
    provider: PayoutProvider = import_string(settings.OUTBOX_PAYOUT_PROVIDER)()
    return provider


def dispatcher_from_settings(*, should_stop: Callable[[], bool] = _never) -> Dispatcher:
    """The dispatcher that the settings describe.

    Args:
        should_stop: asked between tasks; once true, the drain ends early.
    """
    return Dispatcher(
        provider=_provider_from_settings(),
        handlers=handlers_from_settings(),
        should_stop=should_stop,
    )


def _delivery_of(result: ProviderResult) -> Delivery:
    """A decision as the task records it; the words are the same."""
    return Delivery(result.value)


def _max_age_seconds(delivery: Delivery) -> float:
    """The age at which a failing task is dead: a bank may take days to decide."""
    if delivery == Delivery.ACCEPTED:
        return retry.MAX_ACCEPTED_AGE_SECONDS
    return retry.MAX_AGE_SECONDS


def _reference(answer: ProviderAnswer) -> dict[str, str]:
    """The provider's name for the payout, unless this answer had none."""
    if answer.provider_reference is None:
        return {}
    return {"provider_reference": answer.provider_reference}


def _schedule(
    next_step: retry.TryAgain | retry.GiveUp, end: TaskState
) -> dict[str, Any]:
    """The columns that say when the task is due again, or that it has ended."""
    if isinstance(next_step, retry.GiveUp):
        return {"state": end, "lease_token": None, "finished_at": Now()}
    return {
        "state": TaskState.PENDING,
        "lease_token": None,
        "due_at": Now() + timedelta(seconds=next_step.delay_seconds),
    }


def _sqlstate(error: Exception) -> str:
    return str(getattr(error.__cause__, "sqlstate", None) or "")


def _is_conflict(error: Exception) -> bool:
    return (
        isinstance(error, OperationalError) and _sqlstate(error) in CONFLICT_SQLSTATES
    )


def _is_server_trouble(error: Exception) -> bool:
    """Whether PostgreSQL is away, so that no other task would fare better."""
    if isinstance(error, OperationalError):
        return not _sqlstate(error) or _sqlstate(error).startswith(SERVER_TROUBLE)
    return isinstance(error, InterfaceError)
