"""Plots: what they draw, and that none is drawn of nothing."""

import re

import msgspec

from bench.loadgen.record import Record
from bench.loadgen.server_metrics import ServerSnapshot
from bench.report.charts import (
    PlotLine,
    by_prompt_length,
    engines_over_time,
    goodput_by_rate,
    over_time,
)
from bench.stats.windowed_metrics import windows_of
from bench.workload.schedule import Part
from servekit.metrics.engine_load import EngineLoad
from tests.support.records import a_record, at, delayed

WINDOWS = windows_of([Part(0, 0.0, 24.0, ())])


def lines(*arms: list[Record]) -> list[PlotLine]:
    return [PlotLine(f"arm {n}", records, f"s{n}") for n, records in enumerate(arms)]


def curves(content: str) -> list[list[tuple[float, float]]]:
    """The points of each line of a plot, y growing downwards."""
    found = re.findall(r'<polyline class="stroke s\d" points="([^"]*)"', content)
    return [[tuple(map(float, p.split(","))) for p in one.split()] for one in found]  # type: ignore[misc]


def test_ttft_grows_with_the_prompt_where_it_does() -> None:
    """A line per arm; the slower one lies higher."""
    short = [
        delayed(msgspec.structs.replace(a_record(), prompt_tokens=n), n / 1e4)
        for n in range(100, 3_300, 33)
    ]
    slow = [delayed(one, 0.2) for one in short]

    (plot,) = by_prompt_length(lines(short, slow))

    fast_curve, slow_curve = curves(plot.content)
    heights = [y for _, y in fast_curve]
    assert heights == sorted(heights, reverse=True)
    assert len(heights) == 8
    assert all(b[1] < a[1] for a, b in zip(fast_curve, slow_curve, strict=True))


def test_prompts_of_one_length_are_no_plot() -> None:
    """There is nothing to draw over."""
    assert by_prompt_length(lines([a_record()] * 20)) == []
    assert by_prompt_length(lines([])) == []


def test_goodput_falls_behind_the_rate_where_requests_are_late() -> None:
    """The frontier of both arms over the load's own bursts: one keeps up, the other does not."""
    due = [at(a_record(), 0, k * 3.0 + i / 40) for k in range(8) for i in range(4 * (k + 1))]
    late = [delayed(one, 5.0) if one.part_s % 3.0 > 0.3 else one for one in due]

    (plot,) = goodput_by_rate(lines(due, late), WINDOWS)

    keeps_up, falls_behind = curves(plot.content)
    assert keeps_up[-1][1] < falls_behind[-1][1]
    assert [x for x, _ in keeps_up] == [x for x, _ in falls_behind]
    steady = [at(a_record(), 0, k * 0.5) for k in range(48)]
    assert goodput_by_rate(lines(steady), WINDOWS) == []


def test_no_axes_are_drawn_around_nothing() -> None:
    """Zeros are nothing: engines that hold no request, answers whose tokens were not counted."""
    idle = ServerSnapshot(at_s=3.0, arm="arm 0", target="e", load=EngineLoad(running=0, waiting=0))
    lost = [msgspec.structs.replace(at(a_record(), 0, 1.0), error="reset", content_s=())]

    assert engines_over_time(lines([]), [idle]) == []
    assert [plot.name for plot in over_time(lines(lost), WINDOWS)] == ["due-over-time"]
