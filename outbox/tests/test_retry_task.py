"""``manage.py retry_task``."""

from io import StringIO
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from outbox.models import OutboxTask
from outbox.tests.factories import make_task
from payflow.ids import new_id

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    output = StringIO()
    call_command("retry_task", *arguments, stdout=output)
    return output.getvalue()


def dead_task(ledger_id: UUID) -> OutboxTask:
    return make_task(
        ledger_id=ledger_id,
        state="dead",
        delivery="unknown",
        last_error="no answer",
        finished_at=timezone.now(),
    )


def test_a_dead_task_is_listed_and_taken_up_again(ledger_id):
    task = dead_task(ledger_id)

    assert f"{task.id}  payout  Dead" in run("--list")
    assert "is due now" in run(str(task.id))

    again = OutboxTask.objects.get(ledger_id=ledger_id, id=task.id)
    assert (again.state, again.delivery) == ("pending", "unknown")


def test_what_cannot_be_retried_says_why_and_changes_nothing(ledger_id):
    dead, live = dead_task(ledger_id), make_task(ledger_id=ledger_id)

    with pytest.raises(CommandError, match="is pending"):
        run(str(dead.id), str(live.id))
    for text in ("nonsense", str(new_id())):
        with pytest.raises(CommandError, match="There is no task"):
            run(text)
    with pytest.raises(CommandError, match="--list"):
        run()
    assert OutboxTask.objects.get(ledger_id=ledger_id, id=dead.id).state == "dead"
