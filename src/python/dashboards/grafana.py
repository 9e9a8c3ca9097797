"""Dashboards as Grafana reads them.  Pure."""

import json
from itertools import count
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)

from dashboards.board import Dashboard, LabelMenu, Panel, Query

# Chosen at the top: whichever Prometheus this Grafana has.
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

# Of Grafana's grid of 24 columns.
_WIDTH, _HEIGHT = 12, 8

# A scrape of 15 s (servicemonitors.yaml); Grafana makes $__rate_interval four of them.
_SCRAPE = "15s"


def as_json(board: Dashboard) -> str:
    """Return the dashboard as a file that Grafana provisions."""
    built = dashboard.Dashboard(board.title).uid(board.uid).description(board.about)
    built = built.tags(["servekit"]).tooltip(DashboardCursorSync.CROSSHAIR).readonly()
    built = built.time("now-1h", "now").refresh("30s").timezone("browser")
    built = built.with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    for choice in board.choices:
        built = built.with_variable(_variable(choice))
    numbers = count(1)
    for row in board.rows:
        built = built.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            built = built.with_panel(_graph(panel).id(next(numbers)))
    text = json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False)
    return text + "\n"


def _variable(choice: LabelMenu) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(choice.name).datasource(_SOURCE).multi(True)
    variable = variable.query(f"label_values({choice.metric}, {choice.label})")
    # A model or a node may be new since the page was opened.
    variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    everything = VariableOption(text="All", value="$__all", selected=True)
    return variable.include_all(True).all_value(".+").current(everything)


def _graph(panel: Panel) -> timeseries.Panel:
    graph = timeseries.Panel().title(panel.title).unit(panel.unit).datasource(_SOURCE)
    graph = graph.description(panel.about).span(_WIDTH).height(_HEIGHT).interval(_SCRAPE)
    graph = graph.min(0).fill_opacity(10).show_points(VisibilityMode.NEVER)
    graph = graph.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST)
    graph = graph.legend(legend.placement(LegendPlacement.BOTTOM).show_legend(True))
    if panel.most is not None:
        graph = graph.max(panel.most)
    if panel.worrying is not None:
        graph = graph.thresholds(_thresholds(panel.worrying))
    for name, query in zip(ascii_uppercase, panel.queries, strict=False):
        graph = graph.with_target(_target(query, name))
    return graph


def _thresholds(worrying: float) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green"), Threshold(value=worrying, color="red")]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _target(query: Query, name: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
    return target.ref_id(name).range()
