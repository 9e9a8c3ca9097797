"""The command `validate-engine`: one load on a real engine and in simulation."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
import numpy as np
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from bench.cli.calibrate_engine import recorded_profile
from bench.cli.options import JsonFile, Seed
from bench.fleetsim.outcome import FleetOutcome, quantiles
from bench.fleetsim.scenario import Arrival, ReplicaSetup, Scenario
from bench.fleetsim.world import World
from bench.results.files import write_file
from bench.twin.engine_probe import MOST_KNOWN
from bench.twin.live_engine import LiveEngine, open_engine
from bench.twin.recordings import LoadRequest, RecordedLoad, read_loads
from servekit.cli.options import old_name
from servekit.enginesim.calibration import (
    EngineCalibration,
    calibration_for,
    load_calibration,
    read_calibration,
)
from servekit.errors.tree import ServeError, SettingInvalid
from servekit.routing.simple import RoundRobin

SHARES = (0.5, 0.9, 0.99)

# What `--within` looks at: a 99th percentile of a minute's load is a handful of requests.
JUDGED = ("TTFT p50 ms", "TTFT p90 ms", "ITL p50 ms", "ITL p90 ms")

# The recorded loads come from this pair.
RECORDED = ("meta-llama/Llama-3.1-8B-Instruct", "h200")


class TwinTooFarOff(ServeError):
    """The twin errs by more than was allowed."""


@dataclass(frozen=True, slots=True)
class TwinMetric:
    """One metric of a load, real and simulated; *error* is relative to the real one."""

    load: str
    metric: str
    real: float
    twin: float

    @property
    def error(self) -> float:
        return self.twin / self.real - 1.0 if self.real else 0.0


def register(app: typer.Typer) -> None:
    """Add `validate-engine` to *app*."""
    app.command("validate-engine")(validate_engine)


def validate_engine(
    url: Annotated[
        str | None, typer.Option(help="URL of a live engine.", rich_help_panel="Engine")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option(
            help="Directory of recorded loads, instead of --url.", rich_help_panel="Engine"
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Profile file of the engine, from calibrate-engine.", rich_help_panel="Engine"
        ),
    ] = None,
    predict: Annotated[
        bool,
        typer.Option(
            help="With --recorded: predict each load from a profile fitted to the other loads.",
            rich_help_panel="Engine",
        ),
    ] = False,
    rate: Annotated[
        float, typer.Option(help="Requests per second on the live engine.", rich_help_panel="Load")
    ] = 4.0,
    seconds: Annotated[
        float, typer.Option(help="Duration of the load (s).", rich_help_panel="Load")
    ] = 20.0,
    prompt_tokens: Annotated[
        int, typer.Option(help="Mean prompt length (tokens).", rich_help_panel="Load")
    ] = 256,
    output_tokens: Annotated[
        int, typer.Option(help="Mean output length (tokens).", rich_help_panel="Load")
    ] = 64,
    seed: Seed = 1,
    within: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            old_name("--within"),
            help="Fail if TTFT or ITL (p50 or p90) differ by more: 0.1 is 10 %.",
            rich_help_panel="Results",
        ),
    ] = None,
    output: JsonFile = None,
) -> None:
    """Replay a load on a real engine and in simulation, and print the errors of the simulation."""
    console = Console()
    if (url is None) == (recorded is None):
        raise SettingInvalid("give either --url of a live engine or --recorded DIRECTORY, not both")
    if within is not None and not 0 <= within < math.inf:
        raise SettingInvalid(f"--max-error is {within}; must be at least 0: 0.1 is 10 %")
    if predict and (recorded is None or profile is not None):
        raise SettingInvalid("--predict needs --recorded, and excludes --profile")
    if recorded is not None:
        rows = recorded_rows(recorded, profile, predict=predict)
    else:
        if profile is None:
            raise SettingInvalid("--profile is missing; create one with calibrate-engine --url")
        lengths = (prompt_tokens, output_tokens)
        _check_load(rate, seconds, lengths)
        load = uvloop.run(measure_load(url or "", rate, seconds, lengths, seed))
        rows = compare(load, load_calibration(profile))
    console.print(table_of(rows))
    if output:
        write_file(output, _json(rows))
    worst = max(abs(row.error) for row in rows if row.metric in JUDGED)
    console.print(f"max error of TTFT and ITL at p50 and p90: {worst:.1%}")
    if within is not None and worst > within:
        raise TwinTooFarOff(
            f"the simulation errs by {worst:.1%}, more than --max-error {within:.1%}"
        )


def _check_load(rate: float, seconds: float, lengths: tuple[int, int]) -> None:
    """Refuse a load without requests or tokens, or without an end."""
    if not 0 < rate < math.inf or not 0 < seconds < math.inf:
        raise SettingInvalid(f"--rate is {rate} and --seconds {seconds}; both must be above 0")
    if min(lengths) < 1:
        raise SettingInvalid(
            f"--prompt-tokens is {lengths[0]} and --output-tokens {lengths[1]}; both must be at "
            "least 1"
        )


def recorded_rows(folder: Path, profile: Path | None, *, predict: bool) -> list[TwinMetric]:
    """Return every metric of the loads in *folder*; where to *predict*, each by a profile that was
    fitted to the steps of the other loads."""
    given = _calibration(profile, RECORDED)
    return [
        row
        for load in read_loads(folder)
        for row in compare(load, calibration_without(folder, load) if predict else given)
    ]


def calibration_without(folder: Path, load: RecordedLoad) -> EngineCalibration:
    """Return the calibration that the measurements in *folder* give without any step of *load*."""
    return read_calibration(msgspec.json.decode(recorded_profile(folder, without=load)))


def compare(load: RecordedLoad, calibration: EngineCalibration) -> list[TwinMetric]:
    """Return every metric of *load*, beside what the twin makes of the same requests."""
    outcome = replay(load.requests, calibration)
    jitter_s = calibration.profile.jitter_s
    real_ttft = quantiles([r.ttft_s for r in load.requests], SHARES)
    real_e2e = quantiles([r.last_s for r in load.requests], SHARES)
    pairs: list[tuple[str, Sequence[float], list[float]]] = [
        ("TTFT", real_ttft, outcome.ttft_quantiles(SHARES)),
        ("ITL", load.itl_s, outcome.gaps.quantiles(SHARES, jitter_s)),
        ("time per token", _per_token(load.requests), outcome.per_token_quantiles(SHARES)),
        ("E2E", real_e2e, outcome.e2e_quantiles(SHARES)),
    ]
    rows = [
        TwinMetric(load.name, f"{name} {at} ms", float(real) * 1e3, twin * 1e3)
        for name, reals, twins in pairs
        for at, real, twin in zip(("p50", "p90", "p99"), reals, twins, strict=True)
    ]
    return rows + curve_rows(load, outcome) if load.curve else rows


def _per_token(requests: Sequence[LoadRequest]) -> list[float]:
    """Return the quantiles of each request's mean time per token after its first."""
    means = [(r.last_s - r.ttft_s) / (r.output_tokens - 1) for r in requests if r.output_tokens > 1]
    return quantiles(means, SHARES)


