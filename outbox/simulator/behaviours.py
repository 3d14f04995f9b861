"""What the simulated bank can be told to do with a payout."""

from dataclasses import dataclass
from enum import StrEnum


class Behaviour(StrEnum):
    """How the bank treats a new payout."""

    SETTLE = "settle"
    """Pays at once."""
    SETTLE_LATER = "settle_later"
    """Accepts, and pays after ``delay_seconds``."""
    REJECT = "reject"
    """Refuses at once, with a reason."""
    REJECT_LATER = "reject_later"
    """Accepts, and refuses after ``delay_seconds``."""
    SLOW = "slow"
    """Pays at once, and answers after ``delay_seconds``."""
    FAIL = "fail"
    """Answers 500 and knows nothing of it."""
    FAIL_AFTER_ACCEPT = "fail_after_accept"
    """Pays, and answers 500."""
    CUT = "cut"
    """Pays, and cuts the connection without an answer."""


#: A destination that begins with this and a behaviour's name, with hyphens, asks for
#: that behaviour: ``sim-reject-42`` is rejected.
DESTINATION_PREFIX = "sim-"
DEFAULT_DELAY_SECONDS = 2.0
MAX_DELAY_SECONDS = 3600.0
REJECTION_REASON = "account closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What to do, how often and for whom.

    Attributes:
        behaviour: what to do with new payouts.
        delay_seconds: how long "later" and "slow" take.
        times: for so many payouts, then never again; ``None`` is for good.
        destination: only for payouts to this destination; ``None`` is for all.
    """

    behaviour: Behaviour
    delay_seconds: float = DEFAULT_DELAY_SECONDS
    times: int | None = None
    destination: str | None = None


def rule_of_destination(destination: str) -> Rule | None:
    """The rule that a destination's own name asks for, if it does."""
    if not destination.startswith(DESTINATION_PREFIX):
        return None
    name = destination.removeprefix(DESTINATION_PREFIX)
    # The longest name first, for "reject-later" begins with "reject".
    for behaviour in sorted(Behaviour, key=lambda each: -len(each.value)):
        word = behaviour.value.replace("_", "-")
        if name == word or name.startswith(f"{word}-"):
            return Rule(behaviour=behaviour)
    return None


def parse_rule(body: object) -> Rule:
    """The rule that the body of ``PUT /control`` spells.

    Raises:
        ValueError: it spells none; the message says what is wrong.
    """
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    unknown = set(body) - {"behaviour", "delay_seconds", "times", "destination"}
    if unknown:
        raise ValueError(f"unknown field: {', '.join(sorted(unknown))}")
    names = ", ".join(Behaviour)
    if body.get("behaviour") not in list(Behaviour):
        raise ValueError(f"behaviour must be one of: {names}")
    delay_seconds = body.get("delay_seconds", DEFAULT_DELAY_SECONDS)
    if (
        isinstance(delay_seconds, bool)
        or not isinstance(delay_seconds, int | float)
        or not 0 <= delay_seconds <= MAX_DELAY_SECONDS
    ):
        raise ValueError(f"delay_seconds must be from 0 to {MAX_DELAY_SECONDS:.0f}")
    times = body.get("times")
    if times is not None and (type(times) is not int or times < 1):
        raise ValueError("times must be a positive integer")
    destination = body.get("destination")
    if destination is not None and (
        not isinstance(destination, str) or not destination
    ):
        raise ValueError("destination must be a text")
    return Rule(
        behaviour=Behaviour(body["behaviour"]),
        delay_seconds=float(delay_seconds),
        times=times,
        destination=destination,
    )
