"""Entry point of the benchmark: `python -m bench.runner`.  Input and output.

Without a command: a simulated fleet behind each load balancer, a real trace, one verdict.
Commands import what they need when they run, so that `--help` and mistakes answer at once.
"""

import importlib
import importlib.util
import signal
from typing import Annotated

import typer

from bench.cli.options import (
    FailOn,
    OutputOptions,
    SloOptions,
    TrafficOptions,
    VerdictOptions,
    check_fail_on,
    exit_as,
    run_context,
)
from servekit.cli.app import ProgramApp
from servekit.cli.options import grouped
from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid

app = ProgramApp("bench")

# Commands with a module of their own add themselves with `register(app)`.
COMMAND_MODULES = (
    "run",
    "compare",
    "checks",
    "sweep",
    "why",
    "simulate",
    "simulate_grid",
    "plan",
    "calibrate_engine",
    "validate_engine",
)


@app.callback(invoke_without_command=True)
@grouped
def main(
    context: typer.Context,
    balancers: Annotated[
        str,
        typer.Option(
            help="The two load balancers: baseline or managed, each optionally with :POLICY.",
            rich_help_panel="Target",
        ),
    ] = "baseline,managed",
    fail_on: FailOn = None,
    *,
    load: TrafficOptions,
    limits: SloOptions,
    verdict: VerdictOptions,
    kept: OutputOptions,
) -> None:
    """Compare two load balancers on simulated fleets.

    Prints a table and a verdict, and writes a report.  Other targets: see the commands.
    """
    if context.invoked_subcommand is not None:
        return
    import msgspec

    from bench.experiments.run import compare_fleets
    from bench.workload.registry import schedule_for, trace_on_fleet
    from servekit.fleet.fleet import load_fleet

    check_fail_on(fail_on)
    arms = [name.strip() for name in balancers.split(",")]
    if len(arms) != 2:
        raise SettingInvalid(f"--balancers must name two load balancers (A,B), not {balancers!r}")
    given = run_context(context, kept, goal=limits.goal(), min_effect=verdict.min_effect)
    shape = load.shape(verdict)
    ask = trace_on_fleet(load_fleet(load.fleet), load.rate, load.seed)
    ask = msgspec.structs.replace(ask, workload=load.workload, arrivals=load.arrivals)
    schedule = schedule_for(shape, ask)
    exit_as(compare_fleets(arms, load.fleet, schedule, shape, given), fail_on)


def add_commands() -> None:
    """Add the commands to `app`, once."""
    for name in () if app.registered_commands else COMMAND_MODULES:
        if importlib.util.find_spec(f"bench.cli.{name}") is not None:
            importlib.import_module(f"bench.cli.{name}").register(app)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # Ctrl-C and an orchestrator's SIGTERM end a run in the same way.
    signal.signal(signal.SIGTERM, _interrupt)
    add_commands()
    run_program(app)
