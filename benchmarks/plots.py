"""Line charts as SVG, drawn by hand: no library for two pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 460, 338
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 34, 92
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# As an image in a page it cannot see the page's colours, only the reader's wish.
_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #333 }
.title { font-weight: 600; font-size: 13px }
.axis { stroke: #999; fill: none } .grid { stroke: #9995; fill: none }
.line { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } }"""


@dataclass(frozen=True)
class Line:
    """A line of a chart: points from left to right."""

    name: str
    points: Sequence[tuple[float, float]]
    is_dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: above it.
        x_title: below it.
        lines: at least one with a point.
        is_log_y: whether the vertical axis is logarithmic; the horizontal one is.
    """

    title: str
    x_title: str
    lines: Sequence[Line]
    is_log_y: bool = False


def svg(charts: Sequence[Chart]) -> str:
    """The charts beside each other."""
    width = _WIDTH * len(charts)
    drawn = "".join(
        f'<g transform="translate({index * _WIDTH} 0)">{_chart(chart)}</g>'
        for index, chart in enumerate(charts)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}"'
        f' width="{width}" height="{_HEIGHT}" role="img">\n'
        f"<style>{_STYLE}</style>\n{drawn}\n</svg>\n"
    )


def _chart(chart: Chart) -> str:
    xs = sorted({x for line in chart.lines for x, _ in line.points})
    ys = [y for line in chart.lines for _, y in line.points]
    ticks = _log_ticks(ys) if chart.is_log_y else _ticks(max(ys))

    def at_x(x: float) -> float:
        low, high = math.log(xs[0]), math.log(xs[-1])
        part = (math.log(x) - low) / (high - low) if high > low else 0.5
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        if chart.is_log_y:
            low, high = math.log(ticks[0]), math.log(ticks[-1])
            part = (math.log(y) - low) / (high - low)
        else:
            part = y / ticks[-1]
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [_text(_LEFT, 18, chart.title, kind="title")]
    for tick in ticks:
        y = at_y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _number(tick), anchor="end"))
    for x in xs:
        parts.append(_text(at_x(x), bottom + 16, _number(x), anchor="middle"))
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    parts.append(
        _text((_LEFT + right) / 2, bottom + 32, chart.x_title, anchor="middle")
    )
    place = _LEFT
    for index, line in enumerate(chart.lines):
        color = _COLORS[index % len(_COLORS)]
        dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in line.points)
        stroke = f'stroke="{color}"{dashes}'
        parts.append(f'<path class="line" {stroke} d="M{path}"/>')
        if not line.is_dashed:
            parts += [
                f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{color}"/>'
                for x, y in line.points
            ]
        row, column = divmod(index, 2)
        x, y = place + column * 190, bottom + 50 + row * 16
        parts.append(f'<path class="line" {stroke} d="M{x} {y - 4}h22"/>')
        parts.append(_text(x + 28, y, line.name))
    return "".join(parts)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", kind: str = ""
) -> str:
    attributes = f' class="{kind}"' if kind else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{attributes}>'
        f"{escape(text)}</text>"
    )


def _ticks(highest: float) -> list[float]:
    """From 0 to just above the highest, in about five round steps."""
    step = 10 ** math.floor(math.log10(highest))
    for part in (0.2, 0.5, 1, 2):
        if highest / (step * part) <= 6:
            step *= part
            break
    return [n * step for n in range(math.ceil(highest / step) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    return [10.0**n for n in range(low, max(high, low + 1) + 1)]


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 10_000 else f"{value:g}"
