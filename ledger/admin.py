"""The books in the back office: everything is shown and linked, nothing is written."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from ledger.enums import AccountStatus, Direction
from ledger.models import (
    Account,
    ApiClient,
    ApiKey,
    AuditRun,
    Change,
    Entry,
    IntegrityStatus,
    Ledger,
    Transfer,
)
from ledger.services.integrity import integrity_get
from outbox.admin import TASK_COLUMNS, task_row
from outbox.enums import IN_FLIGHT_STATES
from outbox.models import OutboxTask
from payflow.admin import (
    BELOW_TABLES,
    MAX_TABLE_ROWS,
    CurrencyFilter,
    Figure,
    Keyset,
    LedgerFilter,
    ReadOnlyModelAdmin,
    ScopeFilter,
    Table,
    badge,
    can_view,
    choice_filter,
    index_figures,
    instant,
    instant_column,
    json_column,
    ledger_link,
    link,
    list_link,
    list_url,
    money,
    parse_uuid,
    pretty_json,
    short,
    short_id,
)
from payflow.clock import now

#: Changes that an account's or a ledger's page shows.
MAX_CHANGES = 10
#: Findings of an audit that its page shows.
MAX_FINDINGS = 100

_STATUS_TONES = {
    AccountStatus.OPEN: "good",
    AccountStatus.FROZEN_OUT: "warn",
    AccountStatus.FROZEN: "warn",
}


class AccountScope(ScopeFilter):
    """One account's rows."""

    title = parameter_name = "account"
    column = "account_id"


class TransferScope(ScopeFilter):
    """One transfer's rows."""

    title = parameter_name = "transfer"
    column = "transfer_id"


@index_figures(10)
def integrity_figures(request: HttpRequest) -> Iterable[Figure]:
    """Whether the books balance, and what the last audit found: two rows."""
    if can_view(request, "ledger.integritystatus"):
        integrity = integrity_get()
        status = IntegrityStatus.objects.filter(id=1).first()
        computed = f"{status.computed_at:%Y-%m-%d %H:%M:%S} UTC" if status else "never"
        yield Figure(
            "Ledger integrity",
            "Healthy" if integrity.is_healthy else "Unhealthy",
            "good" if integrity.is_healthy else "bad",
            f"sum of differences {integrity.integrity_sum:,}, computed {computed}",
        )
    if can_view(request, "ledger.auditrun"):
        run = AuditRun.objects.defer("counts").order_by("-id").first()
        if run is None:
            yield Figure("Last audit", "None yet", "warn", "manage.py audit_ledger")
        else:
            yield Figure(
                "Last audit",
                "Sound" if run.is_sound else f"Broken: {len(run.findings):,} found",
                "good" if run.is_sound else "bad",
                f"finished {run.finished_at:%Y-%m-%d %H:%M:%S} UTC",
                reverse("admin:ledger_auditrun_change", args=[run.id]),
            )


def fetch_accounts(rows: Iterable[Any]) -> list[Any]:
    """The rows with their accounts, all fetched by one query and without their JSON.

    Django cannot defer columns and follow a composite relation in the same query.
    """
    found = list(rows)
    keys = {(row.ledger_id, row.account_id) for row in found if row.account_id}
    accounts = Account.objects.filter(
        ledger_id__in={ledger_id for ledger_id, _ in keys},
        id__in={account_id for _, account_id in keys},
    ).only("id", "ledger_id", "reference", "owner_name", "kind", "currency")
    by_key = {(account.ledger_id, account.id): account for account in accounts}
    for row in found:
        if row.account_id:
            row.account = by_key[row.ledger_id, row.account_id]
    return found


def account_link(account: Account) -> str:
    """A link to an account, named as people know it."""
    return link("ledger.account", account.id, account.ledger_id, short(account, 40))


def direction_badge(entry: Entry) -> str:
    """The side of an entry in words."""
    return badge(Direction(entry.direction).label.capitalize())


def balance_after(entry: Entry) -> str:
    """The account's posted balance after an entry whose account has been fetched."""
    net = entry.credits_after - entry.debits_after
    return money(-net if entry.account.is_debit_normal else net, entry.currency)


