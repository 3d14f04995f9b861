"""What the back office shows of holds, limits, reversals, schedules and settings."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

from ledger.enums import Permission, ReversalReason, ScheduledStatus
from ledger.models import Account, Change, Hold, HoldEvent, ScheduledTransfer, Transfer
from ledger.services.account_status import account_freeze
from ledger.services.assets import AssetRequest, asset_create
from ledger.services.clients import client_set_permissions
from ledger.services.ledgers import ledger_update
from ledger.services.operations import operation_run
from ledger.services.periods import period_close
from ledger.services.reversals import ReversalRequest, transfer_reverse
from ledger.services.scheduled import (
    ScheduleRequest,
    scheduled_cancel,
    scheduled_create,
    scheduled_post,
)
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    ApiClientFactory,
    LedgerFactory,
    move,
)
from ledger.tests.holds import capture, extend, lapse, place, void
from ledger.tests.limits import BOSS, limit
from ledger.types import HoldRequest, PostedTransfer, PostingRequest
from outbox.models import OutboxTask
from payflow.clock import now

pytestmark = pytest.mark.django_db


@pytest.fixture
def finance(client: Client) -> Client:
    """A client that is logged in as staff of the Finance group."""
    user = User.objects.create_user("fin", password="secret", is_staff=True)
    user.groups.add(Group.objects.get(name="Finance"))
    client.force_login(user)
    return client


def page(client: Client, name: str, *args: Any, **query: Any) -> Any:
    """A page that answers 200."""
    response = client.get(reverse(f"admin:{name}", args=args), query)
    assert response.status_code == 200
    return response


def table(response: Any, title: str) -> Any:
    """The table of a page whose title begins so."""
    (found,) = [t for t in response.context["tables"] if t.title.startswith(title)]
    return found


def url(name: str, row: Any) -> str:
    """The address of an object's page."""
    return reverse(f"admin:ledger_{name}_change", args=[row.id])


def make_pair(**fields: Any) -> tuple[Account, Account]:
    """A funded account and another one in its ledger."""
    ledger = LedgerFactory()
    source = AccountFactory(ledger=ledger, balance=100_000, reference="ada", **fields)
    return source, AccountFactory(ledger=ledger, reference="hotel", **fields)


def status_in_list(client: Client, **query: Any) -> list[Any]:
    """The ids of the holds on a page of their list."""
    response = page(client, "ledger_hold_changelist", **query)
    return [row.id for row in response.context["cl"].result_list]


# --- Holds ------------------------------------------------------------------------


def test_a_hold_shows_what_became_of_what_it_held(finance: Client) -> None:
    source, target = make_pair()
    hold = place(source, target, 48_000, reference="booking", description="Two nights")
    captured = capture(hold, 20_000)
    assert isinstance(captured, PostedTransfer)
    extend(hold, hold.row.expires_at + timedelta(days=1))
    void(hold, "guest left")

    response = page(finance, "ledger_hold_change", hold.id)

    text = response.content.decode()
    assert "Voided" in text
    assert "guest left" in text
    ((number, _, _, *figures),) = table(response, "Postings").rows
    assert number == 1
    for figure, wanted in zip(
        figures, ("480.00", "0.00", "200.00", "280.00", "480.00"), strict=True
    ):
        assert f">{wanted} USD<" in figure
    events = table(response, "What happened").rows
    assert ["Voided" in row[1] for row in events] == [True, False, False, False]
    assert [bool("200.00" in row[2]) for row in events] == [False, False, True, False]
    assert url("transfer", captured) in events[2][4]
    assert all(row[6] == ACTOR.label for row in events)
    for account in (source, target):
        assert url("account", account) in text
    assert len(table(response, "Outbox tasks").rows) == 4


def test_a_hold_is_found_from_an_outbox_task(finance: Client) -> None:
    source, target = make_pair()
    hold = place(source, target, 1_000)
    place(source, target, 2_000)
    task = OutboxTask.objects.get(
        ledger_id=source.ledger_id,
        hold_event_id=HoldEvent.objects.get(hold_id=hold.id).id,
    )

    text = page(finance, "outbox_outboxtask_change", task.id).content.decode()
    found = status_in_list(finance, q=task.hold_event_id)

    assert f"q={task.hold_event_id}" in text
    assert found == [hold.id]


