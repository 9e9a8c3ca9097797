"""One upstream, measured -> report.html: no verdict, for there is no other.  Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from bench.loadgen.record import Record
from bench.loadgen.server_metrics import ServerSnapshot
from bench.report import charts, markup, sections
from bench.report.charts import Plot, PlotLine
from bench.report.remarks import plateau_text
from bench.report.tables import error_text, number
from bench.stats.plateau import Rates, rates
from bench.stats.request_metrics import LATENCY, TTFT, summarize, totals
from bench.stats.validity import Validity
from bench.stats.windowed_metrics import DEFAULT_SLO, SloLimits
from bench.workload.schedule import Part


class RunEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the report of one upstream is made from."""

    name: str
    validity: Validity
    records: Sequence[Record]
    partial: bool
    manifest: Mapping[str, Any]
    snapshots: Sequence[ServerSnapshot] = ()
    goal: SloLimits = DEFAULT_SLO

    @property
    def rates(self) -> Rates:
        return rates(self.records, map(self.goal.met_by, self.records))

    @property
    def line(self) -> PlotLine:
        """The records as one part whose times are those of the run."""
        own = [msgspec.structs.replace(r, part=0, part_s=r.due_s) for r in self.records]
        return PlotLine(self.name, own, "s1")

    @property
    def whole(self) -> Part:
        return Part(0, 0.0, max((r.due_s for r in self.records), default=0.0) + 1e-3, ())


def run_html(evidence: RunEvidence) -> str:
    """Return the page of one upstream: no verdict, for there is nothing to compare with."""
    lines = [evidence.line]
    parts = (
        _run_heading(evidence),
        _run_tiles(evidence),
        sections.distributions(lines),
        sections.over_time(lines, [evidence.whole]),
        sections.by_model(lines),
        sections.by_replica(lines, evidence.snapshots),
        sections.trust(lines, evidence.validity, evidence.manifest),
        sections.method(evidence.goal, evidence.manifest),
    )
    return markup.page(f"{evidence.name}, measured", sections.style(), parts)


def run_plots(evidence: RunEvidence) -> list[Plot]:
    """Return the plots that are worth a file of their own."""
    lines = [evidence.line]
    return [*charts.distributions(lines), *charts.over_time(lines, [evidence.whole])[:2]]


def _run_heading(evidence: RunEvidence) -> str:
    total, validity, rate = totals(evidence.records), evidence.validity, evidence.rates
    schedule = evidence.manifest.get("schedule") or {}
    css = "" if validity.valid else " invalid"
    heading = (
        f"{evidence.name} served {number(rate.request_throughput)} requests per second"
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
        f'{sections.PARTIAL if evidence.partial else ""}<p class="soft">{escape(soft)}</p></header>'
    )


def _run_tiles(evidence: RunEvidence) -> str:
    found, rate = summarize(evidence.records), evidence.rates
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
