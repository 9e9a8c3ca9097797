"""Is managed better than baseline?  `python -m bench.runner` measures it and says so.

Without a command: a simulated fleet behind each load balancer, a real trace, one verdict.
Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid

app = typer.Typer(add_completion=False, rich_markup_mode=None)

# Commands with a module of their own add themselves with `register(app)`.
_MODULES = ("simulate", "plan", "calibrate_engine", "validate_engine")

OutputDir = Annotated[Path, typer.Option(help="Where results are kept.")]
Seed = Annotated[int, typer.Option(help="Every random choice comes from it.")]
Rate = Annotated[float, typer.Option(help="Requests per second, over all models.")]
WorkloadName = Annotated[
    str, typer.Option(help="mooncake, default, synthetic, shared-prefix, multi-turn, or a file.")
]
ArrivalShape = Annotated[
    str, typer.Option(help="trace, constant, poisson, gamma:CV, ramp:TO or burst:SIZE.")
]
FailOn = Annotated[
    str | None, typer.Option(help="worse: exit with 1 if the verdict is worse, or invalid.")
]
Fleet = Annotated[str, typer.Option(help="A fleet of ours by name, or a fleet file.")]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    output_dir: OutputDir = Path("results"),
    fleet: Fleet = "h100",
    balancers: Annotated[
        str, typer.Option(help="The two arms: baseline, managed, or either with :POLICY.")
    ] = "baseline,managed",
    workload: WorkloadName = "mooncake",
    rate: Rate = 12.0,
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
    from bench.jobs import Shape, compare_fleets
    from bench.sources import Ask, fleet_shares, make_schedule
    from servekit.fleet.fleet import load_fleet

    _check_fail_on(fail_on)
    arms = [name.strip() for name in balancers.split(",")]
    if len(arms) != 2:
        raise SettingInvalid(f"--balancers {balancers!r}: two are compared; write A,B")
    shape = Shape(parts=parts, part_s=part_s, warmup_s=warmup_s)
    schedule = make_schedule(
        Ask(
            workload=workload,
            shares=fleet_shares(load_fleet(fleet)),
            # Enough to last: a trace's bursts may make a stretch of it denser than the mean.
            requests=round(rate * shape.length_s * 1.5) + 1,
            rate=rate,
            arrivals=arrivals,
            seed=seed,
        )
    )
    judged = compare_fleets(arms, fleet, schedule, shape, **_common(context, output_dir))
    _exit_as(judged, fail_on)


@app.command()
def run(
    context: typer.Context,
    env: Annotated[str | None, typer.Option(help="baseline (8080) or managed (8081).")] = None,
    url: Annotated[str | None, typer.Option(help="Any OpenAI API, instead of --env.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="May be repeated; default: all.")] = None,
    num_requests: Annotated[int, typer.Option(min=1, help="Requests to send.")] = 100,
    concurrency: Annotated[int, typer.Option(min=1, help="Users of the closed loop.")] = 10,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second: an open loop, no --concurrency.")
    ] = None,
    arrivals: ArrivalShape = "poisson",
    workload: WorkloadName = "default",
    output_dir: OutputDir = Path("results"),
    chat: Annotated[bool, typer.Option(help="Use /v1/chat/completions.")] = False,
    streaming: Annotated[bool, typer.Option(help="Ask for a stream.")] = True,
    timeout_s: Annotated[float, typer.Option(help="Patience with one request.")] = 300.0,
    seed: Seed = 1,
) -> None:
    """Measure one environment or URL."""
    from bench.arms import Arm, environment_url, models_at
    from bench.jobs import measure_one
    from bench.sources import Ask, make_schedule

    where = _one_url(env, url, environment_url)
    models = model or list(_wait(models_at(where)))
    schedule = make_schedule(
        Ask(
            workload=workload,
            shares=dict.fromkeys(models, 1.0),
            requests=num_requests,
            rate=1.0 if rate is None else rate,
            arrivals=arrivals,
            seed=seed,
        )
    )
    measure_one(
        Arm(name=env or "url", url=where),
        schedule,
        None if rate is not None else concurrency,
        **_common(context, output_dir, chat=chat, stream=streaming, timeout_s=timeout_s),
    )


def _one_url(env: str | None, url: str | None, environment_url: Any) -> str:
    if (env is None) == (url is None):
        raise SettingInvalid("give either --env baseline|managed or --url http://host:port")
    return url if url is not None else environment_url(env)


def _common(
    context: typer.Context,
    output_dir: Path,
    *,
    chat: bool = False,
    stream: bool = True,
    timeout_s: float = 300.0,
) -> dict[str, Any]:
    """What every job is given: how to send, where to print and keep, and what was asked."""
    from rich.console import Console

    from bench.measuring import Target
    from servekit.client.client import CHAT, COMPLETIONS

    options = {name: str(value) for name, value in context.params.items() if value is not None}
    return {
        "target": Target(path=CHAT if chat else COMPLETIONS, stream=stream, timeout_s=timeout_s),
        "console": Console(),
        "output_dir": output_dir,
        "options": options,
    }


def _wait(work: Any) -> Any:
    import uvloop

    return uvloop.run(work)


def _check_fail_on(fail_on: str | None) -> None:
    if fail_on not in (None, "worse"):
        raise SettingInvalid(f"--fail-on {fail_on!r}: there is only worse")


def _exit_as(judged: Any, fail_on: str | None) -> None:
    """130 if it was stopped, 1 where `--fail-on worse` says so."""
    if judged.measured.partial:
        raise typer.Exit(130)
    if fail_on and (judged.comparison.verdict in ("worse", "mixed") or not judged.validity.valid):
        raise typer.Exit(1)


def _add_modules() -> None:
    for name in _MODULES:
        if importlib.util.find_spec(f"bench.{name}") is not None:
            importlib.import_module(f"bench.{name}").register(app)


if __name__ == "__main__":
    _add_modules()
    run_program(app)