def test_a_lapsed_hold_shows_as_expired_before_any_sweep(finance: Client) -> None:
    source, target = make_pair()
    active, lapsed = place(source, target, 1_000), place(source, target, 2_000)
    lapse(lapsed)
    assert Hold.objects.get(ledger_id=source.ledger_id, id=lapsed.id).status == "active"

    response = page(finance, "ledger_hold_change", lapsed.id)
    account = page(finance, "ledger_account_change", source.id).content.decode()
    accounts = page(
        finance, "ledger_account_changelist", ledger=source.ledger_id
    ).content.decode()

    assert "Expired" in response.content.decode()
    assert "not swept yet" in response.content.decode()
    ((*_, held, _, released, _),) = table(response, "Postings").rows
    assert "0.00 USD" in held
    assert "20.00 USD" in released
    assert status_in_list(finance, status="active") == [active.id]
    assert status_in_list(finance, status="expired") == [lapsed.id]
    assert status_in_list(finance) == [lapsed.id, active.id]
    for text in (account, accounts):
        assert "990.00 USD" in text
        assert "970.00 USD" not in text


def test_a_list_of_holds_sums_by_currency(finance: Client) -> None:
    ledger = LedgerFactory()
    usd = [AccountFactory(ledger=ledger, balance=9_000) for _ in range(2)]
    jpy = [AccountFactory(ledger=ledger, balance=9_000, currency="JPY") for _ in "ab"]
    operation_run(
        ledger_id=ledger.id,
        request=HoldRequest(
            (
                PostingRequest(usd[0].id, usd[1].id, 1_250),
                PostingRequest(jpy[0].id, jpy[1].id, 700),
                PostingRequest(usd[1].id, usd[0].id, 250),
            )
        ),
        actor=ACTOR,
        now=now(),
    )

    text = page(finance, "ledger_hold_changelist", ledger=ledger.id).content.decode()

    assert "15.00 USD" in text
    assert "700 JPY" in text
    assert "and 2 more" in text


def test_an_account_shows_the_open_holds_that_explain_what_is_pending(
    finance: Client,
) -> None:
    source, target = make_pair()
    outgoing = place(source, target, 1_000, lifetime=timedelta(days=2))
    move(source, target, 5_000)
    incoming = place(target, source, 3_000, lifetime=timedelta(days=1))
    void(place(source, target, 77))

    response = page(finance, "ledger_account_change", source.id)

    rows = table(response, "Open holds").rows
    assert [(row[4] != "", row[5] != "") for row in rows] == [
        (True, False),
        (False, True),
    ]
    assert "30.00 USD" in rows[0][4]
    assert "10.00 USD" in rows[1][5]
    found = status_in_list(finance, account=source.id)
    assert found == [incoming.id, outgoing.id]


@pytest.mark.parametrize("most", [1, 1_000])
def test_open_holds_of_an_account_are_all_found(
    finance: Client, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("payflow.admin.bounds.MAX_MATCHES", most)
    monkeypatch.setattr("ledger.admin.holds.MAX_MATCHES", most)
    source, target = make_pair()
    wanted = [place(source, target, 1 + n).id for n in range(4)]
    void(place(source, target, 9))
    other = AccountFactory(ledger=source.ledger, balance=50)
    place(other, AccountFactory(ledger=source.ledger), 5)

    found = status_in_list(finance, account=source.id)

    assert found == wanted[::-1]


# --- Transfers --------------------------------------------------------------------


def test_a_transfer_shows_what_is_reversed_and_by_what(finance: Client) -> None:
    source, target = make_pair()
    original = move(source, target, 7_490)
    assert isinstance(original, PostedTransfer)
    move(target, source, 6_490)
    first = transfer_reverse(
        ledger_id=source.ledger_id,
        request=ReversalRequest(
            original.id, ReversalReason.CUSTOMER_REQUEST, parts={1: 490}
        ),
        actor=ACTOR,
        now=now(),
    )
    forced = transfer_reverse(
        ledger_id=source.ledger_id,
        request=ReversalRequest(
            original.id, ReversalReason.FRAUD, parts={1: 2_000}, is_forced=True
        ),
        actor=BOSS,
        now=now(),
    )
    assert isinstance(first, PostedTransfer)
    assert isinstance(forced, PostedTransfer)

    forth = page(finance, "ledger_transfer_change", original.id)
    back = page(finance, "ledger_transfer_change", forced.id)

    ((*_, amount, gone, left),) = table(forth, "Postings").rows
    for cell, wanted in ((amount, "74.90"), (gone, "24.90"), (left, "50.00")):
        assert f">{wanted} USD<" in cell
    reversals = table(forth, "Reversed by").rows
    assert [row[3] for row in reversals] == ["Customer request", "Fraud"]
    assert ["Force reversals" in row[4] for row in reversals] == [False, True]
    assert url("transfer", first) in reversals[0][0]
    text = back.content.decode()
    assert "Force reversals beyond what is available" in text
    assert "Fraud" in text
    assert url("transfer", original) in text
    assert "Reversible" not in text


def test_a_capture_links_to_its_hold_and_others_show_no_such_field(
    finance: Client,
) -> None:
    source, target = make_pair()
    hold = place(source, target, 4_000, reference="booking-1")
    captured = capture(hold, 1_000)
    assert isinstance(captured, PostedTransfer)
    plain = move(source, target, 5)
    assert isinstance(plain, PostedTransfer)

    capture_page = page(finance, "ledger_transfer_change", captured.id)
    plain_page = page(finance, "ledger_transfer_change", plain.id)

    assert url("hold", hold) in capture_page.content.decode()
    assert "booking-1" in capture_page.content.decode()
    for label in ("Captures hold", "Reason:", "Exchange rate", "Permission used:"):
        assert label not in plain_page.content.decode()


# --- Limits -----------------------------------------------------------------------


def test_an_account_shows_its_limits_and_what_is_left(finance: Client) -> None:
    source, target = make_pair()
    limit(source, ("out", "day", 5_000, 2), ("in", "rolling_day", 900_000, None))
    move(source, target, 1_000)
    move(source, target, 500)

    response = page(finance, "ledger_account_change", source.id)
    usage = page(finance, "ledger_usage_changelist", account=source.id)

    rows = table(response, "Velocity limits").rows
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("In", "24 h", "amount"),
        ("Out", "day", "amount"),
        ("Out", "day", "times"),
    ]
    for cell, wanted in zip(rows[1][3:6], ("50.00", "15.00", "35.00"), strict=True):
        assert f">{wanted} USD<" in cell
    assert rows[2][3:5] == ("2", "2")
    assert "used up" in rows[2][5]
    text = usage.content.decode()
    for amount in ("10.00 USD", "5.00 USD", "15.00 USD"):
        assert f">{amount}<" in text


