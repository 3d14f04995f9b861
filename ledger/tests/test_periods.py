"""Closing periods and reopening them; what may still become effective, and when."""

import io
import json
import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from ledger.audit import audit_run
from ledger.days import day_end
from ledger.engine.refusals import CLOCK_TOLERANCE, time_forbids
from ledger.enums import Permission
from ledger.models import Account, Change, Ledger, Transfer
from ledger.selectors.periods import Periods, periods_get
from ledger.services.clients import client_set_permissions
from ledger.services.periods import period_close, period_reopen
from ledger.services.posting import transfers_post
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    LedgerFactory,
    fresh,
    move,
    transfer_request,
)
from ledger.tests.steps import ask, steps
from ledger.tests.test_api import Api, api, field_codes, problem
from ledger.tests.test_invariants import Books, refusal
from ledger.types import PostedTransfer
from payflow.actors import Actor
from payflow.clock import format_instant, now
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id

__all__ = ["api"]

OFFICER = Actor(
    "test",
    request_id="test-request",
    permissions=frozenset({Permission.CLOSE_PERIOD, Permission.REOPEN_PERIOD}),
)
BERLIN = "Europe/Berlin"


def close(ledger: Ledger, end: date) -> Periods | Problem:
    return period_close(ledger_id=ledger.id, end=end, actor=OFFICER)


def reopen(ledger: Ledger, end: date | None, reason: str = "late invoices") -> Any:
    return period_reopen(ledger_id=ledger.id, end=end, reason=reason, actor=OFFICER)


def two_accounts(ledger: Ledger) -> tuple[Account, Account]:
    return AccountFactory(ledger=ledger, balance=1_000), AccountFactory(ledger=ledger)


def days_ago(days: int) -> date:
    return (now() - timedelta(days=days)).date()


def period_rows(ledger: Ledger) -> list[Change]:
    rows = Change.objects.filter(ledger_id=ledger.id, account_id=None)
    return list(rows.filter(fields__contains=["closed_before"]).order_by("id"))


# --- Closing -------------------------------------------------------------------------


@pytest.mark.django_db
def test_closing_ends_with_the_day_in_the_ledgers_time_zone():
    ledger = LedgerFactory(time_zone=BERLIN)

    periods = close(ledger, date(2026, 10, 24))

    # The last day of summer time: midnight is two hours before that of UTC.
    assert periods.closed_before == datetime(2026, 10, 24, 22, tzinfo=UTC)
    assert periods.closed_through == date(2026, 10, 24)
    assert periods_get(ledger_id=ledger.id) == periods
    # A day of 25 hours.
    later = close(ledger, date(2026, 10, 25))
    assert later.closed_before == datetime(2026, 10, 25, 23, tzinfo=UTC)
    assert later.closed_through == date(2026, 10, 25)


@pytest.mark.django_db
def test_a_transfer_is_refused_up_to_the_boundary_and_taken_from_it_on():
    ledger = LedgerFactory(time_zone=BERLIN)
    source, target = two_accounts(ledger)
    boundary = close(ledger, days_ago(3)).closed_before

    late = move(source, target, 1, effective_at=boundary - timedelta(microseconds=1))
    first = move(source, target, 2, effective_at=boundary)
    present = move(source, target, 4)

    assert late.code == "period_closed"
    assert late.fields == {"closed_before": format_instant(boundary)}
    assert first.effective_at == boundary
    assert isinstance(present, PostedTransfer)
    assert fresh(target).posted == 6


@pytest.mark.django_db
def test_only_the_effective_time_is_judged_and_not_when_it_is_recorded():
    ledger = LedgerFactory()
    source, target = two_accounts(ledger)
    day = days_ago(3)
    before = move(source, target, 1, effective_at=now() - timedelta(days=4))

    close(ledger, day)

    # It was recorded after the day that it belongs to, and stays where it is.
    boundary = periods_get(ledger_id=ledger.id).closed_before
    row = Transfer.objects.get(ledger_id=ledger.id, id=before.id)
    assert row.effective_at < boundary < row.created_at


