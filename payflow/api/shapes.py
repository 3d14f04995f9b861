"""The shape of request bodies: strict readers that refuse a field by its name.

A ``Shape`` reads fields from one JSON object, collects what is wrong, and knows which
names nobody asked for. Rules of the business are not its concern.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from payflow.api.parsing import Float
from payflow.errors import FieldError, ProblemError, shape_errors
from payflow.greenlets import giving_way
from payflow.ids import parse_id
from payflow.money import MAX_AMOUNT

#: Limits of the texts and objects that clients may store.
MAX_REFERENCE = 255
MAX_DESCRIPTION = 1_000
MAX_METADATA_KEYS = 50
MAX_METADATA_KEY = 100
MAX_METADATA_VALUE = 1_000
#: Of a list with more errors than this, the remaining items are not looked at.
MAX_ERRORS = 100

#: RFC 3339, section 5.6. Python's own parser takes far more of ISO 8601 than that.
_INSTANT = re.compile(
    r"(?P<to_minute>[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}):"
    r"(?P<second>[0-9]{2})(?P<fraction>\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: From here on, no instant can be told in every time zone, or be added to.
_LAST_YEAR = datetime(9999, 1, 1, tzinfo=UTC)

_MISSING = object()

T = TypeVar("T")


class Shape:
    """Reads one JSON object strictly.

    Args:
        value: the parsed JSON.
        path: where it stands in the body, for messages: ``""`` or ``"postings[2]"``.
    """

    __slots__ = ("_data", "_errors", "_known", "_path")

    def __init__(self, value: Any, *, path: str = "") -> None:
        self._path = path
        self._errors: list[FieldError] = []
        self._known: set[str] = set()
        if not isinstance(value, dict):
            raise shape_errors([(path, "not_an_object", "A JSON object is expected.")])
        self._data: dict[str, Any] = value

    def has(self, name: str) -> bool:
        """True if the field is there, even as null."""
        return name in self._data

    def fail(self, name: str, code: str, message: str) -> None:
        """Notes an error of the field ``name``."""
        self._errors.append((self.path_of(name), code, message))

    def path_of(self, name: str) -> str:
        """Where the field ``name`` stands in the body, for messages."""
        return f"{self._path}.{name}".lstrip(".")

    @property
    def is_read(self) -> bool:
        """True once all fields that there are have been asked for."""
        return len(self._known) == len(self._data)

    def finish(self) -> None:
        """Raises what was collected, unknown fields included.

        Raises:
            ProblemError: ``invalid_request``.
        """
        if not self.is_read:
            for name in self._data:
                if name not in self._known:
                    self.fail(name, "unknown_field", "This field is not known here.")
        if self._errors:
            raise shape_errors(self._errors)

    def _take(self, name: str, *, required: bool) -> Any:
        value = self._data.get(name, _MISSING)
        if value is not _MISSING:
            self._known.add(name)
        elif required:
            self.fail(name, "missing", "This field is required.")
        return value

    def id(self, name: str) -> UUID | None:
        """A required UUID in its canonical form."""
        value = self._take(name, required=True)
        if value is _MISSING:
            return None
        parsed = parse_id(value)
        if parsed is None:
            self.fail(name, "not_a_uuid", "A UUID as a text of 36 characters.")
        return parsed

    def _integer(self, name: str, value: Any) -> int | None:
        if type(value) is not int:
            if isinstance(value, Float):
                message = "An integer of minor units, without fraction or exponent."
            else:
                message = "A JSON integer of minor units, not a text."
            self.fail(name, "not_an_integer", message)
            return None
        return value

    def amount(self, name: str) -> int | None:
        """A required amount: an integer of minor units, 1 to 2^53 - 1."""
        value = self._take(name, required=True)
        if value is _MISSING:
            return None
        number = self._integer(name, value)
        if number is None:
            return None
        if number <= 0:
            self.fail(name, "not_positive", "An amount is greater than zero.")
            return None
        if number > MAX_AMOUNT:
            self.fail(name, "too_large", f"An amount is at most {MAX_AMOUNT}.")
            return None
        return number

    def number(
        self, name: str, *, maximum: int, minimum: int = 1, required: bool = False
    ) -> int | None:
        """An integer that is no amount, within the bounds; absent is ``None``."""
        value = self._take(name, required=required)
        if value is _MISSING:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(name, "not_an_integer", "A JSON integer is expected.")
            return None
        if not minimum <= value <= maximum:
            message = f"An integer from {minimum} to {maximum}."
            self.fail(name, "out_of_range", message)
            return None
        return value

    def balance(self, name: str, *, default: int | None) -> int | None:
        """An optional balance in minor units, negative ones too; null is ``None``."""
        value = self._take(name, required=False)
        if value is _MISSING:
            return default
        if value is None:
            return None
        number = self._integer(name, value)
        if number is not None and abs(number) > MAX_AMOUNT:
            self.fail(name, "too_large", f"A balance is within ±{MAX_AMOUNT}.")
        return number

    def text(
        self, name: str, *, maximum: int, required: bool = False, empty: bool = True
    ) -> str | None:
        """A text of up to ``maximum`` characters; absent and null are ``None``."""
        value = self._take(name, required=required)
        if value is _MISSING:
            return None
        if value is None and not required:
            return None
        if not isinstance(value, str):
            self.fail(name, "not_a_text", "A text is expected.")
            return None
        if len(value) > maximum:
            self.fail(name, "too_long", f"At most {maximum} characters.")
        if not value and not empty:
            self.fail(name, "empty", "The text must not be empty.")
        return str(value)

    def choice(self, name: str, choices: Iterable[str], *, default: str) -> str:
        """One of ``choices``."""
        value = self._take(name, required=False)
        if value is _MISSING:
            return default
        allowed = list(choices)
        if value not in allowed:
            self.fail(name, "not_a_choice", f"One of {', '.join(allowed)}.")
            return default
        return str(value)

    def boolean(self, name: str, *, default: bool) -> bool:
        """``true`` or ``false``, and nothing that only looks like it."""
        value = self._take(name, required=False)
        if value is _MISSING:
            return default
        if not isinstance(value, bool):
            self.fail(name, "not_a_boolean", "true or false, without quotes.")
            return default
        return value

    def metadata(self, name: str) -> dict[str, Any]:
        """An object of texts, integers, booleans and nulls; absent is ``{}``."""
        value = self._take(name, required=False)
        if value is _MISSING:
            return {}
        if not isinstance(value, dict):
            self.fail(name, "not_an_object", "A JSON object is expected.")
            return {}
        if len(value) > MAX_METADATA_KEYS:
            self.fail(name, "too_long", f"At most {MAX_METADATA_KEYS} names.")
        for key, item in value.items():
            if not 1 <= len(key) <= MAX_METADATA_KEY:
                self.fail(name, "too_long", f"Names have 1-{MAX_METADATA_KEY} letters.")
            if isinstance(item, Float):
                self.fail(name, "not_an_integer", f"{key!r}: no fractions; use a text.")
            elif not (item is None or isinstance(item, str | int)):
                self.fail(name, "not_a_scalar", f"{key!r}: a text, integer or boolean.")
            elif isinstance(item, str) and len(item) > MAX_METADATA_VALUE:
                self.fail(name, "too_long", f"At most {MAX_METADATA_VALUE} letters.")
            elif isinstance(item, int) and abs(item) > MAX_AMOUNT:
                self.fail(name, "too_large", f"{key!r}: within ±{MAX_AMOUNT}.")
        return value

    def instant(self, name: str) -> datetime | None:
        """An optional RFC 3339 instant with its offset, as UTC; null is ``None``.

        To the microsecond, which is what PostgreSQL keeps: more digits are refused
        and not cut.
        """
        value = self._take(name, required=False)
        if value is _MISSING or value is None:
            return None
        message = "RFC 3339, as 2026-11-22T12:00:00Z."
        match = _INSTANT.fullmatch(value) if isinstance(value, str) else None
        if match and match["second"] == "60":
            message = "A leap second cannot be stored; send second 59."
        elif match and len(match["fraction"] or "") > len(".123456"):
            message = "At most six digits after the point: microseconds."
        elif match and "T24:" not in match["to_minute"].upper():
            try:
                instant = datetime.fromisoformat(match[0].upper()).astimezone(UTC)
            except (ValueError, OverflowError):
                pass  # A date, time or offset that no calendar or clock has.
            else:
                if _EPOCH <= instant < _LAST_YEAR:
                    return instant
                message = "From 1970 to 9998."
        self.fail(name, "not_an_instant", message)
        return None

    def objects(self, name: str, *, maximum: int, empty: bool = False) -> list[Any]:
        """A required list of up to ``maximum`` items, and of one unless ``empty``."""
        value = self._take(name, required=True)
        if value is _MISSING:
            return []
        if not isinstance(value, list):
            self.fail(name, "not_a_list", "A JSON list is expected.")
            return []
        if not value and not empty:
            self.fail(name, "empty", "At least one item is needed.")
        if len(value) > maximum:
            self.fail(name, "too_long", f"At most {maximum} items.")
            return []
        return value

    def each(
        self,
        name: str,
        read: Callable[["Shape"], T],
        *,
        maximum: int,
        empty: bool = False,
    ) -> list[T]:
        """What ``read`` makes of each item of a required list, as of :meth:`objects`.

        The errors of the items are noted beside this object's own, up to
        :data:`MAX_ERRORS`; items with errors are left out of the result.
        """
        results = []
        path = self.path_of(name)
        items = self.objects(name, maximum=maximum, empty=empty)
        for index, item in enumerate(giving_way(items)):
            if len(self._errors) >= MAX_ERRORS:
                break
            try:
                shape = Shape(item, path=f"{path}[{index}]")
                result = read(shape)
                shape.finish()
            except ProblemError as error:
                self._errors.extend(
                    (e["field"], e["code"], e["message"])
                    for e in error.problem.fields["errors"]
                )
            else:
                results.append(result)
        return results
