"""The filters of lists."""

from typing import Any
from uuid import UUID

from django.apps import apps
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

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


class FewRowsFilter(admin.SimpleListFilter):
    """A filter whose rows an index finds, but not in the list's order.

    Where they are few, the index finds them all, however old they are; where they are
    many, the ledger's newest rows are looked through, a window at a time.
    """

    def narrow(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The rows that the value leaves."""
        raise NotImplementedError

    def found_ids(self, ledger_id: UUID) -> QuerySet[Any] | None:
        """Their ids by an index; ``None`` for a value that has none."""
        raise NotImplementedError

    @cached_property
    def _few_ids(self) -> list[UUID] | None:
        if self.value() is None:
            return None
        found = self.found_ids(ledger_scope(self.request).id)
        if found is None:
            return None
        ids = list(found[: bounds.MAX_MATCHES + 1])
        return ids if len(ids) <= bounds.MAX_MATCHES else None

    @property
    def is_scope(self) -> bool:
        """True where an index finds all rows, so that no window is needed."""
        return self.value() is None or self._few_ids is not None

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows that the value leaves."""
        if self.value() is None:
            return queryset
        if self._few_ids is not None:
            queryset = queryset.filter(pk__in=self._few_ids)
        return self.narrow(queryset)


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