def test_an_account_without_limits_or_holds_has_no_empty_tables(
    finance: Client,
) -> None:
    source, _ = make_pair()

    response = page(finance, "ledger_account_change", source.id)

    titles = [table.title for table in response.context["tables"]]
    assert titles == ["Latest entries", "Latest changes"]


# --- Changes ----------------------------------------------------------------------


def test_the_history_of_an_account_says_why_it_was_frozen(finance: Client) -> None:
    source, _ = make_pair()
    limit(source, min_balance=-50_000)
    account_freeze(
        ledger_id=source.ledger_id,
        account_id=source.id,
        reason="card stolen",
        actor=BOSS,
    )
    frozen, floor = Change.objects.filter(account_id=source.id).order_by("-id")[:2]

    account = page(finance, "ledger_account_change", source.id)
    changes = page(finance, "ledger_change_changelist", account=source.id)
    floor_page = page(finance, "ledger_change_change", floor.id)

    latest = table(account, "Latest changes").rows[0]
    assert url("change", frozen) in latest[0]
    assert latest[1] == "status"
    assert "Frozen" in latest[2]
    assert tuple(latest[3:]) == ("card stolen", "boss")
    assert "card stolen" in changes.content.decode()
    values = {row[0]: row[1:] for row in table(floor_page, "Values").rows}
    assert "0.00 USD" in values["min balance"][0]
    assert "-500.00 USD" in values["min balance"][1]


# --- Ledgers, clients, assets -----------------------------------------------------


def test_a_ledger_shows_its_closed_period_and_settings_in_words(
    finance: Client,
) -> None:
    ledger = LedgerFactory(time_zone="Europe/Berlin")
    ledger_update(
        slug=ledger.slug,
        changes={
            "hold_default_lifetime_seconds": 36 * 3_600,
            "hold_over_capture_basis_points": 1_250,
        },
        actor=ACTOR,
    )
    day = (now() - timedelta(days=3)).date()
    period_close(ledger_id=ledger.id, end=day, actor=BOSS)

    text = page(finance, "ledger_ledger_change", ledger.id).content.decode()

    assert "1 day 12 hours" in text
    assert "31 days" in text
    assert "12.5%" in text
    assert day.isoformat() in text
    assert "in Europe/Berlin" in text
    setting = Change.objects.filter(ledger_id=ledger.id).order_by("-id")[1]
    values = table(page(finance, "ledger_change_change", setting.id), "Values").rows
    assert ("hold default lifetime", "7 days", "1 day 12 hours") in values
    assert ("hold over capture", "0%", "12.5%") in values


def test_a_client_shows_its_permissions(finance: Client) -> None:
    client = ApiClientFactory()
    client_set_permissions(
        ledger_id=client.ledger_id,
        client_id=client.id,
        permissions=[Permission.FORCE_REVERSAL],
        actor=ACTOR,
    )

    for response in (
        page(finance, "ledger_apiclient_changelist", ledger=client.ledger_id),
        page(finance, "ledger_apiclient_change", client.id),
    ):
        assert "Force reversals beyond what is available" in response.content.decode()