class _RecordedAdmin(ReadOnlyModelAdmin):
    """What transfers and changes share: who did it."""

    @admin.display(description="API client")
    def client(self, row: Any) -> str:
        """The client whose key was used; one query, so only on one object's page."""
        names = ApiClient.objects.filter(ledger_id=row.ledger_id, id=row.client_id)
        name = names.values_list("name", flat=True).first() if row.client_id else None
        return link("ledger.apiclient", row.client_id, row.ledger_id, name)


class _BooksAdmin(ReadOnlyModelAdmin):
    """What every table inside a ledger shares."""

    created = instant_column("created_at", "created")

    @admin.display(description="id")
    def short_id(self, row: Any) -> str:
        """The end of the id."""
        return short_id(row.id)

    @admin.display(description="ledger")
    def in_books(self, row: Any) -> str:
        """The ledger, by its slug; one query, so only on the page of one object."""
        return ledger_link(row.ledger_id)


@admin.register(Ledger)
class LedgerAdmin(ReadOnlyModelAdmin):
    """Ledgers, by slug."""

    in_ledger = False
    index_position = 1
    list_display = ("slug", "name", "time_zone", "created", "contents")
    list_defer = ("settings",)
    search_fields = ("slug",)
    search_help_text = "A full id, or the beginning of a slug."
    fieldsets = (
        (None, {"fields": ("slug", "name", "time_zone", "id", "created")}),
        ("Settings", {"fields": ("settings_text",)}),
    )
    created = instant_column("created_at", "created")
    settings_text = json_column("settings", "settings")

    def get_keyset(self, request: HttpRequest) -> Keyset:
        """By slug, which is unique."""
        return Keyset("slug", is_descending=False)

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """Slugs that begin with the text."""
        return [rows.filter(slug__startswith=text.lower())]

    @admin.display(description="contents")
    def contents(self, ledger: Ledger) -> str:
        """The way to the ledger's transfers."""
        return list_link("ledger.transfer", ledger.id, "Transfers")

    def links(self, request: HttpRequest, obj: Ledger) -> Iterable[tuple[str, str]]:
        """The lists of what is in the ledger."""
        for model, text in (
            ("ledger.account", "Accounts"),
            ("ledger.transfer", "Transfers"),
            ("ledger.entry", "Entries"),
            ("outbox.outboxtask", "Outbox tasks"),
            ("ledger.change", "Changes"),
        ):
            if can_view(request, model):
                yield list_url(model, obj.id), text

    def tables(self, request: HttpRequest, obj: Ledger) -> Iterable[Table]:
        """The ledger's clients and its own latest changes."""
        if can_view(request, "ledger.apiclient"):
            clients = ApiClient.objects.filter(ledger_id=obj.id).order_by("-id")
            yield Table(
                "API clients",
                ("Name", "Active", "Created"),
                [
                    (
                        link("ledger.apiclient", row.id, obj.id, short(row.name)),
                        "yes" if row.is_active else "no",
                        instant(row.created_at),
                    )
                    for row in clients[:MAX_TABLE_ROWS]
                ],
                more_url=list_url("ledger.apiclient", obj.id),
                more_label="All API clients",
            )
        if can_view(request, "ledger.change"):
            yield _change_table(obj.id, None)


def _change_table(ledger_id: UUID, account_id: UUID | None) -> Table:
    """The latest changes of an account, or of the ledger itself."""
    rows = Change.objects.filter(ledger_id=ledger_id).order_by("-id")
    rows = (
        rows.filter(account_id__isnull=True)
        if account_id is None
        else rows.filter(account_id=account_id)
    )
    scope = {"account": account_id} if account_id else {}
    return Table(
        "Latest changes",
        ("When", "Fields", "Actor"),
        [
            (
                link("ledger.change", row.id, ledger_id, instant(row.created_at)),
                short(", ".join(row.fields)),
                short(row.actor),
            )
            for row in rows.defer("old", "new")[:MAX_CHANGES]
        ],
        empty="Nothing was ever changed.",
        more_url=list_url("ledger.change", ledger_id, **scope),
        more_label="All changes" if account_id else "All changes in this ledger",
    )


