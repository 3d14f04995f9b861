"""When to try again, and when to give up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox import retry

FAILURES = st.integers(1, retry.MAX_FAILURES - 1)
AGES = st.floats(0, retry.MAX_AGE_SECONDS, exclude_max=True)


def lowest(low: float, _high: float) -> float:
    return low


def highest(_low: float, high: float) -> float:
    return high


@given(failures=FAILURES, age_seconds=AGES)
def test_a_delay_lies_between_the_floor_and_the_cap(
    failures: int, age_seconds: float
) -> None:
    step = retry.after_failure(failures=failures, age_seconds=age_seconds)

    assert isinstance(step, retry.TryAgain)
    assert retry.FLOOR_SECONDS <= step.delay_seconds <= retry.CAP_SECONDS


@given(failures=FAILURES)
def test_the_ceiling_never_falls_with_more_failures(failures: int) -> None:
    this = retry.after_failure(failures=failures, age_seconds=0, draw=highest)
    before = retry.after_failure(
        failures=max(failures - 1, 1), age_seconds=0, draw=highest
    )

    assert this.delay_seconds >= before.delay_seconds


def test_the_ceiling_doubles_until_it_reaches_the_cap() -> None:
    ceilings = [
        retry.after_failure(failures=n, age_seconds=0, draw=highest).delay_seconds
        for n in range(1, 12)
    ]

    assert ceilings == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


@given(failures=FAILURES, asked=st.floats(0, retry.MAX_RETRY_AFTER_SECONDS))
def test_retry_after_is_honoured(failures: int, asked: float) -> None:
    step = retry.after_failure(
        failures=failures, age_seconds=0, retry_after_seconds=asked, draw=lowest
    )

    assert step.delay_seconds >= max(asked, retry.FLOOR_SECONDS)


@given(asked=st.floats(min_value=retry.MAX_RETRY_AFTER_SECONDS))
def test_retry_after_is_bounded(asked: float) -> None:
    step = retry.after_failure(failures=1, age_seconds=0, retry_after_seconds=asked)

    limit = retry.MAX_RETRY_AFTER_SECONDS + retry.FLOOR_SECONDS
    assert step.delay_seconds <= limit


@given(failures=st.integers(min_value=retry.MAX_FAILURES), age_seconds=AGES)
def test_too_many_failures_are_the_end(failures: int, age_seconds: float) -> None:
    step = retry.after_failure(failures=failures, age_seconds=age_seconds)

    assert isinstance(step, retry.GiveUp)


@given(failures=FAILURES, age_seconds=st.floats(min_value=retry.MAX_AGE_SECONDS))
def test_too_old_a_failure_is_the_end(failures: int, age_seconds: float) -> None:
    if age_seconds == float("inf"):
        return
    step = retry.after_failure(failures=failures, age_seconds=age_seconds)

    assert isinstance(step, retry.GiveUp)


@given(
    age_seconds=st.floats(0, retry.MAX_ACCEPTED_AGE_SECONDS, exclude_max=True),
)
def test_an_accepted_payout_is_polled_for_days(age_seconds: float) -> None:
    step = retry.after_acceptance(age_seconds=age_seconds)

    assert isinstance(step, retry.TryAgain)
    assert retry.FLOOR_SECONDS <= step.delay_seconds <= retry.MAX_POLL_SECONDS


def test_an_accepted_payout_is_not_polled_for_ever() -> None:
    step = retry.after_acceptance(age_seconds=retry.MAX_ACCEPTED_AGE_SECONDS)

    assert isinstance(step, retry.GiveUp)


@pytest.mark.parametrize(
    ("since_send_seconds", "wait_seconds"), [(0, 60), (59, 1), (60, 0), (1e6, 0)]
)
def test_not_found_is_believed_after_the_settle_delay(
    since_send_seconds: float, wait_seconds: float
) -> None:
    wait = retry.resend_wait_seconds(
        since_send_seconds=since_send_seconds, settle_delay_seconds=60.0
    )

    assert wait == wait_seconds
