"""Charts as SVG: drawn where the numbers are, so that a page needs no script for them and a report is one file.

Colours and fonts are classes of the style sheet. Every chart has a name for screen readers, every period a title with
its exact values; the page puts the same numbers into a table below.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 960, 240
LEFT, RIGHT, TOP, BOTTOM = 70, 10, 10, 26
SPARK_WIDTH, SPARK_HEIGHT = 160, 36
TICKS = 4
X_LABELS = 9
COLOURS = 12


@dataclass(frozen=True, slots=True)
class Series:
    """One line or kind of bar: its name and a value for each period, None where there is none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """The periods of a chart: what each is called on the axis and in full."""

    short: Sequence[str]
    full: Sequence[str]


def sparkline(values: Sequence[float | None]) -> Markup:
    """A small line without axes, for the eye only."""
    low, high = _bounds([values], from_zero=False)
    spread = high - low or 1
    places = [
        None
        if value is None
        else (2 + index * _step(len(values), SPARK_WIDTH - 4), _y(value, low, spread, SPARK_HEIGHT))
        for index, value in enumerate(values)
    ]
    return _svg(
        f'class="spark" viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" preserveAspectRatio="none" aria-hidden="true"',
        _line(places, "s0"),
    )


def lines(
    title: str, axis: Axis, series: Sequence[Series], written: Callable[[float], str], *, from_zero: bool = False
) -> Markup:
    """A line a series over the periods; `written` writes a value with its unit."""
    low, high, steps = _scale([one.values for one in series], from_zero=from_zero)
    shapes = [_grid(low, high, steps, written), _x_labels(axis)]
    for number, one in enumerate(series):
        places = [
            None if value is None else (_x(index, len(one.values)), _plot_y(value, low, high))
            for index, value in enumerate(one.values)
        ]
        shapes.append(_line(places, f"s{number % COLOURS}"))
    return _framed(title, shapes, axis, series, written)


def bars(title: str, axis: Axis, series: Sequence[Series], written: Callable[[float], str]) -> Markup:
    """A bar a period, the series stacked in it."""
    totals = [sum(one.values[index] or 0 for one in series) for index in range(len(axis.full))]
    low, high, steps = _scale([totals], from_zero=True)
    shapes = [_grid(low, high, steps, written), _x_labels(axis)]
    width = max(1.0, 0.72 * (WIDTH - LEFT - RIGHT) / max(len(totals), 1))
    for index in range(len(totals)):
        base = 0.0
        for number, one in enumerate(series):
            value = one.values[index] or 0
            top, bottom = _plot_y(base + value, low, high), _plot_y(base, low, high)
            base += value
            if value:
                shapes.append(
                    f'<rect class="bar s{number % COLOURS}" x="{_x(index, len(totals)) - width / 2:.1f}" y="{top:.1f}"'
                    f' width="{width:.1f}" height="{max(bottom - top, 0.5):.1f}"/>'
                )
    return _framed(title, shapes, axis, series, written)


def meter(share: float | None, title: str) -> Markup:
    """How much is left of something whole, as a bar of its own."""
    left = 0.0 if share is None else min(max(share, 0.0), 1.0)
    kind = "none" if share is None else "low" if share <= 0.25 else "good"
    return _svg(
        f'class="meter {kind}" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{escape(title)}"',
        f'<rect class="track" width="100" height="10"/><rect class="fill" width="{100 * left:.1f}" height="10"/>',
    )


def _framed(
    title: str, shapes: Sequence[str], axis: Axis, series: Sequence[Series], written: Callable[[float], str]
) -> Markup:
    hits = "".join(_hit(index, axis, series, written) for index in range(len(axis.full)))
    return _svg(
        f'class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"',
        f'{"".join(shapes)}<g class="hits">{hits}</g>',
    )


def _svg(attributes: str, shapes: str) -> Markup:
    # Whatever comes from outside was escaped where it was put in.
    return Markup(f"<svg {attributes}>{shapes}</svg>")  # noqa: S704


def _hit(index: int, axis: Axis, series: Sequence[Series], written: Callable[[float], str]) -> str:
    width = (WIDTH - LEFT - RIGHT) / max(len(axis.full), 1)
    values = [f"{one.name}: {written(value)}" for one in series if (value := one.values[index]) is not None] or [
        "nothing"
    ]
    title = escape("\n".join([axis.full[index], *values]))
    return (
        f'<rect x="{_x(index, len(axis.full)) - width / 2:.1f}" y="{TOP}" width="{width:.1f}"'
        f' height="{HEIGHT - TOP - BOTTOM}"><title>{title}</title></rect>'
    )


def _grid(low: float, high: float, steps: Sequence[float], written: Callable[[float], str]) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(written(step))}</text>'
        for step in steps
        for y in [_plot_y(step, low, high)]
    )


def _x_labels(axis: Axis) -> str:
    every = max(1, math.ceil(len(axis.short) / X_LABELS))
    return "".join(
        f'<text class="tick" x="{_x(index, len(axis.short)):.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(text)}</text>"
        for index, text in enumerate(axis.short)
        if index % every == 0
    )


def _line(places: Sequence[tuple[float, float] | None], kind: str) -> str:
    """Each run of known values as a line; one that stands alone as a dot."""
    shapes: list[str] = []
    run: list[tuple[float, float]] = []
    for place in [*places, None]:
        if place is not None:
            run.append(place)
            continue
        if len(run) == 1:
            shapes.append(f'<circle class="dot {kind}" cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="2.5"/>')
        elif run:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            shapes.append(f'<polyline class="line {kind}" points="{points}"/>')
        run = []
    return "".join(shapes)


def _x(index: int, count: int) -> float:
    width = (WIDTH - LEFT - RIGHT) / max(count, 1)
    return LEFT + width * (index + 0.5)


def _plot_y(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)


def _y(value: float, low: float, spread: float, height: float) -> float:
    return height - 3 - (value - low) / spread * (height - 6)


def _step(count: int, width: float) -> float:
    return width / max(count - 1, 1)


def _bounds(groups: Sequence[Sequence[float | None]], *, from_zero: bool) -> tuple[float, float]:
    known = [value for group in groups for value in group if value is not None] or [0.0]
    return (min(0.0, *known) if from_zero else min(known)), max(known)


def _scale(groups: Sequence[Sequence[float | None]], *, from_zero: bool) -> tuple[float, float, list[float]]:
    """Bounds that are multiples of a round step, and the multiples between them."""
    low, high = _bounds(groups, from_zero=from_zero)
    if low == high:
        low, high = (0.0, high * 2 or 1.0) if high >= 0 else (low * 2, 0.0)
    rough = (high - low) / TICKS
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [number * step for number in range(first, last + 1)]
