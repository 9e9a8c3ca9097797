"""Plots as SVG text that takes its colours from the page.  Pure.

Only what a report of two arms needs.  Series are drawn in the classes `s0`, `s1`, …, so that light,
dark and print are the style sheet's business.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 380, 230
_MOST_TICKS = 7
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 36


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its points by rising x, in the class that colours it."""

    name: str
    points: Sequence[tuple[float, float]]
    css: str


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from *low* to *high*; *log* where it spans decades."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return where *value* lies, 0.0 at the low end and 1.0 at the high one, cut to that."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its name; *css* colours it."""

    label: str
    value: float
    css: str


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval, for a forest plot; *note* is its tooltip."""

    label: str
    low: float
    middle: float
    high: float
    css: str
    note: str = field(default="")


def line_chart(title: str, x: Axis, y: Axis, series: Iterable[Series]) -> str:
    """Return a chart of lines over common axes."""
    lines = "".join(_line(s, x, y) for s in series if s.points)
    return _svg(title, WIDTH, HEIGHT, _frame(x, y) + lines)


def bar_chart(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """Return horizontal bars, each with its number."""
    row, name_width, number_width = 20, 130, 62
    most = max((bar.value for bar in bars), default=0.0) or 1.0
    room = WIDTH - name_width - number_width
    parts = []
    for place, bar in enumerate(bars):
        top = place * row + 4
        wide = bar.value / most * room
        parts.append(
            f'<text x="{name_width - 6}" y="{top + 11}" text-anchor="end">'
            f"{escape(bar.label)}</text>"
            f'<rect class="fill {bar.css}" x="{name_width}" y="{top}" width="{wide:.1f}" '
            f'height="14" rx="2"><title>{escape(bar.label)}: {bar.value:,.1f} {unit}</title></rect>'
            f'<text x="{name_width + wide + 5:.1f}" y="{top + 11}">{bar.value:,.0f}</text>'
        )
    return _svg(title, WIDTH, len(bars) * row + 8, "".join(parts))


def forest(title: str, axis: Axis, intervals: Sequence[Interval]) -> str:
    """Return each estimate as a dot on its interval, with a line where nothing differs."""
    row, name_width, wide = 22, 150, 640
    room = wide - name_width - 14
    height = len(intervals) * row + 42

    def at(value: float) -> float:
        return name_width + axis.share(value) * room

    zero = f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="2" y2="{height - 38}"/>'
    ticks = "".join(
        f'<text x="{at(t):.1f}" y="{height - 24}" text-anchor="middle">{_percent(t)}</text>'
        for t in axis.ticks()
    )
    rows = "".join(
        _interval_row(one, place * row + 13, at, name_width) for place, one in enumerate(intervals)
    )
    label = f'<text x="{name_width + room / 2}" y="{height - 2}" text-anchor="middle" class="axis">'
    return _svg(title, wide, height, f"{zero}{ticks}{rows}{label}{escape(axis.label)}</text>")


def cumulative(values: Sequence[float], points: int = 200) -> list[tuple[float, float]]:
    """Return the share of *values* at or below each of some of them."""
    ordered = sorted(values)
    n = len(ordered)
    places = sorted({round(i * (n - 1) / max(1, points - 1)) for i in range(points)}) if n else []
    return [(ordered[place], (place + 1) / n) for place in places]


def _interval_row(one: Interval, y: float, at: Callable[[float], float], name_width: float) -> str:
    return (
        f'<text x="{name_width - 10}" y="{y + 4}" text-anchor="end">{escape(one.label)}</text>'
        f'<g class="{one.css}"><title>{escape(one.note)}</title>'
        f'<line class="whisker" x1="{at(one.low):.1f}" x2="{at(one.high):.1f}" y1="{y}" y2="{y}"/>'
        f'<circle cx="{at(one.middle):.1f}" cy="{y}" r="4"/></g>'
    )


def _svg(title: str, width: float, height: float, content: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"{content}</svg>"
    )


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.share(value) * (HEIGHT - _TOP - _BOTTOM)


def _line(series: Series, x: Axis, y: Axis) -> str:
    points = " ".join(f"{_x(x, px):.1f},{_y(y, py):.1f}" for px, py in series.points)
    return (
        f'<polyline class="stroke {series.css}" points="{points}">'
        f"<title>{escape(series.name)}</title></polyline>"
    )


def _frame(x: Axis, y: Axis) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = [f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']
    parts += [
        f'<text x="{_x(x, tick):.1f}" y="{bottom + 14}" text-anchor="middle">{short(tick)}</text>'
        for tick in x.ticks()
    ]
    for tick in y.ticks():
        at = _y(y, tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    middle = (_LEFT + right) / 2
    return "".join(parts) + (
        f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )


def _percent(share: float) -> str:
    return "0" if abs(share) < 1e-9 else f"{share * 100:+.3g}%"


def short(value: float) -> str:
    """Return a tick's number with no digit too many: 0.5, 20, 1.5k."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) + 0.0 for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # As many labels a decade as are legible together.
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**power for power in powers for m in steps]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) <= _MOST_TICKS:
            break
    # Within a decade there may be none of these; round numbers serve as well there.
    return inside if len(inside) > 2 else _ticks(low, high, 4)
