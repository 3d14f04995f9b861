"""The part of a body that says how much of which postings."""

from ledger.services.parts import Parts
from ledger.types import MAX_POSTINGS
from payflow.api.shapes import Shape


def read_parts(shape: Shape) -> Parts:
    """``amount``, or ``postings`` of ``number`` and ``amount``, or neither for all."""
    amount = shape.amount("amount") if shape.has("amount") else None
    if not shape.has("postings"):
        return amount
    if amount is not None:
        shape.fail("postings", "two_forms", "Give either amount or postings.")
    parts: dict[int, int] = {}
    for part in shape.each("postings", _read_part, maximum=MAX_POSTINGS):
        if part is None:
            continue
        number, amount = part
        if number in parts:
            shape.fail("postings", "repeated", f"Posting {number} is given twice.")
        parts[number] = amount
    return parts


def _read_part(shape: Shape) -> tuple[int, int] | None:
    number = shape.number("number", maximum=MAX_POSTINGS, required=True)
    amount = shape.amount("amount")
    return None if number is None or amount is None else (number, amount)
