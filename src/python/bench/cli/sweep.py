"""The commands that measure one target several times: `sweep`, `search` and `all-models`."""

from typing import Annotated

import typer

from bench.cli.asked import with_text_scales, workload_for
from bench.cli.options import (
    Env,
    Models,
    OutputOptions,
    Seed,
    SloOptions,
    Url,
    WarmupRequests,
    WorkloadName,
    one_url,
    run_context,
)
from bench.cli.request_options import DataOptions, RequestOptions
from servekit.cli.options import grouped, old_name
from servekit.errors.tree import SettingInvalid


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(grouped(sweep))
    app.command()(grouped(search))
    app.command("all-models")(grouped(all_models))


def sweep(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    model: Models = None,
    rates: Annotated[
        str, typer.Option(help="Rates of an open loop (requests/s): 2,4,8.", rich_help_panel="Load")
    ] = "",
    concurrencies: Annotated[
        str,
        typer.Option(help="Concurrent requests of a closed loop: 1,4,16.", rich_help_panel="Load"),
    ] = "",
    seconds: Annotated[
        float, typer.Option(help="Duration of each rate (s).", rich_help_panel="Load")
    ] = 20.0,
    num_requests: Annotated[
        int, typer.Option(min=1, help="Requests per step of a closed loop.", rich_help_panel="Load")
    ] = 100,
    workload: WorkloadName = "synthetic",
    seed: Seed = 1,
    warmup_requests: WarmupRequests = 0,
    *,
    data: DataOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure one target at several rates or concurrencies, until it is saturated."""
    from bench.experiments.sweeps import SweepStep, sweep_steps

    if bool(rates) == bool(concurrencies):
        raise SettingInvalid("give either --rates 2,4,8 or --concurrencies 1,4,16, not both")
    where = one_url(env, url)
    steps = (
        [
            SweepStep(rate=r, users=None, requests=max(1, round(r * seconds)))
            for r in _numbers(rates)
        ]
        if rates
        else [
            SweepStep(rate=1.0, users=max(1, round(n)), requests=num_requests)
            for n in _numbers(concurrencies)
        ]
    )
    given = run_context(context, kept, upstream=upstream, warmup_requests=warmup_requests)
    ask = workload_for(context, [where], model, workload, data, given.endpoint, seed=seed)
    sweep_steps(where, env or "url", ask, steps, with_text_scales(given, where, ask))


def search(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    model: Models = None,
    share: Annotated[
        float,
        typer.Option(
            "--slo-attainment",
            old_name("--share"),
            min=0.01,
            max=1.0,
            help="Min. share of requests within the SLO, 0 to 1.",
            rich_help_panel="SLO (for goodput)",
        ),
    ] = 0.95,
    start: Annotated[
        float,
        typer.Option(
            "--start-rate",
            old_name("--start"),
            help="First rate (requests/s).",
            rich_help_panel="Load",
        ),
    ] = 2.0,
    trials: Annotated[
        int,
        typer.Option(
            "--max-trials",
            old_name("--trials"),
            min=1,
            help="Max number of rates to try.",
            rich_help_panel="Load",
        ),
    ] = 14,
    seconds: Annotated[
        float, typer.Option(help="Duration of each rate (s).", rich_help_panel="Load")
    ] = 20.0,
    workload: WorkloadName = "synthetic",
    seed: Seed = 1,
    warmup_requests: WarmupRequests = 0,
    *,
    data: DataOptions,
    limits: SloOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Find the max rate at which the required share of requests meets the SLO."""
    from bench.experiments.sweeps import search_rate

    where = one_url(env, url)
    given = run_context(context, kept, upstream=upstream, warmup_requests=warmup_requests)
    ask = workload_for(context, [where], model, workload, data, given.endpoint, seed=seed)
    search_rate(
        where,
        env or "url",
        ask,
        goal=limits.goal(),
        share=share,
        start=start,
        trials=trials,
        seconds=seconds,
        context=with_text_scales(given, where, ask),
    )


def all_models(
    context: typer.Context,
    env: Annotated[str, typer.Argument(help="Environment: baseline or managed.")],
    concurrency: Annotated[int, typer.Argument(min=1, help="Concurrent requests per model.")] = 10,
    num_requests: Annotated[int, typer.Argument(min=1, help="Requests per model.")] = 100,
    url: Url = None,
    model: Models = None,
    pause_s: Annotated[
        float, typer.Option(help="Pause between two models (s).", rich_help_panel="Load")
    ] = 10.0,
    workload: WorkloadName = "synthetic",
    seed: Seed = 1,
    *,
    data: DataOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure every model of an environment, one after another."""
    from bench.experiments.sweeps import each_model
    from bench.target.arms import environment_url

    # The name is checked also where the address is given.
    where = url or environment_url(env)
    environment_url(env)
    given = run_context(context, kept, upstream=upstream)
    ask = workload_for(
        context,
        [where],
        model,
        workload,
        data,
        given.endpoint,
        seed=seed,
        requests=num_requests,
    )
    learned = with_text_scales(given, where, ask)
    measured = each_model(where, env, concurrency, ask, pause_s, learned)
    if any(run.partial for run in measured):
        raise typer.Exit(130)
    if not all(any(record.ok for record in run.records) for run in measured):
        raise typer.Exit(1)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise SettingInvalid(f"{text!r} must be positive numbers, comma-separated: 2,4,8")
    return numbers