@pytest.mark.django_db
def test_one_closed_transfer_of_many_is_refused_and_the_others_are_posted():
    ledger = LedgerFactory()
    source, target = two_accounts(ledger)
    close(ledger, days_ago(3))

    outcomes = transfers_post(
        ledger_id=ledger.id,
        requests=[
            transfer_request(source, target, 1),
            transfer_request(source, target, 2, effective_at=now() - timedelta(days=9)),
            transfer_request(source, target, 4, effective_at=now() - timedelta(days=1)),
        ],
        actor=ACTOR,
        now=now(),
    )

    assert [getattr(o, "code", "posted") for o in outcomes] == [
        "posted",
        "period_closed",
        "posted",
    ]
    assert fresh(target).posted == 5


@pytest.mark.django_db
def test_another_ledgers_closing_changes_nothing_here():
    ledger, other = LedgerFactory(), LedgerFactory()
    source, target = two_accounts(ledger)

    close(other, days_ago(2))

    assert periods_get(ledger_id=ledger.id).closed_before is None
    past = now() - timedelta(days=9)
    assert isinstance(move(source, target, 1, effective_at=past), PostedTransfer)


@pytest.mark.django_db
def test_a_period_closes_an_hour_after_its_end_and_not_before():
    ledger = LedgerFactory()
    clock = ask("SELECT clock_timestamp()")
    over = clock - timedelta(hours=1)
    fresh_end = clock - timedelta(minutes=59)

    closed = period_close(ledger_id=ledger.id, end=over, actor=OFFICER)
    early = period_close(ledger_id=ledger.id, end=fresh_end, actor=OFFICER)
    tomorrow = close(ledger, (now() + timedelta(days=1)).date())

    assert closed.closed_before == over
    assert early.code == tomorrow.code == "period_not_over"
    closable_from = format_instant(fresh_end + timedelta(hours=1))
    assert early.fields == {"closable_from": closable_from}
    assert periods_get(ledger_id=ledger.id).closed_before == over


@pytest.mark.django_db
def test_closing_what_is_closed_changes_nothing_and_leaves_no_history():
    ledger = LedgerFactory()
    state = close(ledger, days_ago(3))

    again = close(ledger, days_ago(3))
    earlier = close(ledger, days_ago(10))

    assert again == earlier == state
    assert len(period_rows(ledger)) == 1


@pytest.mark.django_db
def test_a_part_of_a_day_can_be_closed_and_the_day_is_not_called_closed():
    ledger = LedgerFactory()
    day = days_ago(5)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)

    periods = period_close(ledger_id=ledger.id, end=noon, actor=OFFICER)

    assert periods.closed_before == noon
    assert periods.closed_through == day - timedelta(days=1)


def test_the_last_closed_day_is_right_where_midnight_comes_twice():
    # In Havana the clocks of 2026-11-01 go from 01:00 back to 00:00; in the Azores
    # those of 2026-10-25 from 01:00 back to 00:00.
    for name, day in (
        ("America/Havana", date(2026, 10, 31)),
        ("Atlantic/Azores", date(2026, 10, 24)),
        ("America/Havana", date(2026, 11, 1)),
        ("UTC", date(2026, 10, 31)),
        # Beirut's clocks skip midnight.
        ("Asia/Beirut", date(2026, 3, 28)),
        # Greenland's went from midnight back to 23:00 of the day that had just ended.
        ("America/Godthab", date(2023, 10, 28)),
    ):
        zone = ZoneInfo(name)
        assert Periods(day_end(day, zone=zone), zone).closed_through == day, name


@pytest.mark.django_db
def test_closing_and_reopening_need_their_permissions():
    ledger = LedgerFactory()
    closer = Actor("c", permissions=frozenset({Permission.CLOSE_PERIOD}))
    opener = Actor("o", permissions=frozenset({Permission.REOPEN_PERIOD}))

    with pytest.raises(ProblemError) as closing:
        period_close(ledger_id=ledger.id, end=days_ago(3), actor=opener)
    with pytest.raises(ProblemError) as reopening:
        period_reopen(ledger_id=ledger.id, end=None, reason="x", actor=closer)

    for caught, name in ((closing, "close_period"), (reopening, "reopen_period")):
        assert caught.value.problem.code == "permission_denied"
        assert caught.value.problem.fields == {"permission": name}


# --- Reopening -----------------------------------------------------------------------


