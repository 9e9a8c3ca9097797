"""The sections that every report has.  Pure but for the style sheet, which is read from the
package."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import msgspec
import numpy as np

from bench.loadgen.record import Record
from bench.loadgen.server_metrics import ReplicaUsage, ServerSnapshot, replica_loads
from bench.report import markup
from bench.report.charts import Plot, PlotLine, Plots
from bench.report.remarks import dropped_text, remarks
from bench.report.tables import client_line, error_text, number
from bench.stats.request_metrics import totals
from bench.stats.validity import Validity
from bench.stats.windowed_metrics import SloLimits

PARTIAL = "<p><b>Partial run:</b> it was stopped early.</p>"


class RenderedReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report in all its forms.

    Attributes:
        html: the whole page, which needs no network.
        plots: those that are worth a file; *legend* names their colours.
    """

    html: str
    markdown: str
    plots: Sequence[Plot]
    legend: str


def style() -> str:
    return (resources.files("bench.report") / "report.css").read_text()


def evidence(
    lines: Sequence[PlotLine], plots: Plots, snapshots: Sequence[ServerSnapshot]
) -> Sequence[str]:
    """Return what was measured: by request, over time, by model, by replica."""
    return (
        _distributions(lines, plots.distributions),
        _over_time(lines, plots.over_time),
        _by_model(lines),
        _by_replica(lines, plots.replicas, replica_loads(snapshots)),
    )


def how_far_to_trust(
    lines: Sequence[PlotLine],
    validity: Validity,
    goal: SloLimits | None,
    manifest: Mapping[str, Any],
) -> Sequence[str]:
    """Return whether the run is valid, and how it was measured."""
    return _trust(lines, validity, manifest), _method(goal, manifest)


def _distributions(lines: Sequence[PlotLine], plots: Sequence[Plot]) -> str:
    return markup.section(
        "Distributions",
        "Cumulative distributions over requests (ITL: over gaps between tokens), measured from the "
        "scheduled time of each request. Further left is better.",
        legend(lines) + _figures(plots),
    )


def _over_time(lines: Sequence[PlotLine], plots: Sequence[Plot]) -> str:
    if not plots:
        return ""
    text = (
        "Both arms at the same schedule time. Tokens are counted while load is offered; the "
        "streams of an earlier part do not count in a later one."
    )
    return markup.section(
        "Over the schedule" if len(lines) > 1 else "Over the run",
        text
        if len(lines) > 1
        else "By scheduled time of the requests, and by arrival time of the tokens.",
        legend(lines) + _figures(plots),
    )


def _figures(plots: Sequence[Plot]) -> str:
    return markup.charts([markup.figure(plot.title, plot.content) for plot in plots])


def legend(lines: Sequence[PlotLine]) -> str:
    return markup.legend([(line.name, line.css) for line in lines]) if len(lines) > 1 else ""


def _by_model(lines: Sequence[PlotLine]) -> str:
    models = sorted({one.model for line in lines for one in line.records})
    rows = [
        [model, line.name, *_latencies([r for r in line.records if r.model == model])]
        for model in models
        for line in lines
    ]
    head = ["model", "arm", "requests", "TTFT p50", "TTFT p99", "E2E p50", "E2E p99", "errors"]
    return markup.section("Per model", "Milliseconds.", markup.table(head, rows))


def _latencies(records: Sequence[Record]) -> list[str]:
    ttft = [r.ttft_s * 1e3 for r in records if r.ttft_s is not None]
    e2e = [r.e2e_s * 1e3 for r in records if r.e2e_s is not None]
    at = [(values, q) for values in (ttft, e2e) for q in (50, 99)]
    quantiles = [number(float(np.percentile(v, q)) if v else None) for v, q in at]
    return [f"{len(records):,}", *quantiles, error_text(totals(records))]


