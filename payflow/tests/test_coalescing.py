"""How requests are put together; what it means for money is tested with processes."""

from collections.abc import Callable, Sequence
from typing import Any

import gevent
import psycopg
import pytest
from django.db import OperationalError
from gevent.event import Event

from payflow import coalescing
from payflow.coalescing import Coalescer
from payflow.errors import ProblemError


class Recorder:
    """A ``run`` that notes what came together and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = Event()
        self.errors: list[Exception] = []

    def run(self, requests: Sequence[str]) -> list[str]:
        self.batches.append(list(requests))
        self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return [request.upper() for request in requests]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def send(recorder: Recorder) -> Callable[..., "gevent.Greenlet[str]"]:
    coalescer = Coalescer(recorder.run, delivered=lambda requests, answers: None)

    def start(
        name: str, *resources: str, group: str = "books"
    ) -> "gevent.Greenlet[str]":
        greenlet = gevent.spawn(
            coalescer.submit,
            name,
            identity=name,
            group=group,
            resources=frozenset(resources or {name}),
            alone=lambda: f"{name} alone",
        )
        gevent.sleep(0)
        return greenlet

    return start


def results(greenlets: Sequence[Any]) -> list[Any]:
    gevent.joinall(greenlets)
    return [greenlet.value for greenlet in greenlets]


def test_the_first_goes_at_once_and_the_others_together(recorder, send):
    sent = [send(name) for name in "abcd"]
    recorder.gate.set()

    assert results(sent) == ["A", "B", "C", "D"]
    assert recorder.batches == [["a"], ["b", "c", "d"]]


def test_no_more_than_the_limit_come_together(recorder, send, monkeypatch):
    monkeypatch.setattr(coalescing, "MOST_TOGETHER", 2)
    sent = [send(name) for name in "abcde"]
    recorder.gate.set()
    results(sent)

    assert recorder.batches == [["a"], ["b", "c"], ["d", "e"]]


def test_groups_do_not_mix(recorder, send):
    sent = [send("a"), send("b"), send("x", group="others"), send("c")]
    recorder.gate.set()

    assert results(sent) == ["A", "B", "X", "C"]
    assert recorder.batches == [["a"], ["b", "c"], ["x"]]


def test_a_lane_that_is_held_up_is_passed_by_those_who_share_nothing_with_it(
    recorder, send
):
    first = send("first", "treasury")
    waits = send("waits", "treasury", "alice")
    queues = send("queues", "alice")
    passes = send("passes", "bob")
    gevent.sleep(coalescing.PATIENCE_SECONDS * 3)

    assert recorder.batches == [["first"], ["passes"]]

    recorder.gate.set()
    results([first, waits, queues, passes])
    # Whoever came later for the same account did not overtake.
    assert recorder.batches[2:] == [["waits", "queues"]]


def test_after_an_error_each_runs_alone(recorder, send):
    sent = [send(name) for name in "abc"]
    recorder.gate.set()
    recorder.errors = [ValueError("a bug"), ValueError("a bug")]

    assert results(sent) == ["a alone", "b alone", "c alone"]


def cut() -> OperationalError:
    error = OperationalError("cut")
    error.__cause__ = psycopg.errors.AdminShutdown()
    return error


def test_a_cut_session_is_replaced_once(recorder, send):
    recorder.errors = [cut()]
    recorder.gate.set()

    assert results([send("a")]) == ["A"]
    assert recorder.batches == [["a"], ["a"]]


def test_without_a_database_everybody_hears_of_it(recorder, send):
    recorder.errors = [cut(), cut()]
    recorder.gate.set()
    sent = send("a")
    gevent.joinall([sent])

    assert isinstance(sent.exception, ProblemError)
    assert sent.exception.problem.code == "database_unavailable"


def test_too_many_are_turned_away(recorder, send, monkeypatch):
    monkeypatch.setattr(coalescing, "MOST_WAITING", 2)
    sent = [send(name) for name in "abc"]
    late = send("d")

    assert isinstance(late.exception, ProblemError)
    assert late.exception.problem.code == "ledger_busy"
    recorder.gate.set()
    assert results(sent) == ["A", "B", "C"]


def test_the_same_request_is_not_taken_twice_until_it_is_answered(recorder, send):
    first, second = send("a"), send("a")

    assert isinstance(second.exception, ValueError)
    recorder.gate.set()
    assert results([first]) == ["A"]
    assert results([send("a")]) == ["A"]