@pytest.mark.django_db
def test_reopening_moves_the_boundary_back_and_lets_transfers_in_again():
    ledger = LedgerFactory()
    source, target = two_accounts(ledger)
    close(ledger, days_ago(2))
    past = now() - timedelta(days=5)
    assert move(source, target, 1, effective_at=past).code == "period_closed"

    periods = reopen(ledger, days_ago(10))

    assert periods.closed_through == days_ago(10)
    assert isinstance(move(source, target, 1, effective_at=past), PostedTransfer)
    older = move(source, target, 1, effective_at=now() - timedelta(days=20))
    assert older.code == "period_closed"
    assert reopen(ledger, None).closed_before is None
    assert isinstance(
        move(source, target, 1, effective_at=now() - timedelta(days=20)), PostedTransfer
    )


@pytest.mark.django_db
def test_reopening_cannot_close_and_what_is_open_stays_so():
    ledger = LedgerFactory()

    assert reopen(ledger, None).closed_before is None
    nothing_closed = reopen(ledger, days_ago(5))
    state = close(ledger, days_ago(5))
    too_far = reopen(ledger, days_ago(3))
    same = reopen(ledger, days_ago(5))

    assert nothing_closed.code == too_far.code == "period_not_closed"
    assert nothing_closed.fields == {"closed_before": None}
    assert too_far.fields == {"closed_before": format_instant(state.closed_before)}
    assert same == state
    assert len(period_rows(ledger)) == 1


@pytest.mark.django_db
def test_the_history_keeps_every_change_with_its_actor_and_reason():
    ledger = LedgerFactory()
    first = close(ledger, days_ago(9)).closed_before
    second = close(ledger, days_ago(2)).closed_before
    reopen(ledger, days_ago(9), "late invoices")
    reopen(ledger, None, "closed by mistake")

    rows = period_rows(ledger)

    one, two = format_instant(first), format_instant(second)
    assert [(row.old, row.new) for row in rows] == [
        ({"closed_before": None}, {"closed_before": one}),
        ({"closed_before": one}, {"closed_before": two}),
        (
            {"closed_before": two},
            {"closed_before": one, "reason": "late invoices"},
        ),
        (
            {"closed_before": one},
            {"closed_before": None, "reason": "closed by mistake"},
        ),
    ]
    assert {(r.actor, r.request_id, r.account_id) for r in rows} == {
        ("test", "test-request", None)
    }


# --- The rules of effective_at -------------------------------------------------------


@pytest.mark.django_db
def test_a_time_up_to_five_seconds_ahead_is_now_and_one_further_is_refused():
    ledger = LedgerFactory()
    source, target = two_accounts(ledger)
    at = now()

    def at_time(effective_at: datetime) -> Any:
        (outcome,) = transfers_post(
            ledger_id=ledger.id,
            requests=[transfer_request(source, target, 1, effective_at=effective_at)],
            actor=ACTOR,
            now=at,
        )
        return outcome

    assert timedelta(seconds=5) == CLOCK_TOLERANCE
    edge = at_time(at + CLOCK_TOLERANCE)
    assert edge.effective_at == edge.created_at
    beyond = at_time(at + CLOCK_TOLERANCE + timedelta(microseconds=1))
    assert beyond.code == "effective_at_in_future"


def test_a_time_in_the_future_is_refused_before_a_closed_period_is_looked_at():
    request = transfer_request(
        Account(id=new_id()),
        Account(id=new_id()),
        1,
        effective_at=now() + timedelta(days=1),
    )

    refused = time_forbids(request, now=now(), closed_before=now() + timedelta(days=2))

    assert refused is not None
    assert refused.code == "effective_at_in_future"


# --- PostgreSQL's own rules ----------------------------------------------------------


@pytest.mark.django_db
def test_raw_sql_cannot_post_into_a_closed_period():
    books = Books()
    close(books.ledger, days_ago(3))
    past = dict.fromkeys(
        ("effective_at", "entry_effective_at"),
        "(SELECT at - interval '4 days' FROM clock)",
    )

    assert refusal(books.write(**past)) == "transfer_effective_in_open_period"
    reopen(books.ledger, None)
    with connection.cursor() as cursor:
        cursor.execute(books.write(**past))
    assert fresh(books.source).posted == 850


