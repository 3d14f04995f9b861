"""Assets: what a ledger counts in beside the currencies of ISO 4217."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from ledger.admin.shared import BooksAdmin
from ledger.models import Asset
from payflow.admin.cells import money
from payflow.admin.filters import LedgerFilter
from payflow.admin.lists import Keyset


@admin.register(Asset)
class AssetAdmin(BooksAdmin):
    """Assets, by code."""

    index_position = 9
    list_display = ("code", "name", "exponent", "example", "created")
    list_filter = (LedgerFilter,)
    search_fields = ("code",)
    search_help_text = "A full id, or the beginning of a code."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "code",
                    "name",
                    "exponent",
                    "example",
                    "id",
                    "in_books",
                    "created",
                )
            },
        ),
    )

    def get_keyset(self, request: HttpRequest) -> Keyset:
        """By code, which is unique in its ledger."""
        return Keyset("code", is_descending=False)

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """Codes that begin with the text."""
        return [rows.filter(code__startswith=text.upper())]

    @admin.display(description="one unit")
    def example(self, asset: Asset) -> str:
        """What one whole unit looks like."""
        return money(10**asset.exponent, asset.code, asset.ledger_id)
