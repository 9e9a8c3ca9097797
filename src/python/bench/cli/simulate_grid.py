"""The command `simulate-grid`: a 2x2 of engine and load balancer, predicted in virtual time."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.asked import workload_for
from bench.cli.options import Models, OutputOptions, SloOptions, TrafficOptions, run_context
from bench.cli.request_options import DataOptions
from bench.loadgen.run_result import LoadResult
from bench.report.grid_page import grid_markdown
from bench.results.files import new_run_folder
from bench.results.manifest import run_result
from bench.results.store import keep_grid
from bench.stats.factorial import CELLS, grid_run
from bench.twin.engine_grid import POLICIES, engine_grid, predicted_records
from bench.twin.report import NO_BURDEN
from bench.workload.registry import schedule_for
from bench.workload.schedule import PartLayout
from servekit.cli.options import grouped
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet

_KINDS = ("fixed shares", "KVCached")


def register(app: typer.Typer) -> None:
    """Add `simulate-grid` to *app*."""
    app.command("simulate-grid")(grouped(simulate_grid))


def simulate_grid(
    context: typer.Context,
    load: TrafficOptions,
    data: DataOptions,
    limits: SloOptions,
    kept: OutputOptions,
    model: Models = None,
    policy: Annotated[
        str,
        typer.Option(
            help="Routing policies of both load balancers, comma-separated.",
            rich_help_panel="Target",
        ),
    ] = ",".join(POLICIES),
) -> None:
    """Predict a 2x2 design in virtual time: memory of one GPU fixed or shared, and two policies.

    Engines have fixed shares of the GPU's memory, or share it with KVCached.
    """
    policies = tuple(name.strip() for name in policy.split(","))
    if len(policies) != 2:
        raise SettingInvalid(f"--policy names {len(policies)} policies; a 2x2 design needs two")
    fleet = load_fleet(load.fleet)
    given = run_context(context, kept, goal=limits.goal())
    layout = PartLayout(parts=load.parts, part_s=load.part_s, warmup_s=load.warmup_s, drain=True)
    shortest = min(one.max_model_len for one in fleet.models)
    ask = workload_for(
        context,
        [],
        model or [one.name for one in fleet.models],
        load.workload,
        replace(data, max_model_len=data.max_model_len or shortest),
        given.endpoint,
        seed=load.seed,
        rate=load.rate,
        arrivals=load.arrivals,
    )
    schedule = schedule_for(layout, ask)
    grid = engine_grid(fleet)
    started = datetime.now().astimezone()
    records = predicted_records(grid, layout.split(schedule)[1:], load.seed, policies)
    measured = LoadResult(records=records, burden=NO_BURDEN, started=started, partial=False)
    run = run_result(
        CELLS, measured, schedule, layout, given, simulated={"shared_bytes": grid.shared_bytes}
    )
    targets = [f"{kind}, {name}" for kind in _KINDS for name in policies]
    found = grid_run(run, targets, given.goal)
    given.console.print(grid_markdown(found), soft_wrap=True, highlight=False)
    folder = new_run_folder(Path(kept.output_dir), "simulate-grid", started)
    keep_grid(found, folder, given)
    given.console.print(f"results: {folder}", soft_wrap=True, highlight=False)
