"""Idempotency keys in the back office: which were used, for what, with what outcome."""

import json
from typing import Any
from uuid import UUID

from django.apps import apps
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from idempotency.models import IdempotencyKey
from payflow.admin.cells import (
    badge,
    instant_column,
    json_column,
    link,
    long_text,
    pretty_json,
    short,
    short_id,
)
from payflow.admin.filters import LedgerFilter
from payflow.admin.read_only import ReadOnlyModelAdmin
from payflow.admin.scope import ledger_link, ledger_scope

#: Where the resource of a stored response can be seen, by its type.
_RESOURCE_MODELS = {
    "account": "ledger.account",
    "asset": "ledger.asset",
    "hold": "ledger.hold",
    "limits": "ledger.account",
    "scheduled_transfer": "ledger.scheduledtransfer",
    "transfer": "ledger.transfer",
}


class OutcomeFilter(admin.SimpleListFilter):
    """Carried out or refused."""

    title = parameter_name = "outcome"
    is_scope = False

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The two outcomes that are stored."""
        return [("success", "carried out"), ("refusal", "refused")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The keys with the outcome."""
        if self.value() == "success":
            return queryset.filter(status__lt=300)
        if self.value() == "refusal":
            return queryset.filter(status__gte=400)
        return queryset


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnlyModelAdmin):
    """Keys with the stored response as text."""

    list_display = (
        "created",
        "key_short",
        "operation",
        "status_shown",
        "resource",
        "client",
        "short_id",
    )
    list_filter = (LedgerFilter, OutcomeFilter)
    list_defer = ("digests", "response_headers", "response_body")
    search_fields = ("key",)
    search_help_text = "A full id of a row, or a whole key, exactly as it was sent."
    fieldsets = (
        (
            None,
            {"fields": ("key", "operation", "status_shown", "resource", "created")},
        ),
        ("Stored response", {"fields": ("headers_text", "body_text", "purged")}),
        ("Record", {"fields": ("id", "in_books", "client", "digests_text")}),
    )
    created = instant_column("created_at", "created")
    purged = instant_column("purged_at", "response purged")
    headers_text = json_column("response_headers", "headers")
    digests_text = json_column("digests", "digests of the request")

    def find_by_id(
        self, request: HttpRequest, rows: QuerySet[Any], value: UUID
    ) -> list[QuerySet[Any]]:
        """A row by its id, or by its key, which clients like to make a UUID."""
        spellings = {str(value), str(value).upper(), value.hex}
        return [
            rows.filter(pk=value),
            *(self._find_by_key(request, rows, text) for text in spellings),
        ]

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """The chosen ledger's rows of a key."""
        return [self._find_by_key(request, rows, text)]

    def _find_by_key(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> QuerySet[Any]:
        # The unique index has the client before the key, so the clients are named.
        ledger_id = ledger_scope(request).id
        clients = (
            apps.get_model("ledger", "ApiClient")
            ._default_manager.filter(ledger_id=ledger_id)
            .order_by()
            .values_list("id", flat=True)
        )
        return rows.filter(ledger_id=ledger_id, client_id__in=list(clients), key=text)

    @admin.display(description="key")
    def key_short(self, row: IdempotencyKey) -> str:
        """The key, cut to a cell."""
        return short(row.key, 40)

    @admin.display(description="status")
    def status_shown(self, row: IdempotencyKey) -> str:
        """The HTTP status of the outcome."""
        return badge(str(row.status), "good" if row.status < 300 else "warn")

    @admin.display(description="resource")
    def resource(self, row: IdempotencyKey) -> str:
        """What the request made."""
        model = _RESOURCE_MODELS.get(row.resource_type)
        if model is None:
            return short(row.resource_type)
        return link(model, row.resource_id, row.ledger_id)

    @admin.display(description="API client")
    def client(self, row: IdempotencyKey) -> str:
        """The client whose key it is."""
        return link("ledger.apiclient", row.client_id, row.ledger_id)

    @admin.display(description="body")
    def body_text(self, row: IdempotencyKey) -> str:
        """The stored body; JSON is indented for reading."""
        if row.response_body is None:
            return short(None)
        text = bytes(row.response_body).decode("utf-8", errors="replace")
        try:
            return pretty_json(json.loads(text))
        except ValueError:
            return long_text(text)

    @admin.display(description="id")
    def short_id(self, row: IdempotencyKey) -> str:
        """The end of the id."""
        return short_id(row.id)

    @admin.display(description="ledger")
    def in_books(self, row: IdempotencyKey) -> str:
        """The ledger, by its slug."""
        return ledger_link(row.ledger_id)
