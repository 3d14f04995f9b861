"""Identifiers: UUID version 7 (RFC 9562), made by the server.

Version 7 starts with the Unix time in milliseconds, so new rows land at the right
edge of every index and a descending scan over ids is newest first.
"""

from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["new_id", "parse_id"]


def new_id() -> UUID:
    """A new UUIDv7, as the standard library's ``UUID``."""
    return uuid7()


def parse_id(text: object) -> UUID | None:
    """The UUID that ``text`` spells in its canonical 36-character form, or ``None``."""
    if not isinstance(text, str) or len(text) != 36:
        return None
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None
