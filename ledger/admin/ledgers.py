"""Ledgers."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from ledger.admin.changes import change_table
from ledger.admin.reports import can_view_books, report_urls, reports_url
from ledger.models import ApiClient, Ledger
from payflow.admin.bounds import MAX_TABLE_ROWS
from payflow.admin.cells import (
    Table,
    can_view,
    instant,
    instant_column,
    json_column,
    link,
    list_link,
    list_url,
    short,
)
from payflow.admin.lists import Keyset
from payflow.admin.read_only import ReadOnlyModelAdmin


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
