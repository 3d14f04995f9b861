"""The benchmark's own arithmetic; ``make bench`` does the rest."""

import socket

import pytest

from benchmarks.plots import Chart, Line, svg
from benchmarks.report import BEGIN, END, numbers, replace_between
from benchmarks.results import goals, size_ratios, summarize
from benchmarks.round_trips import RoundTripProxy
from benchmarks.soak import judged, slope


def test_ratio_is_of_the_best_medians():
    cases = _summaries(
        {
            "r1.uniform.4": [90, 100, 110],
            "r1.uniform.8": [400, 80, 90],
            "single.uniform.32": [30, 50, 40],
            "single.uniform.128": [41, 45, 49],
        }
    )

    (goal,) = goals(cases)

    assert goal.value == pytest.approx(0.45)
    assert goal.is_met


def test_summary_has_the_spread_and_the_cost_of_each_operation():
    summary = _summaries({"single.hot.8": [100, 300, 200]})["single.hot.8"]

    assert (summary["rate_min"], summary["rate"], summary["rate_max"]) == (
        100,
        200,
        300,
    )
    assert summary["cpu_us_each"] == {"web": pytest.approx(2_500)}


def test_slope_leaves_out_what_came_before_a_process_had_settled():
    points = [(0.0, 50.0), (600.0, 100.0), (1_200.0, 101.0), (1_800.0, 102.0)]

    assert slope(points, after=600) == pytest.approx(6.0)
    assert slope(points[:2], after=0) is None


def test_process_that_keeps_growing_is_told_from_one_that_has_settled():
    minutes = [minute * 60.0 for minute in range(60)]

    def verdict(megabytes, **options):
        points = [(x, megabytes(x / 60)) for x in minutes]
        return judged(points, seconds=3_600, **options)["verdict"]

    assert verdict(lambda minute: 50 + min(minute, 15) * 3) == "steady"
    assert verdict(lambda minute: 50 + minute) == "grows"
    assert verdict(lambda minute: min(10 * minute, 260), bound_mb=256) == (
        "fills its 256 MB"
    )
    assert verdict(lambda minute: 10 * minute, bound_mb=256) == "grows"
    assert judged([(0.0, 5.0)], seconds=3_600)["verdict"] == "came or went"


def test_sizes_of_one_run_are_compared_round_by_round():
    small, big = (
        {
            "began_at": "now",
            "cases": _summaries({"hold": rates}),
            "rounds": [{"hold": {"rate": rate}} for rate in rates],
        }
        for rates in ([100, 50, 200], [90, 50, 120])
    )

    (ratio,) = size_ratios(small, big)

    assert (ratio.least, ratio.goal.value, ratio.most) == (0.6, 0.9, 1.0)
    assert ratio.goal.is_met


def test_report_shows_the_verdict_of_a_soak_beside_the_cases():
    machine = {"cpus": 2, "cpu": "some", "memory_gb": 8, "python": "3", "commit": "c"}
    machine["versions"] = {"postgresql": "18"}
    result = {
        "began_at": "now",
        "machine": machine,
        "options": {"entries": 20_000},
        "cases": _summaries({"hold": [1, 2, 3]}),
        "rounds": [{"stack": {"memory_before": {}, "memory_after": {}}}],
    }
    disk = {"database_mb_before": 10, "database_mb_after": 30, "most_wal_mb": 5}
    points = [(float(x), 20.0) for x in range(60)]
    soak = {
        "minutes": 1,
        "rate": 100.0,
        "disk": disk,
        "processes": {"web.1": judged(points, seconds=60)},
    }

    text = numbers([result], [{**result, "soak": soak}])

    assert "| web.1 | 20.0 | 20.0 | 20.0 | +0.0 | steady |" in text
    assert "grew by 20 MB to 30 MB" in text


def test_round_trip_begins_when_a_client_speaks_after_the_server():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        RoundTripProxy(listener.getsockname()[1]).running() as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as client,
    ):
        server, _ = listener.accept()

        def exchange(*parts):
            for part in parts:
                client.sendall(part)
                assert server.recv(100) == part
            server.sendall(b"answer")
            assert client.recv(100) == b"answer"

        with server:
            exchange(b"one")
            assert proxy.count == 1
            exchange(b"begin", b"update", b"commit")
            assert proxy.count == 2


def test_text_between_the_markers_is_replaced():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    assert replace_between(text, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no place"):
        replace_between("without markers", "new")


def test_chart_is_drawn_also_of_a_single_point():
    chart = Chart("rate", "clients", [Line("<HTTP>", [(32, 1_234.0)])])

    assert "&lt;HTTP&gt;" in svg([chart])


def _summaries(rates):
    rounds = [
        {
            name: {
                "rate": of_rounds[number],
                "seconds": 2.0,
                "cpu_seconds": {"web": 1.0},
            }
            for name, of_rounds in rates.items()
        }
        for number in range(3)
    ]
    return summarize([_Case(name) for name in rates], rounds)


class _Case:
    def __init__(self, name):
        self.name, self.title, self.unit = name, name, "transfers/s"