@admin.register(ApiClient)
class ApiClientAdmin(_BooksAdmin):
    """API clients; of their keys everything but what could be used."""

    index_position = 6
    list_display = ("name", "is_active", "created", "short_id")
    list_filter = (LedgerFilter,)
    search_fields = ("name",)
    search_help_text = "A full id, or a client's whole name."
    fieldsets = (
        (None, {"fields": ("name", "is_active", "id", "in_books", "created")}),
    )

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """The client of this name."""
        return [rows.filter(name=text)]

    def tables(self, request: HttpRequest, obj: ApiClient) -> Iterable[Table]:
        """The client's keys: hint and lifetime; the hash is not even read."""
        if not can_view(request, "ledger.apikey"):
            return
        keys = (
            ApiKey.objects.filter(ledger_id=obj.ledger_id, client_id=obj.id)
            .order_by("-id")
            .only("id", "hint", "created_at", "expires_at", "revoked_at")
        )
        yield Table(
            "Keys",
            ("Ends in", "Created", "Expires", "Revoked", "State"),
            [
                (
                    f"…{key.hint}",
                    instant(key.created_at),
                    instant(key.expires_at) if key.expires_at else "never",
                    instant(key.revoked_at),
                    _key_state(key),
                )
                for key in keys[:MAX_TABLE_ROWS]
            ],
            empty="This client has no key.",
        )


def _key_state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return badge("Revoked", "bad")
    if key.expires_at is not None and key.expires_at <= now():
        return badge("Expired", "warn")
    return badge("Valid", "good")


