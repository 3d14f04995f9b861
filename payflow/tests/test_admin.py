"""The back office: who may look, that nobody writes, and what the pages show."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.db.models.functions import Now
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from psycopg.types.json import Jsonb

from idempotency.models import IdempotencyKey
from ledger.models import (
    Account,
    AuditRun,
    Change,
    Entry,
    Hold,
    ScheduledTransfer,
    Transfer,
    Usage,
)
from ledger.services.accounts import account_update
from ledger.services.assets import AssetRequest, asset_create
from ledger.services.clients import api_key_create
from ledger.services.integrity import integrity_refresh
from ledger.services.reversals import payout_give_back
from ledger.services.scheduled import ScheduleRequest, scheduled_create
from ledger.tests.factories import (
    ACTOR,
    AccountFactory,
    ApiClientFactory,
    LedgerFactory,
    move,
)
from ledger.tests.holds import place
from ledger.tests.limits import limit
from ledger.types import PostedTransfer, PostingRequest
from outbox.models import OutboxTask
from outbox.tests.factories import make_attempt
from payflow.admin.read_only import ReadOnlyModelAdmin
from payflow.clock import now
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

READ_ONLY = sorted(
    f"{model._meta.app_label}.{model._meta.model_name}"
    for model, model_admin in admin.site._registry.items()
    if isinstance(model_admin, ReadOnlyModelAdmin)
)


@pytest.fixture
def superuser(client: Client) -> Client:
    """A client that is logged in as a superuser."""
    client.force_login(User.objects.create_superuser("root", "", "secret"))
    return client


@pytest.fixture
def finance(client: Client) -> Client:
    """A client that is logged in as staff of the Finance group."""
    user = User.objects.create_user("fin", password="secret", is_staff=True)
    user.groups.add(Group.objects.get(name="Finance"))
    client.force_login(user)
    return client


def make_books() -> SimpleNamespace:
    """One row at least of everything that the back office shows."""
    ledger = LedgerFactory(slug="acme", name="Acme")
    source = AccountFactory(
        ledger=ledger,
        balance=1_234_567,
        reference="cust-1",
        owner_name="Ada Ånders",
        metadata={"tier": "gold", "note": "<script>alert(1)</script>"},
    )
    payout = AccountFactory(
        ledger=ledger, reference="bank-1", payout_destination="DE02100100100006820101"
    )
    limit(source, ("out", "day", 5_000_000, 10_000))
    posted = move(source, payout, 250_050, reference="inv-1", description="Rent")
    assert isinstance(posted, PostedTransfer)
    account_update(
        ledger_id=ledger.id,
        account_id=source.id,
        changes={"owner_name": "Ada Berg"},
        actor=ACTOR,
    )
    hold = place(source, payout, 70_707, reference="hold-1", description="Hotel")
    scheduled = make_scheduled(source, payout, 80_808, reference="rent-2")
    asset = asset_create(
        ledger_id=ledger.id,
        request=AssetRequest(code="PTS", name="Loyalty points", exponent=3),
        actor=ACTOR,
    )
    api_client = ApiClientFactory(ledger=ledger, name="shop")
    token = api_key_create(client=api_client, lifetime=timedelta(days=30))
    key = make_key(ledger_id=ledger.id, client_id=api_client.id, resource=posted.id)
    run = AuditRun.objects.create(
        started_at=Now(),
        finished_at=Now(),
        is_sound=True,
        difference=0,
        counts={"entries": 4},
        findings=[],
    )
    task = OutboxTask.objects.get(ledger_id=ledger.id, kind="payout")
    make_attempt(task)
    return SimpleNamespace(
        ledger=ledger,
        account=source,
        payout=payout,
        transfer=Transfer.objects.get(ledger_id=ledger.id, id=posted.id),
        entry=Entry.objects.get(
            ledger_id=ledger.id, transfer_id=posted.id, direction="debit"
        ),
        change=Change.objects.filter(ledger_id=ledger.id, account_id=source.id).latest(
            "id"
        ),
        hold=Hold.objects.get(ledger_id=ledger.id, id=hold.id),
        scheduledtransfer=scheduled,
        asset=asset,
        usage=Usage.objects.filter(ledger_id=ledger.id).latest("id"),
        apiclient=api_client,
        token=token,
        idempotencykey=key,
        auditrun=run,
        outboxtask=task,
    )


def make_scheduled(
    source: Account, target: Account, amount: int, **fields: Any
) -> ScheduledTransfer:
    """A transfer of one posting that is due tomorrow."""
    scheduled = scheduled_create(
        ledger_id=source.ledger_id,
        request=ScheduleRequest(
            postings=(PostingRequest(source.id, target.id, amount),),
            due_at=now() + timedelta(days=1),
            **fields,
        ),
        actor=ACTOR,
        now=now(),
    )
    assert isinstance(scheduled, ScheduledTransfer)
    return scheduled


def make_key(*, ledger_id: Any, client_id: Any, resource: Any) -> IdempotencyKey:
    """A finished key, inserted as the claim inserts it."""
    id_ = new_id()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO idempotency_key (ledger_id, id, client_id, key, operation,"
            " digests, status, resource_type, resource_id, response_headers,"
            " response_body) VALUES (%s, %s, %s, %s, 'transfer_create', %s, 201,"
            " 'transfer', %s, %s, %s)",
            [
                ledger_id,
                id_,
                client_id,
                f"order-{id_}",
                Jsonb({"amount": "00"}),
                resource,
                Jsonb({"Location": "/v1/transfers/1"}),
                b'{"description":"R\xc3\xa4nt","amount":250050}',
            ],
        )
    return IdempotencyKey.objects.get(ledger_id=ledger_id, id=id_)


def model_urls(model: str, object_id: Any) -> dict[str, str]:
    """Every address that the admin has for a model."""
    name = model.replace(".", "_")
    return {
        "changelist": reverse(f"admin:{name}_changelist"),
        "add": reverse(f"admin:{name}_add"),
        "change": reverse(f"admin:{name}_change", args=[object_id]),
        "delete": reverse(f"admin:{name}_delete", args=[object_id]),
        "history": reverse(f"admin:{name}_history", args=[object_id]),
    }


def page(client: Client, name: str, *args: Any, **query: Any) -> str:
    """The text of a page that answers 200."""
    response = client.get(reverse(f"admin:{name}", args=args), query)
    assert response.status_code == 200
    return str(response.content.decode())


def all_rows() -> dict[str, int]:
    """How many rows the tables of every registered model have."""
    models = [m for m, a in admin.site._registry.items() if m._meta.app_label != "auth"]
    return {model.__name__: model._default_manager.count() for model in models}


def test_every_model_of_the_books_is_registered_and_read_only() -> None:
    assert READ_ONLY == [
        "idempotency.idempotencykey",
        "ledger.account",
        "ledger.apiclient",
        "ledger.asset",
        "ledger.auditrun",
        "ledger.change",
        "ledger.entry",
        "ledger.hold",
        "ledger.ledger",
        "ledger.scheduledtransfer",
        "ledger.transfer",
        "ledger.usage",
        "outbox.outboxtask",
    ]


def test_every_other_model_is_shown_on_the_page_of_another() -> None:
    labels = ("ledger", "outbox", "idempotency")
    models = {model._meta.label_lower for model in apps.get_models()}

    shown = {model for model in models if model.partition(".")[0] in labels}

    assert shown - set(READ_ONLY) == {
        "ledger.apikey",
        "ledger.holdevent",
        "ledger.holdposting",
        "ledger.integritystatus",
        "ledger.reversaltotal",
        "ledger.velocitylimit",
        "outbox.outboxattempt",
        "outbox.outboxattemptoutcome",
    }


@pytest.mark.parametrize("model", READ_ONLY)
@pytest.mark.parametrize("who", ["superuser", "finance"])
def test_nobody_writes_by_any_url(
    model: str, who: str, request: pytest.FixtureRequest
) -> None:
    client: Client = request.getfixturevalue(who)
    books = make_books()
    row = getattr(books, model.rpartition(".")[2])
    urls = model_urls(model, row.pk)
    before = all_rows()
    values = {field.name: "1" for field in row._meta.concrete_fields}
    action = {"action": "delete_selected", "_selected_action": str(row.pk)}
    posts = [
        (urls["add"], values),
        (urls["change"], values),
        (urls["change"], {**values, "_saveasnew": "1"}),
        (urls["delete"], {"post": "yes"}),
        (urls["history"], values),
        (urls["changelist"], {**action, "index": "0"}),
        (urls["changelist"], {**action, "post": "yes"}),
        (urls["changelist"], {"_save": "1", "form-0-id": str(row.pk)}),
    ]

    statuses = [client.post(url, data).status_code for url, data in posts]
    gets = [client.get(urls[name]).status_code for name in ("add", "delete", "history")]

    assert statuses == [403] * len(posts)
    assert gets == [403, 403, 403]
    assert all_rows() == before
    assert type(row)._default_manager.filter(pk=row.pk).exists()


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_other_methods_are_refused_too(superuser: Client, method: str) -> None:
    books = make_books()
    urls = model_urls("ledger.account", books.account.id)

    statuses = [
        getattr(superuser, method)(urls[name]).status_code
        for name in ("changelist", "change")
    ]

    assert statuses == [403, 403]


@pytest.mark.parametrize("model", READ_ONLY)
def test_hooks_that_would_write_refuse(model: str, rf: RequestFactory) -> None:
    registered = {a.opts.label_lower: a for a in admin.site._registry.values()}
    model_admin: Any = registered[model]
    request = rf.get("/")
    request.user = User(is_superuser=True, is_staff=True, is_active=True)

    for call in (
        lambda: model_admin.save_model(request, None, None, False),
        lambda: model_admin.save_related(request, None, [], True),
        lambda: model_admin.save_formset(request, None, None, True),
        lambda: model_admin.delete_model(request, None),
        lambda: model_admin.delete_queryset(request, None),
    ):
        with pytest.raises(PermissionDenied):
            call()

    assert not model_admin.get_actions(request)
    assert model_admin.get_model_perms(request) == {
        "add": False,
        "change": False,
        "delete": False,
        "view": True,
    }


@pytest.mark.parametrize("model", READ_ONLY)
def test_finance_sees_lists_and_objects(finance: Client, model: str) -> None:
    books = make_books()
    row = getattr(books, model.rpartition(".")[2])
    urls = model_urls(model, row.pk)

    responses = [finance.get(urls["changelist"]), finance.get(urls["change"])]

    assert [response.status_code for response in responses] == [200, 200]
    for response in responses:
        text = response.content.decode()
        assert 'method="post" id="changelist-form"' not in text
        assert "addlink" not in text
        assert "deletelink" not in text
        assert 'name="_save"' not in text
        assert 'name="action"' not in text


@pytest.mark.parametrize("model", READ_ONLY)
def test_staff_without_permissions_see_nothing(client: Client, model: str) -> None:
    client.force_login(User.objects.create_user("new", password="x", is_staff=True))
    books = make_books()
    row = getattr(books, model.rpartition(".")[2])
    urls = model_urls(model, row.pk)

    statuses = {name: client.get(url).status_code for name, url in urls.items()}
    index = page(client, "index")

    assert set(statuses.values()) == {403}
    assert "figure" not in index.replace("figures", "figure").partition("<body")[2]
    assert "/admin/ledger/" not in index


def test_a_change_permission_alone_shows_nothing(client: Client) -> None:
    from django.contrib.auth.models import Permission

    user = User.objects.create_user("editor", password="x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="change_account"))
    client.force_login(user)
    books = make_books()

    urls = model_urls("ledger.account", books.account.id)

    assert client.get(urls["changelist"]).status_code == 403
    assert client.post(urls["change"], {"owner_name": "x"}).status_code == 403


def test_users_and_groups_stay_editable(superuser: Client) -> None:
    response = superuser.post(
        reverse("admin:auth_group_add"), {"name": "Auditors", "permissions": []}
    )

    assert response.status_code == 302
    assert Group.objects.filter(name="Auditors").exists()


def test_money_is_shown_with_currency_and_separators(finance: Client) -> None:
    books = make_books()

    accounts = page(finance, "ledger_account_changelist")
    account = page(finance, "ledger_account_change", books.account.id)
    entries = page(finance, "ledger_entry_changelist")
    transfers = page(finance, "ledger_transfer_changelist")
    transfer = page(finance, "ledger_transfer_change", books.transfer.id)
    task = page(finance, "outbox_outboxtask_change", books.outboxtask.id)

    assert "9,845.17 USD" in accounts
    assert '<span class="money negative">-12,345.67 USD</span>' in accounts
    assert '<span class="money zero">0.00 USD</span>' in accounts
    assert "9,845.17 USD" in account
    for text in (account, entries, transfers, transfer, task):
        assert "2,500.50 USD" in text
    for text in (accounts, account, entries, transfers, transfer, task):
        assert "250050" not in text
        assert "1234567" not in text


def test_a_currency_without_decimals_is_shown_whole(finance: Client) -> None:
    ledger = LedgerFactory()
    AccountFactory(ledger=ledger, currency="JPY", balance=1_234_567)

    text = page(finance, "ledger_account_changelist")

    assert "1,234,567 JPY" in text


def test_a_transfer_shows_its_entries_and_tasks(finance: Client) -> None:
    books = make_books()

    text = page(finance, "ledger_transfer_change", books.transfer.id)

    for header in ("Debit", "Credit", "Balance after", "Outbox tasks"):
        assert header in text
    for name, row in (
        ("ledger_account", books.account),
        ("ledger_account", books.payout),
        ("ledger_entry", books.entry),
        ("outbox_outboxtask", books.outboxtask),
    ):
        assert reverse(f"admin:{name}_change", args=[row.id]) in text
    assert "DE02100100100006820101" in text
    assert text.count("Transfer Posted") == 1


def test_pages_link_to_each_other(finance: Client) -> None:
    books = make_books()
    account = reverse("admin:ledger_account_change", args=[books.account.id])
    payout = reverse("admin:ledger_account_change", args=[books.payout.id])
    transfer = reverse("admin:ledger_transfer_change", args=[books.transfer.id])

    entry_page = page(finance, "ledger_entry_change", books.entry.id)
    account_page = page(finance, "ledger_account_change", books.account.id)
    task_page = page(finance, "outbox_outboxtask_change", books.outboxtask.id)
    key_page = page(
        finance, "idempotency_idempotencykey_change", books.idempotencykey.id
    )
    change_page = page(finance, "ledger_change_change", books.change.id)

    assert account in entry_page
    assert transfer in entry_page
    assert transfer in account_page
    assert f"account={books.account.id}" in account_page
    assert transfer in task_page
    assert payout in task_page
    assert transfer in key_page
    assert account in change_page


def test_a_reversal_and_its_transfer_link_to_each_other(finance: Client) -> None:
    books = make_books()
    reversal = payout_give_back(
        task=books.outboxtask,
        description="rejected",
        metadata={},
        actor=ACTOR,
        now=now(),
    )
    assert isinstance(reversal, PostedTransfer)

    forth = page(finance, "ledger_transfer_change", books.transfer.id)
    back = page(finance, "ledger_transfer_change", reversal.id)

    assert "Reversed by" in forth
    assert reverse("admin:ledger_transfer_change", args=[reversal.id]) in forth
    assert reverse("admin:ledger_transfer_change", args=[books.transfer.id]) in back


def test_a_client_shows_its_keys_and_no_secret(finance: Client) -> None:
    books = make_books()

    with CaptureQueriesContext(connection) as queries:
        text = page(finance, "ledger_apiclient_change", books.apiclient.id)

    assert f"…{books.token[-4:]}" in text
    assert "Valid" in text
    assert books.token not in text
    assert not any("secret_hash" in query["sql"] for query in queries)


def test_a_task_shows_its_attempts(finance: Client) -> None:
    books = make_books()

    text = page(finance, "outbox_outboxtask_change", books.outboxtask.id)

    assert "no outcome known" in text
    assert "Send" in text


def test_a_stored_response_is_readable(finance: Client) -> None:
    books = make_books()

    text = page(finance, "idempotency_idempotencykey_change", books.idempotencykey.id)

    assert "&quot;description&quot;: &quot;Ränt&quot;" in text
    assert "&quot;Location&quot;" in text


def test_json_is_indented_escaped_and_left_out_of_lists(finance: Client) -> None:
    books = make_books()

    detail = page(finance, "ledger_account_change", books.account.id)
    with CaptureQueriesContext(connection) as queries:
        for name in READ_ONLY:
            page(finance, f"{name.replace('.', '_')}_changelist")

    assert "&quot;tier&quot;: &quot;gold&quot;" in detail
    assert "<script>alert(1)" not in detail
    for query in queries:
        for column in ("metadata", "digests", "response_body", "findings", '"old"'):
            assert column not in query["sql"]


def test_a_change_shows_both_values_until_they_are_erased(finance: Client) -> None:
    books = make_books()

    text = page(finance, "ledger_change_change", books.change.id)

    assert "Ada Ånders" in text
    assert "Ada Berg" in text
    assert ACTOR.label in text


def test_the_index_tells_whether_all_is_well(finance: Client) -> None:
    books = make_books()
    integrity_refresh()

    with CaptureQueriesContext(connection) as queries:
        text = page(finance, "index")

    for word in ("Ledger integrity", "Healthy", "Last audit", "Sound", "in flight"):
        assert word in text
    assert "Payouts needing attention" in text
    assert f"?state=live&amp;ledger={books.ledger.id}" in text
    assert len(queries) <= 13


def test_an_unsound_audit_stands_out(finance: Client) -> None:
    AuditRun.objects.create(
        started_at=Now(),
        finished_at=Now(),
        is_sound=False,
        difference=5,
        counts={},
        findings=[{"code": "chain", "account_id": "x"}],
    )

    index = page(finance, "index")
    run = page(finance, "ledger_auditrun_change", AuditRun.objects.get().id)

    assert "Broken: 1 found" in index
    assert "&quot;code&quot;: &quot;chain&quot;" in run


@pytest.mark.parametrize("model", READ_ONLY)
def test_empty_tables_have_pages(finance: Client, model: str) -> None:
    text = page(finance, f"{model.replace('.', '_')}_changelist")

    assert "Nothing here" in text


@pytest.mark.parametrize(
    "object_id", ["x", "1", "00000000-0000-0000-0000-0000000000ff"]
)
@pytest.mark.parametrize("model", READ_ONLY)
def test_an_unknown_id_leads_back_to_the_index(
    finance: Client, model: str, object_id: str
) -> None:
    response = finance.get(model_urls(model, object_id)["change"])

    assert response.status_code == 302
    assert response["Location"] == reverse("admin:index")


def test_an_id_that_two_ledgers_share_opens_the_right_row(finance: Client) -> None:
    shared = new_id()
    first, second = LedgerFactory(), LedgerFactory()
    AccountFactory(ledger=first, id=shared, owner_name="First Owner")
    AccountFactory(ledger=second, id=shared, owner_name="Second Owner")

    for ledger, owner in ((first, "First Owner"), (second, "Second Owner")):
        text = page(finance, "ledger_account_change", shared, ledger=ledger.id)
        assert owner in text

    assert Account.objects.filter(id=shared).count() == 2


def test_long_texts_are_cut_in_lists(finance: Client) -> None:
    ledger = LedgerFactory()
    AccountFactory(ledger=ledger, owner_name="x" * 5_000)

    text = page(finance, "ledger_account_changelist")

    assert "x" * 1_001 not in text
