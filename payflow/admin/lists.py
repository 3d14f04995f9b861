"""Lists that page by the last key they showed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from payflow.admin import bounds
from payflow.admin.bounds import bounded_count, count_label
from payflow.admin.cells import LEDGER_PARAMETER
from payflow.admin.scope import ledger_scope

if TYPE_CHECKING:
    from payflow.admin.read_only import ReadOnlyModelAdmin

_NEXT, _PREVIOUS = "after", "before"


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Django's paginator, for its few other users, with a count that stops."""

    @cached_property
    def count(self) -> int:
        """The number of rows, at most ``MAX_COUNT``."""
        return min(bounded_count(self.object_list), bounds.MAX_COUNT)  # type: ignore[arg-type]


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
            .values_list(self.keyset.column, flat=True)[
                bounds.WINDOW_ROWS - 1 : bounds.WINDOW_ROWS
            ]
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
        return f"{bounds.WINDOW_ROWS:,}"

    @property
    def is_cut_search(self) -> bool:
        """True where a search may have found more than it lists."""
        return bool(getattr(self.request, "_payflow_search_is_cut", False))

    @property
    def max_matches(self) -> str:
        """How many rows a search lists."""
        return f"{bounds.MAX_MATCHES:,}"