@admin.register(Account)
class AccountAdmin(_BooksAdmin):
    """Accounts with their balances."""

    index_position = 2
    list_display = (
        "name",
        "owner",
        "kind",
        "state",
        "posted",
        "available",
        "pending_out",
        "entries",
    )
    list_filter = (
        LedgerFilter,
        choice_filter("kind"),
        choice_filter("status"),
        CurrencyFilter,
    )
    list_defer = ("metadata",)
    search_fields = ("reference",)
    search_help_text = (
        "A full id, or the beginning of a reference or of an owner's name"
        " (upper and lower case differ)."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "reference",
                    "owner_name",
                    ("kind", "state"),
                    "code",
                    "currency",
                    "floor",
                    "payout_destination",
                )
            },
        ),
        (
            "Balances",
            {
                "fields": (
                    ("posted", "available"),
                    ("pending_in", "pending_out"),
                    ("total_debits", "total_credits"),
                    ("pending_debits", "pending_credits"),
                    ("version", "last_entry"),
                )
            },
        ),
        (
            "Record",
            {
                "classes": (BELOW_TABLES,),
                "fields": ("id", "in_books", "created", "metadata_text"),
            },
        ),
    )
    last_entry = instant_column("last_entry_at", "last entry")
    metadata_text = json_column("metadata", "metadata")

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """References and owners that begin with the text."""
        return [
            rows.filter(reference__startswith=text),
            rows.filter(owner_name__startswith=text).exclude(owner_name=""),
        ]

    @admin.display(description="account")
    def name(self, account: Account) -> str:
        """The reference, or else the id."""
        return (
            short(account.reference, 40) if account.reference else short_id(account.id)
        )

    @admin.display(description="owner")
    def owner(self, account: Account) -> str:
        """The owner's name, cut to a cell."""
        return short(account.owner_name, 40)

    @admin.display(description="status")
    def state(self, account: Account) -> str:
        """The status, in colour."""
        status = AccountStatus(account.status)
        return badge(status.label.capitalize(), _STATUS_TONES.get(status, "plain"))

    @admin.display(description="posted balance")
    def posted(self, account: Account) -> str:
        """The posted balance."""
        return money(account.posted, account.currency)

    @admin.display(description="available")
    def available(self, account: Account) -> str:
        """The available balance."""
        return money(account.available, account.currency)

    @admin.display(description="pending in")
    def pending_in(self, account: Account) -> str:
        """What holds of others would bring."""
        return money(account.pending_in, account.currency)

    @admin.display(description="pending out")
    def pending_out(self, account: Account) -> str:
        """What the account's own holds would take."""
        return money(account.pending_out, account.currency)

    @admin.display(description="debits, in total")
    def total_debits(self, account: Account) -> str:
        """The sum of the account's debits."""
        return money(account.debits_posted, account.currency)

    @admin.display(description="credits, in total")
    def total_credits(self, account: Account) -> str:
        """The sum of the account's credits."""
        return money(account.credits_posted, account.currency)

    @admin.display(description="debits, pending")
    def pending_debits(self, account: Account) -> str:
        """The sum of pending debits."""
        return money(account.debits_pending, account.currency)

    @admin.display(description="credits, pending")
    def pending_credits(self, account: Account) -> str:
        """The sum of pending credits."""
        return money(account.credits_pending, account.currency)

    @admin.display(description="floor of available")
    def floor(self, account: Account) -> str:
        """The least available balance."""
        if account.min_balance is None:
            return "none"
        return money(account.min_balance, account.currency)

    @admin.display(description="entries")
    def entries(self, account: Account) -> str:
        """How many, and the way to them; ``version`` counts them without a query."""
        return list_link(
            "ledger.entry",
            account.ledger_id,
            f"{account.version:,}",
            account=account.id,
        )

    def links(self, request: HttpRequest, obj: Account) -> Iterable[tuple[str, str]]:
        """The account's entries, payouts and changes."""
        if can_view(request, "ledger.entry"):
            yield list_url("ledger.entry", obj.ledger_id, account=obj.id), "Entries"
        if obj.payout_destination and can_view(request, "outbox.outboxtask"):
            url = list_url("outbox.outboxtask", obj.ledger_id, account=obj.id)
            yield url, "Payouts"
        if can_view(request, "ledger.change"):
            yield list_url("ledger.change", obj.ledger_id, account=obj.id), "Changes"

    def tables(self, request: HttpRequest, obj: Account) -> Iterable[Table]:
        """The latest entries, the payouts in flight and the latest changes."""
        if can_view(request, "ledger.entry"):
            entries = Entry.objects.filter(
                ledger_id=obj.ledger_id, account_id=obj.id
            ).order_by("-account_version")[:MAX_TABLE_ROWS]
            rows = list(entries)
            for row in rows:
                row.account = obj
            yield Table(
                "Latest entries",
                ("#No.", "When", "Direction", "#Amount", "#Balance after", "Transfer"),
                [
                    (
                        link(
                            "ledger.entry", row.id, obj.ledger_id, row.account_version
                        ),
                        instant(row.created_at),
                        direction_badge(row),
                        money(row.amount, row.currency),
                        balance_after(row),
                        link("ledger.transfer", row.transfer_id, obj.ledger_id),
                    )
                    for row in rows
                ],
                empty="No money has moved yet.",
                more_url=list_url("ledger.entry", obj.ledger_id, account=obj.id),
                more_label=f"All {obj.version:,} entries",
            )
        if obj.payout_destination and can_view(request, "outbox.outboxtask"):
            tasks = OutboxTask.objects.filter(
                ledger_id=obj.ledger_id,
                account_id=obj.id,
                state__in=IN_FLIGHT_STATES,
            ).order_by()[:MAX_TABLE_ROWS]
            yield Table(
                "Payouts in flight",
                TASK_COLUMNS,
                [task_row(task) for task in sorted(tasks, key=_by_id, reverse=True)],
                empty="None: everything that came in has been settled or reversed.",
                more_url=list_url("outbox.outboxtask", obj.ledger_id, account=obj.id),
                more_label="All payouts of this account",
            )
        if can_view(request, "ledger.change"):
            yield _change_table(obj.ledger_id, obj.id)


def _by_id(row: Any) -> UUID:
    return row.id


class _FirstPosting:
    """The first posting of a transfer, for its row in a list."""

    def __init__(self) -> None:
        self.debit: Entry | None = None
        self.credit: Entry | None = None


