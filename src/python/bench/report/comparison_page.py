"""A comparison -> report.html: one file, no network, light and dark, verdict first.  Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from bench.loadgen.record import Record
from bench.loadgen.server_metrics import ServerSnapshot
from bench.report import charts, markup, sections
from bench.report.charts import Plot, PlotLine
from bench.report.tables import number
from bench.stats.comparison import ComparedMetric, Comparison
from bench.stats.intervals import Verdict
from bench.stats.validity import Validity
from bench.stats.windowed_metrics import SloLimits
from bench.workload.schedule import Part


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a report is made from.

    Attributes:
        baseline, candidate: the records of the two arms.
        snapshots: what engines and load balancers said; empty where nobody asked them.
        apart: the arms were measured in runs of their own, not in turns.
    """

    comparison: Comparison
    validity: Validity
    baseline: Sequence[Record]
    candidate: Sequence[Record]
    parts: Sequence[Part]
    goal: SloLimits
    partial: bool
    manifest: Mapping[str, Any]
    snapshots: Sequence[ServerSnapshot] = ()
    apart: bool = False

    @property
    def lines(self) -> tuple[PlotLine, PlotLine]:
        names = self.comparison.baseline, self.comparison.candidate
        return PlotLine(names[0], self.baseline, "s0"), PlotLine(names[1], self.candidate, "s1")


def report_html(evidence: Evidence) -> str:
    """Return the page: verdict first, then why, then how far to trust it."""
    found, lines = evidence.comparison, evidence.lines
    parts = (
        _verdict(evidence),
        _tiles(found),
        _differences(found),
        sections.distributions(lines),
        sections.over_time(lines, evidence.parts),
        sections.by_model(lines),
        sections.by_replica(lines, evidence.snapshots),
        _all_metrics(found),
        sections.trust(lines, evidence.validity, evidence.manifest),
        sections.method(evidence.goal, evidence.manifest),
    )
    return markup.page(f"{found.candidate} against {found.baseline}", sections.style(), parts)


def key_plots(evidence: Evidence) -> list[Plot]:
    """Return the plots that are worth a file of their own."""
    forest = charts.differences(evidence.comparison)
    lines = evidence.lines
    return [
        *([forest] if forest else []),
        *charts.distributions(lines),
        *charts.over_time(lines, evidence.parts)[:2],
    ]


_SENTENCE = {
    Verdict.BETTER: "{candidate} is better than {baseline}",
    Verdict.WORSE: "{candidate} is worse than {baseline}",
    Verdict.MIXED: "{candidate} is better than {baseline} in some metrics and worse in others",
    Verdict.NOT_SHOWN: "No significant difference between {candidate} and {baseline}",
}


_APART = (
    "<p><b>Separate runs:</b> the arms were not interleaved; changes of the environment between "
    "the two runs are part of the difference.</p>"
)


def _verdict(evidence: Evidence) -> str:
    found, validity = evidence.comparison, evidence.validity
    names = {"candidate": found.candidate, "baseline": found.baseline}
    if not validity.valid:
        heading, css, why = "This run is invalid", "invalid", "; ".join(validity.reasons)
    else:
        heading = _SENTENCE[found.verdict].format(**names)
        css, why = markup.verdict_css(found.verdict), found.reason
    notes = sections.PARTIAL if evidence.partial else ""
    notes += _APART if evidence.apart else ""
    return (
        f'<header class="verdict {css}"><h1>{escape(heading)}</h1>'
        f'<p>{escape(why)}.</p>{notes}<p class="soft">{escape(_summary(evidence))}</p></header>'
    )


def _summary(evidence: Evidence) -> str:
    schedule = evidence.manifest.get("schedule") or {}
    return (
        f"Workload {schedule.get('workload', '?')}, the same "
        f"{len(evidence.baseline):,} requests to each arm in {len(evidence.parts)} "
        f"{'' if evidence.apart else 'interleaved '}parts; "
        f"{evidence.comparison.confidence:.0%} intervals from "
        f"{evidence.comparison.resamples:,} resamples of {evidence.comparison.windows} windows."
    )


def _tiles(found: Comparison) -> str:
    keys = ("ttft_p50", "ttft_p99", "itl_p50", "e2e_p50", "output_throughput", "goodput")
    tiles = "".join(_tile(found.row(key)) for key in keys)
    return f'<div class="tiles">{tiles}</div>'


def _tile(row: ComparedMetric) -> str:
    change = f"{row.ratio - 1:+.1%}" if row.ratio is not None else "-"
    return (
        f'<div class="tile"><span class="soft">{escape(row.label)}</span>'
        f'<b class="{markup.verdict_css(row.verdict)}">{change}</b><span class="soft">'
        f"{number(row.baseline)} to {number(row.candidate)} {escape(row.unit)}</span></div>"
    )


def _differences(found: Comparison) -> str:
    plot = charts.differences(found)
    if plot is None:
        return ""
    return markup.section(
        "Differences",
        "Dots are measured relative differences, lines their 95 % confidence intervals. Green: "
        "better; red: worse; grey: not significant. For latencies (TTFT to E2E) lower is better; "
        "for throughput and goodput higher is better.",
        f'<figure class="wide">{plot.content}</figure>',
    )


def _all_metrics(found: Comparison) -> str:
    head = [
        "metric",
        found.baseline,
        found.candidate,
        "difference",
        "interval",
        "ratio",
        "smallest effect",
        "verdict",
    ]
    known = (row for row in found.rows if row.baseline is not None or row.candidate is not None)
    body = "".join(_metric_row(row) for row in known)
    table = f'<div class="scroll"><table><tr>{markup.cells("th", head)}</tr>{body}</table></div>'
    return markup.section(
        "All metrics",
        "The verdict uses the metrics in bold, with a family-wise error rate of 5 % (Holm). The "
        "smallest effect is the min. difference that such a run detects with a power of 80 %.",
        table,
    )


def _metric_row(row: ComparedMetric) -> str:
    cells = [
        f"{escape(row.label)} ({escape(row.unit)})",
        number(row.baseline),
        number(row.candidate),
        number(row.difference, sign=True),
        "-"
        if row.low is None
        else f"{number(row.low, sign=True)} to {number(row.high, sign=True)}",
        number(row.ratio),
        number(row.smallest_effect),
        f'<span class="{markup.verdict_css(row.verdict)}">{row.verdict}</span>',
    ]
    kind = ' class="headline"' if row.headline else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
