"""How requests are put together; what it means for money is tested with processes."""

from collections.abc import Callable, Sequence
from typing import Any

import gevent
import psycopg
import pytest
from django.db import OperationalError
from gevent.event import Event
from psycopg_pool import PoolTimeout

from payflow import coalescing
from payflow.coalescing import Coalescer
from payflow.errors import ProblemError


class Recorder:
    """A ``run`` that notes what came together and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = Event()
        self.errors: list[Exception | None] = []

    def run(self, requests: Sequence[str]) -> list[str]:
        self.batches.append(list(requests))
        self.gate.wait()
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
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
    with gevent.Timeout(20):
        while len(recorder.batches) < 2:
            gevent.sleep(0.005)

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


def test_what_may_be_committed_is_never_said_to_be_undone(recorder, send):
    # The server went away at COMMIT, and the pool has no connection for the repetition.
    full = OperationalError("timeout")
    full.__cause__ = PoolTimeout()
    recorder.errors = [cut(), full]
    recorder.gate.set()
    sent = send("a")
    gevent.joinall([sent])

    assert sent.exception.problem.code == "database_unavailable"


def busy() -> ProblemError:
    return ProblemError("ledger_busy", "somebody has it")


def test_who_wants_nothing_that_is_contended_runs_together_again(recorder):
    coalescer = Coalescer(
        recorder.run, contended=lambda group, resources: resources & {"treasury"}
    )

    def start(name: str, resource: str) -> "gevent.Greenlet[str]":
        greenlet = gevent.spawn(
            coalescer.submit,
            name,
            identity=name,
            group="books",
            resources=frozenset({resource}),
            alone=lambda: f"{name} alone",
        )
        gevent.sleep(0)
        return greenlet

    sent = [start("first", "x"), start("stuck", "treasury"), start("free", "y")]
    recorder.errors = [None, busy()]
    recorder.gate.set()

    assert results(sent) == ["FIRST", "stuck alone", "FREE"]
    assert recorder.batches == [["first"], ["stuck", "free"], ["free"]]


class Directory:
    """A ``look_up`` that finds what requests are named after, and notes who asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.errors: list[Exception] = []

    def look_up(self, group: object, requests: Sequence[str]) -> list[set[str]]:
        self.asked.append(list(requests))
        if self.errors:
            raise self.errors.pop()
        return [{request.partition(" ")[2]} for request in requests]


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
def send_unknown(
    recorder: Recorder, directory: Directory
) -> Callable[[str], "gevent.Greenlet[str]"]:
    coalescer = Coalescer(
        recorder.run,
        contended=lambda group, resources: resources & {"treasury"},
        look_up=directory.look_up,
    )

    def start(name: str) -> "gevent.Greenlet[str]":
        greenlet = gevent.spawn(
            coalescer.submit,
            name,
            identity=name,
            group="books",
            resources=None,
            alone=lambda: f"{name} alone",
        )
        gevent.sleep(0)
        return greenlet

    return start


def test_that_resources_are_not_looked_up_while_nobody_is_kept_away(
    recorder, directory, send_unknown
):
    sent = [send_unknown(name) for name in ("a x", "b x", "c y")]
    recorder.gate.set()

    assert results(sent) == ["A X", "B X", "C Y"]
    assert recorder.batches == [["a x"], ["b x", "c y"]]
    assert directory.asked == []


def test_that_who_turns_out_to_want_what_a_lane_has_waits_for_it(
    recorder, directory, send_unknown
):
    first = send_unknown("first treasury")
    waits, passes = send_unknown("waits treasury"), send_unknown("passes bob")
    with gevent.Timeout(20):
        while len(recorder.batches) < 2:
            gevent.sleep(0.005)

    assert recorder.batches == [["first treasury"], ["passes bob"]]
    assert directory.asked == [["first treasury", "waits treasury", "passes bob"]]

    recorder.gate.set()
    results([first, waits, passes])
    assert recorder.batches[2:] == [["waits treasury"]]