@admin.register(Transfer)
class TransferAdmin(_BooksAdmin, _RecordedAdmin):
    """Transfers with their entries and what they set off."""

    index_position = 3
    list_display = (
        "created",
        "kind",
        "amount",
        "source",
        "target",
        "about",
    )
    list_filter = (LedgerFilter, choice_filter("kind"))
    list_defer = ("metadata",)
    search_fields = ("reference",)
    search_help_text = (
        "A full id, or the beginning of a reference (upper and lower case differ)."
    )
    detail_select_related = ("reverses_transfer",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "kind",
                    "reference",
                    "description",
                    "reverses",
                    ("created", "effective"),
                    "posting_count",
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
                    "actor",
                    "client",
                    "key_id",
                    "request_id",
                    "key",
                    "metadata_text",
                ),
            },
        ),
    )
    created = instant_column("created_at", "recorded")
    effective = instant_column("effective_at", "effective")
    metadata_text = json_column("metadata", "metadata")

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """References that begin with the text."""
        return [rows.filter(reference__startswith=text)]

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's first posting with its accounts, in one query for all rows."""
        postings = {(row.ledger_id, row.id): _FirstPosting() for row in rows}
        entries = Entry.objects.filter(
            ledger_id__in={row.ledger_id for row in rows},
            transfer_id__in=[row.id for row in rows],
            posting_number=1,
        ).order_by()
        for entry in fetch_accounts(entries):
            posting = postings.get((entry.ledger_id, entry.transfer_id))
            if posting is not None:
                setattr(posting, entry.direction, entry)
        for row in rows:
            row.first_posting = postings[row.ledger_id, row.id]

    @admin.display(description="amount")
    def amount(self, transfer: Any) -> str:
        """The first posting's amount."""
        entry = transfer.first_posting.debit
        return money(entry.amount, entry.currency) if entry else money(None, None)

    @admin.display(description="from")
    def source(self, transfer: Any) -> str:
        """The account that the first posting debits."""
        entry = transfer.first_posting.debit
        return account_link(entry.account) if entry else short(None)

    @admin.display(description="to")
    def target(self, transfer: Any) -> Any:
        """The account that the first posting credits, and how many more there are."""
        entry = transfer.first_posting.credit
        if entry is None:
            return short(None)
        account = account_link(entry.account)
        more = transfer.posting_count - 1
        if not more:
            return account
        url = list_link(
            "ledger.entry",
            transfer.ledger_id,
            f"and {more:,} more",
            transfer=transfer.id,
        )
        return format_html("{} {}", account, url)

    @admin.display(description="reference or description")
    def about(self, transfer: Transfer) -> str:
        """The reference, or else the description, cut to a cell."""
        return short(transfer.reference or transfer.description, 40)

    @admin.display(description="reverses")
    def reverses(self, transfer: Transfer) -> str:
        """The transfer that this one undoes."""
        return link(
            "ledger.transfer",
            transfer.reverses_transfer_id,
            transfer.ledger_id,
            transfer.reverses_transfer_id,
        )

    @admin.display(description="idempotency key")
    def key(self, transfer: Transfer) -> str:
        """The key of the request, and the way to its stored outcome."""
        if transfer.idempotency_key is None:
            return short(None)
        return list_link(
            "idempotency.idempotencykey",
            transfer.ledger_id,
            transfer.idempotency_key,
            q=transfer.idempotency_key,
        )

    def tables(self, request: HttpRequest, obj: Transfer) -> Iterable[Table]:
        """The entries, the outbox tasks and the reversals."""
        if can_view(request, "ledger.entry"):
            yield self._entries(obj)
        if can_view(request, "outbox.outboxtask"):
            tasks = OutboxTask.objects.filter(
                ledger_id=obj.ledger_id, transfer_id=obj.id
            ).order_by("kind", "posting_number")[:MAX_TABLE_ROWS]
            yield Table(
                "Outbox tasks",
                TASK_COLUMNS,
                [task_row(task) for task in tasks],
                more_url=list_url("outbox.outboxtask", obj.ledger_id, transfer=obj.id),
                more_label="All tasks of this transfer",
            )
        reversals = Transfer.objects.filter(
            ledger_id=obj.ledger_id, reverses_transfer_id=obj.id
        ).order_by()[:MAX_TABLE_ROWS]
        rows = [
            (
                link("ledger.transfer", row.id, row.ledger_id, instant(row.created_at)),
                row.get_kind_display(),
                short(row.description),
            )
            for row in sorted(reversals, key=_by_id)
        ]
        if rows:
            yield Table("Reversed by", ("When", "Kind", "Description"), rows)

    def _entries(self, transfer: Transfer) -> Table:
        entries = Entry.objects.filter(
            ledger_id=transfer.ledger_id, transfer_id=transfer.id
        ).order_by("posting_number", "-direction")[:MAX_TABLE_ROWS]
        return Table(
            "Entries",
            (
                "#Posting",
                "Account",
                "Owner",
                "#Debit",
                "#Credit",
                "#Balance after",
                "#Entry of account",
            ),
            [
                (
                    row.posting_number,
                    account_link(row.account),
                    short(row.account.owner_name, 40),
                    money(row.amount, row.currency)
                    if row.direction == Direction.DEBIT
                    else "",
                    money(row.amount, row.currency)
                    if row.direction == Direction.CREDIT
                    else "",
                    balance_after(row),
                    link("ledger.entry", row.id, row.ledger_id, row.account_version),
                )
                for row in fetch_accounts(entries)
            ],
            more_url=list_url("ledger.entry", transfer.ledger_id, transfer=transfer.id),
            more_label=f"All {2 * transfer.posting_count:,} entries",
        )


