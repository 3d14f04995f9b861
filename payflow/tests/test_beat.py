"""What beat repeats, and what it needs to start."""

from pathlib import Path

import pytest
from kombu.utils.imports import symbol_by_name

from payflow.beat import Scheduler
from payflow.celery import app


@pytest.fixture
def sign_of_life(tmp_path: Path) -> Path:
    return tmp_path / "beat-schedule"


def test_beat_starts_with_all_of_the_schedule_due(sign_of_life):
    scheduler = symbol_by_name(app.conf.beat_scheduler)(
        app, schedule_filename=str(sign_of_life)
    )

    assert isinstance(scheduler, Scheduler)
    assert scheduler.schedule.keys() == app.conf.beat_schedule.keys()
    assert all(entry.is_due().is_due for entry in scheduler.schedule.values())


def test_what_has_run_is_due_again_after_its_time(sign_of_life):
    scheduler = Scheduler(app, schedule_filename=str(sign_of_life))

    entry = scheduler.reserve(scheduler.schedule["purge-responses"])

    assert not entry.is_due().is_due
    assert 3_590 < entry.is_due().next <= 3_600


def test_a_file_that_a_crash_left_is_no_hindrance(sign_of_life):
    # Celery's own scheduler refuses to start with this pair.
    sign_of_life.with_suffix(".dir").write_text("'entries', (0, 100)\n")
    sign_of_life.with_suffix(".dat").write_text("")
    sign_of_life.write_bytes(b"")

    scheduler = Scheduler(app, schedule_filename=str(sign_of_life))

    assert scheduler.schedule


def test_the_sign_of_life_is_given_at_the_start_and_at_each_sync(sign_of_life):
    scheduler = Scheduler(app, schedule_filename=str(sign_of_life))
    assert sign_of_life.exists()
    sign_of_life.unlink()

    scheduler.sync()

    assert sign_of_life.exists()
