"""`runner simulate`: policies on a fleet in virtual time."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib import resources
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.export import genai_csv, genai_json
from bench.results import new_run_folder, write_file
from bench.schedule import Call, Schedule
from bench.sources import Ask, fleet_shares, make_schedule
from bench.trace_files import read_trace
from bench.twin import (
    PolicyResult,
    arrivals_of,
    longest,
    read_autoscale,
    read_failure,
    records_of,
    result_of,
    setups_of,
    total_tokens,
)
from bench.workload import NAMES
from servekit.errors.tree import WorkloadInvalid
from servekit.fleet.fleet import Fleet, load_fleet
from servekit.fleetsim.outcome import Outcome
from servekit.fleetsim.scenario import Scenario
from servekit.fleetsim.world import World
from servekit.routing.registry import POLICY_NAMES, policy_named

# A trace keeps requests of any length: engines are simulated with the context that it needs.
ANY_LENGTH = 1_000_000

# Per-request files are written up to here; a million lines help nobody.
MOST_EXPORTED = 100_000

# A warm start of an 8B model on an H200 took 37 to 39 s.
START_S = 38.0


def register(app: typer.Typer) -> None:
    """Add `simulate` to *app*."""
    app.command("simulate")(simulate)


def simulate(
    trace: Annotated[
        str, typer.Option(help="A trace or schedule file, or a workload by name.")
    ] = "mooncake",
    policy: Annotated[
        str, typer.Option(help="Policies, with commas between; all: every one there is.")
    ] = "round-robin,least-waiting,least-inflight,queue",
    fleet: Annotated[str, typer.Option(help="A fleet of ours by name, or a fleet file.")] = "h100",
    replicas: Annotated[
        int | None, typer.Option(help="Replicas of each model, instead of the file's.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU type, instead of the file's.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second, instead of the trace's own.")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="At most so many requests.")] = None,
    poll_s: Annotated[float, typer.Option(help="Seconds between polls of /metrics.")] = 0.2,
    fail: Annotated[
        list[str] | None, typer.Option(help="REPLICA@AT+DOWN, seconds; may be repeated.")
    ] = None,
    autoscale: Annotated[
        str | None, typer.Option(help="IN_FLIGHT:MOST, requests per replica and replicas.")
    ] = None,
    start_s: Annotated[float, typer.Option(help="Seconds that a new replica takes.")] = START_S,
    seed: Annotated[int, typer.Option(help="Every random choice comes from it.")] = 1,
    output_dir: Annotated[Path, typer.Option(help="Where results are kept.")] = Path("results"),
) -> None:
    """Serve a trace in virtual time, once with each policy, and compare."""
    console = Console()
    names = POLICY_NAMES if policy == "all" else tuple(p.strip() for p in policy.split(","))
    for name in names:
        policy_named(name, Random(seed))
    machines = load_fleet(fleet)
    schedule = trace_schedule(trace, machines, rate=rate, requests=requests, seed=seed)
    scenario = Scenario(
        setups_of(machines, replicas=replicas, gpu=gpu, context=longest(schedule.calls)),
        poll_s=poll_s,
        failures=tuple(read_failure(text) for text in fail or ()),
        autoscale=read_autoscale(autoscale, start_s) if autoscale else None,
        seed=seed,
    )
    console.print(about(schedule, scenario, machines))
    folder = new_run_folder(output_dir, "simulate", datetime.now().astimezone())
    results = []
    for name in names:
        result, outcome = run_policy(name, scenario, schedule.calls)
        results.append(result)
        if len(schedule.calls) <= MOST_EXPORTED:
            _export(folder, name, schedule.calls, outcome)
    console.print(table_of(results))
    write_file(folder / "simulation.json", simulation_json(schedule, scenario, results))
    console.print(f"results: {folder}")


def trace_schedule(
    trace: str, fleet: Fleet, *, rate: float | None, requests: int | None, seed: int
) -> Schedule:
    """Return the schedule of *trace* over the models of *fleet*, with prompts of any length.

    Raises:
        WorkloadInvalid: it cannot be read, or is empty.
    """
    own_rate, own_requests = _natural(trace)
    return make_schedule(
        Ask(
            workload=trace,
            shares=fleet_shares(fleet),
            requests=own_requests if requests is None else requests,
            rate=own_rate if rate is None else rate,
            arrivals="trace",
            seed=seed,
            fit=ANY_LENGTH,
        )
    )


def _natural(trace: str) -> tuple[float, int]:
    """Return the requests per second and the requests that a trace has by itself; for generated
    load, what suits six replicas for a quarter of an hour."""
    generated = trace in NAMES and trace != "mooncake"
    if generated or trace.endswith(".json"):
        return 12.0, 10_000
    own = resources.files("bench.traces") / "mooncake_conversation.jsonl"
    source = own if trace == "mooncake" else Path(trace)
    if not source.is_file():
        return 12.0, 10_000
    try:
        rows = read_trace(source.read_text(), trace)
    except WorkloadInvalid:
        # A saved schedule has its own times; anything else fails where it is read.
        return 12.0, 10_000
    return len(rows) / max(rows[-1].at_s, 1.0), len(rows)


def run_policy(
    name: str, scenario: Scenario, calls: Sequence[Call]
) -> tuple[PolicyResult, Outcome]:
    """Serve *calls* with the policy called *name*."""
    start = time.perf_counter()
    world = World(scenario, lambda rng: policy_named(name, rng))
    outcome = world.run(arrivals_of(calls))
    jitter_s = scenario.replicas[0].calibration.profile.jitter_s
    return result_of(name, outcome, time.perf_counter() - start, jitter_s), outcome


def about(schedule: Schedule, scenario: Scenario, fleet: Fleet) -> str:
    """Return what is simulated, in three lines."""
    prompt, output = total_tokens(schedule.calls)
    setups = scenario.replicas
    raised = longest(schedule.calls) > min(model.max_model_len for model in fleet.models)
    lines = [
        f"{len(schedule.calls):,} requests of {schedule.name} in {schedule.length_s:,.0f} s, "
        f"{prompt:,} prompt and {output:,} output tokens",
        f"{len(setups)} replicas of {len(fleet.models)} models, polled every {scenario.poll_s} s",
    ]
    if raised:
        lines.append("max_model_len is raised where the trace's prompts need it")
    sources = {setup.calibration.source for setup in setups}
    lines += [f"step times {source}" for source in sorted(sources)]
    return "\n".join(lines)


def table_of(results: Sequence[PolicyResult]) -> Table:
    """Return one line per policy; times in milliseconds."""
    table = Table(title="in virtual time, milliseconds")
    columns = ("policy", "TTFT p50", "p90", "p99", "ITL p50", "p90", "p99", "E2E p50", "p90", "p99")
    for column in (*columns, "tok/s", "hits", "preempt", "failed", "replica h", "took s"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for one in results:
        table.add_row(
            one.policy,
            *(f"{value:,.0f}" for value in one.ttft_ms),
            *(f"{value:.1f}" for value in one.itl_ms),
            *(f"{value:,.0f}" for value in one.e2e_ms),
            f"{one.output_tokens_per_s:,.0f}",
            f"{one.hit_rate:.1%}",
            f"{one.preemptions:,}",
            f"{one.failed:,}",
            f"{one.replica_hours:.2f}",
            f"{one.wall_s:.1f}",
        )
    return table


def simulation_json(
    schedule: Schedule, scenario: Scenario, results: Sequence[PolicyResult]
) -> bytes:
    """Return simulation.json: what was simulated, and each policy's figures."""
    prompt, output = total_tokens(schedule.calls)
    body = {
        "schedule": {
            "name": schedule.name,
            "seed": schedule.seed,
            "requests": len(schedule.calls),
            "prompt_tokens": prompt,
            "output_tokens": output,
            "digest": schedule.digest,
        },
        "replicas": [
            {
                "name": setup.name,
                "model": setup.model,
                "gpu": setup.calibration.gpu,
                "calibration": setup.calibration.source,
                "kv_cache_tokens": setup.calibration.kv_cache_tokens,
                "max_model_len": setup.max_model_len,
            }
            for setup in scenario.replicas
        ],
        "poll_s": scenario.poll_s,
        "failures": [asdict(failure) for failure in scenario.failures],
        "autoscale": asdict(scenario.autoscale) if scenario.autoscale else None,
        "policies": [asdict(result) for result in results],
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


def _export(folder: Path, policy: str, calls: Sequence[Call], outcome: Outcome) -> None:
    """Write what a real run writes, but for the gaps between single tokens."""
    records = records_of(calls, outcome, policy)
    write_file(folder / f"{policy}-profile_export.csv", genai_csv(records))
    write_file(folder / f"{policy}-profile_export.json", genai_json(records, {"simulated": policy}))
