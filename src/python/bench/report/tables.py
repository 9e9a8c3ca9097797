"""Comparisons and runs as tables for people: rich on a terminal, Markdown in a file.  Pure."""

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from bench.loadgen.record import Record
from bench.loadgen.run_result import LoadResult, RunResult
from bench.report.remarks import plateau_text, remarks
from bench.stats.comparison import ComparedMetric, Comparison
from bench.stats.factorial import EFFECTS, CellValues, Effect, GridRun
from bench.stats.intervals import Verdict
from bench.stats.plateau import Rates
from bench.stats.request_metrics import (
    ANSWER,
    CHUNK,
    CLOSE,
    DISPATCH,
    EFFECTIVE,
    EFFECTIVE_TTFT,
    ITL,
    LATENCY,
    TTFT,
    Measure,
    Stats,
    Totals,
    summarize,
    totals,
)
from bench.stats.run_intervals import intervals, told
from bench.stats.validity import Validity, judge
from bench.stats.verdict import ComparedRun

# What the terminal has room for; the report and comparison.json have all rows.
SHOWN = (
    *(f"{latency}_{of}" for latency in ("ttft", "itl", "e2e") for of in ("p50", "p90", "p99")),
    "output_throughput",
    "request_throughput",
    "goodput",
    "error_rate",
)

# Since it was sent, and since it was due; what differs is our own delay.
_RUN_ROWS = (TTFT, EFFECTIVE_TTFT, ANSWER, ITL, CHUNK, LATENCY, EFFECTIVE, CLOSE, DISPATCH)

_STYLE = {
    Verdict.BETTER: "bold green",
    Verdict.WORSE: "bold red",
    Verdict.MIXED: "bold yellow",
    Verdict.NOT_SHOWN: "dim",
}


def comparison_table(found: Comparison) -> Table:
    """Return a line per metric: both arms, the difference with its interval, the verdict."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _headings(found):
        table.add_column(heading, justify="left" if heading in ("", "verdict") else "right")
    for row in _shown(found):
        style = _STYLE[row.verdict]
        table.add_row(*_cells(row), f"[{style}]{row.verdict}[/{style}]")
    return table


def comparison_markdown(found: Comparison) -> str:
    """Return the same table in Markdown."""
    lines = [_headings(found), ["---"] * 6]
    lines += [[*_cells(row), str(row.verdict)] for row in _shown(found)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def summary_markdown(compared: ComparedRun) -> str:
    """Return the verdict, the table and the client's load, fit for a pull request."""
    table, client = comparison_markdown(compared.comparison), client_line(compared.validity)
    return f"**{verdict_line(compared)}**\n\n{table}\n{client}\n"


def verdict_line(compared: ComparedRun) -> str:
    """Return the verdict of the whole in one sentence."""
    found, invalid = compared.comparison, compared.validity.reasons
    if invalid:
        return f"INVALID: {'; '.join(invalid)}"
    candidate, baseline = found.candidate, found.baseline
    sentence = {
        Verdict.BETTER: f"{candidate} is better than {baseline}",
        Verdict.WORSE: f"{candidate} is worse than {baseline}",
        Verdict.MIXED: f"{candidate} is better than {baseline} in some metrics and worse in others",
        Verdict.NOT_SHOWN: f"no significant difference between {candidate} and {baseline}",
    }[found.verdict]
    partial = "PARTIAL RUN: " if compared.run.partial else ""
    return f"{partial}{sentence} ({found.reason}{_seen(found)})"


def _seen(found: Comparison) -> str:
    """What could have been seen, where nothing was."""
    rows = [found.row(key) for key in ("ttft_p50", "ttft_p99", "output_throughput")]
    known = [r for r in rows if r.smallest_effect is not None]
    if found.verdict is not Verdict.NOT_SHOWN or not known:
        return ""
    effects = ", ".join(f"{r.label} {number(r.smallest_effect)} {r.unit}" for r in known)
    return f"; min. effects detectable with a power of 80 %: {effects}"


