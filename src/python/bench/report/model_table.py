"""One table over the models of an environment, each measured by itself.  Pure."""

from collections.abc import Mapping, Sequence

import msgspec
from rich.table import Table

from bench.loadgen.run_result import LoadResult
from bench.report.tables import number
from bench.stats.plateau import rates
from bench.stats.request_metrics import ITL, LATENCY, TTFT, Stats, summarize, totals
from bench.stats.validity import judge

_HEADINGS = (
    "requests/s",
    "tokens/s",
    "TTFT p50 (ms)",
    "TTFT p99 (ms)",
    "ITL p50 (ms)",
    "E2E p50 (ms)",
)


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one model's run came to; None where that is unknown.

    Attributes:
        numbers: in the order of the table's headings.
    """

    model: str
    requests: int
    failed: int
    numbers: tuple[float | None, ...]
    invalid: tuple[str, ...]
    partial: bool


def model_rows(runs: Mapping[str, LoadResult]) -> list[ModelRow]:
    """Return a row for each model's run, in the order in which they were measured."""
    return [_row(model, run) for model, run in runs.items()]


def _row(model: str, run: LoadResult) -> ModelRow:
    found, total = summarize(run.records), totals(run.records)
    rate = rates(run.records, (record.ok for record in run.records))
    return ModelRow(
        model=model,
        requests=total.requests,
        failed=total.failed,
        numbers=(
            rate.request_throughput,
            rate.token_throughput,
            _percentile(found.get(TTFT), 50),
            _percentile(found.get(TTFT), 99),
            _percentile(found.get(ITL), 50),
            _percentile(found.get(LATENCY), 50),
        ),
        invalid=judge(run.records, run.burden).reasons,
        partial=run.partial,
    )


def _percentile(summary: Stats | None, percent: int) -> float | None:
    return None if summary is None else summary.percentiles[percent]


def models_table(rows: Sequence[ModelRow]) -> Table:
    """Return a line per model."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    for heading in ("requests", *_HEADINGS, "failed", ""):
        table.add_column(heading, justify="right")
    for row in rows:
        said = ["invalid"] if row.invalid else []
        said += ["stopped early"] if row.partial else []
        values = (number(value) for value in row.numbers)
        table.add_row(row.model, str(row.requests), *values, str(row.failed), ", ".join(said))
    return table
