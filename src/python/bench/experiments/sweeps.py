"""Run one upstream several times: over rates, over models, up to a limit.  Input and output."""

import time
from collections.abc import Sequence
from datetime import datetime

import msgspec
from rich.table import Table

from bench.experiments.run import load_one, measure_one, warm_up
from bench.loadgen.run_result import LoadResult, RunResult
from bench.report.model_table import model_rows, models_table
from bench.report.tables import interval_text, number
from bench.report.terminal import print_dropped
from bench.results.comparison_json import pretty
from bench.results.context import RunContext
from bench.results.files import new_run_folder, write_file
from bench.stats.plateau import is_behind, rates
from bench.stats.rate_search import RateTrial, highest, next_rate, search_text
from bench.stats.request_metrics import ITL, LATENCY, TTFT, Stats, summarize, totals
from bench.stats.run_intervals import intervals, share_interval, told
from bench.stats.validity import judge
from bench.stats.windowed_metrics import DEFAULT_SLO, SloLimits
from bench.target.arms import Arm
from bench.workload.registry import WorkloadSpec, make_schedule
from bench.workload.schedule import Schedule


class SweepStep(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a sweep: a closed loop of *users*, or without them an open loop at *rate*."""

    rate: float
    users: int | None
    requests: int


class SweepStepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a step brought."""

    step: SweepStep
    requests_per_s: float | None
    tokens_per_s: float | None
    ttft_p50_ms: float | None
    ttft_p50_interval_ms: tuple[float, float] | None
    ttft_p99_ms: float | None
    itl_p50_ms: float | None
    e2e_p50_ms: float | None
    failed: int
    invalid: tuple[str, ...]
    saturated: bool


def sweep_steps(
    url: str,
    env: str,
    ask: WorkloadSpec,
    steps: Sequence[SweepStep],
    context: RunContext,
) -> list[SweepStepResult]:
    """Run *steps* in order, until one saturates the upstream or is stopped; print and keep them."""
    folder = new_run_folder(context.output_dir, f"{env}-sweep", datetime.now())  # noqa: DTZ005
    found: list[SweepStepResult] = []
    for step in steps:
        schedule = _schedule(ask, step.requests, step.rate)
        if not found:
            print_dropped(schedule, context.console)
        if not found:
            warm_up(Arm(name=env, url=url), schedule, context)
        measured = load_one(Arm(name=env, url=url), schedule, step.users, context)
        found.append(_stepped(step, measured))
        write_file(folder / "sweep.json", pretty(found))
        if found[-1].saturated or measured.partial:
            break
    context.console.print(_table(found))
    if found[-1].saturated:
        context.console.print(
            "saturated at the last step: responses were slower than the offered rate"
        )
    context.console.print(f"results: {folder}", soft_wrap=True, highlight=False)
    return found


def search_rate(
    url: str,
    env: str,
    ask: WorkloadSpec,
    *,
    goal: SloLimits,
    share: float,
    start: float,
    trials: int,
    seconds: float,
    context: RunContext,
) -> RateTrial | None:
    """Print, keep and return the highest rate at which *share* of requests meet *goal*."""
    folder = new_run_folder(context.output_dir, f"{env}-search", datetime.now())  # noqa: DTZ005
    tried: list[RateTrial] = []
    while len(tried) < trials and (rate := next_rate(tried, start, share)) is not None:
        schedule = _schedule(ask, max(10, round(rate * seconds)), rate)
        if not tried:
            print_dropped(schedule, context.console)
        if not tried:
            warm_up(Arm(name=env, url=url), schedule, context)
        measured = load_one(Arm(name=env, url=url), schedule, None, context)
        if measured.partial:
            break
        # Requests that fail are the upstream's: they count as not good.
        limited = judge(measured.records, measured.burden, max_error_share=1.0).reasons
        if limited:
            context.console.print(
                f"{rate:.2f}/s: not counted, since this client limited it: {'; '.join(limited)}",
                soft_wrap=True,
                highlight=False,
            )
            break
        tried.append(_trial(rate, measured, goal, schedule.length_s))
        write_file(folder / "search.json", pretty({"goal": goal, "share": share, "trials": tried}))
        context.console.print(
            f"{rate:.2f}/s: {tried[-1].good_share:.1%} met the SLO{_range(tried[-1])}"
        )
    context.console.print(search_text(tried, share), soft_wrap=True, highlight=False)
    return highest(tried, share)


def _trial(rate: float, measured: LoadResult, goal: SloLimits, length_s: float) -> RateTrial:
    met = [goal.met_by(one) for one in sorted(measured.records, key=lambda one: one.due_s)]
    return RateTrial(rate, sum(met) / len(met), sum(met) / length_s, share_interval(met))


def _range(trial: RateTrial) -> str:
    if trial.share_interval is None:
        return ""
    low, high = trial.share_interval
    return f" (95% interval {low:.1%} to {high:.1%})"


def each_model(
    url: str,
    env: str,
    concurrency: int,
    ask: WorkloadSpec,
    pause_s: float,
    context: RunContext,
) -> list[RunResult]:
    """Measure every model of *ask* at *url*, with a pause between two; print and keep one table
    over all of them."""
    folder = new_run_folder(context.output_dir, f"{env}-models", datetime.now())  # noqa: DTZ005
    runs: dict[str, RunResult] = {}
    for model, share in ask.shares.items():
        if runs:
            time.sleep(pause_s)
        context.console.print(f"[bold]{model}[/bold]")
        own = msgspec.structs.replace(ask, shares={model: share})
        schedule = _schedule(own, ask.requests, ask.rate)
        runs[model] = measure_one(Arm(name=env, url=url), schedule, concurrency, context)
        write_file(folder / "models.json", pretty(model_rows(runs)))
        if runs[model].partial:
            break
    context.console.print(models_table(model_rows(runs)))
    context.console.print(f"results: {folder}", soft_wrap=True, highlight=False)
    return list(runs.values())


def _schedule(ask: WorkloadSpec, requests: int, rate: float) -> Schedule:
    return make_schedule(msgspec.structs.replace(ask, requests=requests, rate=rate))


def _stepped(step: SweepStep, measured: LoadResult) -> SweepStepResult:
    records = measured.records
    found, total = summarize(records), totals(records)
    rate = rates(records, map(DEFAULT_SLO.met_by, records))
    return SweepStepResult(
        step=step,
        requests_per_s=rate.request_throughput,
        tokens_per_s=rate.token_throughput,
        ttft_p50_ms=_percentile(found.get(TTFT), 50),
        ttft_p50_interval_ms=intervals(records, 50).get(TTFT),
        ttft_p99_ms=_percentile(found.get(TTFT), 99),
        itl_p50_ms=_percentile(found.get(ITL), 50),
        e2e_p50_ms=_percentile(found.get(LATENCY), 50),
        failed=total.failed,
        invalid=judge(measured.records, measured.burden).reasons,
        saturated=step.users is None and is_behind(rate),
    )


def _percentile(of: Stats | None, at: int) -> float | None:
    """Unknown where there are too few values."""
    return None if of is None else told(of.percentiles, of.count)[at]


def _table(found: Sequence[SweepStepResult]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "load",
        "requests/s",
        "tokens/s",
        "TTFT p50 (ms)",
        "95% interval",
        "TTFT p99 (ms)",
        "ITL p50 (ms)",
        "E2E p50 (ms)",
        "failed",
        "",
    ):
        table.add_column(heading, justify="right")
    for one in found:
        users, rate = one.step.users, one.step.rate
        table.add_row(
            f"{rate:g}/s" if users is None else f"{users} users",
            number(one.requests_per_s),
            number(one.tokens_per_s),
            number(one.ttft_p50_ms),
            interval_text(one.ttft_p50_interval_ms),
            number(one.ttft_p99_ms),
            number(one.itl_p50_ms),
            number(one.e2e_p50_ms),
            str(one.failed),
            "invalid" if one.invalid else "",
        )
    return table
