"""The command `plan`: the smallest fleet, and the routing policy, that meet an SLO."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.cli.options import (
    Fleet as FleetName,
)
from bench.cli.options import (
    Gpu,
    MaxRequests,
    OutputDir,
    Policies,
    Seed,
    TraceName,
    TraceRate,
)
from bench.cli.simulate import trace_schedule
from bench.fleetsim.outcome import FleetOutcome
from bench.fleetsim.scenario import Scenario
from bench.fleetsim.world import World
from bench.results.files import new_run_folder, write_file
from bench.twin.fleet_run import arrivals_of, longest, setups_of
from bench.workload.schedule import Call
from servekit.cli.options import old_name
from servekit.errors.tree import ServeError, SettingInvalid
from servekit.fleet.fleet import Fleet, load_fleet
from servekit.routing.registry import POLICY_NAMES, policy_named

_LIMIT = re.compile(r"(ttft|itl|e2e|per_token)_p(\d{1,2}(?:\.\d+)?)\s*<=?\s*([\d.]+)\s*(ms|s)")


class SloNotReachable(ServeError):
    """Not even the largest allowed fleet meets the SLO."""


@dataclass(frozen=True, slots=True)
class SloLimit:
    """One part of a promise: the *share* quantile of a latency stays below *limit_s*."""

    metric: str
    share: float
    limit_s: float

    @property
    def name(self) -> str:
        return f"{self.metric}_p{self.share * 100:g}"

    def value_s(self, outcome: FleetOutcome, jitter_s: float) -> float:
        """Return what *outcome* has of this latency."""
        of: dict[str, Callable[[list[float]], list[float]]] = {
            "ttft": outcome.ttft_quantiles,
            "itl": lambda shares: outcome.gaps.quantiles(shares, jitter_s),
            "e2e": outcome.e2e_quantiles,
            "per_token": outcome.per_token_quantiles,
        }
        return of[self.metric]([self.share])[0]


@dataclass(frozen=True, slots=True)
class PlannedFleet:
    """One model, policy and number of replicas.

    Attributes:
        values_ms: by limit, in the promise's order.
        kept: every limit holds, and no request failed.
    """

    model: str
    policy: str
    replicas: int
    values_ms: tuple[float, ...]
    failed: int
    kept: bool


def register(app: typer.Typer) -> None:
    """Add `plan` to *app*."""
    app.command("plan")(plan)


def plan(
    slo: Annotated[
        str,
        typer.Option(
            help="SLO, comma-separated: ttft_p99<500ms,itl_p99<50ms.", rich_help_panel="SLO"
        ),
    ] = "ttft_p99<2s,itl_p99<100ms",
    trace: TraceName = "mooncake",
    policy: Policies = "round-robin,queue",
    fleet: FleetName = "h100",
    gpu: Gpu = None,
    most: Annotated[
        int,
        typer.Option(
            "--max-replicas",
            old_name("--most"),
            min=1,
            help="Max replicas per model.",
            rich_help_panel="Target",
        ),
    ] = 64,
    rate: TraceRate = None,
    requests: MaxRequests = None,
    seed: Seed = 1,
    output_dir: OutputDir = Path("results"),
) -> None:
    """Find the min. number of replicas per model, and the policy, that meet an SLO on a trace."""
    console = Console()
    limits = read_slo(slo)
    machines = load_fleet(fleet)
    policies = POLICY_NAMES if policy == "all" else tuple(p.strip() for p in policy.split(","))
    schedule = trace_schedule(trace, machines, rate=rate, requests=requests, seed=seed)
    trials: list[PlannedFleet] = []
    chosen: list[PlannedFleet] = []
    for model in schedule.models:
        calls = [call for call in schedule.calls if call.model == model]
        attempt = _attempt(machines, model, calls, limits, gpu, seed)
        found = [smallest(attempt, name, most, trials) for name in policies]
        best = min((t for t in found if t), key=lambda t: t.replicas, default=None)
        if best is not None:
            chosen.append(best)
        console.print(curve_of(trials, model, limits))
    folder = new_run_folder(output_dir, "plan", datetime.now().astimezone())
    write_file(folder / "plan.json", _json(slo, schedule.name, trials, chosen))
    if len(chosen) < len(schedule.models):
        missing = sorted(set(schedule.models) - {trial.model for trial in chosen})
        raise SloNotReachable(
            f"{', '.join(missing)}: no fleet of up to {most} replicas meets {slo}; where more "
            "replicas do not help, a single request is too slow: use a faster --gpu, or relax --slo"
        )
    for trial in chosen:
        console.print(f"{trial.model}: {trial.replicas} replicas with policy {trial.policy}")
    console.print(f"results: {folder}")


def read_slo(text: str) -> tuple[SloLimit, ...]:
    """Return the limits in *text*.

    Raises:
        SettingInvalid: a part of it is none.
    """
    limits = []
    for part in text.split(","):
        match = _LIMIT.fullmatch(part.strip())
        if match is None:
            raise SettingInvalid(
                f"--slo {part.strip()!r} must have the form ttft_p99<500ms; latencies: ttft, itl, "
                "e2e, per_token"
            )
        seconds = float(match[3]) / (1000.0 if match[4] == "ms" else 1.0)
        limits.append(SloLimit(match[1], float(match[2]) / 100.0, seconds))
    return tuple(limits)


def smallest(
    attempt: Callable[[str, int], PlannedFleet], policy: str, most: int, trials: list[PlannedFleet]
) -> PlannedFleet | None:
    """Return the trial of the fewest replicas that keep the promise; None where *most* do not.

    Doubles until it is kept and then halves the gap: more replicas are taken never to be worse.
    Every trial is added to *trials*.
    """

    def at(replicas: int) -> PlannedFleet:
        trial = attempt(policy, replicas)
        trials.append(trial)
        return trial

    broken, replicas = 0, 1
    before: PlannedFleet | None = None
    while not (trial := at(replicas)).kept:
        broken = replicas
        if replicas == most or (before and _no_better(trial, before)):
            return None
        before = trial
        replicas = min(most, replicas * 2)
    kept = trial
    while kept.replicas - broken > 1:
        middle = at((kept.replicas + broken) // 2)
        if middle.kept:
            kept = middle
        else:
            broken = middle.replicas
    return kept


def _no_better(trial: PlannedFleet, before: PlannedFleet) -> bool:
    """Whether twice the replicas changed nothing: what is left is what one request takes alone."""
    pairs = zip(trial.values_ms, before.values_ms, strict=True)
    return trial.failed >= before.failed and all(abs(a - b) <= 0.02 * b for a, b in pairs)


def _attempt(
    fleet: Fleet,
    model: str,
    calls: Sequence[Call],
    limits: Sequence[SloLimit],
    gpu: str | None,
    seed: int,
) -> Callable[[str, int], PlannedFleet]:
    """Return a function that tries a policy and a number of replicas on one model's calls.

    Models share no replica, and so can be planned one by one.
    """

    def attempt(policy: str, replicas: int) -> PlannedFleet:
        setups = setups_of(fleet, replicas=replicas, gpu=gpu, context=longest(calls))
        own = tuple(setup for setup in setups if setup.model == model)
        world = World(Scenario(own, seed=seed), lambda rng: policy_named(policy, rng))
        outcome = world.run(arrivals_of(calls))
        jitter_s = own[0].calibration.profile.jitter_s
        values = [limit.value_s(outcome, jitter_s) for limit in limits]
        kept = not outcome.failed and all(
            value < limit.limit_s for value, limit in zip(values, limits, strict=True)
        )
        in_ms = tuple(value * 1e3 for value in values)
        return PlannedFleet(model, policy, replicas, in_ms, outcome.failed, kept)

    return attempt


def curve_of(trials: Sequence[PlannedFleet], model: str, limits: Sequence[SloLimit]) -> Table:
    """Return what each number of replicas reached, fewest first."""
    table = Table(title=model)
    table.add_column("policy")
    table.add_column("replicas", justify="right")
    for limit in limits:
        table.add_column(f"{limit.name} ms", justify="right")
    table.add_column("meets SLO")
    own = [trial for trial in trials if trial.model == model]
    for trial in sorted(own, key=lambda trial: (trial.policy, trial.replicas)):
        values = (f"{value:,.0f}" for value in trial.values_ms)
        table.add_row(trial.policy, str(trial.replicas), *values, "yes" if trial.kept else "no")
    return table


def _json(
    slo: str, trace: str, trials: Sequence[PlannedFleet], chosen: Sequence[PlannedFleet]
) -> bytes:
    body = {
        "slo": slo,
        "trace": trace,
        "chosen": [asdict(trial) for trial in chosen],
        "curve": [asdict(trial) for trial in trials],
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
