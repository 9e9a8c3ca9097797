"""The command `simulate-scaling`: CPU time per simulated request, by policy and fleet size."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from resource import RUSAGE_SELF, getrusage
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.cli.options import JsonFile, Policies, PollInterval, Seed
from bench.fleetsim.scenario import ReplicaSetup, Scenario
from bench.fleetsim.world import World
from bench.results.files import write_file
from bench.twin.load import mixed
from servekit.enginesim.calibration import calibration_for
from servekit.errors.tree import SettingInvalid
from servekit.routing.registry import POLICY_NAMES, policy_named

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
RATE = 10.0

# Fewer, and the polls of a fleet that only waits for its last answers are most of what is timed.
PER_REPLICA = 50


@dataclass(frozen=True, slots=True)
class SimulationCost:
    """What one simulation took.

    Attributes:
        polls: of single replicas; each costs whatever the policy is.
        memory_mib: most that the process ever had; it never falls from one row to the next.
    """

    policy: str
    replicas: int
    requests: int
    cpu_s: float
    per_request_us: float
    events: int
    polls: int
    memory_mib: float


def register(app: typer.Typer) -> None:
    """Add `simulate-scaling` to *app*."""
    app.command("simulate-scaling")(simulate_scaling)


def simulate_scaling(
    replicas: Annotated[
        str, typer.Option(help="Numbers of replicas, comma-separated.", rich_help_panel="Target")
    ] = ("10,30,100,300,1000"),
    policy: Policies = "round-robin,p2c,least-inflight,queue,prefix,latency",
    requests: Annotated[
        int,
        typer.Option(
            help="Requests per simulation; raised to 50 per replica.", rich_help_panel="Load"
        ),
    ] = 10_000,
    poll_s: PollInterval = 0.2,
    seed: Seed = 1,
    output: JsonFile = None,
) -> None:
    """Measure CPU time per simulated request, by policy and fleet size.

    The load is a synthetic mix of 10 requests per second and replica.
    """
    names = POLICY_NAMES if policy == "all" else tuple(name.strip() for name in policy.split(","))
    sizes = read_sizes(replicas)
    console = Console()
    costs = []
    for name in names:
        for size in sizes:
            number = max(requests, PER_REPLICA * size)
            cost = measure(name, size, requests=number, poll_s=poll_s, seed=seed)
            costs.append(cost)
            console.print(
                f"{name} {size:,} replicas: {cost.per_request_us:.0f} us of CPU time per request",
                highlight=False,
            )
    console.print(table_of(costs), soft_wrap=True)
    if output is not None:
        rows = msgspec.json.encode([asdict(cost) for cost in costs])
        write_file(output, msgspec.json.format(rows, indent=2) + b"\n")


def read_sizes(text: str) -> tuple[int, ...]:
    """Return the fleet sizes in *text*.

    Raises:
        SettingInvalid: one of them is no number above 0.
    """
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise SettingInvalid(
            f"--replicas {text!r} must be positive integers, comma-separated: 10,100,1000"
        )
    return sizes


def measure(
    policy: str, replicas: int, *, requests: int, poll_s: float, seed: int
) -> SimulationCost:
    """Return what simulating *replicas* engines of one kind costs."""
    load = mixed([MODEL], requests=requests, rate=RATE * replicas, seed=seed)
    calibration = calibration_for(MODEL)
    setups = tuple(
        ReplicaSetup(f"r{number}", MODEL, calibration, load.longest) for number in range(replicas)
    )
    world = World(
        Scenario(setups, poll_s=poll_s, seed=seed),
        lambda rng: policy_named(policy, rng),
    )
    start = time.process_time()
    outcome = world.run(load.arrivals())
    cpu_s = time.process_time() - start
    return SimulationCost(
        policy=policy,
        replicas=replicas,
        requests=requests,
        cpu_s=cpu_s,
        per_request_us=cpu_s / requests * 1e6,
        events=outcome.events,
        polls=int(outcome.end_s / poll_s + 1) * replicas,
        memory_mib=getrusage(RUSAGE_SELF).ru_maxrss / 1024,
    )


def table_of(costs: Sequence[SimulationCost]) -> Table:
    """Return microseconds per request: a line per policy, a column per size."""
    sizes = sorted({cost.replicas for cost in costs})
    by = {(cost.policy, cost.replicas): cost for cost in costs}
    table = Table(title="CPU time per simulated request (us), by number of replicas")
    for column in ("policy", *(f"{size:,}" for size in sizes)):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for policy in dict.fromkeys(cost.policy for cost in costs):
        table.add_row(policy, *(f"{by[policy, size].per_request_us:.0f}" for size in sizes))
    return table
