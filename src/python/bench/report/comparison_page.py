"""A comparison -> report.html: one file, no network, light and dark, verdict first.  Pure."""

from html import escape

from bench.report import charts, markup, sections
from bench.report.charts import Plot, PlotLine
from bench.report.remarks import rates_text
from bench.report.sections import RenderedReport
from bench.report.tables import number, summary_markdown
from bench.stats.comparison import ComparedMetric, Comparison
from bench.stats.intervals import Verdict
from bench.stats.verdict import ComparedRun


def _lines(compared: ComparedRun) -> tuple[PlotLine, PlotLine]:
    """Return both arms as plots show them."""
    baseline, candidate = compared.run.arms
    return (
        PlotLine(baseline, compared.run.of(baseline), "s0"),
        PlotLine(candidate, compared.run.of(candidate), "s1"),
    )


def comparison_report(compared: ComparedRun) -> RenderedReport:
    """Return the report: verdict first, then why, then how far to trust it."""
    found, run, lines = compared.comparison, compared.run, _lines(compared)
    forest = charts.differences(found)
    plots = charts.plots_of(lines, compared.parts, run.snapshots)
    parts = (
        _verdict(compared),
        _tiles(found),
        _differences(forest),
        *sections.evidence(lines, plots, run.snapshots),
        _all_metrics(found),
        *sections.how_far_to_trust(lines, compared.validity, compared.goal, run.manifest),
    )
    return RenderedReport(
        html=markup.page(f"{found.candidate} against {found.baseline}", sections.style(), parts),
        markdown=summary_markdown(compared),
        plots=[*([forest] if forest else []), *plots.worth_a_file],
        legend=sections.legend(lines),
    )


_SENTENCE = {
    Verdict.BETTER: "{candidate} is better than {baseline}",
    Verdict.WORSE: "{candidate} is worse than {baseline}",
    Verdict.MIXED: "{candidate} is better than {baseline} in some metrics and worse in others",
    Verdict.NOT_SHOWN: "No significant difference between {candidate} and {baseline}",
}


_SEPARATE = (
    "<p><b>Separate runs:</b> the arms were not interleaved; changes of the environment between "
    "the two runs are part of the difference.</p>"
)


def _verdict(compared: ComparedRun) -> str:
    found, validity = compared.comparison, compared.validity
    names = {"candidate": found.candidate, "baseline": found.baseline}
    if not validity.valid:
        heading, css, why = "This run is invalid", "invalid", "; ".join(validity.reasons)
    else:
        heading = _SENTENCE[found.verdict].format(**names)
        css, why = markup.verdict_css(found.verdict), found.reason
    notes = sections.PARTIAL if compared.run.partial else ""
    notes += "" if compared.run.interleaved else _SEPARATE
    return (
        f'<header class="verdict {css}"><h1>{escape(heading)}</h1>'
        f'<p>{escape(why)}.</p>{notes}<p class="soft">{escape(_summary(compared))}</p></header>'
    )


def _summary(compared: ComparedRun) -> str:
    schedule = compared.run.manifest.get("schedule") or {}
    requests = len(compared.run.of(compared.comparison.baseline))
    return (
        f"Workload {schedule.get('workload', '?')}, the same {requests:,} requests to each arm in "
        f"{_unit(compared.comparison)}; {compared.comparison.confidence:.0%} intervals. "
        f"{rates_text(compared.comparison)}"
    )


def _unit(found: Comparison) -> str:
    """What the intervals rest on."""
    if found.apart:
        return f"separate runs, {found.turns} or more of each arm"
    looks = f", planned to be looked at {round(1 / found.share)} times" if found.share < 1.0 else ""
    return f"{found.turns} turns in random order{looks}"


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


def _differences(plot: Plot | None) -> str:
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
        "p",
        "verdict",
    ]
    known = (row for row in found.rows if row.baseline is not None or row.candidate is not None)
    body = "".join(_metric_row(row) for row in known)
    table = f'<div class="scroll"><table><tr>{markup.cells("th", head)}</tr>{body}</table></div>'
    return markup.section(
        "All metrics",
        "The verdict uses the metrics in bold, with a family-wise error rate of 5 % (Holm). p is "
        "that of no difference, by swapping the arms in any set of turns. The smallest effect is "
        "the min. difference that such a run detects with a power of 80 %.",
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
        number(row.p),
        f'<span class="{markup.verdict_css(row.verdict)}">{row.verdict}</span>',
    ]
    kind = ' class="headline"' if row.headline else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
