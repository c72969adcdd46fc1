"""Charts as SVG: bars over an axis, drawn for a column of about 440 px and readable at 340."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pikavae.data.page_html import Html, percent, tag

WIDTH, HEIGHT = 440, 238
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 38, 48
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
BREAK_RATIO = 3.0
"""A bar this many times as high as the second is broken off, so that the others can be read."""
HEADROOM = 1.25


@dataclass(frozen=True)
class Bar:
    """One bar: its place along the axis, its height, and the words for its range."""

    start: float
    end: float
    value: float
    label: str
    warns: bool = False


@dataclass(frozen=True)
class Chart:
    """Bars over an axis."""

    title: str
    """What a reader who cannot see it is told."""
    bars: Sequence[Bar]
    """From left to right, without gaps."""
    ticks: Sequence[tuple[float, str]]
    """Places along the axis that have a label."""
    axis: str
    """What the axis counts."""
    quantity: str
    """What a bar's height counts."""
    mark: tuple[float, str] | None = None
    """A place along the axis that matters, and why."""
    in_pixels: bool = False
    """Whether bars are shares of pixels: fractions, of which one may stand far above the others."""

    def value_text(self, value: float) -> str:
        """A height in words."""
        return percent(value, 1.0) if self.in_pixels else f"{value:,.0f}"

    @property
    def is_broken(self) -> bool:
        """Whether the highest bar is broken off."""
        second, highest = sorted((0.0, *(bar.value for bar in self.bars)))[-2:]
        return self.in_pixels and 0 < BREAK_RATIO * second < highest

    @property
    def ceiling(self) -> float:
        """The height that the axis must reach."""
        second, highest = sorted((0.0, *(bar.value for bar in self.bars)))[-2:]
        return HEADROOM * second if self.is_broken else highest


def draw(chart: Chart) -> Html:
    """The chart as a picture that scales with its column."""
    first, last = chart.bars[0].start, chart.bars[-1].end
    top, step = _round_axis(chart.ceiling, whole=not chart.in_pixels)

    def x(position: float) -> float:
        return LEFT + PLOT_WIDTH * (position - first) / (last - first)

    def y(value: float) -> float:
        return TOP + PLOT_HEIGHT * (1.0 - min(value, top) / top)

    parts = [_text(0, 13, chart.quantity, class_="unit")]
    for i in range(int(top / step + 0.5) + 1):
        height = y(i * step)
        parts.append(_line(LEFT, height, WIDTH - RIGHT, height, "grid" if i else "axis"))
        parts.append(_text(LEFT - 7, height + 4, chart.value_text(i * step), text_anchor="end"))
    parts += [_bar(bar, x, y, top, chart.value_text) for bar in chart.bars if bar.value]
    for position, label in chart.ticks:
        parts.append(_line(x(position), HEIGHT - BOTTOM, x(position), HEIGHT - BOTTOM + 4, "axis"))
        parts.append(_text(x(position), HEIGHT - BOTTOM + 20, label, text_anchor="middle"))
    parts.append(_text(LEFT + PLOT_WIDTH / 2, HEIGHT - 6, chart.axis, class_="unit", text_anchor="middle"))
    if chart.mark is not None:
        position, label = chart.mark
        anchor = "end" if x(position) > LEFT + PLOT_WIDTH / 2 else "start"
        parts.append(_line(x(position), TOP - 8, x(position), HEIGHT - BOTTOM, "mark"))
        parts.append(_text(x(position) + (-5 if anchor == "end" else 5), 30, label, class_="mark", text_anchor=anchor))
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=chart.title, class_="chart")


def share_bar(share: float) -> Html:
    """A thin bar from the left, `share` of its place long."""
    return tag(
        "svg",
        tag("rect", width=round(100.0 * share, 2), height=1, class_="bar"),
        viewBox="0 0 100 1",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="share",
    )


def _round_axis(highest: float, whole: bool) -> tuple[float, float]:
    """The top of an axis and the step of its labels, both of round numbers; of counts, of whole ones."""
    least = max(highest / 4, 1.0) if whole else highest / 4
    power = 10.0 ** math.floor(math.log10(least))
    factors = (1.0, 2.0, 5.0, 10.0) if whole else (1.0, 2.0, 2.5, 5.0, 10.0)
    step = next(factor * power for factor in factors if factor * power >= least * (1 - 1e-9))
    return step * math.ceil(highest / step - 1e-9), step


def _bar(
    bar: Bar,
    x: Callable[[float], float],
    y: Callable[[float], float],
    top: float,
    value_text: Callable[[float], str],
) -> Html:
    left, right = x(bar.start), x(bar.end)
    gap = 1.0 if right - left > 3 else 0.25
    height = max(HEIGHT - BOTTOM - y(bar.value), 1.0)  # a bar of one among thousands is still to be seen
    parts = [
        tag(
            "rect",
            x=round(left + gap / 2, 2),
            y=round(HEIGHT - BOTTOM - height, 2),
            width=round(right - left - gap, 2),
            height=round(height, 2),
            class_="bar warns" if bar.warns else "bar",
        )
    ]
    if bar.value > top:
        for level in (TOP + 12, TOP + 17):
            parts.append(_line(left - 3, level + 3, right + 3, level - 3, "break"))
        beside = (left - 6, "end") if left > LEFT + PLOT_WIDTH / 2 else (right + 6, "start")
        parts.append(_text(beside[0], TOP + 11, value_text(bar.value), text_anchor=beside[1]))
    return tag("g", tag("title", f"{bar.label}: {value_text(bar.value)}"), *parts)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return tag("line", x1=round(x1, 2), y1=round(y1, 2), x2=round(x2, 2), y2=round(y2, 2), class_=kind)


def _text(x: float, y: float, words: str, **attributes: str) -> Html:
    return tag("text", words, x=round(x, 2), y=round(y, 2), **attributes)


def numbers(chart: Chart) -> Html:
    """The chart as a table, closed until it is asked for; bars of height zero are left out."""
    rows = [
        tag("tr", tag("th", bar.label, scope="row"), tag("td", chart.value_text(bar.value)))
        for bar in chart.bars
        if bar.value
    ]
    head = tag("tr", tag("th", chart.axis, scope="col"), tag("th", chart.quantity, scope="col"))
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag("details", tag("summary", "Numbers"), tag("div", table, class_="scroll"), class_="numbers")


def figure(chart: Chart, name: str, words: str) -> Html:
    """The chart over its words, which begin with its name, and its numbers."""
    return tag("figure", draw(chart), tag("figcaption", tag("b", name), words), numbers(chart))