@admin.register(Entry)
class EntryAdmin(_BooksAdmin):
    """Entries: a ledger's newest first, or one account's or one transfer's."""

    index_position = 4
    list_display = (
        "created",
        "of_account",
        "account_version",
        "side",
        "amount_shown",
        "balance_after",
        "of_transfer",
        "effective",
    )
    list_display_links = ("created",)
    list_filter = (
        LedgerFilter,
        AccountScope,
        TransferScope,
        choice_filter("direction"),
        CurrencyFilter,
    )
    search_fields = ("id",)
    search_help_text = (
        "A full id of an entry or of a transfer. For an account's entries, follow the"
        " link on the account's page."
    )
    detail_select_related = ("account", "transfer")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "of_account",
                    "of_transfer",
                    ("side", "amount_shown"),
                    "balance_after",
                    ("debits_so_far", "credits_so_far"),
                    ("account_version", "posting_number"),
                    ("created", "effective"),
                )
            },
        ),
        ("Record", {"fields": ("id", "in_books")}),
    )
    created = instant_column("created_at", "recorded")
    effective = instant_column("effective_at", "effective")

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's account, in one query for all rows."""
        fetch_accounts(rows)

    def get_keyset(self, request: HttpRequest) -> Keyset:
        """By the index that serves the scope: account, transfer or ledger."""
        if parse_uuid(request.GET.get("q", "")):
            return Keyset()
        if parse_uuid(request.GET.get(AccountScope.parameter_name, "")):
            return Keyset("account_version")
        if parse_uuid(request.GET.get(TransferScope.parameter_name, "")):
            # Both entries of a posting stand on one page, because PER_PAGE is even.
            return Keyset("posting_number", is_descending=False, tail=("-direction",))
        return Keyset()

    def find_by_id(
        self, request: HttpRequest, rows: QuerySet[Any], value: UUID
    ) -> list[QuerySet[Any]]:
        """An entry, or a transfer's entries."""
        return [rows.filter(pk=value), rows.filter(transfer_id=value)]

    @admin.display(description="account")
    def of_account(self, entry: Entry) -> str:
        """The account."""
        return account_link(entry.account)

    @admin.display(description="transfer")
    def of_transfer(self, entry: Entry) -> str:
        """The transfer."""
        return link("ledger.transfer", entry.transfer_id, entry.ledger_id)

    @admin.display(description="direction")
    def side(self, entry: Entry) -> str:
        """Debit or credit."""
        return direction_badge(entry)

    @admin.display(description="amount")
    def amount_shown(self, entry: Entry) -> str:
        """The amount."""
        return money(entry.amount, entry.currency)

    @admin.display(description="balance after")
    def balance_after(self, entry: Entry) -> str:
        """The account's posted balance after this entry."""
        return balance_after(entry)

    @admin.display(description="debits so far")
    def debits_so_far(self, entry: Entry) -> str:
        """The account's running total of debits."""
        return money(entry.debits_after, entry.currency)

    @admin.display(description="credits so far")
    def credits_so_far(self, entry: Entry) -> str:
        """The account's running total of credits."""
        return money(entry.credits_after, entry.currency)


