"""A comparison -> report.html: one file, no network, light and dark.  Pure but for its style
sheet, which is read from the package."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import msgspec
import numpy as np

from bench import svg
from bench.arm_metrics import Goal, Window, delivered_tokens, windows_of
from bench.comparison import Comparison, Row
from bench.intervals import Verdict
from bench.measures import totals
from bench.record import Record
from bench.schedule import Part
from bench.snapshots import ReplicaLoad
from bench.tables import client_line, error_text, number
from bench.validity import Validity


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a report is made from.

    Attributes:
        baseline, candidate: the records of the two arms.
        replicas: what the engines said of themselves; empty where nobody asked them.
    """

    comparison: Comparison
    validity: Validity
    baseline: Sequence[Record]
    candidate: Sequence[Record]
    parts: Sequence[Part]
    goal: Goal
    partial: bool
    manifest: Mapping[str, Any]
    replicas: Sequence[ReplicaLoad] = ()

    @property
    def arms(self) -> tuple[tuple[str, Sequence[Record], str], ...]:
        """Name, records and colour class of each arm."""
        names = self.comparison.baseline, self.comparison.candidate
        return (names[0], self.baseline, "s0"), (names[1], self.candidate, "s1")


def report_html(evidence: Evidence) -> str:
    """Return the page: verdict first, then why, then how far to trust it."""
    css = (resources.files("bench") / "report.css").read_text()
    found = evidence.comparison
    title = f"{found.candidate} against {found.baseline}"
    sections = (
        _verdict(evidence),
        _tiles(evidence),
        _differences(found),
        _distributions(evidence),
        _over_time(evidence),
        _by_model(evidence),
        _by_replica(evidence),
        _all_metrics(found),
        _trust(evidence),
        _method(evidence),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


_SENTENCE = {
    Verdict.BETTER: "{candidate} is better than {baseline}",
    Verdict.WORSE: "{candidate} is worse than {baseline}",
    Verdict.MIXED: "{candidate} is better than {baseline} in some respects and worse in others",
    Verdict.NOT_SHOWN: "No difference shown between {candidate} and {baseline}",
}


def _verdict(evidence: Evidence) -> str:
    found, validity = evidence.comparison, evidence.validity
    names = {"candidate": found.candidate, "baseline": found.baseline}
    if not validity.valid:
        heading, css, why = "This run is invalid", "invalid", "; ".join(validity.reasons)
    else:
        heading = _SENTENCE[found.verdict].format(**names)
        css, why = found.verdict.replace(" ", "-"), found.reason
    partial = "<p><b>Partial:</b> the run was stopped early.</p>" if evidence.partial else ""
    return (
        f'<header class="verdict {css}"><h1>{escape(heading)}</h1>'
        f'<p>{escape(why)}.</p>{partial}<p class="soft">{escape(_summary(evidence))}</p></header>'
    )


def _summary(evidence: Evidence) -> str:
    schedule = evidence.manifest.get("schedule") or {}
    return (
        f"Workload {schedule.get('workload', '?')}, the same "
        f"{len(evidence.baseline):,} requests to each arm in {len(evidence.parts)} interleaved "
        f"parts; {evidence.comparison.confidence:.0%} intervals from "
        f"{evidence.comparison.resamples:,} resamples of {evidence.comparison.windows} windows."
    )


def _tiles(evidence: Evidence) -> str:
    found = evidence.comparison
    keys = ("ttft_p50", "ttft_p99", "itl_p50", "e2e_p50", "output_throughput", "goodput")
    tiles = "".join(_tile(found.row(key)) for key in keys)
    return f'<div class="tiles">{tiles}</div>'


def _tile(row: Row) -> str:
    change = f"{row.ratio - 1:+.1%}" if row.ratio is not None else "-"
    return (
        f'<div class="tile"><span class="soft">{escape(row.label)}</span>'
        f'<b class="{_css(row.verdict)}">{change}</b><span class="soft">{number(row.baseline)} to '
        f"{number(row.candidate)} {escape(row.unit)}</span></div>"
    )


def _differences(found: Comparison) -> str:
    """A forest plot of the ratios: all metrics on one axis, whatever their units."""
    rows = [row for row in found.rows if row.ratio_low is not None and row.ratio is not None]
    rows = [row for row in rows if not row.key.startswith("per_token")]
    if not rows:
        return ""
    reach = max(abs(v - 1.0) for row in rows for v in (row.ratio_low or 1.0, row.ratio_high or 1.0))
    reach = min(1.0, max(0.02, reach * 1.05))
    axis = svg.Axis(f"{found.candidate} relative to {found.baseline}", -reach, reach)
    intervals = [
        svg.Interval(
            row.label,
            (row.ratio_low or 1.0) - 1.0,
            (row.ratio or 1.0) - 1.0,
            (row.ratio_high or 1.0) - 1.0,
            _css(row.verdict),
            f"{row.label}: {number(row.difference, sign=True)} {row.unit}, {row.verdict}",
        )
        for row in rows
    ]
    plot = svg.forest("relative difference of each metric", axis, intervals)
    return _section(
        "What differs",
        "A dot is the measured change, its line the interval that holds the true change in 95 of "
        "100 such runs. Green is better, red is worse, grey was not shown. Latencies, TTFT to E2E, "
        "are better to the left; throughput and goodput are better to the right.",
        f'<figure class="wide">{plot}</figure>',
    )


def _distributions(evidence: Evidence) -> str:
    charts = (
        _cumulative("Time to first token (TTFT)", evidence, lambda r: _one(r.ttft_s)),
        _cumulative("Inter-token latency (ITL)", evidence, lambda r: r.gaps_s if r.ok else []),
        _cumulative("End to end (E2E)", evidence, lambda r: _one(r.e2e_s)),
    )
    return _section(
        "Distributions",
        "The share of requests, or of gaps between tokens, that took at most so long; from when a "
        "request was due. A curve further to the left is better.",
        _legend(evidence) + f'<div class="charts">{"".join(charts)}</div>',
    )


def _one(value: float | None) -> Sequence[float]:
    return () if value is None else (value,)


def _cumulative(title: str, evidence: Evidence, values: Callable[[Record], Sequence[float]]) -> str:
    per_arm = [
        (name, [v * 1e3 for record in records for v in values(record)], css)
        for name, records, css in evidence.arms
    ]
    everything = [v for _, some, _ in per_arm for v in some if v > 0]
    if not everything:
        return ""
    low, high = np.quantile(everything, [0.001, 0.999])
    x = svg.Axis(
        "milliseconds", max(float(low), 1e-3), max(float(high), float(low) * 1.1), log=True
    )
    lines = [
        svg.Series(name, [(max(v, x.low), share) for v, share in svg.cumulative(some)], css)
        for name, some, css in per_arm
    ]
    return _figure(title, svg.line_chart(title, x, svg.Axis("", 0.0, 1.0), lines))


def _over_time(evidence: Evidence) -> str:
    windows = windows_of(evidence.parts)
    if not windows:
        return ""
    charts = (
        _time_chart("TTFT p50, ms", evidence, windows, _ttft_by_window),
        _time_chart("Output tokens per second", evidence, windows, _tokens_by_window),
        _time_chart("Requests due per second", evidence, windows, _due_by_window),
    )
    return _section(
        "Over the schedule",
        "Both arms at the same moment of the same schedule. Tokens are those that arrived while "
        "load was offered; every part starts with the streams that it starts itself.",
        _legend(evidence) + f'<div class="charts">{"".join(charts)}</div>',
    )


def _time_chart(
    title: str,
    evidence: Evidence,
    windows: Sequence[Window],
    values: Callable[[Sequence[Record], Sequence[Window]], Sequence[float]],
) -> str:
    times: list[float] = []
    passed_s = 0.0
    for window in windows:
        times.append(passed_s + window.length_s / 2)
        passed_s += window.length_s
    lines = [
        svg.Series(
            name,
            [
                (t, v)
                for t, v in zip(times, values(records, windows), strict=True)
                if np.isfinite(v)
            ],
            css,
        )
        for name, records, css in evidence.arms
    ]
    top = max((v for line in lines for _, v in line.points), default=0.0) or 1.0
    x, y = svg.Axis("seconds of schedule", 0.0, passed_s), svg.Axis("", 0.0, top * 1.08)
    return _figure(title, svg.line_chart(title, x, y, lines))


def _ttft_by_window(records: Sequence[Record], windows: Sequence[Window]) -> Sequence[float]:
    groups: list[list[float]] = [[] for _ in windows]
    for one in records:
        for own, window in zip(groups, windows, strict=True):
            if one.part == window.part and 0 <= one.part_s - window.start_s < window.length_s:
                own.extend(v * 1e3 for v in _one(one.ttft_s))
    return [float(np.median(group)) if group else float("nan") for group in groups]


def _tokens_by_window(records: Sequence[Record], windows: Sequence[Window]) -> Sequence[float]:
    tokens = delivered_tokens(records, windows)
    return [float(n) / w.length_s for n, w in zip(tokens, windows, strict=True)]


def _due_by_window(records: Sequence[Record], windows: Sequence[Window]) -> Sequence[float]:
    return [
        sum(one.part == w.part and 0 <= one.part_s - w.start_s < w.length_s for one in records)
        / w.length_s
        for w in windows
    ]


def _by_model(evidence: Evidence) -> str:
    models = sorted({one.model for _, records, _ in evidence.arms for one in records})
    rows = []
    for model in models:
        for name, records, _ in evidence.arms:
            rows.append([model, name, *_latencies([r for r in records if r.model == model])])
    head = ["model", "arm", "requests", "TTFT p50", "TTFT p99", "E2E p50", "E2E p99", "errors"]
    return _section("Per model", "Milliseconds.", _table(head, rows))


def _latencies(records: Sequence[Record]) -> list[str]:
    ttft = [r.ttft_s * 1e3 for r in records if r.ttft_s is not None]
    e2e = [r.e2e_s * 1e3 for r in records if r.e2e_s is not None]
    at = [(values, q) for values in (ttft, e2e) for q in (50, 99)]
    quantiles = [number(float(np.percentile(v, q)) if v else None) for v, q in at]
    return [f"{len(records):,}", *quantiles, error_text(totals(records))]


def _by_replica(evidence: Evidence) -> str:
    charts = []
    for name, records, css in evidence.arms:
        tokens: dict[str, int] = {}
        for one in records:
            asked = (one.prompt_tokens or 0) + (one.completion_tokens or 0)
            if one.served_by:
                tokens[one.served_by] = tokens.get(one.served_by, 0) + asked
        if tokens:
            bars = [svg.Bar(replica, n / 1e3, css) for replica, n in sorted(tokens.items())]
            title = f"{name}: thousand tokens, prompt and output, per replica"
            charts.append(_figure(title, svg.bar_chart(title, "thousand tokens", bars)))
    if not charts and not evidence.replicas:
        return ""
    return _section(
        "Per replica",
        "Who served what, as the load balancer named it; below, what the engines said of "
        "themselves, sampled during the whole run.",
        f'<div class="charts">{"".join(charts)}</div>{_engines(evidence.replicas)}',
    )


def _engines(replicas: Sequence[ReplicaLoad]) -> str:
    if not replicas:
        return ""
    head = ["replica", "arm", "running, mean", "waiting, max", "KV cache, max", "prefix hits"]
    rows = [
        [
            one.replica,
            one.arm,
            number(one.running_mean),
            number(one.waiting_max),
            _share(one.kv_usage_max),
            _share(one.prefix_hit_share),
        ]
        for one in sorted(replicas, key=lambda one: (one.replica, one.arm))
    ]
    return _table(head, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


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
    body = "".join(_metric_row(row) for row in found.rows)
    table = f'<div class="scroll"><table><tr>{_cells("th", head)}</tr>{body}</table></div>'
    return _section(
        "All metrics",
        "Bold metrics take part in the verdict, held to one false alarm in twenty together (Holm). "
        "The smallest effect is the difference that a run like this one shows in four of five "
        "cases: a smaller one may be there, unseen.",
        table,
    )


def _metric_row(row: Row) -> str:
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
        f'<span class="{_css(row.verdict)}">{row.verdict}</span>',
    ]
    kind = ' class="headline"' if row.headline else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _trust(evidence: Evidence) -> str:
    validity = evidence.validity
    reasons = "".join(f'<p class="invalid">{escape(reason)}</p>' for reason in validity.reasons)
    errors = "".join(
        f"<p>{escape(name)}: {error_text(totals(records))} of {len(records):,} requests failed</p>"
        for name, records, _ in evidence.arms
    )
    good = "" if reasons else "<p>Nothing speaks against this run.</p>"
    return _section("Can it be trusted?", client_line(validity) + ".", reasons + good + errors)


def _method(evidence: Evidence) -> str:
    goal = evidence.goal
    limits = [
        f"{name} at most {limit:g} ms"
        for name, limit in (("TTFT", goal.ttft_ms), ("ITL", goal.itl_ms), ("E2E", goal.e2e_ms))
        if limit is not None
    ]
    shown = msgspec.json.format(
        msgspec.json.encode(evidence.manifest, enc_hook=str), indent=2
    ).decode()
    return _section(
        "How it was measured",
        "Latencies run from the moment a request was due, not from when the client managed to "
        f"send it. Goodput counts requests with {' and '.join(limits) or 'no limit'}. Failed "
        "requests have no latency and are counted as errors. ITL is the gap between two events "
        "where each event was one token, as usage counted them.",
        f"<details><summary>Manifest</summary><pre>{escape(shown)}</pre></details>",
    )


def _section(heading: str, text: str, content: str) -> str:
    return (
        f'<section><h2>{escape(heading)}</h2><p class="soft">{escape(text)}</p>{content}</section>'
    )


def _figure(title: str, content: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{content}</figure>"


def _legend(evidence: Evidence) -> str:
    names = "".join(f'<span class="{css}"><i></i>{escape(n)}</span>' for n, _, css in evidence.arms)
    return f'<div class="legend">{names}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{_cells("th", head)}</tr>{body}</table></div>'


def _cells(kind: str, texts: Sequence[str]) -> str:
    return "".join(f"<{kind}>{escape(text)}</{kind}>" for text in texts)


def _css(verdict: Verdict) -> str:
    return verdict.replace(" ", "-")
