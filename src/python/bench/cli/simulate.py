"""The command `simulate`: routing policies on a simulated fleet, in virtual time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib import resources
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from bench.cli import simulate_scaling
from bench.cli.options import (
    Fleet as FleetName,
)
from bench.cli.options import (
    Gpu,
    MaxRequests,
    OutputDir,
    Policies,
    PollInterval,
    Seed,
    TraceName,
    TraceRate,
)
from bench.fleetsim.outcome import FleetOutcome
from bench.fleetsim.scenario import Arrival, Scenario
from bench.fleetsim.world import World
from bench.loadgen.run_result import RunResult
from bench.loadgen.session import Endpoint
from bench.results.context import RunContext
from bench.results.files import new_run_folder, write_file
from bench.stats.comparison import Comparison
from bench.twin.fleet_run import (
    PolicyResult,
    read_autoscale,
    read_failure,
    records_of,
    result_of,
    setups_of,
)
from bench.twin.load import MIX, VirtualLoad, as_schedule, mixed, scheduled
from bench.twin.report import SimulationStore, changes
from bench.workload.generators import NAMES
from bench.workload.registry import WorkloadSpec, fleet_shares, make_schedule
from bench.workload.schedule import Schedule
from bench.workload.trace_formats import read_trace
from servekit.cli.options import old_name
from servekit.errors.tree import WorkloadInvalid
from servekit.fleet.fleet import Fleet, load_fleet
from servekit.routing.registry import POLICY_NAMES, policy_named

# A trace keeps requests of any length: engines are simulated with the context that it needs.
ANY_LENGTH = 1_000_000

# Reports look at every token; beyond so many requests they take longer than the simulation and are
# made only where they are asked for.
MOST_REPORTED = 5_000

# A warm start of an 8B model on an H200 took 37 to 39 s.
START_S = 38.0

# Of the mix, per replica: a quarter of an H100's time reads prompts then.
MIX_RATE = 10.0

# Where output is no terminal, its width is anybody's guess, and rich's is 80.
TABLE_WIDTH = 110

_PROGRESS_EVERY = 1_000
_PLAIN_PROGRESS_FROM = 100_000
_COMPARED = ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99", "e2e_p50", "e2e_p99")


def register(app: typer.Typer) -> None:
    """Add `simulate` and `simulate-scaling` to *app*."""
    app.command("simulate")(simulate)
    simulate_scaling.register(app)


def simulate(
    trace: TraceName = "mooncake",
    policy: Policies = "round-robin,least-waiting,least-inflight,queue",
    fleet: FleetName = "h100",
    replicas: Annotated[
        int | None,
        typer.Option(
            help="Replicas per model, instead of the fleet file's.", rich_help_panel="Target"
        ),
    ] = None,
    gpu: Gpu = None,
    rate: TraceRate = None,
    requests: MaxRequests = None,
    poll_s: PollInterval = 0.2,
    fail: Annotated[
        list[str] | None,
        typer.Option(
            help="Replica failure as REPLICA@AT+DOWNTIME (s); repeatable.",
            rich_help_panel="Target",
        ),
    ] = None,
    autoscale: Annotated[
        str | None,
        typer.Option(
            help="Autoscaling as IN_FLIGHT:MAX: target requests per replica, max replicas.",
            rich_help_panel="Target",
        ),
    ] = None,
    start_s: Annotated[
        float,
        typer.Option(
            "--replica-start-s",
            old_name("--start-s"),
            help="Start-up time of a new replica (s).",
            rich_help_panel="Target",
        ),
    ] = START_S,
    seed: Seed = 1,
    report: Annotated[
        bool | None,
        typer.Option(
            help="Write each policy's exports and report, and compare it with the first. "
            "Default: up to 5,000 requests.",
            rich_help_panel="Results",
        ),
    ] = None,
    output_dir: OutputDir = Path("results"),
) -> None:
    """Compare routing policies in virtual time: replay a trace with each of them."""
    console = Console() if Console().is_terminal else Console(width=TABLE_WIDTH)
    names = policies_named(policy, seed)
    machines = load_fleet(fleet)
    load = trace_load(trace, machines, rate=rate, requests=requests, seed=seed, replicas=replicas)
    scenario = Scenario(
        setups_of(machines, replicas=replicas, gpu=gpu, context=load.longest),
        poll_s=poll_s,
        failures=tuple(read_failure(text) for text in fail or ()),
        autoscale=read_autoscale(autoscale, start_s) if autoscale else None,
        seed=seed,
    )
    console.print(about(load, scenario, machines), soft_wrap=True)
    now = datetime.now().astimezone()
    folder = new_run_folder(output_dir, "simulate", now)
    keeper = None
    if load.requests <= MOST_REPORTED if report is None else report:
        options = {"trace": trace, "policy": policy, "fleet": fleet}
        context = RunContext(
            endpoint=Endpoint(), console=console, output_dir=folder, options=options
        )
        keeper = SimulationStore(folder, now, as_schedule(load), context, world_of(scenario))
    results, found = run_all(names, scenario, load, keeper, console)
    console.print(table_of(results))
    for line in changes_of(found):
        console.print(line, soft_wrap=True, highlight=False)
    write_file(folder / "simulation.json", simulation_json(load, scenario, results))
    console.print(f"results: {folder}", soft_wrap=True)


def policies_named(text: str, seed: int) -> tuple[str, ...]:
    """Return the policies in *text*.

    Raises:
        PolicyUnknown: one of them is none.
    """
    names = POLICY_NAMES if text == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        policy_named(name, Random(seed))
    return names


def trace_load(
    trace: str,
    fleet: Fleet,
    *,
    rate: float | None,
    requests: int | None,
    seed: int,
    replicas: int | None = None,
) -> VirtualLoad:
    """Return the requests of *trace* over the models of *fleet*, with prompts of any length.

    Raises:
        WorkloadInvalid: it cannot be read, or is empty.
    """
    if trace == MIX:
        models = [model.name for model in fleet.models]
        number = len(fleet.replicas) if replicas is None else replicas * len(models)
        return mixed(
            models,
            requests=10_000 if requests is None else requests,
            rate=MIX_RATE * number if rate is None else rate,
            seed=seed,
        )
    own_rate, own_requests = _natural(trace)
    schedule = make_schedule(
        WorkloadSpec(
            workload=trace,
            shares=fleet_shares(fleet),
            requests=own_requests if requests is None else requests,
            rate=own_rate if rate is None else rate,
            arrivals="trace",
            seed=seed,
            fit=ANY_LENGTH,
        )
    )
    return scheduled(schedule)


def trace_schedule(
    trace: str, fleet: Fleet, *, rate: float | None, requests: int | None, seed: int
) -> Schedule:
    """Return the same as a schedule."""
    return as_schedule(trace_load(trace, fleet, rate=rate, requests=requests, seed=seed))


def _natural(trace: str) -> tuple[float, int]:
    """Return the requests per second and the requests that a trace has by itself; for generated
    load, what suits six replicas for a quarter of an hour."""
    generated = trace in NAMES and trace != "mooncake"
    if generated or trace.endswith(".json"):
        return 12.0, 10_000
    own = resources.files("bench.workload.traces") / "mooncake_conversation.jsonl"
    source = own if trace == "mooncake" else Path(trace)
    if not source.is_file():
        return 12.0, 10_000
    try:
        rows = read_trace(source.read_text(), trace)
    except (WorkloadInvalid, UnicodeDecodeError):
        # A saved schedule has its own times; anything else fails where it is read.
        return 12.0, 10_000
    return len(rows) / max(rows[-1].at_s, 1.0), len(rows)


def run_all(
    names: Sequence[str],
    scenario: Scenario,
    load: VirtualLoad,
    keeper: SimulationStore | None,
    console: Console,
) -> tuple[list[PolicyResult], list[Comparison]]:
    """Serve *load* with each policy; keep each run, and how it differs from the first one's."""
    results, found = [], []
    first: RunResult | None = None
    for name in names:
        arrivals = shown(load, name, console)
        result, outcome = run_policy(name, scenario, arrivals, keep_tokens=keeper is not None)
        results.append(result)
        if keeper is None:
            continue
        run = keeper.keep(name, records_of(keeper.schedule.calls, outcome, name))
        first = first or run
        if run is not first:
            found.append(keeper.compare(first, run))
    return results, found


