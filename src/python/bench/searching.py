"""The commands that run one upstream several times: `sweep`, `search` and `all-models`."""

from pathlib import Path
from typing import Annotated

import typer

from bench.options import (
    Models,
    OutputDir,
    Seed,
    WorkloadName,
    one_url,
    served_models,
    setting,
)
from servekit.errors.tree import SettingInvalid

Env = Annotated[str | None, typer.Option(help="baseline (8080) or managed (8081).")]
Url = Annotated[str | None, typer.Option("--url", "-u", help="Any OpenAI API.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(sweep)
    app.command()(search)
    app.command("all-models")(all_models)


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
    output_dir: OutputDir = Path("results"),
    seed: Seed = 1,
) -> None:
    """Measure one upstream at several rates or concurrencies, up to where it saturates."""
    from bench.sweeps import Step, sweep_steps

    if bool(rates) == bool(concurrencies):
        raise SettingInvalid("give either --rates 2,4,8 or --concurrencies 1,4,16")
    where = one_url(env, url)
    steps = (
        [Step(rate=r, users=None, requests=max(1, round(r * seconds))) for r in _numbers(rates)]
        if rates
        else [
            Step(rate=1.0, users=max(1, round(n)), requests=num_requests)
            for n in _numbers(concurrencies)
        ]
    )
    models = model or served_models(where)
    sweep_steps(where, env or "url", models, workload, steps, seed, setting(context, output_dir))


def search(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    model: Models = None,
    ttft_ms: Annotated[float | None, typer.Option(help="TTFT that a good request keeps.")] = 1000.0,
    itl_ms: Annotated[float | None, typer.Option(help="ITL that a good request keeps.")] = 50.0,
    e2e_ms: Annotated[float | None, typer.Option(help="E2E that a good request keeps.")] = None,
    share: Annotated[float, typer.Option(min=0.01, max=1.0, help="Requests to be good.")] = 0.95,
    start: Annotated[float, typer.Option(help="First rate that is tried.")] = 2.0,
    trials: Annotated[int, typer.Option(min=1, help="Rates that are tried.")] = 10,
    seconds: Annotated[float, typer.Option(help="Length of a trial.")] = 20.0,
    workload: WorkloadName = "synthetic",
    output_dir: OutputDir = Path("results"),
    seed: Seed = 1,
) -> None:
    """Find the highest rate at which enough requests keep their limits."""
    from bench.arm_metrics import Goal
    from bench.sweeps import search_rate

    where = one_url(env, url)
    search_rate(
        where,
        env or "url",
        model or served_models(where),
        workload,
        goal=Goal(ttft_ms=ttft_ms, itl_ms=itl_ms, e2e_ms=e2e_ms),
        share=share,
        start=start,
        trials=trials,
        seconds=seconds,
        seed=seed,
        setting=setting(context, output_dir),
    )


def all_models(
    context: typer.Context,
    env: Annotated[str, typer.Argument(help="baseline or managed.")],
    concurrency: Annotated[int, typer.Argument(min=1)] = 10,
    num_requests: Annotated[int, typer.Argument(min=1)] = 100,
    url: Url = None,
    pause_s: Annotated[float, typer.Option(help="Between two models.")] = 10.0,
    workload: WorkloadName = "synthetic",
    output_dir: OutputDir = Path("results"),
    seed: Seed = 1,
) -> None:
    """Measure every model of an environment, one after the other: ENV CONCURRENCY REQUESTS."""
    from bench.arms import environment_url
    from bench.sweeps import each_model

    # The name is checked also where the address is given.
    where = url or environment_url(env)
    environment_url(env)
    given = setting(context, output_dir)
    each_model(where, env, concurrency, num_requests, workload, seed, pause_s, given)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise SettingInvalid(f"{text!r} is no list of numbers above 0; write 2,4,8")
    return numbers