@pytest.mark.django_db
def test_raw_sql_cannot_post_into_a_closed_period_by_claiming_to_be_old():
    books = Books()
    # Accounts without a history, which would not contradict an early recording time.
    books.source = AccountFactory(ledger=books.ledger, min_balance=None)
    books.target = AccountFactory(ledger=books.ledger)
    close(books.ledger, days_ago(3))
    early = "clock_timestamp() - interval '4 days'"

    # Its task must be there, and be born in the statement that records it.
    with_task = refusal(books.write(at=early))
    without_task = refusal(books.write(at=early, tasks=0))

    assert with_task == "task_comes_with_its_transfer"
    assert without_task == "transfer_comes_with_its_tasks"


@pytest.mark.django_db
@pytest.mark.parametrize("minutes", [59, 0, -60])
def test_raw_sql_cannot_close_a_period_that_is_younger_than_an_hour(minutes):
    ledger = LedgerFactory()

    rule = refusal(
        "UPDATE ledger_ledger SET closed_before ="
        " clock_timestamp() - make_interval(mins => %s) WHERE id = %s",
        [minutes, ledger.id],
    )

    assert rule == "period_closes_an_hour_after_its_end"
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE ledger_ledger SET closed_before ="
            " clock_timestamp() - interval '61 minutes' WHERE id = %s",
            [ledger.id],
        )


@pytest.mark.django_db
def test_an_application_whose_clock_is_behind_cannot_post_into_a_closed_period():
    # The application's clock is two hours behind: what it takes for the present is
    # past, and no lock is taken for it. PostgreSQL's trigger goes by its own clock.
    ledger = LedgerFactory()
    source, target = two_accounts(ledger)
    clock = ask("SELECT clock_timestamp()")
    period_close(ledger_id=ledger.id, end=clock - timedelta(hours=1), actor=OFFICER)
    behind = clock - timedelta(hours=2)

    def post() -> Any:
        with transaction.atomic():
            return transfers_post(
                ledger_id=ledger.id,
                requests=[transfer_request(source, target, 1, effective_at=behind)],
                actor=ACTOR,
                now=behind,
            )

    with pytest.raises(ProblemError) as caught:
        retry_on_conflict(post)

    assert caught.value.problem.code == "period_closed"
    assert fresh(target).posted == 0


# --- Who waits for whom --------------------------------------------------------------


@pytest.fixture
def shop(committed_db: None) -> tuple[Ledger, Account, Account]:
    with transaction_owner():
        ledger = LedgerFactory()
        return ledger, *two_accounts(ledger)


def ledger_locks() -> int:
    """How many row locks this transaction has on ledgers: they show on the table."""
    return int(
        ask(
            "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"
            " AND relation = 'ledger_ledger'::regclass AND mode = 'RowShareLock'"
        )
    )


def test_a_transfer_of_now_takes_no_lock_on_its_ledger_and_a_backdated_one_does(shop):
    _, source, target = shop
    seen = {}

    for name, age in (
        ("now", None),
        ("a minute ago", timedelta(minutes=1)),
        ("14 minutes ago", timedelta(minutes=14)),
        ("16 minutes ago", timedelta(minutes=16)),
        ("last week", timedelta(days=7)),
    ):
        effective_at = None if age is None else now() - age
        with transaction_owner(), CaptureQueriesContext(connection) as queries:
            move(source, target, 1, effective_at=effective_at)
            locks = ledger_locks()
        statements = [q["sql"] for q in queries if "ledger_ledger " in q["sql"]]
        seen[name] = (locks, len(statements))

    assert seen == {
        "now": (0, 0),
        "a minute ago": (0, 0),
        "14 minutes ago": (0, 0),
        "16 minutes ago": (1, 1),
        "last week": (1, 1),
    }


def test_a_closing_waits_for_a_backdated_transfer_that_is_under_way(shop):
    ledger, source, target = shop
    past = now() - timedelta(days=5)

    with steps() as start:
        posting = start(lambda: move(source, target, 1, effective_at=past)).work_done()
        closing = start(lambda: close(ledger, days_ago(2)))
        assert closing.waits_for(posting)
        posted = posting.commit()
        closed = closing.commit()

    assert isinstance(posted, PostedTransfer)
    assert posted.effective_at < closed.closed_before
    # It was recorded before the period was closed, so it belongs to it; later ones no.
    assert posted.created_at < period_rows(ledger)[0].created_at
    with transaction_owner():
        later = move(source, target, 1, effective_at=past)
    assert later.code == "period_closed"
    assert fresh(target).posted == 1
    assert audit_run(ledger_slug=ledger.slug).is_sound


