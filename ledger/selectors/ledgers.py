"""Reading ledgers and their settings."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from ledger.models import Ledger


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """What a ledger says about its holds; each can be set by ``set_ledger``.

    Attributes:
        default_lifetime: of holds that do not say when they lapse.
        max_lifetime: the longest that any hold may have, extensions included.
        over_capture_basis_points: what captures may take beyond the hold, in hundredths
            of a percent of it.
    """

    default_lifetime: timedelta = timedelta(days=7)
    max_lifetime: timedelta = timedelta(days=31)
    over_capture_basis_points: int = 0


#: The names of the settings in the ledger's JSON, with the fields that they set.
DEFAULT_LIFETIME = "hold_default_lifetime_seconds"
MAX_LIFETIME = "hold_max_lifetime_seconds"
OVER_CAPTURE = "hold_over_capture_basis_points"


def hold_settings(*, ledger_id: UUID) -> HoldSettings:
    """The ledger's settings of holds, with the defaults for what it does not say."""
    settings = Ledger.objects.values_list("settings", flat=True).get(id=ledger_id)
    defaults = HoldSettings()
    return HoldSettings(
        default_lifetime=_seconds(
            settings, DEFAULT_LIFETIME, defaults.default_lifetime
        ),
        max_lifetime=_seconds(settings, MAX_LIFETIME, defaults.max_lifetime),
        over_capture_basis_points=settings.get(
            OVER_CAPTURE, defaults.over_capture_basis_points
        ),
    )


def _seconds(settings: dict[str, int], name: str, default: timedelta) -> timedelta:
    return timedelta(seconds=settings[name]) if name in settings else default
