"""Reading assets, and the exponents of all that a ledger counts in."""

import re
from collections.abc import Mapping
from uuid import UUID

from ledger.models import Asset
from payflow.errors import ProblemError
from payflow.money import iso_currencies

#: What an asset's code looks like.
CODE_PATTERN = re.compile(r"[A-Z][A-Z0-9]{2,11}")


def asset_get(*, ledger_id: UUID, code: str) -> Asset:
    """One asset of a ledger, by its code.

    Raises:
        ProblemError: ``not_found``.
    """
    asset = None
    if CODE_PATTERN.fullmatch(code):
        asset = Asset.objects.filter(ledger_id=ledger_id, code=code).first()
    if asset is None:
        raise ProblemError("not_found", f"This ledger has no asset {code!r}.")
    return asset


def asset_list(*, ledger_id: UUID, limit: int, after: str | None = None) -> list[Asset]:
    """Up to ``limit + 1`` assets by code, those after the code ``after``."""
    rows = Asset.objects.filter(ledger_id=ledger_id).order_by("code")
    if after is not None:
        rows = rows.filter(code__gt=after)
    return list(rows[: limit + 1])


def exponents(ledger_id: UUID) -> Mapping[str, int]:
    """The decimals of every currency that accounts of a ledger can be kept in.

    By code: those of ISO 4217 (``payflow.money.iso_currencies``) and the ledger's
    assets. An asset goes first: should ISO 4217 adopt its code later, the amounts that
    are in the books keep their meaning. One query.
    """
    found = {currency.code: currency.exponent for currency in iso_currencies()}
    assets = Asset.objects.filter(ledger_id=ledger_id).order_by()
    found.update(assets.values_list("code", "exponent"))
    return found
