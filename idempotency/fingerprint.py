"""What makes two requests the same request.

The operation's name (not its path: ``/transfer`` and ``/v1/transfers`` are one), the
path's parameters and the parsed body, canonically: sorted keys, UTF-8, no spaces, in
the spirit of RFC 8785. One SHA-256 for each top-level field, so that a reused key can
name the fields that differ. An absent field differs from a null one.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

#: Under these names stands what is not a field of the body. A field whose own name
#: starts like them is kept under ``FIELD_PREFIX``, so that no body can overwrite one.
OPERATION = "(operation)"
PATH_PREFIX = "(path) "
WHOLE_BODY = "(body)"
FIELD_PREFIX = "(field) "

_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def request_digests(
    *, operation: str, path_parameters: Mapping[str, str], body: Any
) -> dict[str, str]:
    """The digest of each part of a request, as 64 hexadecimal digits.

    Args:
        operation: the operation's stable name.
        path_parameters: from the URL, for instance an account's id.
        body: the parsed JSON.
    """
    digests = {OPERATION: _operation_digest(operation)}
    for name, value in path_parameters.items():
        digests[PATH_PREFIX + name] = _digest(value.lower())
    if isinstance(body, dict):
        digests.update({_field(name): _digest(value) for name, value in body.items()})
    else:
        digests[WHOLE_BODY] = _digest(body)
    return digests


def differing_fields(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """The parts, by name, in which two requests differ; empty if they are the same."""
    names = first.keys() | second.keys()
    return sorted(
        {
            name.removeprefix(FIELD_PREFIX)
            for name in names
            if first.get(name) != second.get(name)
        }
    )


def _field(name: str) -> str:
    return FIELD_PREFIX + name if name.startswith("(") else name


@cache
def _operation_digest(operation: str) -> str:
    return _digest(operation)


def _digest(value: Any) -> str:
    # Amounts; the encoder comes to the same by a long way.
    if type(value) is int:
        return hashlib.sha256(b"%d" % value).hexdigest()
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()