def test_a_backdated_transfer_waits_for_a_closing_and_is_then_refused(shop):
    ledger, source, target = shop
    past = now() - timedelta(days=5)

    with steps() as start:
        closing = start(lambda: close(ledger, days_ago(2))).work_done()
        posting = start(lambda: move(source, target, 1, effective_at=past))
        assert posting.waits_for(closing)
        closing.commit()
        refused = posting.commit()

    assert refused.code == "period_closed"
    assert fresh(target).posted == 0


def test_a_backdated_transfer_of_raw_sql_waits_for_a_closing_too(committed_db):
    with transaction_owner():
        books = Books()
    past = dict.fromkeys(
        ("effective_at", "entry_effective_at"),
        "(SELECT at - interval '4 days' FROM clock)",
    )
    sql = books.write(**past)

    def write() -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql)

    with steps() as start:
        closing = start(lambda: close(books.ledger, days_ago(2))).work_done()
        posting = start(write)
        assert posting.waits_for(closing)
        closing.commit()
        with pytest.raises(Exception, match="closed period"):
            posting.commit()

    assert fresh(books.source).posted == 900


def test_backdated_transfers_do_not_wait_for_each_other(shop):
    ledger, source, target = shop
    with transaction_owner():
        others = two_accounts(ledger)
    past = now() - timedelta(days=5)

    with steps() as start:
        first = start(lambda: move(source, target, 1, effective_at=past)).work_done()
        second = start(lambda: move(*others, 1, effective_at=past)).work_done()
        both = second.commit(), first.commit()

    assert all(isinstance(outcome, PostedTransfer) for outcome in both)


def test_transfers_of_now_go_on_while_a_period_is_being_closed(shop):
    ledger, source, target = shop

    with steps() as start:
        closing = start(lambda: close(ledger, days_ago(2))).work_done()
        posted = start(lambda: move(source, target, 1)).work_done().commit()
        closing.commit()

    assert isinstance(posted, PostedTransfer)


def test_a_reopening_lets_the_transfer_in_that_waits_for_it(shop):
    ledger, source, target = shop
    past = now() - timedelta(days=5)
    with transaction_owner():
        close(ledger, days_ago(2))

    with steps() as start:
        reopening = start(lambda: reopen(ledger, None)).work_done()
        posting = start(lambda: move(source, target, 1, effective_at=past))
        assert posting.waits_for(reopening)
        reopening.commit()
        posted = posting.commit()

    assert isinstance(posted, PostedTransfer)


def test_a_closing_that_cannot_have_its_lock_is_busy(shop):
    ledger, source, target = shop
    past = now() - timedelta(days=5)

    def closing() -> Any:
        with transaction_owner():
            ask("SELECT set_config('lock_timeout', '50ms', true)")
            return close(ledger, days_ago(2))

    with steps() as start:
        posting = start(lambda: move(source, target, 1, effective_at=past)).work_done()
        with pytest.raises(ProblemError) as caught:
            retry_on_conflict(closing)
        posting.commit()

    assert caught.value.problem.code == "ledger_busy"
    assert periods_get(ledger_id=ledger.id).closed_before is None


# --- The API -------------------------------------------------------------------------


@pytest.fixture
def officer(api: Api) -> Api:
    client_set_permissions(
        ledger_id=api.ledger.id,
        client_id=api.client.id,
        permissions=[Permission.CLOSE_PERIOD, Permission.REOPEN_PERIOD],
        actor=ACTOR,
    )
    return api


