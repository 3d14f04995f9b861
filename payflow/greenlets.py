"""A web worker's requests share one thread: each has it until it waits or gives way."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import gevent
from gevent import monkey

T = TypeVar("T")

#: How many items are worked on in one go: some milliseconds of a batch.
GO = 200
#: After so much time of others, in seconds, no more is given: locks may be held.
MOST_GIVEN = 0.5


def are_in_use() -> bool:
    """Whether this process serves its requests by greenlets, as web workers do."""
    return bool(monkey.is_module_patched("socket"))


def giving_way(
    items: Iterable[T], *, go: int = GO, most_given: float = MOST_GIVEN
) -> Iterator[T]:
    """The items, of which there may be thousands; others get their turn in between.

    Args:
        items: what is worked on.
        go: how many of them in one go.
        most_given: after so much time of others, in seconds, no more is given.
    """
    left = most_given if are_in_use() else 0.0
    for number, item in enumerate(items, start=1):
        yield item
        if left > 0 and number % go == 0:
            began = time.monotonic()
            gevent.sleep(0)
            left -= time.monotonic() - began