def replay(requests: Sequence[LoadRequest], calibration: EngineCalibration) -> FleetOutcome:
    """Serve *requests* with one simulated engine, sent when they were really sent."""
    longest = max(r.prompt_tokens + r.output_tokens for r in requests)
    setup = ReplicaSetup("twin", calibration.model, calibration, longest)
    scenario = Scenario((setup,), poll_s=0.05, segment_tokens=16)
    arrivals = (
        Arrival(r.sent_s, calibration.model, r.prompt_tokens, r.output_tokens) for r in requests
    )
    return World(scenario, RoundRobin, keep_curve=True).run(arrivals)


def curve_rows(load: RecordedLoad, outcome: FleetOutcome) -> list[TwinMetric]:
    """Return how the curves of running requests and KV usage compare, once a second."""
    last = load.requests[-1].sent_s
    real = np.array([point for point in load.curve if point[0] <= last])
    twin = np.array(outcome.running)
    at = np.clip(np.searchsorted(twin[:, 0], real[:, 0]), 0, len(twin) - 1)
    rows = []
    for column, name in ((1, "running"), (2, "KV usage")):
        ours, theirs = twin[at, column], real[:, column]
        rows.append(TwinMetric(load.name, f"{name} mean", float(theirs.mean()), float(ours.mean())))
        # A correlation has no real value of its own: 1.0 is the same curve.
        alike = float(np.corrcoef(ours, theirs)[0, 1])
        rows.append(TwinMetric(load.name, f"{name} correlation", 1.0, alike))
    return rows


