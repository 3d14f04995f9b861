"""The admin of a model, which shows and never writes."""

from collections.abc import Iterable
from typing import Any, NoReturn
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from payflow.admin import bounds
from payflow.admin.cells import EMPTY, LEDGER_PARAMETER, Table, can_view
from payflow.admin.lists import BoundedPaginator, Keyset, KeysetChangeList
from payflow.admin.scope import all_ledger_ids, parse_uuid

#: The class of fieldsets that stand below the tables of an object's page.
BELOW_TABLES = "below-tables"


class ReadOnlyModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows a model's rows to those who may view them; nobody writes.

    Permissions, views and hooks each refuse by themselves, so that no single override
    further down opens a way in.
    """

    change_list_template = "admin/payflow_change_list.html"
    change_form_template = "admin/payflow_change_form.html"
    actions = None
    list_per_page = bounds.PER_PAGE
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    paginator = BoundedPaginator
    empty_value_display = EMPTY
    #: False for the few tables that belong to no ledger.
    in_ledger = True
    #: Columns too large for a list, by their names for ``defer``.
    list_defer: tuple[str, ...] = ()
    #: Relations that the page of one object follows.
    detail_select_related: tuple[str, ...] = ()
    #: Where the model stands in its app's part of the index.
    index_position = 100

    # What nobody may do.

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who holds the view permission; Django would take the change one too."""
        return can_view(request, f"{self.opts.app_label}.{self.opts.model_name}")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """None; the site's ``delete_selected`` neither."""
        return {}

    def save_model(self, request: Any, obj: Any, form: Any, change: Any) -> NoReturn:
        """Refuses."""
        raise PermissionDenied

    def save_related(
        self, request: Any, form: Any, formsets: Any, change: Any
    ) -> NoReturn:
        """Refuses."""
        raise PermissionDenied

    def save_formset(
        self, request: Any, form: Any, formset: Any, change: Any
    ) -> NoReturn:
        """Refuses."""
        raise PermissionDenied

    def delete_model(self, request: Any, obj: Any) -> NoReturn:
        """Refuses."""
        raise PermissionDenied

    def delete_queryset(self, request: Any, queryset: Any) -> NoReturn:
        """Refuses."""
        raise PermissionDenied

    def add_view(self, request: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses."""
        raise PermissionDenied

    def delete_view(self, request: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses."""
        raise PermissionDenied

    def history_view(self, request: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: Django's history is of what the admin wrote, and it writes nothing.

        What changed and who did it stands in the ledger's own history of changes.
        """
        raise PermissionDenied

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list; only read."""
        _require_reading(request)
        return super().changelist_view(request, extra_context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of one object; only read."""
        _require_reading(request)
        return super().changeform_view(request, object_id, form_url, extra_context)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Every field of the page."""
        return list(flatten_fieldsets(self.get_fieldsets(request, obj)))

    # Lists.

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list that pages by key."""
        return KeysetChangeList

    def get_keyset(self, request: HttpRequest) -> Keyset:
        """The order of the list: newest first, by the primary key backwards."""
        return Keyset()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """All rows, without the columns that are too large for a list.

        The page of one object gets its row from :meth:`get_object`.
        """
        rows: QuerySet[Any] = self.model._default_manager.defer(*self.list_defer)
        return rows.order_by()

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Fetches, in a fixed number of queries, what the rows' columns need."""

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        """Only what a filter asks for: any other lookup may be a scan."""
        filters: Any = self.list_filter
        return lookup in {spec.parameter_name for spec in filters}

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """The rows that a search finds: at most ``MAX_MATCHES`` ids, each by an index.

        A full UUID is looked up as an id in every ledger, anything else by
        :meth:`find_by_text` in the chosen one.
        """
        term = search_term.strip()
        if not term or "\x00" in term:
            return queryset, False
        value = parse_uuid(term)
        if value is not None:
            finds = self.find_by_id(request, queryset, value)
        else:
            finds = self.find_by_text(request, queryset, term)
        ids: set[Any] = set()
        for find in finds:
            found = find.order_by().values_list("pk", flat=True)[: bounds.MAX_MATCHES]
            ids.update(found)
            if len(found) >= bounds.MAX_MATCHES:
                request._payflow_search_is_cut = True  # type: ignore[attr-defined]
        return queryset.filter(pk__in=ids), False

    def find_by_id(
        self, request: HttpRequest, rows: QuerySet[Any], value: UUID
    ) -> list[QuerySet[Any]]:
        """What to look up for a full UUID; each by an index."""
        return [rows.filter(pk=value)]

    def find_by_text(
        self, request: HttpRequest, rows: QuerySet[Any], text: str
    ) -> list[QuerySet[Any]]:
        """What to look up for any other text; each by an index."""
        return []

    # The page of one object.

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Model | None:
        """The row by its physical key: ``?ledger=`` and the id, or any ledger's id."""
        try:
            key = self.opts.pk.to_python(object_id)
        except ValidationError:
            return None
        rows: QuerySet[Any] = self.model._default_manager.filter(pk=key)
        if self.in_ledger:
            ledger_id = parse_uuid(request.GET.get(LEDGER_PARAMETER, ""))
            rows = rows.filter(
                ledger_id__in=[ledger_id] if ledger_id else all_ledger_ids()
            )
        found: Model | None = (
            rows.select_related(*self.detail_select_related).order_by("pk").first()
        )
        return found

    def tables(self, request: HttpRequest, obj: Any) -> Iterable[Table]:
        """The tables below the object's own fields; each bounded."""
        return ()

    def links(self, request: HttpRequest, obj: Any) -> Iterable[tuple[str, str]]:
        """Address and text of the links on top of the object's page."""
        return ()

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """The object's page with its tables and links."""
        context["tables"] = list(self.tables(request, obj))
        context["links"] = list(self.links(request, obj))
        name = str(self.opts.verbose_name)
        context["title"] = name[:1].upper() + name[1:]
        return super().render_change_form(request, context, add, change, form_url, obj)


def _require_reading(request: HttpRequest) -> None:
    if request.method not in ("GET", "HEAD"):
        raise PermissionDenied
