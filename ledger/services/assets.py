"""Assets: units of account that a ledger defines beside ISO 4217's currencies."""

from dataclasses import dataclass, field
from uuid import UUID

from django.db import connection

from ledger.models import Asset
from ledger.selectors.assets import CODE_PATTERN
from ledger.services.accounts import change_record
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import Problem, ProblemError
from payflow.ids import new_id
from payflow.money import is_iso_code

#: The most decimals of an asset's minor unit.
MAX_EXPONENT = 8
#: Characters of an asset's name.
MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class AssetRequest:
    """A new asset; see :class:`ledger.models.Asset`."""

    code: str
    name: str
    exponent: int
    id: UUID = field(default_factory=new_id)


def asset_create(
    *, ledger_id: UUID, request: AssetRequest, actor: Actor
) -> Asset | Problem:
    """Makes an asset, for good: amounts in the books take their meaning from it.

    Refused for the first of: ``asset_code_is_iso`` (a code that ISO 4217 uses, or once
    used), ``asset_code_taken``.

    Raises:
        ProblemError: ``invalid_request`` (code, name or exponent).
        RuntimeError: no transaction is open.
    """
    require_transaction()
    if not CODE_PATTERN.fullmatch(request.code):
        raise ProblemError(
            "invalid_request",
            f"{request.code!r} is no code: use 3-12 capital letters and digits, a"
            " letter first.",
        )
    if not 1 <= len(request.name) <= MAX_NAME:
        raise ProblemError(
            "invalid_request", f"An asset has a name of 1-{MAX_NAME} characters."
        )
    if not 0 <= request.exponent <= MAX_EXPONENT:
        raise ProblemError(
            "invalid_request", f"An asset has 0 to {MAX_EXPONENT} decimals."
        )
    if is_iso_code(request.code):
        return Problem(
            "asset_code_is_iso",
            f"{request.code} is a code of ISO 4217, current or withdrawn.",
            {"asset_code": request.code},
        )
    with connection.cursor() as cursor:
        # It waits for a racer, and then finds the code taken.
        cursor.execute(
            "INSERT INTO ledger_asset (ledger_id, id, code, name, exponent)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (ledger_id, code) DO NOTHING",
            [ledger_id, request.id, request.code, request.name, request.exponent],
        )
        is_taken = cursor.rowcount == 0
    if is_taken:
        return Problem(
            "asset_code_taken",
            f"This ledger has an asset {request.code} already.",
            {"asset_code": request.code},
        )
    change_record(
        ledger_id=ledger_id,
        account_id=None,
        old={},
        new={
            "asset": {
                "code": request.code,
                "name": request.name,
                "exponent": request.exponent,
            }
        },
        actor=actor,
    )
    return Asset.objects.get(ledger_id=ledger_id, id=request.id)
