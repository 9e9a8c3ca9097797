"""Is managed better than baseline?  `python -m bench.runner` measures it and says so.

Without a command: a simulated fleet behind each load balancer, a real trace, one verdict.
Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

import importlib
import importlib.util
from typing import Annotated

import typer

from bench.groups import grouped
from bench.options import (
    TOKEN_OPTIONS,
    ArrivalShape,
    Env,
    FailOn,
    Kept,
    Limits,
    Load,
    Models,
    Seed,
    Tokens,
    Upstream,
    Url,
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
@grouped
def main(
    context: typer.Context,
    balancers: Annotated[
        str, typer.Option(help="The two arms: baseline, managed, or either with :POLICY.")
    ] = "baseline,managed",
    fail_on: FailOn = None,
    *,
    load: Load,
    limits: Limits,
    kept: Kept,
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
    given = setting(context, kept, goal=limits.goal())
    shape = Shape(parts=load.parts, part_s=load.part_s, warmup_s=load.warmup_s)
    shares = fleet_shares(load_fleet(load.fleet))
    schedule = schedule_for(shape, load.workload, shares, load.rate, load.arrivals, load.seed)
    exit_as(compare_fleets(arms, load.fleet, schedule, shape, given), fail_on)


@app.command()
@grouped
def run(
    context: typer.Context,
    env: Env = None,
    url: Url = None,
    model: Models = None,
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
    endpoint_type: Annotated[str, typer.Option(help="completions or chat.")] = "completions",
    streaming: Annotated[bool, typer.Option(help="Ask for a stream.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Processes that send the load.")] = 1,
    seed: Seed = 1,
    backend: Annotated[str, typer.Option(hidden=True, help="genai-perf's; vllm.")] = "vllm",
    *,
    tokens: Tokens,
    upstream: Upstream,
    kept: Kept,
) -> None:
    """Measure one environment or URL.

    Options of genai-perf and aiperf are accepted where they mean the same here.
    """
    from bench.arms import Arm
    from bench.jobs import measure_one
    from bench.sources import Ask, make_schedule, read_shares

    if backend != "vllm":
        raise SettingInvalid(f"--backend {backend!r}: what is measured speaks vLLM's OpenAI API")
    where = one_url(env, url)
    schedule = make_schedule(
        Ask(
            workload=_workload(context, workload),
            shares=read_shares(model or served_models(where, upstream.api_key)),
            requests=num_requests,
            rate=1.0 if rate is None else rate,
            arrivals=arrivals,
            seed=seed,
            lengths=tokens.lengths(),
        )
    )
    given = setting(
        context,
        kept,
        upstream=upstream,
        chat=_is_chat(endpoint_type),
        stream=streaming,
        workers=workers,
    )
    users = None if rate is not None else concurrency
    measured = measure_one(Arm(name=env or "url", url=where), schedule, users, given)
    if measured.partial:
        raise typer.Exit(130)


def _workload(context: typer.Context, workload: str) -> str:
    """Whoever asks for token counts, as genai-perf's users do, asks for the synthetic workload."""
    names = [name for name in TOKEN_OPTIONS if _was_given(context, name)]
    if not names or workload == "synthetic":
        return workload
    if _was_given(context, "workload"):
        option = names[0].replace("_", "-")
        raise SettingInvalid(
            f"--workload {workload} has token counts of its own: leave out --{option}, or the "
            "workload"
        )
    return "synthetic"


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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
