"""Is managed better than baseline?  `python -m bench.runner` measures it and says so.

Without a command: a simulated fleet behind each load balancer, a real trace, one verdict.
Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from bench.options import (
    DEFAULT_RATE,
    ArrivalShape,
    FailOn,
    Fleet,
    OutputDir,
    Rate,
    Seed,
    WorkloadName,
    check_fail_on,
    exit_as,
    one_url,
    served_models,
    setting,
)
from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid

app = typer.Typer(add_completion=False, rich_markup_mode=None)

# Commands with a module of their own add themselves with `register(app)`.
_MODULES = (
    "comparing",
    "checking",
    "searching",
    "simulate",
    "plan",
    "calibrate_engine",
    "validate_engine",
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    output_dir: OutputDir = Path("results"),
    fleet: Fleet = "h100",
    balancers: Annotated[
        str, typer.Option(help="The two arms: baseline, managed, or either with :POLICY.")
    ] = "baseline,managed",
    workload: WorkloadName = "mooncake",
    rate: Rate = DEFAULT_RATE,
    arrivals: ArrivalShape = "trace",
    parts: Annotated[int, typer.Option(min=1, help="Parts that each arm replays.")] = 4,
    part_s: Annotated[float, typer.Option(min=1.0, help="Seconds of a part.")] = 15.0,
    warmup_s: Annotated[float, typer.Option(min=0.0, help="Seconds that do not count.")] = 10.0,
    seed: Seed = 1,
    fail_on: FailOn = None,
) -> None:
    """Compare two load balancers on a simulated fleet: table, verdict, report."""
    if context.invoked_subcommand is not None:
        return
    from bench.jobs import compare_fleets
    from bench.schedule import Shape
    from bench.sources import fleet_shares, schedule_for
    from servekit.fleet.fleet import load_fleet

    check_fail_on(fail_on)
    arms = [name.strip() for name in balancers.split(",")]
    if len(arms) != 2:
        raise SettingInvalid(f"--balancers {balancers!r}: two are compared; write A,B")
    shape = Shape(parts=parts, part_s=part_s, warmup_s=warmup_s)
    shares = fleet_shares(load_fleet(fleet))
    schedule = schedule_for(shape, workload, shares, rate, arrivals, seed)
    judged = compare_fleets(arms, fleet, schedule, shape, setting(context, output_dir))
    exit_as(judged, fail_on)


@app.command()
def run(
    context: typer.Context,
    env: Annotated[str | None, typer.Option(help="baseline (8080) or managed (8081).")] = None,
    url: Annotated[
        str | None, typer.Option("--url", "-u", help="Any OpenAI API, instead of --env.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="May be repeated; default: all.")
    ] = None,
    num_requests: Annotated[
        int, typer.Option("--num-requests", "--request-count", min=1, help="Requests to send.")
    ] = 100,
    concurrency: Annotated[int, typer.Option(min=1, help="Users of the closed loop.")] = 10,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", "--request-rate", help="Requests per second: an open loop, no --concurrency."
        ),
    ] = None,
    arrivals: ArrivalShape = "poisson",
    workload: WorkloadName = "default",
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "--artifact-dir", help="Where results are kept.")
    ] = Path("results"),
    endpoint_type: Annotated[str, typer.Option(help="completions or chat.")] = "completions",
    streaming: Annotated[bool, typer.Option(help="Ask for a stream.")] = True,
    timeout_s: Annotated[float, typer.Option(help="Patience with one request.")] = 300.0,
    prompt_mean: Annotated[
        float, typer.Option("--synthetic-input-tokens-mean", "--isl", help="Synthetic prompts.")
    ] = 512.0,
    prompt_stddev: Annotated[float, typer.Option("--synthetic-input-tokens-stddev")] = 128.0,
    output_mean: Annotated[
        float, typer.Option("--output-tokens-mean", "--osl", help="Synthetic answers.")
    ] = 256.0,
    output_stddev: Annotated[float, typer.Option("--output-tokens-stddev")] = 64.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that send the load.")] = 1,
    seed: Annotated[int, typer.Option("--seed", "--random-seed")] = 1,
) -> None:
    """Measure one environment or URL.

    Options of genai-perf and aiperf are accepted where they mean the same here.
    """
    from bench.arms import Arm
    from bench.jobs import measure_one
    from bench.sources import Ask, make_schedule
    from bench.workload import Lengths

    where = one_url(env, url)
    models = model or served_models(where)
    schedule = make_schedule(
        Ask(
            workload=workload,
            shares=dict.fromkeys(models, 1.0),
            requests=num_requests,
            rate=1.0 if rate is None else rate,
            arrivals=arrivals,
            seed=seed,
            lengths=Lengths(prompt_mean, prompt_stddev, output_mean, output_stddev),
        )
    )
    given = setting(
        context,
        output_dir,
        chat=_is_chat(endpoint_type),
        stream=streaming,
        timeout_s=timeout_s,
        workers=workers,
    )
    users = None if rate is not None else concurrency
    measured = measure_one(Arm(name=env or "url", url=where), schedule, users, given)
    if measured.partial:
        raise typer.Exit(130)


def _is_chat(endpoint_type: str) -> bool:
    if endpoint_type not in ("chat", "completions"):
        raise SettingInvalid(f"--endpoint-type {endpoint_type!r}: there are completions and chat")
    return endpoint_type == "chat"


def _add_modules() -> None:
    for name in _MODULES:
        if importlib.util.find_spec(f"bench.{name}") is not None:
            importlib.import_module(f"bench.{name}").register(app)


if __name__ == "__main__":
    _add_modules()
    run_program(app)
