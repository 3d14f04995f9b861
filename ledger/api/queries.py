"""What report requests share: strict query parameters, and files as answers."""

from collections.abc import Mapping

from django.http import QueryDict
from rest_framework.request import Request

from ledger.api.views import ApiView
from ledger.days import Moment, day_parse
from payflow.api.downloads import FORMS
from payflow.api.shapes import Shape

_MAX_CURRENCY = 12
_MAX_PAGING = 1_000
_DAY_LENGTH = len("2026-11-22")


class Query(Shape):
    """Reads query parameters as strictly as a body.

    ``?at=2026-13-01`` and ``?currncy=EUR`` are refused by name: a report about
    something else than was meant is worse than none.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        super().__init__(dict(parameters.items()))
        if isinstance(parameters, QueryDict):
            for name, values in parameters.lists():
                if len(values) > 1:
                    self.fail(name, "repeated", "Give it once.")
        for name, value in parameters.items():
            if "\x00" in value:
                self.fail(name, "null_character", "U+0000 cannot be stored.")

    def moment(self, name: str, *, required: bool = False) -> Moment | None:
        """An RFC 3339 instant, or a day of the ledger as ``2026-11-22``."""
        value = self._take(name, required=required)
        if not isinstance(value, str) or value[_DAY_LENGTH:].upper().startswith("T"):
            return self.instant(name)
        day = day_parse(value)
        if day is None:
            message = "A day as 2026-11-22, or RFC 3339 as 2026-11-22T12:00:00Z."
            self.fail(name, "not_an_instant", message)
        return day

    def form(self) -> str:
        """``format``: ``json`` or one of the files."""
        return self.choice("format", ("json", *FORMS), default="json")

    def currency(self) -> str | None:
        """``currency``: only this one."""
        return self.text("currency", maximum=_MAX_CURRENCY, empty=False)

    def paging(self) -> None:
        """Makes ``limit`` and ``cursor`` known; ``payflow.api.pagination`` reads them.

        Pages belong together only as recorded at one instant, so a cursor goes with the
        ``as_recorded_at`` that the first page named.
        """
        self.text("limit", maximum=_MAX_PAGING)
        cursor = self.text("cursor", maximum=_MAX_PAGING)
        if cursor is not None and not self.has("as_recorded_at"):
            message = "A cursor needs the as_recorded_at that the first page named."
            self.fail("as_recorded_at", "missing", message)


class ReportView(ApiView):
    """A view that answers with JSON or a file, as ``?format=`` says."""

    query_parameters = None

    def perform_content_negotiation(  # type: ignore[override]
        self, request: Request, force: bool = False
    ) -> None:
        """Takes every ``Accept``: the parameter decides, and errors are JSON."""
