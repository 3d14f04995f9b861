"""Making and changing ledgers."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.db.models.functions import Now

from ledger.models import Ledger
from ledger.services.accounts import change_record
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.errors import ProblemError
from payflow.ids import new_id

#: The fields of a ledger that may change; the slug is its name for ever.
EDITABLE_FIELDS = ("name", "time_zone")
_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def ledger_create(
    *,
    slug: str,
    name: str,
    time_zone: str,
    actor: Actor,
    ledger_id: UUID | None = None,
) -> Ledger:
    """Makes an empty ledger and notes it in its history.

    Args:
        slug: lower-case letters, digits and hyphens, 1 to 63; unique; never changes.
        name: for people.
        time_zone: IANA name; defines the ledger's days and months.
        actor: who makes it.
        ledger_id: a given id, for the demo books.

    Raises:
        ProblemError: ``invalid_request`` (slug or time zone), ``reference_taken``.
        RuntimeError: no transaction is open.
    """
    require_transaction()
    if not _SLUG.fullmatch(slug):
        raise ProblemError(
            "invalid_request",
            f"{slug!r} is no slug: use 1-63 lower-case letters, digits and hyphens.",
        )
    _require_time_zone(time_zone)
    if Ledger.objects.filter(slug=slug).exists():
        raise ProblemError("reference_taken", f"There is a ledger {slug!r} already.")
    ledger = Ledger.objects.create(
        id=ledger_id or new_id(),
        slug=slug,
        name=name,
        time_zone=time_zone,
        created_at=Now(),
    )
    change_record(
        ledger_id=ledger.id,
        account_id=None,
        old={},
        new={"slug": slug, "name": name, "time_zone": time_zone},
        actor=actor,
    )
    return Ledger.objects.get(id=ledger.id)


def ledger_update(*, slug: str, changes: Mapping[str, Any], actor: Actor) -> Ledger:
    """Changes some of :data:`EDITABLE_FIELDS`; unchanged ones are not written.

    Raises:
        ProblemError: ``not_found``; ``invalid_request`` (time zone).
        RuntimeError: no transaction is open.
        ValueError: a field is not editable.
    """
    require_transaction()
    if not set(changes) <= set(EDITABLE_FIELDS):
        raise ValueError(f"only {', '.join(EDITABLE_FIELDS)} can be changed")
    ledger = Ledger.objects.select_for_update(no_key=True).filter(slug=slug).first()
    if ledger is None:
        raise ProblemError("not_found", f"There is no ledger {slug!r}.")
    if "time_zone" in changes:
        _require_time_zone(changes["time_zone"])
    old = {name: getattr(ledger, name) for name in changes}
    new = {name: value for name, value in changes.items() if value != old[name]}
    if new:
        Ledger.objects.filter(id=ledger.id).update(**new)
        change_record(
            ledger_id=ledger.id,
            account_id=None,
            old={name: old[name] for name in new},
            new=new,
            actor=actor,
        )
        ledger.refresh_from_db()
    return ledger


def _require_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ProblemError(
            "invalid_request",
            f"{name!r} is no IANA time zone; use a name such as Europe/Berlin.",
        ) from error
