"""The outbox in the back office: what is to leave, what left, and every attempt."""

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from outbox.enums import LIVE_STATES, TaskKind, TaskState
from outbox.models import OutboxAttempt, OutboxAttemptOutcome, OutboxTask
from payflow.admin.bounds import MAX_MATCHES, MAX_TABLE_ROWS, bounded_count, count_label
from payflow.admin.cells import (
    LEDGER_PARAMETER,
    Table,
    badge,
    can_view,
    instant,
    instant_column,
    link,
    list_link,
    money,
    short,
)
from payflow.admin.figures import Figure, index_figures
from payflow.admin.filters import (
    ChoiceFilter,
    CurrencyFilter,
    FewRowsFilter,
    LedgerFilter,
    ScopeFilter,
    choice_filter,
)
from payflow.admin.read_only import BELOW_TABLES, ReadOnlyModelAdmin
from payflow.admin.scope import all_ledger_ids, ledger_link, parse_uuid

_TONES = {
    TaskState.PENDING: "plain",
    TaskState.LEASED: "plain",
    TaskState.DONE: "good",
    TaskState.DEAD: "bad",
    TaskState.NEEDS_ATTENTION: "bad",
}

#: The columns of :func:`task_row`.
TASK_COLUMNS = (
    "Task",
    "State",
    "Delivery",
    "#Amount",
    "Destination",
    "#Attempts",
    "Ended by",
    "Last error",
)


def state_badge(task: OutboxTask) -> str:
    """The state, in colour."""
    state = TaskState(task.state)
    return badge(state.label.capitalize(), _TONES.get(state, "plain"))


def task_row(task: OutboxTask) -> Sequence[Any]:
    """One task in a table on another object's page; see :data:`TASK_COLUMNS`."""
    return (
        link("outbox.outboxtask", task.id, task.ledger_id, task.get_kind_display()),
        state_badge(task),
        task.get_delivery_display() if task.kind == TaskKind.PAYOUT else short(None),
        money(task.amount, task.currency, task.ledger_id),
        short(task.destination, 40),
        task.attempt_count,
        link("ledger.transfer", task.completion_transfer_id, task.ledger_id),
        short(task.last_error, 40),
    )


@index_figures(20)
def payout_figures(request: HttpRequest) -> Iterable[Figure]:
    """How many payouts are on their way, and how many need a person."""
    if not can_view(request, "outbox.outboxtask"):
        return
    rows = OutboxTask.objects.filter(ledger_id__in=all_ledger_ids()).order_by()
    in_flight = rows.filter(kind=TaskKind.PAYOUT, state__in=LIVE_STATES)
    dead = rows.filter(state=TaskState.DEAD)
    attention = rows.filter(state=TaskState.NEEDS_ATTENTION)
    yield _figure("Payouts in flight", in_flight, "live", "on their way to a bank")
    yield _figure("Dead tasks", dead, "dead", "given up; a person decides", "bad")
    yield _figure(
        "Payouts needing attention",
        attention,
        "needs_attention",
        "the ledger refused the outcome",
        "bad",
    )


def _figure(
    label: str, rows: QuerySet[OutboxTask], state: str, note: str, tone: str = ""
) -> Figure:
    """A count over all ledgers, linked to the list of a ledger that has such a task."""
    count = bounded_count(rows)
    query = {"state": state}
    if count:
        query[LEDGER_PARAMETER] = str(rows.values_list("ledger_id", flat=True)[:1][0])
    url = f"{reverse('admin:outbox_outboxtask_changelist')}?{urlencode(query)}"
    tone = (tone if count else "good") if tone else "plain"
    return Figure(label, count_label(count), tone, f"{note}; all ledgers", url)


class AccountScope(FewRowsFilter):
    """One payout account's tasks; the index by account does not keep them by id."""

    title = parameter_name = "account"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The one account, when there is one."""
        value = parse_uuid(self.value())
        return [(str(value), f"…{str(value)[-12:]}")] if value else []

    def narrow(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The tasks of the account."""
        value = parse_uuid(self.value())
        return rows.filter(account_id=value) if value else rows

    def found_ids(self, ledger_id: UUID) -> QuerySet[Any] | None:
        """By the index by account."""
        value = parse_uuid(self.value())
        if value is None:
            return None
        rows = OutboxTask.objects.filter(ledger_id=ledger_id, account_id=value)
        return rows.order_by().values_list("id", flat=True)


class TransferScope(ScopeFilter):
    """One transfer's tasks."""

    title = parameter_name = "transfer"
    column = "transfer_id"


class StateFilter(ChoiceFilter):
    """By state; the rare ones are found by an index, however old they are.

    Those that ended well are the bulk of the table: they get a window.
    """

    title = "state"
    parameter_name = column = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The states, and the two unfinished ones together."""
        return [("live", "In flight"), *super().lookups(request, model_admin)]

    @property
    def is_scope(self) -> bool:  # type: ignore[override]
        """True for what an index finds, which needs no window."""
        return self.value() not in (None, TaskState.DONE, TaskState.CANCELLED)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows in the state."""
        value = self.value()
        if value is None or not self.is_scope:
            return super().queryset(request, queryset)
        if value in ("live", *LIVE_STATES):
            states = LIVE_STATES if value == "live" else (value,)
            found = queryset.filter(kind__in=TaskKind.values, state__in=states)
        else:
            found = queryset.filter(state=value)
        ids = found.order_by().values_list("pk", flat=True)[:MAX_MATCHES]
        return queryset.filter(pk__in=list(ids))


