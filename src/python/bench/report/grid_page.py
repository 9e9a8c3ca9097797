"""A 2x2 design, measured -> report.html: what each factor contributes, then the cells.  Pure."""

from collections.abc import Mapping, Sequence
from html import escape

from bench.report import charts, markup, sections
from bench.report.charts import PlotLine
from bench.report.sections import RenderedReport
from bench.report.tables import cells_markdown, effects_markdown, grid_line, number
from bench.stats.factorial import CELLS, EFFECTS, Effect, GridRun
from bench.stats.intervals import Verdict

_APART = (
    "<p><b>Separate runs:</b> not all cells were interleaved; what changed in the environment "
    "between them counts as an effect of the engine.</p>"
)


def _lines(grid: GridRun) -> list[PlotLine]:
    """Return the four cells as plots show them."""
    return [
        PlotLine(f"{cell}: {target}", grid.run.of(cell), f"s{place}")
        for place, (cell, target) in enumerate(zip(CELLS, grid.targets, strict=True))
    ]


def grid_report(grid: GridRun) -> RenderedReport:
    """Return the report: the effects first."""
    run, lines = grid.run, _lines(grid)
    plots = charts.plots_of(lines, run.parts, run.snapshots)
    parts = (
        _heading(grid),
        _effects(grid.effects),
        _cells(grid),
        *sections.evidence(lines, plots, run.snapshots),
        *sections.how_far_to_trust(lines, grid.validity, grid.goal, run.manifest),
    )
    return RenderedReport(
        html=markup.page("Engine and load balancer", sections.style(), parts),
        markdown=f"**{grid_line(grid)}**\n\n{grid_markdown(grid)}",
        plots=plots.worth_a_file,
        legend=sections.legend(lines),
    )


def grid_markdown(grid: GridRun) -> str:
    """Return the cells, then the effects."""
    return f"{cells_markdown(grid.values, grid.targets)}\n{effects_markdown(grid.effects)}"


def _heading(grid: GridRun) -> str:
    validity = grid.validity
    heading = "Effects of engine and load balancer" if validity.valid else "This run is invalid"
    why = f"<p>{escape('; '.join(validity.reasons) or grid.sentence)}.</p>"
    partial = sections.PARTIAL if grid.run.partial else ""
    cells = "; ".join(line.name for line in _lines(grid))
    apart = "" if grid.run.interleaved else _APART
    return (
        f'<header class="verdict{"" if validity.valid else " invalid"}"><h1>{heading}</h1>'
        f'{why}{partial}{apart}<p class="soft">Cells, engine then load balancer: '
        f"{escape(cells)}.</p></header>"
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
        "cell 11 with cell 00. In brackets: 95 % confidence intervals. The sentence above "
        "takes the effects on all headline metrics together, at a family-wise error rate of 5 % "
        "(Holm).",
        f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>',
    )


def _cells(grid: GridRun) -> str:
    rows = "".join(
        f"<tr><td>{escape(f'{one.label} ({one.unit})')}</td>"
        f"{''.join(f'<td>{number(value)}</td>' for value in one.values)}</tr>"
        for one in grid.values
        if any(value is not None for value in one.values)
    )
    head = markup.cells("th", ["metric", *grid.targets])
    return markup.section(
        "Cells",
        "Each metric of each engine with each load balancer.",
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
