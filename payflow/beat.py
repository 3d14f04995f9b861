"""What beat repeats, without a memory.

All of it comes again within an hour and does no harm when it comes once more, so a
beat that starts runs everything at once, and has no file to lose: Celery's own
scheduler keeps one, and does not start any more once a crash has left a half of it.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import beat

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class Scheduler(beat.Scheduler):  # type: ignore[misc] # Celery has no types
    """Runs the schedule of the settings, all of it at once when it starts.

    Args:
        schedule_filename: its time says that beat was alive some three minutes ago;
            nothing is in it.
    """

    def __init__(self, *args: Any, schedule_filename: str, **kwargs: Any) -> None:
        self._sign_of_life = Path(schedule_filename)
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Takes the schedule from the settings."""
        super().setup_schedule()
        for entry in self.schedule.values():
            entry.last_run_at = _LONG_AGO
        self.sync()

    def sync(self) -> None:
        """Gives the sign of life."""
        self._sign_of_life.touch()