@admin.register(OutboxTask)
class OutboxTaskAdmin(ReadOnlyModelAdmin):
    """Tasks with their attempts."""

    index_position = 1
    list_display = (
        "created",
        "kind",
        "state_shown",
        "delivery_shown",
        "amount_shown",
        "destination_short",
        "attempts_shown",
        "of_transfer",
    )
    list_filter = (
        LedgerFilter,
        AccountScope,
        TransferScope,
        StateFilter,
        choice_filter("kind"),
        choice_filter("delivery"),
        CurrencyFilter,
    )
    search_fields = ("id",)
    search_help_text = "A full id of a task or of the transfer that caused it."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "kind",
                    ("state_shown", "delivery_shown"),
                    "amount_shown",
                    "destination",
                    "of_account",
                    "of_transfer",
                    "completed_by",
                )
            },
        ),
        (
            "Delivery",
            {
                "fields": (
                    ("attempt_count", "failure_count"),
                    ("due", "lease_token"),
                    "provider_reference",
                    "last_error",
                )
            },
        ),
        (
            "Record",
            {
                "classes": (BELOW_TABLES,),
                "fields": (
                    "id",
                    "in_books",
                    "posting_number",
                    "request_id",
                    ("created", "retried", "finished"),
                ),
            },
        ),
    )
    created = instant_column("created_at", "created")
    due = instant_column("due_at", "due")
    retried = instant_column("retried_at", "taken up again")
    finished = instant_column("finished_at", "finished")

    def find_by_id(
        self, request: HttpRequest, rows: QuerySet[Any], value: UUID
    ) -> list[QuerySet[Any]]:
        """A task, or a transfer's tasks."""
        return [rows.filter(pk=value), rows.filter(transfer_id=value)]

    @admin.display(description="state")
    def state_shown(self, task: OutboxTask) -> str:
        """The state, in colour."""
        return state_badge(task)

    @admin.display(description="delivery")
    def delivery_shown(self, task: OutboxTask) -> str:
        """What is known of the other side; only payouts have one."""
        if task.kind != TaskKind.PAYOUT:
            return short(None)
        return task.get_delivery_display()

    @admin.display(description="amount")
    def amount_shown(self, task: OutboxTask) -> str:
        """The payout's amount."""
        return money(task.amount, task.currency, task.ledger_id)

    @admin.display(description="destination")
    def destination_short(self, task: OutboxTask) -> str:
        """The payout's destination, cut to a cell."""
        return short(task.destination, 30)

    @admin.display(description="caused by")
    def of_transfer(self, task: OutboxTask) -> str:
        """The transfer, or the hold, that caused it."""
        if task.hold_event_id is not None:
            event_id = task.hold_event_id
            return list_link("ledger.hold", task.ledger_id, "Hold", q=event_id)
        return link("ledger.transfer", task.transfer_id, task.ledger_id)

    @admin.display(description="payout account")
    def of_account(self, task: OutboxTask) -> str:
        """The account that holds the money on its way."""
        return link("ledger.account", task.account_id, task.ledger_id)

    @admin.display(description="ended by")
    def completed_by(self, task: OutboxTask) -> str:
        """The settlement or the reversal."""
        return link("ledger.transfer", task.completion_transfer_id, task.ledger_id)

    @admin.display(description="attempts")
    def attempts_shown(self, task: OutboxTask) -> str:
        """How often the provider was called."""
        return f"{task.attempt_count:,}"

    @admin.display(description="ledger")
    def in_books(self, task: OutboxTask) -> str:
        """The ledger, by its slug."""
        return ledger_link(task.ledger_id)

    def tables(self, request: HttpRequest, obj: OutboxTask) -> Iterable[Table]:
        """The latest attempts and how they ended, in two queries."""
        if not can_view(request, "outbox.outboxattempt"):
            return
        attempts = list(
            OutboxAttempt.objects.filter(
                ledger_id=obj.ledger_id, task_id=obj.id
            ).order_by("-number")[:MAX_TABLE_ROWS]
        )
        outcomes = {
            outcome.id: outcome
            for outcome in OutboxAttemptOutcome.objects.filter(
                ledger_id=obj.ledger_id, id__in=[attempt.id for attempt in attempts]
            )
        }
        title = "Attempts"
        if obj.attempt_count > MAX_TABLE_ROWS:
            title = f"The latest {MAX_TABLE_ROWS} of {obj.attempt_count:,} attempts"
        yield Table(
            title,
            ("#No.", "Action", "Started", "Result", "Finished", "Detail"),
            [
                (
                    attempt.number,
                    attempt.get_action_display(),
                    instant(attempt.started_at),
                    *_outcome_cells(outcomes.get(attempt.id)),
                )
                for attempt in attempts
            ],
            empty="Nothing has been sent.",
        )


def _outcome_cells(outcome: OutboxAttemptOutcome | None) -> tuple[str, str, str]:
    if outcome is None:
        return badge("no outcome known", "warn"), short(None), short(None)
    return (
        outcome.result.replace("_", " "),
        instant(outcome.finished_at),
        short(outcome.detail, 80),
    )