def run_policy(
    name: str, scenario: Scenario, arrivals: Iterator[Arrival], *, keep_tokens: bool = False
) -> tuple[PolicyResult, FleetOutcome]:
    """Serve *arrivals* with the policy called *name*."""
    start = time.perf_counter()
    world = World(scenario, lambda rng: policy_named(name, rng), keep_tokens=keep_tokens)
    outcome = world.run(arrivals)
    jitter_s = scenario.replicas[0].calibration.profile.jitter_s
    return result_of(name, outcome, time.perf_counter() - start, jitter_s), outcome


def shown(load: VirtualLoad, policy: str, console: Console) -> Iterator[Arrival]:
    """Yield the arrivals of *load*, and show how far they are: a bar on a terminal, elsewhere a
    line for every tenth of many."""
    plain = load.requests // 10 if load.requests >= _PLAIN_PROGRESS_FROM else load.requests + 1
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[at]}"))
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(policy, total=load.requests, at="")
        for number, arrival in enumerate(load.arrivals()):
            if number % _PROGRESS_EVERY == 0:
                bar.update(task, completed=number, at=f"{number:,} of {load.requests:,}")
            if number and number % plain == 0 and not console.is_terminal:
                console.print(f"{policy}: {number:,} of {load.requests:,} requests")
            yield arrival


