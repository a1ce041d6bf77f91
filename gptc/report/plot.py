"""Curves and axes as numbers that a template can spell as SVG: places in pixels, y downwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from gptc.report.course import Points

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 12, 34
"""Room for the labels of axes."""
BUCKETS = 400
"""Points of a curve at most; where there are more, one stands for the mean of many, and a band for all of them."""
TICKS = 6
SPARSE = 60
"""Points below which each is marked."""


@dataclass(frozen=True)
class Line:
    """What to draw: values over steps, in one of the page's colours."""

    label: str
    points: Points
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Curve:
    """A line as SVG has it: the `d` of a path and of the band around it (may be empty)."""

    line: Line
    path: str
    band: str
    dots: tuple[tuple[float, float], ...]
    """Places of the values, where they are few."""
    values: str
    """`x,step,value` of each point of the path, for the page's script."""


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A whole chart."""

    title: str
    curves: tuple[Curve, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def plot(title: str, lines: Sequence[Line], log: bool = False) -> Plot | None:
    """A chart of all lines that have points, None if no one has; with `log` only positive values are drawn."""
    drawn = [Line(x.label, [p for p in x.points if p[1] > 0 or not log], x.colour, x.dashed) for x in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return None
    steps = [step for line in drawn for step, _ in line.points]
    values = [value for line in drawn for _, value in line.points]
    x_ticks, x_low, x_high = linear_ticks(min(steps), max(steps))
    y_ticks, y_low, y_high = (log_ticks if log else linear_ticks)(min(values), max(values))
    scale: Callable[[float], float] = math.log10 if log else float
    x = _axis(x_low, x_high, LEFT, WIDTH - RIGHT, float)
    y = _axis(y_low, y_high, HEIGHT - BOTTOM, TOP, scale)
    return Plot(
        title,
        tuple(_curve(line, x, y) for line in drawn),
        tuple(Tick(x(value), spell(value)) for value in x_ticks),
        tuple(Tick(y(value), spell(value)) for value in y_ticks),
    )


def _axis(
    low: float, high: float, begin: float, end: float, scale: Callable[[float], float]
) -> Callable[[float], float]:
    first, whole = scale(low), scale(high) - scale(low)
    return lambda value: round(begin + (end - begin) * (scale(value) - first) / whole, 1)


def _curve(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> Curve:
    buckets = list(_buckets(line.points))
    middle = [(x(step), y(mean)) for step, mean, _, _ in buckets]
    band = ""
    if len(buckets) < len(line.points):
        upper = [(x(step), y(high)) for step, _, _, high in buckets]
        lower = [(x(step), y(low)) for step, _, low, _ in reversed(buckets)]
        band = _path([*upper, *lower]) + "Z"
    dots = tuple((x(step), y(value)) for step, value in line.points) if len(line.points) < SPARSE else ()
    values = " ".join(f"{x(step):g},{step:.0f},{mean:.5g}" for step, mean, _, _ in buckets)
    return Curve(line, _path(middle), band, dots, values)


def _buckets(points: Points) -> Iterator[tuple[float, float, float, float]]:
    """Mean step, and mean, least and largest value of equal stretches of steps."""
    first, last = points[0][0], points[-1][0]
    width = max(1.0, (last - first) / BUCKETS) if len(points) > BUCKETS else 0.0
    for _, group in groupby(points, key=lambda p: (p[0] - first) // width if width else p[0]):
        steps, values = zip(*group, strict=True)
        yield sum(steps) / len(steps), sum(values) / len(values), min(values), max(values)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def linear_ticks(low: float, high: float) -> tuple[list[float], float, float]:
    """Round numbers, at most a few, from at or below `low` to at or above `high`; and the first and the last."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):  # all the same
        low, high = low - max(abs(low), 1e-9) / 2, high + max(abs(high), 1e-9) / 2
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)], first * step, last * step


def log_ticks(low: float, high: float) -> tuple[list[float], float, float]:
    """1, 2 and 5 times powers of ten, or, where these would be many, some powers alone."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    if last - first <= TICKS // 2:
        found = [factor * 10.0**n for n in range(first, last) for factor in (1, 2, 5)] + [10.0**last]
        inside = [value for value in found if value * 2.5 > low and value < high * 2.5]
        return inside, inside[0], inside[-1]
    every = math.ceil((last - first) / TICKS)
    found = [10.0**n for n in range(first, last + every, every)]
    return found, found[0], found[-1]


def spell(value: float) -> str:
    """A label: 0.002, 3e-4, 25, 12.5k, 1.2M."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e15:
        digits, _, power = f"{value:.3g}".partition("e") if "e" in f"{value:.3g}" else f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit * (1 - 1e-9):
            return f"{value / (1e3 if name == 'k' else unit):.6g}{name}"
    return f"{value:.6g}"
