"""Strict JSON: what two readers could understand differently is refused by name.

RFC 8259 leaves duplicate names, lone surrogates, huge numbers and non-finite numbers
to the implementation. Money does not.
"""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, UnreadablePostError
from gunicorn.http.errors import ParseException
from rest_framework.parsers import BaseParser

from payflow.errors import ProblemError

#: Deeper nesting than this is refused.
MAX_DEPTH = 32
#: Longer integers than this are refused before they are converted.
MAX_INTEGER_DIGITS = 40
#: The setting that limits the bodies of views that name no other.
DEFAULT_BODY_LIMIT = "DATA_UPLOAD_MAX_MEMORY_SIZE"


class Float(float):
    """A number that was written with a fraction or an exponent, as ``5.0`` or ``5e0``.

    It is parsed, so that a field can be refused by its name, and never accepted as an
    amount.
    """


def _fail(reason: str, detail: str) -> NoReturn:
    raise ProblemError("malformed_json", detail, reason=reason)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                _fail("duplicate_key", f"The name {name!r} appears twice in an object.")
            seen.add(name)
    return result


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        _fail("number_too_long", "An integer has too many digits.")
    return int(text)


def _constant(text: str) -> NoReturn:
    _fail("non_finite_number", f"{text} is not a JSON number.")


def _float(text: str) -> Float:
    value = Float(text)
    if value in (float("inf"), float("-inf")):
        _fail("non_finite_number", f"{text} is beyond every finite number.")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
    strict=True,
)


def parse_strict_json(body: bytes) -> Any:
    """Parses one JSON text.

    Raises:
        ProblemError: ``malformed_json`` with a ``reason``: ``empty``, ``not_utf8``,
            ``syntax``, ``duplicate_key``, ``lone_surrogate``, ``null_character``,
            ``non_finite_number``, ``number_too_long``, ``trailing_data``, ``too_deep``.
    """
    if not body.strip():
        _fail("empty", "The body is empty; a JSON object is expected.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        _fail("not_utf8", "The body is not UTF-8.")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        _fail("syntax", f"{error.msg} at line {error.lineno}, column {error.colno}.")
    except RecursionError:
        _fail("too_deep", f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    if text[end:].strip(" \t\r\n"):
        _fail("trailing_data", "There is more data after the JSON value.")
    # Only an escape can write them: the body is UTF-8 without control characters.
    _check(value, depth=1, has_escapes="\\u" in text)
    return value


def _check(value: Any, *, depth: int, has_escapes: bool) -> None:
    """Refuses deep nesting, and texts that PostgreSQL cannot store."""
    if depth > MAX_DEPTH:
        _fail("too_deep", f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    items: Iterable[Any] = (value,)
    if isinstance(value, dict):
        items = value.values()
        if has_escapes:
            items = (*value, *items)
    elif isinstance(value, list):
        items = value
    for item in items:
        if isinstance(item, dict | list):
            _check(item, depth=depth + 1, has_escapes=has_escapes)
        elif has_escapes and isinstance(item, str):
            _check_text(item)


def _check_text(text: str) -> None:
    if "\x00" in text:
        _fail("null_character", "A text contains U+0000, which cannot be stored.")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        _fail("lone_surrogate", "A text contains half of a surrogate pair.")


def _body_limit(request: HttpRequest) -> int | None:
    """The most bytes of a body, by the setting that the view's ``body_limit`` names."""
    match = request.resolver_match
    name = getattr(match and match.func, "body_limit", DEFAULT_BODY_LIMIT)
    limit: int | None = getattr(settings, name)
    return limit


def _body(request: HttpRequest, limit: int | None) -> bytes:
    # Not `request.body`: it knows one limit for all routes, and keeps the bytes beside
    # what was parsed from them.
    stream: Any = request
    if "HTTP_TRANSFER_ENCODING" in request.META:
        # Django reads as many bytes as Content-Length says, and a body in chunks has
        # none; the server takes the chunks apart and ends its stream where it ends.
        if request.META.get("wsgi.input_terminated"):
            stream = request.META["wsgi.input"]
    elif limit is not None and int(request.META.get("CONTENT_LENGTH") or 0) > limit:
        raise RequestDataTooBig
    try:
        body: bytes = stream.read(-1 if limit is None else limit + 1)
    except OSError as error:
        raise UnreadablePostError(*error.args) from error
    if limit is not None and len(body) > limit:
        raise RequestDataTooBig
    return body


def request_json(request: HttpRequest) -> Any:
    """The request's body as strict JSON, parsed once and kept on the request.

    Raises:
        ProblemError: ``unsupported_media_type``, ``body_too_large`` or
            ``malformed_json``.
    """
    if not hasattr(request, "strict_json"):
        if request.content_type != "application/json":
            raise ProblemError(
                "unsupported_media_type",
                f"The body was sent as {request.content_type or 'nothing'!r}.",
            )
        charset = (request.content_params or {}).get("charset", "utf-8")
        if charset.lower() != "utf-8":
            raise ProblemError(
                "unsupported_media_type",
                f"JSON is sent in UTF-8 (RFC 8259, section 8.1), not in {charset!r}.",
            )
        if request.META.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
            raise ProblemError(
                "unsupported_media_type", "A compressed body is not understood."
            )
        limit = _body_limit(request)
        try:
            body = _body(request, limit)
        except RequestDataTooBig as error:
            raise ProblemError(
                "body_too_large",
                "The body is larger than this server takes.",
                max_bytes=limit,
            ) from error
        except (UnreadablePostError, ParseException):
            _fail("truncated", "The connection ended before the body did.")
        request.strict_json = parse_strict_json(body)  # type: ignore[attr-defined]
    return request.strict_json  # type: ignore[attr-defined]


def wants_dry_run(request: HttpRequest) -> bool:
    """True for a request whose JSON object says ``"dry_run": true``, strictly.

    Whether a key is needed, and whether the transaction rolls back, are both asked
    here, so nothing that came without a key for this reason is ever committed.
    """
    body = getattr(request, "strict_json", None)
    return isinstance(body, dict) and body.get("dry_run") is True


class StrictJSONParser(BaseParser):
    """DRF's view of :func:`request_json`."""

    media_type = "application/json"

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Any = None,
    ) -> Any:
        """The body that the middleware parsed, or parses it now."""
        request = parser_context["request"]
        return request_json(getattr(request, "_request", request))
