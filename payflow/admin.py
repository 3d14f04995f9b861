"""What every page of the back office shares: it reads, and it reads a bounded amount.

``ReadOnlyModelAdmin`` refuses every write to everybody, superusers too. Its lists work
inside one ledger at a time and page by key, never by OFFSET, so that each page is
served by an index whatever the size of the table:

- the scope (a ledger, or one account's entries) and the order come from one index;
- a filter that has no index looks through at most ``WINDOW_ROWS`` rows of that order,
  says so, and goes on from there with the next page;
- a search finds at most ``MAX_MATCHES`` ids by an index and lists those;
- a count stops at ``MAX_COUNT``.

The kernel imports no app: ledgers are reached by the name of their model.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import urlencode
from uuid import UUID

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.text import Truncator

from payflow.clock import format_instant
from payflow.money import format_amount

#: The class of fieldsets that stand below the tables of an object's page.
BELOW_TABLES = "below-tables"
#: Rows of one list page. Even, so that a page never splits a posting's two entries.
PER_PAGE = 50
#: Where counting stops: "1,000+".
MAX_COUNT = 1_000
#: Rows that one page of a filtered list looks through.
WINDOW_ROWS = 20_000
#: Rows that one search finds.
MAX_MATCHES = 1_000
#: Ledgers that the filter offers; others are reached from the list of ledgers.
MAX_LEDGER_CHOICES = 100
#: Rows that a table inside another object's page shows.
MAX_TABLE_ROWS = 50
#: Characters of a JSON document or stored body that a page shows.
MAX_TEXT_CHARACTERS = 20_000

LEDGER_PARAMETER = "ledger"
_NEXT, _PREVIOUS = "after", "before"
_EMPTY = "–"  # noqa: RUF001 - a dash is how an empty cell looks


# --- How values look ----------------------------------------------------------


def money(amount: int | None, currency: str | None) -> str:
    """An amount with separators and currency, set in tabular figures.

    Args:
        amount: minor units; ``None`` is shown as empty.
        currency: ISO 4217 code.
    """
    if amount is None or currency is None:
        return _EMPTY
    sign = "negative" if amount < 0 else "zero" if amount == 0 else "positive"
    return format_html(
        '<span class="money {}">{}</span>', sign, format_amount(amount, currency)
    )


def instant(value: datetime | None) -> str:
    """An instant to the second, in UTC; the exact one is its tooltip."""
    if value is None:
        return _EMPTY
    return format_html(
        '<time datetime="{0}" title="{0}">{1} <span class="unit">UTC</span></time>',
        format_instant(value),
        f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
    )


def badge(text: str, tone: str = "plain") -> str:
    """A word in a coloured box; ``tone`` is good, warn, bad or plain."""
    return format_html('<span class="badge {}">{}</span>', tone, text)


def short(value: Any, characters: int = 60) -> str:
    """A text cut to what a table cell can hold; the whole is its tooltip."""
    text = str(value or "")
    if not text:
        return _EMPTY
    if len(text) <= characters:
        return text
    cut = Truncator(text).chars(characters)
    return format_html('<span title="{}">{}</span>', text[:1000], cut)


def short_id(value: UUID | None) -> str:
    """The end of an id, where ids of the same time differ; the whole is its tooltip."""
    if value is None:
        return _EMPTY
    return format_html('<code title="{}">…{}</code>', value, str(value)[-12:])


def pretty_json(value: Any) -> str:
    """A JSON document, indented, at most ``MAX_TEXT_CHARACTERS`` of it."""
    if value in (None, {}, []):
        return _EMPTY
    return long_text(json.dumps(value, indent=2, ensure_ascii=False))


def long_text(text: str) -> str:
    """A text as it stands, at most ``MAX_TEXT_CHARACTERS`` of it."""
    note = ""
    if len(text) > MAX_TEXT_CHARACTERS:
        note = f"\n… and {len(text) - MAX_TEXT_CHARACTERS:,} characters more"
    return format_html('<pre class="text">{}</pre>', text[:MAX_TEXT_CHARACTERS] + note)


def link(
    model: str, object_id: UUID | None, ledger_id: UUID | None, text: Any = None
) -> str:
    """A link to the page of one object.

    It carries the ledger, so that the page finds the row by its physical key.

    Args:
        model: ``"ledger.transfer"``.
        object_id: the object; ``None`` is shown as empty.
        ledger_id: the object's ledger; ``None`` for what belongs to none.
        text: what to show; by default the end of the id.
    """
    if object_id is None:
        return _EMPTY
    url = reverse(f"admin:{model.replace('.', '_')}_change", args=[object_id])
    if ledger_id is not None:
        url = f"{url}?{urlencode({LEDGER_PARAMETER: ledger_id})}"
    return format_html('<a href="{}">{}</a>', url, text or short_id(object_id))


def list_url(model: str, ledger_id: UUID, **parameters: Any) -> str:
    """The address of a list inside one ledger, narrowed by ``parameters``."""
    url = reverse(f"admin:{model.replace('.', '_')}_changelist")
    return f"{url}?{urlencode({LEDGER_PARAMETER: ledger_id, **parameters})}"


def list_link(model: str, ledger_id: UUID, text: str, **parameters: Any) -> str:
    """A link to a list inside one ledger, narrowed by ``parameters``."""
    return format_html(
        '<a href="{}">{}</a>', list_url(model, ledger_id, **parameters), text
    )


def can_view(request: HttpRequest, model: str) -> bool:
    """Whether the user may see objects of ``model`` (``"ledger.transfer"``)."""
    app_label, _, name = model.partition(".")
    user: Any = request.user
    return bool(user.has_perm(f"{app_label}.view_{name}"))


def instant_column(field: str, description: str) -> Callable[[Any, Any], str]:
    """A read-only column or field that shows the instant in ``field``."""

    @admin.display(description=description)
    def column(self: Any, row: Any) -> str:
        return instant(getattr(row, field))

    return column


def json_column(field: str, description: str) -> Callable[[Any, Any], str]:
    """A read-only field that shows the JSON document in ``field``."""

    @admin.display(description=description)
    def column(self: Any, row: Any) -> str:
        return pretty_json(getattr(row, field))

    return column


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of other objects on an object's page.

    ``columns`` that hold numbers start with ``#``, which is not shown.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    empty: str = "None."
    more_url: str = ""
    more_label: str = ""

    @property
    def headers(self) -> list[tuple[str, bool]]:
        """Each column's name, and whether it holds numbers."""
        return [(name.removeprefix("#"), name.startswith("#")) for name in self.columns]

    @property
    def cells(self) -> list[list[tuple[Any, bool]]]:
        """Each row's cells, and whether they hold numbers."""
        are_numbers = [is_number for _, is_number in self.headers]
        return [list(zip(row, are_numbers, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the index page; ``tone`` is good, warn, bad or plain."""

    label: str
    value: str
    tone: str = "plain"
    note: str = ""
    url: str = ""


FigureSource = Callable[[HttpRequest], Iterable[Figure]]

_FIGURE_SOURCES: dict[int, FigureSource] = {}


def index_figures(position: int) -> Callable[[FigureSource], FigureSource]:
    """Puts a function's figures on the index page.

    It is called on every visit: its queries must be bounded, and it must leave out what
    the user may not see.

    Args:
        position: where its figures stand among the others.
    """

    def register(source: FigureSource) -> FigureSource:
        _FIGURE_SOURCES[position] = source
        return source

    return register


def figures_of_index(request: HttpRequest) -> list[Figure]:
    """Every app's figures for the index page."""
    sources = [_FIGURE_SOURCES[position] for position in sorted(_FIGURE_SOURCES)]
    return [figure for source in sources for figure in source(request)]


def bounded_count(rows: QuerySet[Any]) -> int:
    """How many rows there are, counted up to ``MAX_COUNT + 1``."""
    return rows.values("pk")[: MAX_COUNT + 1].count()


def count_label(count: int) -> str:
    """``"12"``, or ``"1,000+"`` where counting stopped."""
    return f"{MAX_COUNT:,}+" if count > MAX_COUNT else f"{count:,}"


# --- The ledger that a page works in ------------------------------------------


@dataclass(frozen=True, slots=True)
class LedgerScope:
    """The ledger of a request's list, and those that the filter offers.

    Where there is no ledger yet, ``id`` is one that none will have.
    """

    id: UUID
    choices: tuple[tuple[str, str], ...]

    @property
    def label(self) -> str:
        """The ledger's slug."""
        return dict(self.choices).get(str(self.id), "")


def parse_uuid(value: Any) -> UUID | None:
    """A full UUID, or ``None`` for anything else."""
    try:
        return UUID(str(value).strip())
    except ValueError:
        return None


def ledger_scope(request: HttpRequest) -> LedgerScope:
    """The ledger that ``?ledger=`` names, or the one with the latest transfer.

    Worked out once per request, by one or two queries.
    """
    cached: LedgerScope | None = getattr(request, "_payflow_ledger_scope", None)
    if cached is not None:
        return cached
    ledgers = apps.get_model("ledger", "Ledger")._default_manager
    latest = (
        apps.get_model("ledger", "Transfer")
        ._default_manager.filter(ledger_id=OuterRef("id"))
        .order_by("-id")
        .values("id")[:1]
    )
    rows = list(
        ledgers.order_by("-id").values_list("id", "slug", Subquery(latest))[
            :MAX_LEDGER_CHOICES
        ]
    )
    slugs = {id_: slug for id_, slug, _ in rows}
    chosen = parse_uuid(request.GET.get(LEDGER_PARAMETER, ""))
    if chosen is not None and chosen not in slugs:
        slugs.update(ledgers.filter(id=chosen).values_list("id", "slug"))
    if chosen is None and rows:
        chosen = max(rows, key=lambda row: (row[2] is not None, str(row[2])))[0]
    choices = sorted(((str(id_), slug) for id_, slug in slugs.items()), key=_by_slug)
    scope = LedgerScope(chosen or UUID(int=0), tuple(choices))
    request._payflow_ledger_scope = scope  # type: ignore[attr-defined]
    return scope


def _by_slug(choice: tuple[str, str]) -> str:
    return choice[1]


def all_ledger_ids() -> list[UUID]:
    """Every ledger, for what is looked up by id alone.

    The physical keys are ``(ledger_id, id)``: with the ledgers listed, an id costs one
    probe of the primary key per ledger, and without them a scan of the table.
    """
    ledgers = apps.get_model("ledger", "Ledger")._default_manager
    return list(ledgers.order_by().values_list("id", flat=True))


def ledger_link(ledger_id: UUID) -> str:
    """A link to a ledger, named by its slug."""
    ledgers = apps.get_model("ledger", "Ledger")._default_manager
    slug = ledgers.filter(id=ledger_id).values_list("slug", flat=True).first()
    return link("ledger.ledger", ledger_id, None, slug)


# --- Filters ------------------------------------------------------------------


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
            .values_list("currency", flat=True)[:MAX_MATCHES]
        )
        found = {*newest, *filter(None, [self.value()])}
        return [(code, code) for code in sorted(found)]


# --- Lists --------------------------------------------------------------------


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Django's paginator, for its few other users, with a count that stops."""

    @cached_property
    def count(self) -> int:
        """The number of rows, at most ``MAX_COUNT``."""
        return min(bounded_count(self.object_list), MAX_COUNT)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Keyset:
    """An order that an index gives: a column, and what sorts rows that share it."""

    column: str = "id"
    is_descending: bool = True
    tail: tuple[str, ...] = ()

    def order(self, *, is_reversed: bool) -> list[str]:
        """The ``order_by`` of this order, or of its reverse."""
        backwards = self.is_descending != is_reversed
        tail = [_flipped(name) for name in self.tail] if is_reversed else self.tail
        return [f"-{self.column}" if backwards else self.column, *tail]

    def beyond(self, *, is_reversed: bool, inclusive: bool = False) -> str:
        """The lookup for rows further along the order."""
        operator = "lt" if self.is_descending != is_reversed else "gt"
        return f"{self.column}__{operator}{'e' if inclusive else ''}"


def _flipped(name: str) -> str:
    return name.removeprefix("-") if name.startswith("-") else f"-{name}"


class KeysetChangeList(ChangeList):
    """A list that pages by the last key it showed; see the module's description."""

    request: HttpRequest
    filter_specs: list[Any]
    model_admin: "ReadOnlyModelAdmin"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name = str(self.opts.verbose_name_plural)
        self.title = name[:1].upper() + name[1:]

    def get_queryset(
        self, request: HttpRequest, exclude_parameters: Any = None
    ) -> QuerySet[Any]:
        """The rows that the filters and the search leave."""
        self.request = request
        self.keyset = self.model_admin.get_keyset(request)
        self.cursor: Any = None
        self.is_backwards = False
        for parameter in (_NEXT, _PREVIOUS):
            self.filter_params.pop(parameter, None)
            value = self.params.pop(parameter, None)
            if value and self.cursor is None:
                self.cursor = self._key(value)
                self.is_backwards = parameter == _PREVIOUS
        filters: Any = self.list_filter
        self.scope_parameters = [
            spec.parameter_name
            for spec in filters
            if spec.is_scope and spec.parameter_name != LEDGER_PARAMETER
        ]
        rows = super().get_queryset(request, exclude_parameters)
        if self.model_admin.in_ledger:
            ledger_id = ledger_scope(request).id
            # Every link of the page stays in this ledger, whichever moves next.
            self.params[LEDGER_PARAMETER] = str(ledger_id)
            self.filter_params[LEDGER_PARAMETER] = [str(ledger_id)]
        return rows

    def _key(self, value: str) -> Any:
        """The cursor's value; anything that is none starts at the first page."""
        try:
            column: Any = self.opts.get_field(self.keyset.column)
            return column.to_python(value)
        except ValidationError:
            return None

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """The keyset's order; no other is served by an index."""
        return self.keyset.order(is_reversed=False)

    def url_for_result(self, result: Any) -> str:
        """The row's page, with its ledger, so that it is found by its physical key."""
        url = super().url_for_result(result)
        ledger_id = getattr(result, "ledger_id", None)
        if ledger_id is None:
            return url
        separator = "&" if "?" in url else "?"
        return f"{url}{separator}{urlencode({LEDGER_PARAMETER: ledger_id})}"

    def get_results(self, request: HttpRequest) -> None:
        """One page: at most ``list_per_page`` rows, and where the next begins."""
        keyset, backwards = self.keyset, self.is_backwards
        rows = self.queryset.order_by(*keyset.order(is_reversed=backwards))
        edge = self._window_edge(request) if self._needs_window() else None
        if edge is not None:
            inside = keyset.beyond(is_reversed=not backwards, inclusive=True)
            rows = rows.filter(**{inside: edge})
        counted = rows
        if self.cursor is not None:
            rows = rows.filter(**{keyset.beyond(is_reversed=backwards): self.cursor})
        page = list(rows[: self.list_per_page + 1])
        has_more = len(page) > self.list_per_page
        page = page[: self.list_per_page]
        further = getattr(page[-1], keyset.column) if has_more else edge
        if backwards:
            page.reverse()
        self.model_admin.prepare_rows(request, page)
        self._describe(page, has_more=has_more, counted=counted)
        self.has_window_edge = edge is not None and not has_more
        self.next_url = self.previous_url = self.first_url = ""
        if self.cursor is not None:
            self.first_url = self.get_query_string()
        if backwards:
            if further is not None:
                self.previous_url = self._page_url(_PREVIOUS, further)
            if page:
                self.next_url = self._page_url(_NEXT, getattr(page[-1], keyset.column))
        else:
            if further is not None:
                self.next_url = self._page_url(_NEXT, further)
            if self.cursor is not None and page:
                first = getattr(page[0], keyset.column)
                self.previous_url = self._page_url(_PREVIOUS, first)

    def _page_url(self, parameter: str, key: Any) -> str:
        return self.get_query_string({parameter: str(key)})

    def _needs_window(self) -> bool:
        """True where a filter without an index narrows what is not small already."""
        return not self.query.strip() and any(
            not spec.is_scope and spec.value() for spec in self.filter_specs
        )

    def _window_edge(self, request: HttpRequest) -> Any:
        """The last key that this page looks at; ``None`` if the rows end before."""
        rows = self.root_queryset
        for spec in self.filter_specs:
            if spec.is_scope:
                rows = spec.queryset(request, rows)
        backwards = self.is_backwards
        if self.cursor is not None:
            beyond = self.keyset.beyond(is_reversed=backwards)
            rows = rows.filter(**{beyond: self.cursor})
        return (
            rows.order_by(self.keyset.order(is_reversed=backwards)[0])
            .values_list(self.keyset.column, flat=True)[WINDOW_ROWS - 1 : WINDOW_ROWS]
            .first()
        )

    def _describe(
        self, page: list[Any], *, has_more: bool, counted: QuerySet[Any]
    ) -> None:
        """Sets what the templates read; the only count is a bounded one."""
        self.result_list = page
        self.full_result_count = None
        self.show_full_result_count = False
        self.show_admin_actions = False
        self.can_show_all = self.multi_page = False
        self.ledger_label = (
            ledger_scope(self.request).label if self.model_admin.in_ledger else ""
        )
        if self.cursor is not None:
            self.result_count = len(page)
            self.count_text = f"{len(page):,} {self._noun(len(page))} on this page"
            return
        self.result_count = bounded_count(counted) if has_more else len(page)
        self.count_text = (
            f"{count_label(self.result_count)} {self._noun(self.result_count)}"
        )

    def _noun(self, count: int) -> str:
        opts = self.opts
        return str(opts.verbose_name if count == 1 else opts.verbose_name_plural)

    @property
    def without_search_url(self) -> str:
        """This list without what was searched for."""
        return str(self.get_query_string(remove=["q"]))

    @property
    def window_rows(self) -> str:
        """How many rows a page of a filtered list looks through."""
        return f"{WINDOW_ROWS:,}"

    @property
    def is_cut_search(self) -> bool:
        """True where a search may have found more than it lists."""
        return bool(getattr(self.request, "_payflow_search_is_cut", False))

    @property
    def max_matches(self) -> str:
        """How many rows a search lists."""
        return f"{MAX_MATCHES:,}"


# --- The admin of a model -----------------------------------------------------


class ReadOnlyModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows a model's rows to those who may view them; nobody writes.

    Permissions, views and hooks each refuse by themselves, so that no single override
    further down opens a way in.
    """

    change_list_template = "admin/payflow_change_list.html"
    change_form_template = "admin/payflow_change_form.html"
    actions = None
    list_per_page = PER_PAGE
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    paginator = BoundedPaginator
    empty_value_display = _EMPTY
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
            found = find.order_by().values_list("pk", flat=True)[:MAX_MATCHES]
            ids.update(found)
            if len(found) >= MAX_MATCHES:
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
