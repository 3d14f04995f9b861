"""API clients and their keys."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join

from ledger.admin.shared import BooksAdmin
from ledger.enums import Permission
from ledger.models import ApiClient, ApiKey
from payflow.admin.bounds import MAX_TABLE_ROWS
from payflow.admin.cells import EMPTY, Table, badge, can_view, instant
from payflow.admin.filters import LedgerFilter
from payflow.clock import now


@admin.register(ApiClient)
class ApiClientAdmin(BooksAdmin):
    """API clients; of their keys everything but what could be used."""

    index_position = 8
    list_display = ("name", "is_active", "permissions_shown", "created", "short_id")
    list_filter = (LedgerFilter,)
    search_fields = ("name",)
    search_help_text = "A full id, or a client's whole name."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "name",
                    "is_active",
                    "permissions_shown",
                    "id",
                    "in_books",
                    "created",
                )
            },
        ),
    )

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """The client of this name."""
        return [rows.filter(name=text)]

    @admin.display(description="permissions")
    def permissions_shown(self, client: ApiClient) -> str:
        """What the client may do beyond the ordinary."""
        if not client.permissions:
            return EMPTY
        return format_html_join(
            " ",
            "{}",
            ((badge(_permission(name), "warn"),) for name in client.permissions),
        )

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


def _permission(name: str) -> str:
    return Permission(name).label.capitalize()


def _key_state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return badge("Revoked", "bad")
    if key.expires_at is not None and key.expires_at <= now():
        return badge("Expired", "warn")
    return badge("Valid", "good")
