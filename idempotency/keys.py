"""The form of an idempotency key, in a header or in the item of a batch."""

MAX_KEY_LENGTH = 255
#: Keys that the system gives to the transfers that it posts for clients at their time.
SCHEDULED_PREFIX = "scheduled:"


def key_fault(key: str) -> str | None:
    """What is wrong with a key's form, as a sentence; ``None`` if nothing is."""
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        return f"The key has {len(key)} characters; 1 to {MAX_KEY_LENGTH} are allowed."
    if not (key.isascii() and key.isprintable()):
        return "The key has characters that cannot be printed."
    if "," in key:
        # HTTP servers join repeated headers with commas (RFC 9110, section 5.2).
        return "The key has a comma, as two headers that were sent together would."
    if key.startswith(SCHEDULED_PREFIX):
        return f"Keys that begin with {SCHEDULED_PREFIX} are the system's own."
    return None
