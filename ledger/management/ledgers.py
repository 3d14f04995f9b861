"""What the commands that make and change ledgers print of one with ``--json``."""

from typing import Any

from ledger.models import Ledger
from ledger.selectors.ledgers import hold_settings_of


def ledger_json(ledger: Ledger) -> dict[str, Any]:
    """A ledger with its settings; lifetimes in seconds."""
    return {
        "ledger": ledger.slug,
        "name": ledger.name,
        "time_zone": ledger.time_zone,
        **hold_settings_of(ledger).as_json(),
    }
