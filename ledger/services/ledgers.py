"""Making and changing ledgers."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.db.models.functions import Now

from ledger.models import Ledger
from ledger.selectors.ledgers import (
    DEFAULT_LIFETIME,
    MAX_LIFETIME,
    OVER_CAPTURE,
    HoldSettings,
    hold_settings_of,
)
from ledger.services.accounts import change_record
from payflow.actors import Actor
from payflow.db import require_transaction
from payflow.durations import format_duration
from payflow.errors import ProblemError
from payflow.ids import new_id

#: The fields of a ledger that may change; the slug is its name for ever.
EDITABLE_FIELDS = ("name", "time_zone")
#: Its settings that may change: seconds, seconds, and hundredths of a percent.
HOLD_SETTINGS = (DEFAULT_LIFETIME, MAX_LIFETIME, OVER_CAPTURE)
#: The longest lifetime that a hold can have in any ledger; the database says so too.
MAX_HOLD_LIFETIME = timedelta(days=366)
#: 100 percent: captures may take twice the hold at the most.
MAX_OVER_CAPTURE_BASIS_POINTS = 10_000
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
    """Changes some of :data:`EDITABLE_FIELDS` and :data:`HOLD_SETTINGS`.

    What is already as wanted is not written. Holds that exist keep what they were made
    with.

    Raises:
        ProblemError: ``not_found``; ``invalid_request`` (time zone; lifetimes of less
            than a second or more than :data:`MAX_HOLD_LIFETIME`; a default lifetime
            above the longest; an over-capture of more than 100 percent).
        RuntimeError: no transaction is open.
        ValueError: a field is not editable.
    """
    require_transaction()
    if not set(changes) <= {*EDITABLE_FIELDS, *HOLD_SETTINGS}:
        raise ValueError(
            f"only {', '.join((*EDITABLE_FIELDS, *HOLD_SETTINGS))} can be changed"
        )
    ledger = Ledger.objects.select_for_update(no_key=True).filter(slug=slug).first()
    if ledger is None:
        raise ProblemError("not_found", f"There is no ledger {slug!r}.")
    if "time_zone" in changes:
        _require_time_zone(changes["time_zone"])
    settings = hold_settings_of(ledger).as_json()
    old = {name: getattr(ledger, name) for name in EDITABLE_FIELDS} | settings
    new = {name: value for name, value in changes.items() if value != old[name]}
    _require_sound(HoldSettings.from_json({**settings, **new}))
    if new:
        for name, value in new.items():
            if name in HOLD_SETTINGS:
                ledger.settings[name] = value
            else:
                setattr(ledger, name, value)
        ledger.save(update_fields=[*EDITABLE_FIELDS, "settings"])
        change_record(
            ledger_id=ledger.id,
            account_id=None,
            old={name: old[name] for name in new},
            new=new,
            actor=actor,
        )
    return ledger


def _require_sound(settings: HoldSettings) -> None:
    longest = format_duration(MAX_HOLD_LIFETIME)
    for name, lifetime in (
        ("default", settings.default_lifetime),
        ("longest", settings.max_lifetime),
    ):
        if not timedelta(seconds=1) <= lifetime <= MAX_HOLD_LIFETIME:
            raise ProblemError(
                "invalid_request",
                f"The {name} lifetime of holds is 1 second to {longest}.",
            )
    default, maximum = settings.default_lifetime, settings.max_lifetime
    if default > maximum:
        raise ProblemError(
            "invalid_request",
            f"The default lifetime of holds, {format_duration(default)}, is above the"
            f" longest, {format_duration(maximum)}.",
        )
    if not 0 <= settings.over_capture_basis_points <= MAX_OVER_CAPTURE_BASIS_POINTS:
        raise ProblemError("invalid_request", "The over-capture is 0 to 100 percent.")


def _require_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ProblemError(
            "invalid_request",
            f"{name!r} is no IANA time zone; use a name such as Europe/Berlin.",
        ) from error