def test_the_api_closes_shows_and_reopens(officer):
    first, second = days_ago(9).isoformat(), days_ago(2).isoformat()
    midnight = f"{days_ago(1).isoformat()}T00:00:00.000000Z"
    empty = officer.get("/v1/periods").json()
    assert empty == {
        "closed_before": None,
        "closed_through": None,
        "time_zone": "UTC",
        "data": [],
        "next_cursor": None,
    }

    officer.send("/v1/periods/close", {"through": first}, key=None)
    closed = officer.send("/v1/periods/close", {"through": second}, key=None)
    again = officer.send("/v1/periods/close", {"through": first}, key=None)
    shown = officer.get("/v1/periods?limit=1").json()
    reopened = officer.send(
        "/v1/periods/reopen", {"through": first, "reason": "late invoices"}, key=None
    )
    opened = officer.send(
        "/v1/periods/reopen", {"through": None, "reason": "all of it"}, key=None
    )

    state = {"closed_before": midnight, "closed_through": second, "time_zone": "UTC"}
    assert (closed.status_code, closed.json()) == (200, state)
    assert (again.status_code, again.json()) == (200, state)
    assert {name: shown[name] for name in state} == state
    (change,) = shown["data"]
    assert change["action"] == "closed"
    assert change["closed_before"] == midnight
    assert change["closed_before_until_then"].startswith(days_ago(8).isoformat())
    assert change["actor"] == f"client:{officer.client.name}"
    assert change["request_id"] == closed["X-Request-ID"]
    rest = officer.get(f"/v1/periods?cursor={shown['next_cursor']}").json()
    assert [c["closed_before_until_then"] for c in rest["data"]] == [None]
    assert rest["next_cursor"] is None
    assert reopened.json()["closed_through"] == first
    assert opened.json()["closed_before"] is None
    actions = [
        (c["action"], c["reason"]) for c in officer.get("/v1/periods").json()["data"]
    ]
    assert actions == [
        ("reopened", "all of it"),
        ("reopened", "late invoices"),
        ("closed", None),
        ("closed", None),
    ]
    early = officer.get(f"/v1/periods?created_to={change['created_at']}").json()
    assert [c["action"] for c in early["data"]] == ["closed"]
    assert early["closed_before"] is None


def test_the_api_names_from_when_a_period_can_be_closed(officer):
    today = officer.send(
        "/v1/periods/close", {"through": now().date().isoformat()}, key=None
    )
    end = datetime.combine(now().date() + timedelta(days=1), datetime.min.time())

    document = problem(today)

    assert document["code"] == "period_not_over"
    assert document["closable_from"] == format_instant(
        end.replace(tzinfo=UTC) + timedelta(hours=1)
    )


def test_the_api_closes_up_to_an_instant_too(officer):
    instant = format_instant(now() - timedelta(hours=5))

    closed = officer.send("/v1/periods/close", {"before": instant}, key=None)

    assert closed.json()["closed_before"] == instant


def test_a_dry_run_of_a_closing_closes_nothing(officer):
    body = {"through": days_ago(2).isoformat(), "dry_run": True}

    answer = officer.send("/v1/periods/close", body, key=None)

    assert answer.json()["closed_through"] == days_ago(2).isoformat()
    assert answer.json()["dry_run"] is True
    assert officer.get("/v1/periods").json()["closed_before"] is None


def test_a_closing_with_a_key_is_replayed(officer):
    body = {"through": days_ago(2).isoformat()}

    first = officer.send("/v1/periods/close", body, key="close-1")
    officer.send("/v1/periods/reopen", {"through": None, "reason": "x"}, key=None)
    second = officer.send("/v1/periods/close", body, key="close-1")

    assert second.content == first.content
    assert second["Idempotent-Replayed"] == "true"
    assert officer.get("/v1/periods").json()["closed_before"] is None


def test_the_api_refuses_clients_without_the_permission(api):
    closing = api.send("/v1/periods/close", {"through": "2026-10-31"}, key=None)
    opening = api.send("/v1/periods/reopen", {"through": None, "reason": "x"}, key=None)

    assert problem(closing)["permission"] == "close_period"
    assert problem(opening)["permission"] == "reopen_period"
    assert "the permission close_period, which" in problem(closing)["detail"]
    assert api.get("/v1/periods").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        ("close", {}, {"through": "missing"}),
        ("close", {"through": None}, {"through": "missing"}),
        ("close", {"before": None}, {"through": "missing"}),
        ("close", {"through": "2026-02-30"}, {"through": "not_a_day"}),
        ("close", {"through": "20261031"}, {"through": "not_a_day"}),
        ("close", {"through": 20261031}, {"through": "not_a_text"}),
        ("close", {"before": "2026-10-31"}, {"before": "not_an_instant"}),
        (
            "close",
            {"through": "2026-10-31", "before": "2026-10-31T00:00:00Z"},
            {"through": "two_forms"},
        ),
        ("close", {"through": "2026-10-31", "x": 1}, {"x": "unknown_field"}),
        ("reopen", {"reason": "x"}, {"through": "missing"}),
        ("reopen", {"through": None}, {"reason": "missing"}),
        ("reopen", {"through": None, "reason": ""}, {"reason": "empty"}),
    ],
)
def test_bodies_out_of_form_are_refused_by_name(officer, path, body, wrong):
    assert field_codes(officer.send(f"/v1/periods/{path}", body, key=None)) == wrong


