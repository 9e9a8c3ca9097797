"""What a dashboard shows, as values.  Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, in PromQL.

    Attributes:
        legend: a name for each series; `{{label}}` stands for a label's value.
    """

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        unit: as Grafana names it: "s", "percentunit" (0.0 to 1.0), "reqps", "short".
        about: what a reader should think of it, shown behind the "i".
        most: the upper end of the axis; None where the data decides.
        worrying: from this value on the graph is red; None where no value is.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str = ""
    most: float | None = None
    worrying: float | None = None


@dataclass(frozen=True, slots=True)
class PanelRow:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class LabelMenu:
    """A menu at the top, from the values of a label.

    Attributes:
        name: in expressions, `$name`.
        metric: where the label is looked up.
    """

    name: str
    metric: str
    label: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard.

    Attributes:
        uid: part of its address in Grafana, and the name of its file.
    """

    uid: str
    title: str
    about: str
    rows: tuple[PanelRow, ...]
    choices: tuple[LabelMenu, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


def quantiles(
    histogram: str, by: str = "", selector: str = "", shares: tuple[float, ...] = (0.5, 0.9, 0.99)
) -> tuple[Query, ...]:
    """Return the quantiles of a histogram, over all series of the same label *by*."""
    rate = f"rate({histogram}_bucket{selector}[$__rate_interval])"
    labels = f"le, {by}" if by else "le"
    suffix = f" {{{{{by}}}}}" if by else ""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by ({labels}) ({rate}))", f"p{share * 100:g}{suffix}"
        )
        for share in shares
    )
