"""Records -> the plots of a report, as SVG.  Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from bench.loadgen.record import Record
from bench.loadgen.server_metrics import ServerSnapshot
from bench.report import svg
from bench.report.markup import verdict_css
from bench.report.tables import number
from bench.stats.comparison import ComparedMetric, Comparison
from bench.stats.windowed_metrics import DEFAULT_SLO, Window, delivered_tokens, windows_of
from bench.workload.schedule import Part

# Points of a line over lengths or rates, and how far the largest must be from the smallest for
# there to be a line.
_GROUPS = 8
_VARIED = 1.3


class PlotLine(msgspec.Struct, frozen=True):
    """An arm as a plot knows it; *css* is the class that colours it."""

    name: str
    records: Sequence[Record]
    css: str


class Plot(msgspec.Struct, frozen=True):
    """A plot under its title; *name* is that of its file."""

    name: str
    title: str
    content: str


class Plots(msgspec.Struct, frozen=True):
    """All plots of a report; each kind may be empty."""

    distributions: Sequence[Plot]
    over_time: Sequence[Plot]
    replicas: Sequence[Plot]

    @property
    def worth_a_file(self) -> Sequence[Plot]:
        return [*self.distributions, *self.over_time[:2]]


def plots_of(
    lines: Sequence[PlotLine], parts: Sequence[Part], snapshots: Sequence[ServerSnapshot]
) -> Plots:
    """Return the plots that every report has."""
    return Plots(
        [*distributions(lines), *by_prompt_length(lines)],
        [*over_time(lines, windows_of(parts)), *goodput_by_rate(lines, windows_of(parts))],
        [*per_replica(lines), *engines_over_time(lines, snapshots)],
    )


def differences(found: Comparison) -> Plot | None:
    """Return a forest plot of the ratios: all metrics on one axis, whatever their units."""
    rows = [row for row in found.rows if row.ratio_low is not None and row.ratio is not None]
    rows = [row for row in rows if not row.key.startswith("per_token")]
    if not rows:
        return None
    reach = max(abs(v - 1.0) for row in rows for v in (row.ratio_low or 1.0, row.ratio_high or 1.0))
    reach = min(1.0, max(0.02, reach * 1.05))
    axis = svg.Axis(f"{found.candidate} relative to {found.baseline}", -reach, reach)
    title = "Relative difference of each metric"
    return Plot("differences", title, svg.forest(title, axis, [_interval(row) for row in rows]))


def _interval(row: ComparedMetric) -> svg.Interval:
    return svg.Interval(
        row.label,
        (row.ratio_low or 1.0) - 1.0,
        (row.ratio or 1.0) - 1.0,
        (row.ratio_high or 1.0) - 1.0,
        verdict_css(row.verdict),
        f"{row.label}: {number(row.difference, sign=True)} {row.unit}, {row.verdict}",
    )


def distributions(lines: Sequence[PlotLine]) -> list[Plot]:
    """Return TTFT, gaps between tokens, and E2E, each as the share that took at most so long."""
    plots = (
        _cumulative("ttft", "Time to first token (TTFT)", lines, lambda r: _one(r.ttft_s)),
        _cumulative("itl", "Inter-token latency (ITL)", lines, _token_gaps),
        _cumulative("icl", "Inter-chunk latency (several tokens per chunk)", lines, _chunk_gaps),
        _cumulative("e2e", "End to end (E2E)", lines, lambda r: _one(r.e2e_s)),
    )
    return [plot for plot in plots if plot is not None]


def _one(value: float | None) -> Sequence[float]:
    return () if value is None else (value,)


def _token_gaps(record: Record) -> Sequence[float]:
    return record.gaps_s if record.ok and record.event_is_token else ()


def _chunk_gaps(record: Record) -> Sequence[float]:
    return record.gaps_s if record.ok and not record.event_is_token else ()


def _cumulative(
    name: str, title: str, lines: Sequence[PlotLine], values: Callable[[Record], Sequence[float]]
) -> Plot | None:
    per_arm = [(line, [v * 1e3 for r in line.records for v in values(r)]) for line in lines]
    everything = [v for _, some in per_arm for v in some if v > 0]
    if not everything:
        return None
    low, high = (float(v) for v in np.quantile(everything, [0.001, 0.999]))
    x = svg.Axis("milliseconds", max(low, 1e-3), max(high, low * 1.1, 2e-3), log=True)
    series = [
        svg.Series(line.name, [(max(v, x.low), at) for v, at in svg.cumulative(some)], line.css)
        for line, some in per_arm
    ]
    return Plot(name, title, svg.line_chart(title, x, svg.Axis("", 0.0, 1.0), series))


def by_prompt_length(lines: Sequence[PlotLine]) -> list[Plot]:
    """Return the median TTFT of requests of about one prompt length, over the lengths; none where
    all prompts are of one length."""
    title = "TTFT p50 by prompt length, ms"
    series = [svg.Series(line.name, _ttft_by_length(line.records), line.css) for line in lines]
    lengths = [tokens for one in series for tokens, _ in one.points]
    if not lengths or max(lengths) < _VARIED * min(lengths):
        return []
    top = max(ttft for one in series for _, ttft in one.points)
    x = svg.Axis("prompt tokens", min(lengths), max(lengths), log=True)
    y = svg.Axis("", 0.0, top * 1.08)
    return [Plot("ttft-by-length", title, svg.line_chart(title, x, y, series))]


def _ttft_by_length(records: Sequence[Record]) -> list[tuple[float, float]]:
    """Return median length and median TTFT of groups of as many requests each, by their length."""
    known = sorted(
        (float(r.prompt_tokens or r.asked_prompt_tokens), r.ttft_s * 1e3)
        for r in records
        if r.ttft_s is not None
    )
    return _of_groups(known, np.median)


def goodput_by_rate(lines: Sequence[PlotLine], windows: Sequence[Window]) -> list[Plot]:
    """Return how many requests of a window met the SLO, over how many were due in it: the frontier
    of each arm, as far as the load's own bursts reach.  None where all windows are alike."""
    title = "Requests within the SLO, over requests due (per second)"
    series = [
        svg.Series(line.name, _good_by_due(line.records, windows), line.css) for line in lines
    ]
    due = [rate for one in series for rate, _ in one.points]
    if not due or max(due) < _VARIED * min(due):
        return []
    x, y = (svg.Axis(label, 0.0, max(due) * 1.05) for label in ("requests due per second", ""))
    return [Plot("goodput-by-rate", title, svg.line_chart(title, x, y, series))]


