"""The query of a list: its filters, read strictly, its page size and its cursor."""

import re
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from django.http import QueryDict

from payflow.api.pagination import (
    bad_cursor,
    parse_cursor,
    parse_id_key,
    parse_number_key,
    read_limit,
    write_cursor,
)
from payflow.api.shapes import (
    MAX_METADATA_KEY,
    MAX_METADATA_VALUE,
    Shape,
)
from payflow.errors import shape_errors
from payflow.ids import parse_id
from payflow.money import MAX_AMOUNT

#: Each name doubles the number of values that are looked for.
MAX_METADATA_FILTERS = 3
_METADATA = "metadata."
#: The parameters of a list without filters.
PAGING = ("limit", "cursor")
_ONCE = "Give it once."
_AMOUNT = re.compile(r"[1-9][0-9]{0,15}")


class ListQuery(Shape):
    """Reads a list's query parameters as strictly as a body.

    A filter that is misspelt, repeated or out of form is refused by its name: a list of
    something else than was meant is worse than none.

    A cursor keeps the filters that it was made with. It may be sent alone, or with the
    same filters again; with others it is refused, because it would skip rows.

    Args:
        parameters: the request's query parameters.
        kind: the list's name, for its cursors.

    Raises:
        ProblemError: ``invalid_request`` for the page size, ``invalid_cursor``.
    """

    def __init__(self, parameters: QueryDict, *, kind: str) -> None:
        self._kind = kind
        self.limit = read_limit(parameters)
        self._key: str | None = None
        filters = {k: str(v) for k, v in parameters.items() if k not in PAGING}
        cursor = parameters.get("cursor")
        if cursor is not None:
            self._key, kept = parse_cursor(cursor, kind=kind)
            if not filters:
                filters = dict(parse_qsl(kept, keep_blank_values=True))
            elif _canonical(filters) != kept:
                raise bad_cursor(
                    "The cursor was made with other filters; send it with the same "
                    "ones, or alone."
                )
        self._filters = filters
        super().__init__(filters)
        for name in _repeated(parameters):
            self.fail(name, "repeated", _ONCE)
        for name, value in filters.items():
            if "\x00" in name + value:
                self.fail(name, "null_character", "U+0000 cannot be stored.")

    def last_seen(self, key_type: type[UUID] | type[int]) -> UUID | int | None:
        """The key of the last row that the page before looked at, if there was one.

        Args:
            key_type: of the key that orders the list.

        Raises:
            ProblemError: ``invalid_cursor``.
        """
        if self._key is None:
            return None
        if key_type is int:
            return parse_number_key(self._key)
        return parse_id_key(self._key)

    def next_cursor(self, key: object) -> str | None:
        """The cursor that goes on after ``key``; ``None`` stands for the end."""
        if key is None:
            return None
        return write_cursor(kind=self._kind, key=key, filters=_canonical(self._filters))

    def optional_id(self, name: str) -> UUID | None:
        """A UUID in its canonical form, or ``None``."""
        value = self._take(name, required=False)
        if not isinstance(value, str):
            return None
        parsed = parse_id(value)
        if parsed is None:
            self.fail(name, "not_a_uuid", "A UUID as a text of 36 characters.")
        return parsed

    def one_of(self, name: str, choices: Iterable[str]) -> str | None:
        """One of ``choices``, or ``None``."""
        value = self._take(name, required=False)
        if not isinstance(value, str):
            return None
        allowed = list(choices)
        if value not in allowed:
            self.fail(name, "not_a_choice", f"One of {', '.join(allowed)}.")
        return value

    def amounts(self) -> tuple[int | None, int | None]:
        """The least and the greatest amount, in minor units.

        From ``amount``, or from ``amount_min`` and ``amount_max``.
        """
        exact = self._amount("amount")
        least, greatest = self._amount("amount_min"), self._amount("amount_max")
        if exact is not None:
            if least is not None or greatest is not None:
                message = "Give either amount, or amount_min and amount_max."
                self.fail("amount", "two_forms", message)
            return exact, exact
        if least is not None and greatest is not None and least > greatest:
            self.fail("amount_max", "empty_range", "It is less than amount_min.")
        return least, greatest

    def _amount(self, name: str) -> int | None:
        value = self._take(name, required=False)
        if not isinstance(value, str):
            return None
        if not (_AMOUNT.fullmatch(value) and int(value) <= MAX_AMOUNT):
            message = f"An integer of minor units, 1 to {MAX_AMOUNT}."
            self.fail(name, "not_an_amount", message)
            return None
        return int(value)

    def instants(self, name: str) -> tuple[datetime | None, datetime | None]:
        """``<name>_from``, which is in the range, and ``<name>_to``, which is not."""
        start = self.instant(f"{name}_from")
        end = self.instant(f"{name}_to")
        if start is not None and end is not None and start >= end:
            message = f"It is not later than {name}_from."
            self.fail(f"{name}_to", "empty_range", message)
        return start, end

    def metadata_values(self) -> tuple[tuple[str, str], ...]:
        """The names and values of all ``metadata.<name>=<value>``."""
        found = []
        for parameter, value in self._filters.items():
            if not parameter.startswith(_METADATA):
                continue
            self._known.add(parameter)
            name = parameter.removeprefix(_METADATA)
            if not 1 <= len(name) <= MAX_METADATA_KEY:
                message = f"Names have 1-{MAX_METADATA_KEY} letters."
                self.fail(parameter, "too_long", message)
            if len(value) > MAX_METADATA_VALUE:
                message = f"At most {MAX_METADATA_VALUE} letters."
                self.fail(parameter, "too_long", message)
            found.append((name, value))
        if len(found) > MAX_METADATA_FILTERS:
            message = f"At most {MAX_METADATA_FILTERS} names of metadata."
            self.fail("metadata", "too_long", message)
        return tuple(found)


def refuse_other_parameters(parameters: QueryDict, *, taken: Iterable[str]) -> None:
    """Refuses what is not taken, or is given twice: it would be ignored otherwise.

    Raises:
        ProblemError: ``invalid_request`` with every such parameter.
    """
    unknown = [name for name in parameters if name not in taken]
    errors = [
        (name, "unknown_field", "This field is not known here.") for name in unknown
    ]
    errors += [(name, "repeated", _ONCE) for name in _repeated(parameters)]
    if errors:
        raise shape_errors(errors)


def _repeated(parameters: QueryDict) -> list[str]:
    return [name for name, values in parameters.lists() if len(values) > 1]


def _canonical(filters: dict[str, str]) -> str:
    return urlencode(sorted(filters.items()))