def test_assets_are_listed_by_code_with_their_decimals(finance: Client) -> None:
    ledger = LedgerFactory()
    for code, exponent in (("ZPTS", 0), ("GOLDG", 4)):
        asset_create(
            ledger_id=ledger.id,
            request=AssetRequest(code, code.lower(), exponent),
            actor=ACTOR,
        )

    response = page(finance, "ledger_asset_changelist", ledger=ledger.id)

    codes = [row.code for row in response.context["cl"].result_list]
    assert codes == ["GOLDG", "ZPTS"]
    assert "1.0000 GOLDG" in response.content.decode()
    assert "1 ZPTS" in response.content.decode()


# --- Scheduled transfers ----------------------------------------------------------


def schedule(source: Account, target: Account, amount: int) -> ScheduledTransfer:
    """A transfer that is to be posted tomorrow, and can be tried again."""
    due_at = now() + timedelta(days=1)
    made = scheduled_create(
        ledger_id=source.ledger_id,
        request=ScheduleRequest(
            postings=(PostingRequest(source.id, target.id, amount),),
            due_at=due_at,
            retry_until=due_at + timedelta(days=1),
        ),
        actor=ACTOR,
        now=now(),
    )
    assert isinstance(made, ScheduledTransfer)
    return made


def post_now(row: ScheduledTransfer) -> None:
    """Lets its time come, and posts it."""
    ScheduledTransfer.objects.filter(ledger_id=row.ledger_id, id=row.id).update(
        next_attempt_at=now() - timedelta(minutes=1)
    )
    assert scheduled_post(ledger_id=row.ledger_id, scheduled_id=row.id)
    row.refresh_from_db()


def test_scheduled_transfers_show_what_became_of_them(finance: Client) -> None:
    source, target = make_pair()
    waiting, posted, refused, cancelled = (
        schedule(source, target, amount) for amount in (100, 200, 500_000, 300)
    )
    post_now(posted)
    post_now(refused)
    scheduled_cancel(
        ledger_id=source.ledger_id,
        scheduled_id=cancelled.id,
        reason="asked by phone",
        actor=ACTOR,
    )

    books = {"ledger": source.ledger_id}
    response = page(finance, "ledger_scheduledtransfer_changelist", **books)
    due = page(
        finance, "ledger_scheduledtransfer_changelist", status="scheduled", **books
    )
    pages = {
        row.id: page(finance, "ledger_scheduledtransfer_change", row.id)
        for row in (waiting, posted, refused, cancelled)
    }

    listed = response.content.decode()
    for text in ("2.00 USD", "5,000.00 USD", "Posted", "Cancelled"):
        assert text in listed
    assert {row.id for row in due.context["cl"].result_list} == {waiting.id, refused.id}
    transfer = Transfer.objects.get(id=posted.transfer_id)
    assert url("transfer", transfer) in pages[posted.id].content.decode()
    assert "asked by phone" in pages[cancelled.id].content.decode()
    why = dict(table(pages[refused.id], "Why it was refused").rows)
    assert "998.00 USD" in why["available"]
    assert "5,000.00 USD" in why["required"]
    assert url("account", source) in why["account"]
    assert "insufficient_funds" in pages[refused.id].content.decode()
    of_transfer = page(finance, "ledger_transfer_change", transfer.id)
    assert url("scheduledtransfer", posted) in of_transfer.content.decode()
    assert refused.status == ScheduledStatus.SCHEDULED


# --- Other ledgers, and writing ---------------------------------------------------


def test_lists_show_no_other_ledgers_objects(finance: Client) -> None:
    mine, theirs = make_pair(), make_pair()
    for source, target in (mine, theirs):
        place(source, target, 10)
        schedule(source, target, 10)
        limit(source, ("out", "day", 50_000, None))
        move(source, target, 10)
        asset_create(
            ledger_id=source.ledger_id,
            request=AssetRequest("PTS", "Points", 0),
            actor=ACTOR,
        )

    for name in ("hold", "scheduledtransfer", "usage", "asset"):
        chosen = {"ledger": mine[0].ledger_id}
        response = page(finance, f"ledger_{name}_changelist", **chosen)
        rows = response.context["cl"].result_list
        assert {row.ledger_id for row in rows} == {mine[0].ledger_id}
        other = {"ledger": theirs[0].ledger_id}
        change = reverse(f"admin:ledger_{name}_change", args=[rows[0].id])
        assert finance.get(change, other).status_code == 302
        assert finance.post(change, {"status": "voided"}).status_code == 403