def _good_by_due(records: Sequence[Record], windows: Sequence[Window]) -> list[tuple[float, float]]:
    """Return the mean of groups of windows, by their rate."""
    rates = []
    for window in windows:
        own = [one for one in records if window.holds(one.part, one.part_s)]
        if own:
            good = sum(map(DEFAULT_SLO.met_by, own))
            rates.append((len(own) / window.length_s, good / window.length_s))
    return _of_groups(sorted(rates), np.mean)


def _of_groups(
    points: Sequence[tuple[float, float]], middle: Callable[[Sequence[float]], Any]
) -> list[tuple[float, float]]:
    """Return the *middle* of groups of as many *points* each, which are in order."""
    size = max(1, -(-len(points) // _GROUPS))
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [
        (float(middle([x for x, _ in own])), float(middle([y for _, y in own]))) for own in groups
    ]


def over_time(lines: Sequence[PlotLine], windows: Sequence[Window]) -> list[Plot]:
    """Return TTFT, tokens and requests of every window of the schedule, where they are known."""
    if not windows:
        return []
    plots = (
        _time_chart("ttft-over-time", "TTFT p50, ms", lines, windows, _ttft_by_window),
        _time_chart("tokens-over-time", "Output tokens per second", lines, windows, _token_rate),
        _time_chart("due-over-time", "Requests due per second", lines, windows, _due_rate),
    )
    return [plot for plot in plots if plot is not None]


def _time_chart(
    name: str,
    title: str,
    lines: Sequence[PlotLine],
    windows: Sequence[Window],
    values: Callable[[Sequence[Record], Sequence[Window]], Sequence[float]],
) -> Plot | None:
    ends = np.cumsum([window.length_s for window in windows])
    middles = [float(end) - w.length_s / 2 for end, w in zip(ends, windows, strict=True)]
    series = [
        svg.Series(
            line.name,
            [
                (at, v)
                for at, v in zip(middles, values(line.records, windows), strict=True)
                if np.isfinite(v)
            ],
            line.css,
        )
        for line in lines
    ]
    if not any(value for one in series for _, value in one.points):
        return None
    return _over(name, title, "schedule time (s)", float(ends[-1]), series)


def _over(name: str, title: str, axis: str, length_s: float, series: Sequence[svg.Series]) -> Plot:
    top = max((v for line in series for _, v in line.points), default=0.0) or 1.0
    x, y = svg.Axis(axis, 0.0, length_s), svg.Axis("", 0.0, top * 1.08)
    return Plot(name, title, svg.line_chart(title, x, y, series))


def _ttft_by_window(records: Sequence[Record], windows: Sequence[Window]) -> Sequence[float]:
    groups: list[list[float]] = [[] for _ in windows]
    for one in records:
        for own, window in zip(groups, windows, strict=True):
            if window.holds(one.part, one.part_s):
                own.extend(v * 1e3 for v in _one(one.ttft_s))
    return [float(np.median(group)) if group else float("nan") for group in groups]


def _token_rate(records: Sequence[Record], windows: Sequence[Window]) -> Sequence[float]:
    tokens = delivered_tokens(records, windows)
    return [float(n) / w.length_s for n, w in zip(tokens, windows, strict=True)]


def _due_rate(records: Sequence[Record], windows: Sequence[Window]) -> Sequence[float]:
    return [sum(w.holds(one.part, one.part_s) for one in records) / w.length_s for w in windows]


def engines_over_time(lines: Sequence[PlotLine], snapshots: Sequence[ServerSnapshot]) -> list[Plot]:
    """Return what the engines of each arm held at the same moments of the run, summed."""
    held: dict[str, dict[float, float]] = {line.name: {} for line in lines}
    for one in snapshots:
        if one.load is not None and one.arm in held:
            requests = (one.load.running or 0) + (one.load.waiting or 0)
            held[one.arm][one.at_s] = held[one.arm].get(one.at_s, 0.0) + requests
    series = [svg.Series(line.name, sorted(held[line.name].items()), line.css) for line in lines]
    length_s = max((at_s for line in series for at_s, _ in line.points), default=0.0)
    if not length_s or not any(value for line in series for _, value in line.points):
        return []
    title = "Requests in the engines (running and waiting)"
    return [_over("engines-over-time", title, "run time (s)", length_s, series)]


def per_replica(lines: Sequence[PlotLine]) -> list[Plot]:
    """Return a bar for each replica's tokens, one plot per arm."""
    plots = []
    for line in lines:
        tokens = tokens_by_replica(line.records)
        bars = [svg.Bar(replica, n / 1e3, line.css) for replica, n in sorted(tokens.items())]
        if bars:
            title = f"{line.name}: prompt and output tokens per replica (thousands)"
            plots.append(
                Plot(
                    f"replicas-{line.css}", title, svg.bar_chart(title, "tokens (thousands)", bars)
                )
            )
    return plots


def tokens_by_replica(records: Sequence[Record]) -> Mapping[str, int]:
    """Return prompt and output tokens by the replica that served them, where it was named; none at
    all where some answer's were not counted."""
    tokens: dict[str, int] = {}
    for one in records:
        if one.served_by and one.ok:
            if one.prompt_tokens is None or one.completion_tokens is None:
                return {}
            counted = one.prompt_tokens + one.completion_tokens
            tokens[one.served_by] = tokens.get(one.served_by, 0) + counted
    return tokens