def about(load: VirtualLoad, scenario: Scenario, fleet: Fleet) -> str:
    """Return what is simulated, a line each."""
    setups = scenario.replicas
    lines = [
        f"{load.requests:,} requests of {load.name} in {load.length_s:,.0f} s, "
        f"{load.prompt_tokens:,} prompt and {load.output_tokens:,} output tokens",
        f"{len(setups):,} replicas of {len(fleet.models)} models; metrics polled every "
        f"{scenario.poll_s} s",
    ]
    if load.longest > min(model.max_model_len for model in fleet.models):
        lines.append("max_model_len is raised to fit the longest prompt of the trace")
    kinds = {setup.calibration.profile.name: setup.calibration for setup in setups}
    lines += [f"{name}: step times {one.source}" for name, one in sorted(kinds.items())]
    if not all(one.verified for one in kinds.values()):
        lines.append("unverified: no engine of this kind was measured; the figures are predictions")
    return "\n".join(lines)


def changes_of(found: Sequence[Comparison]) -> list[str]:
    """Return how each policy differs from the first: change and 95 % interval, or that none was
    shown."""
    lines = []
    for one in found:
        texts = zip(_COMPARED, changes(one, _COMPARED), strict=True)
        said = ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in texts)
        lines.append(f"{one.candidate} against {one.baseline}: [bold]{one.verdict}[/bold]; {said}")
    return lines


def table_of(results: Sequence[PolicyResult]) -> Table:
    """Return one line per policy; TTFT and E2E in seconds, ITL in milliseconds."""
    table = Table(title="virtual time; latencies as p50/p90/p99")
    for column in (
        "policy",
        "TTFT s",
        "ITL ms",
        "E2E s",
        "tok/s",
        "hit rate",
        "failed",
        "run s",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for one in results:
        table.add_row(
            one.policy,
            "/".join(f"{value / 1e3:.2f}" for value in one.ttft_ms),
            "/".join(f"{value:.1f}" for value in one.itl_ms),
            "/".join(f"{value / 1e3:.1f}" for value in one.e2e_ms),
            f"{one.output_tokens_per_s:,.0f}",
            f"{one.hit_rate:.1%}",
            f"{one.failed:,}",
            f"{one.wall_s:.1f}",
        )
    return table


def simulation_json(
    load: VirtualLoad, scenario: Scenario, results: Sequence[PolicyResult]
) -> bytes:
    """Return simulation.json: what was simulated, and each policy's figures."""
    body = {
        "schedule": {
            "name": load.name,
            "seed": load.seed,
            "requests": load.requests,
            "prompt_tokens": load.prompt_tokens,
            "output_tokens": load.output_tokens,
            "digest": load.digest,
        },
        **world_of(scenario),
        "policies": [asdict(result) for result in results],
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


def world_of(scenario: Scenario) -> dict[str, object]:
    """Return what the requests met, and whether anybody measured such engines."""
    return {
        "replicas": [
            {
                "name": setup.name,
                "model": setup.model,
                "gpu": setup.calibration.gpu,
                "calibration": setup.calibration.source,
                "verified": setup.calibration.verified,
                "kv_cache_tokens": setup.calibration.kv_cache_tokens,
                "max_model_len": setup.max_model_len,
            }
            for setup in scenario.replicas
        ],
        "poll_s": scenario.poll_s,
        "failures": [asdict(failure) for failure in scenario.failures],
        "autoscale": asdict(scenario.autoscale) if scenario.autoscale else None,
    }
