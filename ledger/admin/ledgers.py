"""Ledgers."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from ledger.admin.changes import change_table
from ledger.admin.reports import can_view_books, report_urls, reports_url
from ledger.models import ApiClient, Ledger
from ledger.selectors.ledgers import hold_settings_of
from ledger.selectors.periods import periods_of
from payflow.admin.bounds import MAX_TABLE_ROWS
from payflow.admin.cells import (
    Table,
    can_view,
    instant,
    instant_column,
    link,
    list_link,
    list_url,
    short,
)
from payflow.admin.lists import Keyset
from payflow.admin.read_only import ReadOnlyModelAdmin
from payflow.durations import format_duration


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
        (None, {"fields": ("slug", "name", "time_zone", "closed", "id", "created")}),
        ("Holds", {"fields": ("default_lifetime", "max_lifetime", "over_capture")}),
    )
    created = instant_column("created_at", "created")

    def get_urls(self) -> list[Any]:
        """The ledgers' pages, and that of their reports."""
        return [*report_urls(), *super().get_urls()]

    def index_pages(self, request: HttpRequest) -> Iterable[tuple[str, str]]:
        """Name and address of what stands on the index beside the list."""
        if can_view_books(request):
            yield "Reports", reverse("admin:ledger_reports")

    def get_keyset(self, request: HttpRequest) -> Keyset:
        """By slug, which is unique."""
        return Keyset("slug", is_descending=False)

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """Slugs that begin with the text."""
        return [rows.filter(slug__startswith=text.lower())]

    @admin.display(description="closed up to")
    def closed(self, ledger: Ledger) -> str:
        """The last closed day of the ledger's own days, and the first open instant."""
        periods = periods_of(ledger)
        if periods.closed_before is None:
            return "nothing is closed"
        return format_html(
            "{} <span class="
            '"unit">in {};</span> {} <span class="unit">is open again</span>',
            periods.closed_through,
            ledger.time_zone,
            instant(periods.closed_before),
        )

    @admin.display(description="default lifetime")
    def default_lifetime(self, ledger: Ledger) -> str:
        """Of holds that do not say when they lapse."""
        settings = hold_settings_of(ledger)
        lifetime = min(settings.default_lifetime, settings.max_lifetime)
        return format_duration(lifetime)

    @admin.display(description="longest lifetime")
    def max_lifetime(self, ledger: Ledger) -> str:
        """Of any hold, extensions included."""
        return format_duration(hold_settings_of(ledger).max_lifetime)

    @admin.display(description="over-capture")
    def over_capture(self, ledger: Ledger) -> str:
        """What captures may take beyond the hold."""
        return f"{hold_settings_of(ledger).over_capture_percent}%"

    @admin.display(description="contents")
    def contents(self, ledger: Ledger) -> str:
        """The way to the ledger's transfers."""
        return list_link("ledger.transfer", ledger.id, "Transfers")

    def links(self, request: HttpRequest, obj: Ledger) -> Iterable[tuple[str, str]]:
        """The ledger's reports, and the lists of what is in it."""
        if can_view_books(request):
            yield reports_url(obj.id), "Reports"
        for model, text in (
            ("ledger.account", "Accounts"),
            ("ledger.transfer", "Transfers"),
            ("ledger.entry", "Entries"),
            ("ledger.hold", "Holds"),
            ("ledger.scheduledtransfer", "Scheduled transfers"),
            ("ledger.asset", "Assets"),
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
            yield change_table(obj.id, None)