def cells_markdown(
    found: Sequence[CellValues], targets: Sequence[str], metrics: Sequence[str] = SHOWN
) -> str:
    """Return a row per metric and a column per cell of a 2x2 design."""
    lines = [["", *targets], ["---"] * (1 + len(targets))]
    by_metric = {one.metric: one for one in found}
    for key in metrics:
        one = by_metric[key]
        lines.append([f"{one.label} ({one.unit})", *map(number, one.values)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grid_line(grid: GridRun) -> str:
    """Return what the effects on the headline metrics say together, in one sentence."""
    if grid.validity.reasons:
        return f"INVALID: {'; '.join(grid.validity.reasons)}"
    return f"{'PARTIAL RUN: ' if grid.run.partial else ''}{grid.sentence}"


def effects_markdown(found: Sequence[Effect], metrics: Sequence[str] = SHOWN) -> str:
    """Return a row per metric and a column per effect."""
    lines = [["", *EFFECTS], ["---"] * (1 + len(EFFECTS))]
    by_metric = {(one.metric, one.effect): one for one in found}
    for key in metrics:
        row = [by_metric[key, name] for name in EFFECTS]
        lines.append([f"{row[0].label} ({row[0].unit})", *(_effect_cell(one) for one in row)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _effect_cell(one: Effect) -> str:
    if one.low is None:
        return "-"
    interval = f"{number(one.low, sign=True)} to {number(one.high, sign=True)}"
    return f"{number(one.estimate, sign=True)} ({interval}) {one.verdict}"


def client_line(validity: Validity) -> str:
    """Return what the client did to its own measurement."""
    return (
        f"client: CPU {validity.client_cpu_share:.0%}, {_lag(validity)}, send delay "
        f"{validity.dispatch_p50_ms:.2f} ms (p50) and {validity.dispatch_p99_ms:.2f} ms (p99), "
        f"{validity.achieved_share:.1%} of the scheduled rate{_machine(validity)}"
    )


def _machine(validity: Validity) -> str:
    load = validity.machine_load
    return "" if load is None else f"; machine: {load:.1f} runnable processes per core"


def _lag(validity: Validity) -> str:
    if validity.lag_p50_ms is None or validity.lag_p99_ms is None:
        return "event-loop lag unknown"
    return (
        f"event-loop lag {validity.lag_p50_ms:.1f} ms (p50) and {validity.lag_p99_ms:.1f} ms (p99)"
    )


def run_table(run: LoadResult, rate: Rates) -> Table:
    """Return the latencies, rates and totals of one run."""
    found, total = summarize(run.records), totals(run.records)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _RUN_HEADINGS:
        table.add_column(heading, justify="right" if heading else "left")
    for row in _run_rows(run.records, found):
        table.add_row(*row)
    for label, value in _rate_rows(rate):
        table.add_row(label, value)
    table.add_row("Requests", str(total.requests))
    table.add_row("Errors", error_text(total))
    return table


def _rate_rows(rate: Rates) -> list[tuple[str, str]]:
    """Throughput first, then what of it met the SLO: of the same requests and seconds."""
    return [
        ("Requests completed per second", number(rate.request_throughput)),
        ("Goodput: of them within the SLO", number(rate.goodput)),
        ("Output tokens per second", number(rate.token_throughput)),
        ("Requests sent per second", number(rate.sent_per_s)),
    ]


def run_markdown(run: RunResult, rate: Rates) -> str:
    """Return the latencies and totals of one run in Markdown."""
    found, total = summarize(run.records), totals(run.records)
    validity = judge(run.records, run.burden)
    lines = [list(_RUN_HEADINGS), ["---"] * len(_RUN_HEADINGS), *_run_rows(run.records, found)]
    rates = (
        f"{number(rate.request_throughput)} requests/s, "
        f"{number(rate.token_throughput)} tokens/s, errors: {error_text(total)}"
    )
    trust = "".join(f"INVALID: {reason}\n" for reason in validity.reasons)
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    said = "".join(f"* {line}\n" for line in [plateau_text(rate), *remarks(run.records)])
    return f"**{run.arms[0]}: {rates}**\n\n{table}\n{said}\n{trust}{client_line(validity)}\n"


_RUN_HEADINGS = ("", "mean", "p50", "95% interval", "p90", "p99", "95% interval")


def _run_rows(records: Sequence[Record], found: Mapping[Measure, Stats]) -> list[list[str]]:
    """Return a row per measure; a percentile of too few answers is unknown."""
    middle, tail = intervals(records, 50), intervals(records, 99)
    rows = []
    for m in _RUN_ROWS:
        if m in found:
            at = told(found[m].percentiles, found[m].count)
            cells = [number(found[m].avg), number(at[50]), interval_text(middle.get(m))]
            cells += [number(at[90]), number(at[99]), interval_text(tail.get(m))]
            rows.append([f"{m.label} ({m.unit})", *cells])
    return rows


def interval_text(of: tuple[float, float] | None) -> str:
    """Return an interval for people; a dash where it is unknown."""
    return "-" if of is None else f"{number(of[0])} to {number(of[1])}"


def error_text(total: Totals) -> str:
    """Return how many requests failed, and of what."""
    named = ", ".join(f"{n} {error}" for error, n in total.errors.items())
    return f"{total.failed} ({named})" if named else "0"


def number(value: float | None, *, sign: bool = False) -> str:
    """Return *value* with about three figures that matter; a dash where it is unknown."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    return text if float(text.replace(",", "")) else "0"


def _shown(found: Comparison) -> Iterable[ComparedMetric]:
    return (found.row(key) for key in SHOWN)


def _headings(found: Comparison) -> list[str]:
    percent = f"{found.confidence:.0%}"
    return ["", found.baseline, found.candidate, "difference", f"{percent} interval", "verdict"]


def _cells(row: ComparedMetric) -> list[str]:
    interval = f"{number(row.low, sign=True)} to {number(row.high, sign=True)}"
    percent = f" ({row.ratio - 1:+.1%})" if row.ratio is not None else ""
    return [
        f"{row.label} ({row.unit})",
        number(row.baseline),
        number(row.candidate),
        number(row.difference, sign=True) + percent,
        interval if row.low is not None else "-",
    ]
