"""One upstream, measured -> report.html: no verdict, for there is no other.  Pure."""

from html import escape

import msgspec

from bench.loadgen.run_result import RunResult
from bench.report import charts, markup, sections
from bench.report.charts import PlotLine
from bench.report.remarks import plateau_text
from bench.report.sections import RenderedReport
from bench.report.tables import error_text, number, run_markdown
from bench.stats.plateau import Rates, rates
from bench.stats.request_metrics import LATENCY, TTFT, summarize, totals
from bench.stats.validity import judge
from bench.stats.windowed_metrics import SloLimits
from bench.workload.schedule import Part


def _line(run: RunResult) -> PlotLine:
    """Return the records of a run as one part whose times are those of the run."""
    own = [msgspec.structs.replace(r, part=0, part_s=r.due_s) for r in run.records]
    return PlotLine(run.arms[0], own, "s1")


def _whole(run: RunResult) -> Part:
    return Part(0, 0.0, max((r.due_s for r in run.records), default=0.0) + 1e-3, ())


def run_report(run: RunResult, goal: SloLimits) -> RenderedReport:
    """Return the report of one target, which has no verdict."""
    lines = [_line(run)]
    plots = charts.plots_of(lines, [_whole(run)], run.snapshots)
    rate = rates(run.records, map(goal.met_by, run.records))
    parts = (
        _run_heading(run, rate),
        _run_tiles(run, rate),
        *sections.evidence(lines, plots, run.snapshots),
        *sections.how_far_to_trust(lines, judge(run.records, run.burden), goal, run.manifest),
    )
    return RenderedReport(
        html=markup.page(f"{run.arms[0]}, measured", sections.style(), parts),
        markdown=run_markdown(run, rate),
        plots=plots.worth_a_file,
        legend=sections.legend(lines),
    )


def _run_heading(run: RunResult, rate: Rates) -> str:
    total, validity = totals(run.records), judge(run.records, run.burden)
    schedule = run.manifest.get("schedule") or {}
    css = "" if validity.valid else " invalid"
    heading = (
        f"{run.arms[0]} served {number(rate.request_throughput)} requests per second"
        if validity.valid
        else "This run is invalid"
    )
    why = f"<p>{escape('; '.join(validity.reasons))}.</p>" if validity.reasons else ""
    soft = (
        f"Workload {schedule.get('workload', '?')}, {total.requests:,} requests in "
        f"{total.duration_s:.1f} s; errors: {error_text(total)}; {plateau_text(rate)}."
    )
    return (
        f'<header class="verdict{css}"><h1>{escape(heading)}</h1>{why}'
        f'{sections.PARTIAL if run.partial else ""}<p class="soft">{escape(soft)}</p></header>'
    )


def _run_tiles(run: RunResult, rate: Rates) -> str:
    found = summarize(run.records)
    shown = [
        (f"{m.label} p{q}", found[m], q) for m in (TTFT, LATENCY) for q in (50, 99) if m in found
    ]
    tiles = [(label, number(of.percentiles[q]), "ms, from sending") for label, of, q in shown]
    tiles.append(("Output", number(rate.token_throughput), "tokens/s"))
    tiles.append(("Goodput", number(rate.goodput), "requests/s"))
    return '<div class="tiles">' + "".join(_number_tile(*tile) for tile in tiles) + "</div>"


def _number_tile(label: str, value: str, unit: str) -> str:
    return (
        f'<div class="tile"><span class="soft">{escape(label)}</span><b>{value}</b>'
        f'<span class="soft">{escape(unit)}</span></div>'
    )
