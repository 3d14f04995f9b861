"""When to try again, and when to give up. Pure: no clock, no database.

Delays are "full jitter" above a floor: uniform between the floor and an exponentially
growing ceiling, so that the tasks that failed together do not come back together.

A task dies, visibly and for a person to take up, when it has failed too often in a row
or has been undecided for too long. Death says nothing of the money: a dead payout whose
outcome is unknown keeps it in its payout account until someone knows better.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

#: Shortest wait before another attempt.
FLOOR_SECONDS = 1.0
#: Ceiling of the wait after the first failure; it doubles with each further one.
BASE_SECONDS = 2.0
#: No ceiling is higher.
CAP_SECONDS = 900.0
#: Failures in a row after which a task is dead: five hours, on average.
MAX_FAILURES = 48
#: Age at which a failing task is dead.
MAX_AGE_SECONDS = 24 * 3600.0
#: Longest wait that a provider can ask for with Retry-After.
MAX_RETRY_AFTER_SECONDS = 3600.0

#: Age at which a payout that the provider accepted and never decided is dead; longer
#: than any weekend with holidays around it.
MAX_ACCEPTED_AGE_SECONDS = 5 * 24 * 3600.0
#: An accepted payout is asked after this share of the time that it has waited, ...
POLL_SHARE = 0.25
#: ... and never less often than this.
MAX_POLL_SECONDS = 600.0

Draw = Callable[[float, float], float]
"""A uniform draw between two bounds, ``random.uniform`` by default."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Due again after ``delay_seconds``."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Dead, for ``reason``."""

    reason: str


def jitter(most_seconds: float) -> float:
    """A random wait from 0 to ``most_seconds``, which keeps those who wait apart."""
    return random.uniform(0.0, most_seconds)  # noqa: S311 - jitter, no secret


def after_failure(
    *,
    failures: int,
    age_seconds: float,
    max_age_seconds: float = MAX_AGE_SECONDS,
    retry_after_seconds: float | None = None,
    draw: Draw = random.uniform,
) -> TryAgain | GiveUp:
    """What follows a failed attempt.

    Args:
        failures: how many attempts have failed in a row, this one included.
        age_seconds: how long the task has been waiting for its end.
        max_age_seconds: the age at which it is dead.
        retry_after_seconds: what the provider asked for; it is honoured up to
            ``MAX_RETRY_AFTER_SECONDS`` and makes no wait shorter.
        draw: where chance comes from.
    """
    if failures >= MAX_FAILURES:
        return GiveUp(f"gave up after {failures} failures in a row")
    if age_seconds >= max_age_seconds:
        return GiveUp(f"gave up after {age_seconds / 3600:.0f} hours of failures")
    # The exponent is bounded, so that no float overflows.
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(max(failures - 1, 0), 32))
    delay = draw(FLOOR_SECONDS, ceiling)
    if retry_after_seconds is not None:
        # Jitter is added on top: those who were told the same come back apart.
        asked = min(max(retry_after_seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
        delay = max(delay, asked + draw(0.0, FLOOR_SECONDS))
    return TryAgain(delay)


def after_acceptance(
    *, age_seconds: float, draw: Draw = random.uniform
) -> TryAgain | GiveUp:
    """When to ask again after a payout that the provider has accepted.

    Args:
        age_seconds: how long the task has been waiting for its end.
        draw: where chance comes from.
    """
    if age_seconds >= MAX_ACCEPTED_AGE_SECONDS:
        return GiveUp(f"accepted and undecided for {age_seconds / 86_400:.0f} days")
    ceiling = min(MAX_POLL_SECONDS, max(BASE_SECONDS, age_seconds * POLL_SHARE))
    return TryAgain(draw(FLOOR_SECONDS, ceiling))


def resend_wait_seconds(
    *, since_send_seconds: float, settle_delay_seconds: float
) -> float:
    """How long "not found" must be doubted still; 0 when it may be believed.

    Args:
        since_send_seconds: how long ago the latest send began.
        settle_delay_seconds: how long a request may still be on its way through the
            provider (``settings.PAYOUT_SETTLE_DELAY_SECONDS``).
    """
    return max(0.0, settle_delay_seconds - since_send_seconds)
