"""The figures on the index page."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.http import HttpRequest


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
