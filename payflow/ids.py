"""Identifiers: UUID version 7 (RFC 9562), made by the server.

Version 7 starts with the Unix time in milliseconds, so new rows land at the right
edge of every index and a descending scan over ids is newest first.
"""

import re
from functools import lru_cache
from uuid import UUID

import uuid_utils
from uuid_utils.compat import uuid7

__all__ = ["new_id", "new_id_bytes", "parse_id"]

_CANONICAL = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def new_id() -> UUID:
    """A new UUIDv7, as the standard library's ``UUID``."""
    return uuid7()


def new_id_bytes() -> bytes:
    """The 16 bytes of a new UUIDv7, at a fifth of the cost of a ``UUID``."""
    return uuid_utils.uuid7().bytes


def parse_id(text: object) -> UUID | None:
    """The UUID that ``text`` spells in its canonical 36-character form, or ``None``."""
    if not isinstance(text, str) or len(text) != 36:
        return None
    return _parsed(text)


# The accounts that a batch names, and those that many requests name, are few.
@lru_cache(maxsize=16_384)
def _parsed(text: str) -> UUID | None:
    if _CANONICAL.fullmatch(text) is None:
        return None
    return UUID(int=int(text.replace("-", ""), 16))
