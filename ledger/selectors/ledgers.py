"""Reading ledgers and their settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from ledger.models import Ledger
from payflow.statements import run_prepared

#: The names of the settings in the ledger's JSON, with the fields that they set.
DEFAULT_LIFETIME = "hold_default_lifetime_seconds"
MAX_LIFETIME = "hold_max_lifetime_seconds"
OVER_CAPTURE = "hold_over_capture_basis_points"


_SETTINGS = "SELECT settings FROM ledger_ledger WHERE id = $1::uuid"


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

    @classmethod
    def from_json(cls, settings: Mapping[str, int]) -> "HoldSettings":
        """The settings of a ledger's JSON, with the defaults for what it lacks."""
        found = {**cls().as_json(), **settings}
        return cls(
            default_lifetime=timedelta(seconds=found[DEFAULT_LIFETIME]),
            max_lifetime=timedelta(seconds=found[MAX_LIFETIME]),
            over_capture_basis_points=found[OVER_CAPTURE],
        )

    @property
    def over_capture_percent(self) -> str:
        """The over-capture in percent, without needless decimals: ``"12.5"``."""
        return f"{self.over_capture_basis_points / Decimal(100):f}"

    def as_json(self) -> dict[str, int]:
        """The settings under their names in the ledger's JSON."""
        return {
            DEFAULT_LIFETIME: int(self.default_lifetime.total_seconds()),
            MAX_LIFETIME: int(self.max_lifetime.total_seconds()),
            OVER_CAPTURE: self.over_capture_basis_points,
        }


def hold_settings(*, ledger_id: UUID) -> HoldSettings:
    """The ledger's settings of holds, with the defaults for what it does not say."""
    ((settings,),) = run_prepared(_SETTINGS, [ledger_id])
    return HoldSettings.from_json(settings)


def hold_settings_of(ledger: Ledger) -> HoldSettings:
    """The settings of holds of a ledger, by its row."""
    return HoldSettings.from_json(ledger.settings)