@admin.register(Change)
class ChangeAdmin(_BooksAdmin, _RecordedAdmin):
    """The history of accounts and of the ledger itself."""

    index_position = 5
    list_display = ("created", "subject", "changed", "who", "short_id")
    list_filter = (LedgerFilter, AccountScope)
    list_defer = ("old", "new")
    search_fields = ("id",)
    search_help_text = (
        "A full id of a change. For an account's changes, follow the link on the"
        " account's page."
    )
    detail_select_related = ("account",)
    fieldsets = (
        (None, {"fields": ("created", "subject", "changed", "erased")}),
        (
            "Record",
            {
                "classes": (BELOW_TABLES,),
                "fields": ("id", "in_books", "actor", "client", "key_id", "request_id"),
            },
        ),
    )
    created = instant_column("created_at", "when")
    erased = instant_column("erased_at", "values erased")

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Each row's account, in one query for all rows."""
        fetch_accounts(rows)

    @admin.display(description="what")
    def subject(self, change: Change) -> str:
        """The account, or the ledger itself."""
        return account_link(change.account) if change.account else "the ledger"

    @admin.display(description="fields")
    def changed(self, change: Change) -> str:
        """The names of the changed fields."""
        return short(", ".join(change.fields))

    @admin.display(description="actor")
    def who(self, change: Change) -> str:
        """Who changed it."""
        return short(change.actor)

    def tables(self, request: HttpRequest, obj: Change) -> Iterable[Table]:
        """Each field's old and new value."""
        old, new = obj.old or {}, obj.new or {}
        yield Table(
            "Values",
            ("Field", "Before", "After"),
            [
                (name, _value_text(old.get(name)), _value_text(new.get(name)))
                for name in (obj.fields if obj.erased_at is None else [])
            ],
            empty="The values have been erased.",
        )


def _value_text(value: Any) -> str:
    if isinstance(value, dict | list):
        return pretty_json(value)
    return short(value, 200)


@admin.register(AuditRun)
class AuditRunAdmin(ReadOnlyModelAdmin):
    """Audits and what they found."""

    in_ledger = False
    index_position = 7
    list_display = ("finished", "result", "difference_shown", "duration")
    list_defer = ("counts", "findings")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "result",
                    "difference_shown",
                    ("started", "finished", "duration"),
                    "id",
                )
            },
        ),
        ("What was checked", {"fields": ("counts_text",)}),
    )
    started = instant_column("started_at", "started")
    finished = instant_column("finished_at", "finished")
    counts_text = json_column("counts", "counts")

    @admin.display(description="result")
    def result(self, run: AuditRun) -> str:
        """Sound or broken."""
        return badge("Sound", "good") if run.is_sound else badge("Broken", "bad")

    @admin.display(description="difference, minor units of every currency")
    def difference_shown(self, run: AuditRun) -> str:
        """The absolute differences; over currencies, so none can be named."""
        return f"{int(run.difference):,}"

    @admin.display(description="took")
    def duration(self, run: AuditRun) -> str:
        """How long it ran."""
        return f"{(run.finished_at - run.started_at).total_seconds():,.1f} s"

    def tables(self, request: HttpRequest, obj: AuditRun) -> Iterable[Table]:
        """The findings, the first ``MAX_FINDINGS``."""
        shown = obj.findings[:MAX_FINDINGS]
        more = len(obj.findings) - len(shown)
        title = "Findings" + (f" (and {more:,} more)" if more > 0 else "")
        yield Table(
            title,
            ("#", "Finding"),
            [
                (number, _value_text(finding))
                for number, finding in enumerate(shown, start=1)
            ],
            empty="None: every invariant holds.",
        )
