"""A 2x2 design, measured -> report.html: what each factor contributes, then the cells.  Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from bench.loadgen.session import LoadResult
from bench.report import charts, markup, sections
from bench.report.charts import Plot, PlotLine
from bench.report.tables import number
from bench.stats.factorial import CELLS, EFFECTS, Effect
from bench.stats.intervals import Verdict
from bench.stats.validity import Validity
from bench.stats.windowed_metrics import SloLimits
from bench.workload.schedule import Part


class GridEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the report of a 2x2 is made from.

    Attributes:
        arms: what was measured in each cell, in the order of CELLS.
    """

    arms: Sequence[str]
    effects: Sequence[Effect]
    validity: Validity
    measured: LoadResult
    parts: Sequence[Part]
    goal: SloLimits
    manifest: Mapping[str, Any]

    @property
    def lines(self) -> list[PlotLine]:
        return [
            PlotLine(f"{cell}: {arm}", self.measured.of(cell), f"s{place}")
            for place, (cell, arm) in enumerate(zip(CELLS, self.arms, strict=True))
        ]


def grid_html(evidence: GridEvidence) -> str:
    """Return the page: the effects first."""
    lines = evidence.lines
    parts = (
        _heading(evidence),
        _effects(evidence.effects),
        sections.distributions(lines),
        sections.over_time(lines, evidence.parts),
        sections.by_model(lines),
        sections.trust(lines, evidence.validity, evidence.manifest),
        sections.method(evidence.goal, evidence.manifest),
    )
    return markup.page("Engine and load balancer", sections.style(), parts)


def grid_plots(evidence: GridEvidence) -> list[Plot]:
    """Return the plots that are worth a file of their own."""
    return charts.distributions(evidence.lines)


def _heading(evidence: GridEvidence) -> str:
    validity = evidence.validity
    heading = "Effects of engine and load balancer" if validity.valid else "This run is invalid"
    why = f"<p>{escape('; '.join(validity.reasons))}.</p>" if validity.reasons else ""
    partial = sections.PARTIAL if evidence.measured.partial else ""
    cells = "; ".join(line.name for line in evidence.lines)
    return (
        f'<header class="verdict{"" if validity.valid else " invalid"}"><h1>{heading}</h1>'
        f'{why}{partial}<p class="soft">Cells, engine then load balancer: {escape(cells)}.</p>'
        "</header>"
    )


def _effects(found: Sequence[Effect]) -> str:
    by_metric: dict[str, dict[str, Effect]] = {}
    for one in found:
        by_metric.setdefault(one.metric, {})[one.effect] = one
    known = [own for own in by_metric.values() if any(e.estimate is not None for e in own.values())]
    rows = "".join(
        f"<tr><td>{escape(_label(own))}</td>{''.join(_cell(own[name]) for name in EFFECTS)}</tr>"
        for own in known
    )
    head = markup.cells("th", ["metric", *EFFECTS])
    return markup.section(
        "Effects",
        "The effect of the engine is its mean difference over both load balancers, and vice versa; "
        "the interaction is by how much one effect depends on the other factor; 'both' compares "
        "cell 11 with cell 00. In brackets: 95 % confidence intervals.",
        f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>',
    )


def _label(own: Mapping[str, Effect]) -> str:
    one = next(iter(own.values()))
    return f"{one.label} ({one.unit})"


def _cell(one: Effect) -> str:
    if one.low is None:
        return f"<td>{number(one.estimate, sign=True)}</td>"
    interval = f"{number(one.low, sign=True)} to {number(one.high, sign=True)}"
    css = markup.verdict_css(one.verdict if one.effect != "interaction" else Verdict.NOT_SHOWN)
    estimate = f'<b class="{css}">{number(one.estimate, sign=True)}</b>'
    return f'<td>{estimate}<br><span class="soft">{interval}</span></td>'
