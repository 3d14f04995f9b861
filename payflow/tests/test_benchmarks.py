"""The benchmark's own arithmetic; ``make bench`` does the rest."""

import pytest

from benchmarks.plots import Chart, Line, svg
from benchmarks.report import BEGIN, END, replace_between
from benchmarks.results import goals, summarize
from benchmarks.soak import slope


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