def test_a_transfer_into_a_closed_period_is_refused_by_the_api(officer):
    source, target = two_accounts(officer.ledger)
    officer.send("/v1/periods/close", {"through": days_ago(2).isoformat()}, key=None)
    body = {
        "from_account_id": str(source.id),
        "to_account_id": str(target.id),
        "amount": 1,
        "effective_at": format_instant(now() - timedelta(days=5)),
    }

    refused = officer.send("/v1/transfers", body)

    assert problem(refused)["code"] == "period_closed"
    assert fresh(target).posted == 0


# --- The commands --------------------------------------------------------------------


class Terminal(io.StringIO):
    """Somebody at a keyboard."""

    def isatty(self) -> bool:
        return True


def command(name: str, *arguments: str) -> tuple[str, str]:
    """What a command prints: its result, and what it says beside it."""
    out, err = io.StringIO(), io.StringIO()
    call_command(name, *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_commands_show_what_they_will_do_ask_and_do_it(shop, monkeypatch):
    ledger, *_ = shop
    slug = ("--ledger", ledger.slug)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))

    out, err = command("close_period", *slug, "--through", "2026-10-31")

    assert err.splitlines() == [
        f"Ledger {ledger.slug}, days by UTC.",
        "Now: Everything is open.",
        "To be closed: everything before 2026-11-01 00:00:00 UTC"
        " (2026-11-01T00:00:00.000000Z).",
        "Go on? [y/N] ",
    ]
    assert out == (
        "Closed is everything before 2026-11-01 00:00:00 UTC"
        " (2026-11-01T00:00:00.000000Z).\n"
    )
    (row,) = period_rows(ledger)
    assert row.actor == "command:close_period"

    out, _ = command(
        "reopen_period",
        *slug,
        "--through",
        "2026-09-30",
        "--reason",
        "late",
        "--yes",
        "--json",
    )
    assert json.loads(out) == {
        "ledger": ledger.slug,
        "closed_before": "2026-10-01T00:00:00.000000Z",
        "closed_through": "2026-09-30",
        "time_zone": "UTC",
    }
    out, _ = command("reopen_period", *slug, "--all", "--reason", "mistake", "--yes")
    assert out == "Everything is open.\n"
    assert [r.actor for r in period_rows(ledger)[1:]] == ["command:reopen_period"] * 2


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_a_command_that_is_declined_changes_nothing(shop, monkeypatch, answer):
    ledger, *_ = shop
    monkeypatch.setattr(sys, "stdin", Terminal(answer))

    with pytest.raises(CommandError, match=r"Nothing was changed\.") as caught:
        command("close_period", "--ledger", ledger.slug, "--through", "2026-10-31")

    assert caught.value.returncode == 1
    assert periods_get(ledger_id=ledger.id).closed_before is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--through", "2026-10-31"), "say --yes"),
        (("--through", "October", "--yes"), "takes a day as 2026-10-31"),
        (("--through", "2999-12-31", "--yes"), "can be closed from 3000-01-01T01:00"),
    ],
)
def test_a_command_that_cannot_close_says_why(shop, monkeypatch, arguments, message):
    ledger, *_ = shop
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    with pytest.raises(CommandError, match=message) as caught:
        command("close_period", "--ledger", ledger.slug, *arguments)

    assert caught.value.returncode == 1
    assert periods_get(ledger_id=ledger.id).closed_before is None


def test_a_command_for_a_ledger_that_is_not_there_says_so(committed_db):
    with pytest.raises(CommandError, match="There is no ledger 'nowhere'"):
        command("close_period", "--ledger", "nowhere", "--through", "2026-10-31")
    with transaction_owner():
        slug = LedgerFactory().slug
    with pytest.raises(CommandError, match="must not be empty"):
        command("reopen_period", "--ledger", slug, "--all", "--reason", " ")