def _by_replica(
    lines: Sequence[PlotLine], plots: Sequence[Plot], replicas: Sequence[ReplicaUsage]
) -> str:
    if not plots and not replicas:
        return ""
    return markup.section(
        "Per replica",
        "Requests by replica, as reported by the load balancer; and engine metrics, sampled "
        "during the run.",
        legend(lines) + _figures(plots) + _engines(replicas),
    )


def _engines(replicas: Sequence[ReplicaUsage]) -> str:
    if not replicas:
        return ""
    head = [
        "replica",
        "arm",
        "running (mean)",
        "waiting (max)",
        "KV cache usage (max)",
        "prefix hit rate",
    ]
    rows = [
        [
            one.replica,
            one.arm,
            number(one.running_mean),
            "-" if one.waiting_max is None else str(one.waiting_max),
            _share(one.kv_usage_max),
            _share(one.prefix_hit_share),
        ]
        for one in sorted(replicas, key=lambda one: (one.replica, one.arm))
    ]
    return markup.table(head, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _trust(lines: Sequence[PlotLine], validity: Validity, manifest: Mapping[str, Any]) -> str:
    errors = "".join(
        f"<p>{escape(line.name)}: {error_text(totals(line.records))} of {len(line.records):,} "
        "requests failed</p>"
        for line in lines
    )
    # Why a run is invalid is in the heading.
    good = "<p>No validity problems found.</p>" if validity.valid else ""
    return markup.section(
        "Validity",
        client_line(validity) + ".",
        good + errors + _remarks(lines, manifest) + _due_and_sent(lines),
    )


def _remarks(lines: Sequence[PlotLine], manifest: Mapping[str, Any]) -> str:
    said = [f"{line.name}: {remark}" for line in lines for remark in remarks(line.records)]
    dropped = dropped_text(manifest)
    said += [dropped] if dropped else []
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in said)}</ul>" if said else ""


def _due_and_sent(lines: Sequence[PlotLine]) -> str:
    """Both clocks side by side: what differs is the client's own delay."""
    head = ["milliseconds", "arm", "p50 (scheduled)", "p50 (sent)", "p99 (scheduled)", "p99 (sent)"]
    rows = []
    for line in lines:
        since_due = [("TTFT", [r.ttft_s for r in line.records])]
        since_due.append(("E2E", [r.e2e_s for r in line.records]))
        for name, values in since_due:
            pairs = [
                (v * 1e3, (v - r.dispatch_delay_s) * 1e3)
                for v, r in zip(values, line.records, strict=True)
                if v is not None
            ]
            rows.append([name, line.name, *_quantiles_of_both(pairs)])
    return markup.table(head, rows)


def _quantiles_of_both(pairs: Sequence[tuple[float, float]]) -> list[str]:
    if not pairs:
        return ["-"] * 4
    return [number(float(v)) for row in np.percentile(pairs, (50, 99), axis=0) for v in row]


def _method(goal: SloLimits | None, manifest: Mapping[str, Any]) -> str:
    shown = msgspec.json.format(msgspec.json.encode(manifest, enc_hook=str), indent=2).decode()
    return markup.section(
        "Method",
        "Latencies are measured from the scheduled time of a request, so that client delays are "
        f"included.{_goal_text(goal)} Failed requests have no latency and count as errors. ITL is "
        "the gap between two events of one token each, according to usage; where events carry "
        "several tokens, the gap is an inter-chunk latency (ICL).",
        f"<details><summary>Manifest</summary><pre>{escape(shown)}</pre></details>",
    )


def _goal_text(goal: SloLimits | None) -> str:
    if goal is None:
        return ""
    limits = [
        f"{name} max {limit:g} ms"
        for name, limit in (
            ("TTFT", goal.ttft_ms),
            ("time per token", goal.itl_ms),
            ("E2E", goal.e2e_ms),
        )
        if limit is not None
    ]
    return f" SLO for goodput: {', '.join(limits) or 'no limit'}."
