"""The filters of lists."""

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from payflow.admin import bounds
from payflow.admin.cells import LEDGER_PARAMETER
from payflow.admin.scope import all_ledger_ids, ledger_scope, parse_uuid


class LedgerFilter(admin.SimpleListFilter):
    """One ledger at a time; there is no "all".

    Only a search for a full id looks into every ledger.
    """

    title = "ledger"
    parameter_name = LEDGER_PARAMETER
    is_scope = True

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The ledgers on offer."""
        return ledger_scope(request).choices

    def choices(self, changelist: Any) -> Any:
        """The ledgers, without "all"."""
        chosen = ledger_scope(changelist.request).id
        for value, label in self.lookup_choices:
            yield {
                "selected": value == str(chosen),
                "query_string": changelist.get_query_string(
                    {self.parameter_name: value}, remove=changelist.scope_parameters
                ),
                "display": label,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows of the ledger, by the first column of the primary key."""
        if parse_uuid(request.GET.get("q", "")) is not None:
            return queryset.filter(ledger_id__in=all_ledger_ids())
        return queryset.filter(ledger_id=ledger_scope(request).id)


class ScopeFilter(admin.SimpleListFilter):
    """One related object's rows, by an index; present only when a link asks for it."""

    is_scope = True
    #: The column, which an index has right after ``ledger_id``.
    column = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The one object, when there is one."""
        value = parse_uuid(self.value())
        return [(str(value), f"…{str(value)[-12:]}")] if value else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows of the object."""
        value = parse_uuid(self.value())
        return queryset.filter(**{self.column: value}) if value else queryset


class ChoiceFilter(admin.SimpleListFilter):
    """A column with a closed set of values; it has no index, so it gets a window."""

    is_scope = False
    column = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The column's choices."""
        choices = model_admin.model._meta.get_field(self.column).choices
        return [(value, label.capitalize()) for value, label in choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows with the value."""
        value = self.value()
        return queryset.filter(**{self.column: value}) if value else queryset


def choice_filter(field: str, label: str = "") -> type[ChoiceFilter]:
    """A :class:`ChoiceFilter` for ``field``."""
    attributes = {"title": label or field, "parameter_name": field, "column": field}
    return type(f"{field.title()}Filter", (ChoiceFilter,), attributes)


class CurrencyFilter(ChoiceFilter):
    """The currencies of the ledger's newest accounts, and whichever is asked for."""

    title = "currency"
    parameter_name = column = "currency"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """The currencies on offer, by one bounded query."""
        newest = (
            apps.get_model("ledger", "Account")
            ._default_manager.filter(ledger_id=ledger_scope(request).id)
            .order_by("-id")
            .values_list("currency", flat=True)[: bounds.MAX_MATCHES]
        )
        found = {*newest, *filter(None, [self.value()])}
        return [(code, code) for code in sorted(found)]