async def measure_load(
    url: str, rate: float, seconds: float, lengths: tuple[int, int], seed: int
) -> RecordedLoad:
    """Send Poisson arrivals to a live engine and return what its client saw.

    Raises:
        TwinTooFarOff: nothing was answered, or the engine had the prompts in its cache already,
            which no twin can know.
    """
    rng = Random(seed)
    engine = await open_engine(url, seed)
    try:
        await engine.warm_up()
        known = await engine.prefix_hits()
        requests, gaps = await _send_all(engine, rng, rate, seconds, lengths)
        known = await engine.prefix_hits() - known
    finally:
        await engine.aclose()
    if not requests:
        raise TwinTooFarOff(f"{url}: no request succeeded; see the engine's log")
    sent = sum(request.prompt_tokens for request in requests)
    if known > MOST_KNOWN * sent:
        raise TwinTooFarOff(
            f"{url}: {known} of {sent} prompt tokens were in the prefix cache from an earlier run; "
            "use another --seed"
        )
    itl = quantiles(gaps, SHARES)
    name = f"{rate} requests/s, live"
    return RecordedLoad(name, tuple(requests), (itl[0], itl[1], itl[2]), ())


async def _send_all(
    engine: LiveEngine, rng: Random, rate: float, seconds: float, lengths: tuple[int, int]
) -> tuple[list[LoadRequest], list[float]]:
    start = engine.now()
    due, tasks = 0.0, []
    async with asyncio.TaskGroup() as group:
        while (due := due + rng.expovariate(rate)) < seconds:
            prompt = max(4, round(rng.gauss(lengths[0], lengths[0] / 4)))
            output = max(2, round(rng.gauss(lengths[1], lengths[1] / 4)))
            await engine.sleep_until(start + due)
            tasks.append(group.create_task(engine.ask(prompt, output)))
    answers = [task.result() for task in tasks]
    requests = [
        LoadRequest(a.sent_s - start, a.prompt_tokens, a.output_tokens, a.ttft_s, a.last_s)
        for a in answers
        if a is not None
    ]
    return requests, [gap for a in answers if a is not None for gap in a.gaps_s]


def table_of(rows: Sequence[TwinMetric]) -> Table:
    table = Table(title="real and simulated engine")
    for column in ("load", "metric", "real", "simulated", "error"):
        table.add_column(column, justify="left" if column in ("load", "metric") else "right")
    for row in rows:
        digits = 3 if row.real < 2 else 1
        values = (f"{row.real:,.{digits}f}", f"{row.twin:,.{digits}f}")
        table.add_row(row.load, row.metric, *values, f"{row.error:+.1%}")
    return table


def _calibration(profile: Path | None, measured: tuple[str, str]) -> EngineCalibration:
    if profile is not None:
        return load_calibration(profile)
    model, gpu = measured
    return calibration_for(model, gpu=gpu, utilization=0.92)


def _json(rows: Sequence[TwinMetric]) -> bytes:
    shown = [asdict(row) | {"error": row.error} for row in rows]
    return msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n"