def test_that_what_a_lane_turns_out_to_have_is_left_to_it(recorder, directory):
    coalescer = Coalescer(recorder.run, look_up=directory.look_up)

    def start(name: str, resources: set[str] | None) -> "gevent.Greenlet[str]":
        greenlet = gevent.spawn(
            coalescer.submit,
            name,
            identity=name,
            group="books",
            resources=resources,
            alone=lambda: f"{name} alone",
        )
        gevent.sleep(0)
        return greenlet

    sent = [start("first x", None), start("waits", {"x"}), start("passes", {"y"})]
    with gevent.Timeout(20):
        while len(recorder.batches) < 2:
            gevent.sleep(0.005)

    assert recorder.batches == [["first x"], ["passes"]]
    assert directory.asked == [["first x"]]

    recorder.gate.set()
    results(sent)
    assert recorder.batches[2:] == [["waits"]]


def test_that_who_turns_out_to_want_nothing_contended_runs_together_again(
    recorder, send_unknown
):
    sent = [send_unknown(name) for name in ("first x", "stuck treasury", "free y")]
    recorder.errors = [None, busy()]
    recorder.gate.set()

    assert results(sent) == ["FIRST X", "stuck treasury alone", "FREE Y"]
    assert recorder.batches[1:] == [["stuck treasury", "free y"], ["free y"]]


def test_that_a_lane_survives_a_look_up_that_fails(recorder, directory, send_unknown):
    directory.errors = [OperationalError("gone")]
    sent = [send_unknown(name) for name in ("first x", "second x")]
    with gevent.Timeout(20):
        while len(recorder.batches) < 2:
            gevent.sleep(0.005)
    recorder.gate.set()

    assert results(sent) == ["FIRST X", "SECOND X"]


def test_what_runs_alone_is_not_taken_by_a_lane(recorder, send, monkeypatch):
    turn = Event()
    recorder.errors = [ValueError("a bug")]
    recorder.gate.set()
    coalescer = Coalescer(recorder.run)

    def start(name: str, alone: Callable[[], str]) -> "gevent.Greenlet[str]":
        greenlet = gevent.spawn(
            coalescer.submit,
            name,
            identity=name,
            group="books",
            resources=frozenset({"treasury"}),
            alone=alone,
        )
        gevent.sleep(0)
        return greenlet

    first = start("first", lambda: turn.wait() and "first alone")
    gevent.sleep(0.01)
    second = start("second", lambda: "second alone")
    gevent.sleep(coalescing.PATIENCE_SECONDS * 2)
    assert recorder.batches == [["first"]]

    turn.set()
    assert results([first, second]) == ["first alone", "SECOND"]


def test_who_waits_too_long_to_be_taken_is_told_so(recorder, send, monkeypatch):
    monkeypatch.setattr(coalescing, "WAIT_SECONDS", 0.01)
    first, second = send("a", "treasury"), send("b", "treasury")
    gevent.joinall([second])

    assert second.exception.problem.code == "ledger_busy"
    recorder.gate.set()
    # What a lane has in its hands is waited for, however long it takes.
    assert results([first]) == ["A"]
    assert recorder.batches == [["a"]]


def test_a_lane_survives_whatever_happens_to_it(recorder):
    def delivered(requests: Sequence[str], answers: Sequence[str]) -> None:
        raise TypeError("a bug")

    recorder.gate.set()
    coalescer = Coalescer(recorder.run, delivered=delivered)
    for name in "abcdef":
        answer = coalescer.submit(
            name, identity=name, group=None, resources=frozenset(), alone=lambda: "-"
        )
        assert answer == name.upper()


def test_who_is_gone_holds_nothing_up(recorder, send):
    gone = send("gone", "treasury")
    gone.kill()
    recorder.errors = [ValueError("a bug")]
    recorder.gate.set()

    # The gone one's shared transaction fails only now; nobody is left to run alone.
    assert results([send("next", "treasury")]) == ["NEXT"]


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
