"""The commands that run one upstream several times: `sweep`, `search` and `all-models`."""

from typing import Annotated

import typer

from bench.cli.options import (
    Env,
    Models,
    OutputOptions,
    RequestOptions,
    Seed,
    SloOptions,
    Url,
    WorkloadName,
    one_url,
    served_models,
    setting,
)
from servekit.cli.options import grouped
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
    rates: Annotated[str, typer.Option(help="Requests per second: 2,4,8; an open loop.")] = "",
    concurrencies: Annotated[str, typer.Option(help="Users: 1,4,16; a closed loop.")] = "",
    seconds: Annotated[float, typer.Option(help="Length of a step, at its rate.")] = 20.0,
    num_requests: Annotated[int, typer.Option(min=1, help="Per step of a closed loop.")] = 100,
    workload: WorkloadName = "synthetic",
    seed: Seed = 1,
    *,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure one upstream at several rates or concurrencies, up to where it saturates."""
    from bench.experiments.sweeps import SweepStep, sweep_steps

    if bool(rates) == bool(concurrencies):
        raise SettingInvalid("give either --rates 2,4,8 or --concurrencies 1,4,16")
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
    models = model or served_models(where, upstream.api_key)
    sweep_steps(
        where,
        env or "url",
        models,
        workload,
        steps,
        seed,
        setting(context, kept, upstream=upstream),
    )


def search(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    model: Models = None,
    share: Annotated[float, typer.Option(min=0.01, max=1.0, help="Requests to be good.")] = 0.95,
    start: Annotated[float, typer.Option(help="First rate that is tried.")] = 2.0,
    trials: Annotated[int, typer.Option(min=1, help="Rates that are tried.")] = 10,
    seconds: Annotated[float, typer.Option(help="Length of a trial.")] = 20.0,
    workload: WorkloadName = "synthetic",
    seed: Seed = 1,
    *,
    limits: SloOptions,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Find the highest rate at which enough requests keep their limits."""
    from bench.experiments.sweeps import search_rate

    where = one_url(env, url)
    search_rate(
        where,
        env or "url",
        model or served_models(where, upstream.api_key),
        workload,
        goal=limits.goal(),
        share=share,
        start=start,
        trials=trials,
        seconds=seconds,
        seed=seed,
        setting=setting(context, kept, upstream=upstream),
    )


def all_models(
    context: typer.Context,
    env: Annotated[str, typer.Argument(help="baseline or managed.")],
    concurrency: Annotated[int, typer.Argument(min=1)] = 10,
    num_requests: Annotated[int, typer.Argument(min=1)] = 100,
    url: Url = None,
    pause_s: Annotated[float, typer.Option(help="Between two models.")] = 10.0,
    workload: WorkloadName = "synthetic",
    seed: Seed = 1,
    *,
    upstream: RequestOptions,
    kept: OutputOptions,
) -> None:
    """Measure every model of an environment, one after the other: ENV CONCURRENCY REQUESTS."""
    from bench.experiments.sweeps import each_model
    from bench.target.arms import environment_url

    # The name is checked also where the address is given.
    where = url or environment_url(env)
    environment_url(env)
    given = setting(context, kept, upstream=upstream)
    models = served_models(where, given.target.api_key)
    each_model(models, where, env, concurrency, num_requests, workload, seed, pause_s, given)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise SettingInvalid(f"{text!r} is no list of numbers above 0; write 2,4,8")
    return numbers
