"""Policies over many situations, loads and seeds, in virtual time.

    python -m tests.servekit.routing.compare

prints the tables of docs/benchmarks/loadbalancer.md.  The last column compares the last policy with
the best of the others, seed by seed; `clairvoyant` and `oracle` see the engines themselves, and are
no such others.
"""

import random
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import product
from statistics import fmean

from bench.fleetsim.outcome import FleetOutcome
from bench.fleetsim.scenario import Arrival, ReplicaFailure, ReplicaSetup, Scenario
from bench.fleetsim.world import World
from bench.workload.schedule import BLOCK_TOKENS
from bench.workload.trace_formats import read_trace
from bench.workload.trace_rows import TraceRow
from servekit.enginesim.calibration import EngineCalibration, calibration_for
from servekit.metrics.engine_load import EngineLoad
from servekit.routing.policy import Policy
from servekit.routing.registry import policy_named
from tests.servekit.routing.clairvoyant import SEEING
from tests.servekit.routing.conversations import BLOCK_TOKENS as TALK_BLOCK_TOKENS
from tests.servekit.routing.conversations import Talks, talks

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
CONTEXT = 32_768

# Of saturation: quiet, busy, and two that cannot last.
LOADS = (0.6, 0.9, 1.1, 1.2)
REQUESTS_PER_REPLICA = 1_500

Lengths = Callable[[random.Random], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a user may have.

    Attributes:
        gpus: one replica each.
        saturation: requests per second beyond which queues only grow; `--saturation` finds it.
        lengths: prompt and output tokens of one request; None for the Mooncake trace.
        burst: coefficient of variation of the gaps between requests; 1 is Poisson.
        late: the share of the run for which the last replica is not there yet.
        length: runs have so many times the usual number of requests.
        talks: conversations that go on, instead of single requests.
        images: share of the requests that have one, which is judged wrongly at first.
        claims: what the last replica says when it is polled.
        constant: whether every step of an engine takes the same, whatever is in it.
    """

    name: str
    gpus: tuple[str, ...]
    saturation: float
    lengths: Lengths | None
    burst: float = 1.0
    late: float = 0.0
    length: float = 1.0
    talks: Talks | None = None
    images: float = 0.0
    claims: EngineLoad | None = None
    constant: bool = False


def _alike(rng: random.Random) -> tuple[int, int]:
    return _normal(rng, 512, 128), _normal(rng, 256, 64)


def _long_and_short(rng: random.Random) -> tuple[int, int]:
    """One prompt in ten is a document."""
    if rng.random() < 0.1:
        return _normal(rng, 8_000, 2_000), _normal(rng, 256, 64)
    return _normal(rng, 256, 64), _normal(rng, 256, 64)


def _any_answer(rng: random.Random) -> tuple[int, int]:
    """Answers as unequal as people's questions."""
    return _normal(rng, 512, 128), min(4_000, max(1, round(rng.lognormvariate(5.0, 1.0))))


def _short_answer(rng: random.Random) -> tuple[int, int]:
    """Classification: what an engine does is reading."""
    return _normal(rng, 512, 128), _normal(rng, 16, 4)


def _normal(rng: random.Random, mean: float, deviation: float) -> int:
    return max(1, round(rng.gauss(mean, deviation)))


# Chat: one of 30 system prompts, turns as people take them.
CHAT = Talks(
    groups=30, shared=(1_000, 3_000), turns=8, said=(40, 400), answer=(50, 400), pause_s=20
)
# Agents: 30 KB of tools and a system prompt; what tools return is long, and comes after a pause.
AGENTS = Talks(
    groups=4, shared=(8_000, 11_000), turns=20, said=(200, 2_000), answer=(30, 250), pause_s=6,
    forks=0.2,
)  # fmt: skip

H, A = "h100", "a100-80gb"
IDLE = EngineLoad(running=0, waiting=0, kv_usage=0.0, kv_tokens=10**9)
FULL = EngineLoad(running=4_000, waiting=900, kv_usage=1.0, kv_tokens=10**5)
SITUATIONS = (
    Situation("equal", (H,) * 4, 133.0, _alike),
    Situation("uneven", (H, H, H, A), 115.0, _alike),
    Situation("eight", (H,) * 8, 266.0, _alike),
    Situation("eight, two slower", (H,) * 6 + (A,) * 2, 231.0, _alike),
    Situation("one joins late", (H,) * 4, 133.0, _alike, late=0.3),
    Situation("bursts", (H,) * 4, 133.0, _alike, burst=4.0),
    Situation("long and short", (H,) * 4, 80.0, _long_and_short),
    Situation("unequal answers", (H,) * 4, 129.0, _any_answer),
    Situation("short answers", (H,) * 4, 303.0, _short_answer),
    Situation("shared prefixes", (H,) * 4, 29.6, None),
    Situation("chat, 8", (H,) * 8, 8 * 9.0, None, talks=CHAT, length=0.5),
    Situation("chat, 40", (H,) * 40, 40 * 9.0, None, talks=CHAT, length=0.3),
    Situation("chat, 128", (H,) * 128, 128 * 9.0, None, talks=CHAT, length=0.1),
    Situation("chat, 200", (H,) * 200, 200 * 9.0, None, talks=CHAT, length=0.1),
    Situation("agents", (H,) * 8, 8 * 2.5, None, talks=AGENTS, length=0.3),
    Situation("images, 2 %", (H,) * 4, 125.0, _alike, images=0.02),
    Situation("images, 10 %", (H,) * 4, 105.0, _alike, images=0.1),
    Situation("constant", (H,) * 4, 390.0, _alike, constant=True),
    Situation("one claims to be idle", (H,) * 4, 133.0, _alike, claims=IDLE),
    Situation("one claims to be full", (H,) * 4, 133.0, _alike, claims=FULL),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """TTFT and ITL in ms, E2E in s; the share of prompt tokens that were cached in per cent."""

    ttft_p50: float
    ttft_p99: float
    e2e_mean: float
    e2e_p99: float
    itl_p99: float
    hits: float


# What is in a cell, and which of them the last column compares.
TABLES = (
    ("ttft_p50", "ttft_p99", ".0f"),
    ("e2e_mean", "e2e_p99", ".2f"),
    ("itl_p99", "hits", ".1f"),
)


def arrivals(situation: Situation, load: float, seed: int) -> list[Arrival]:
    """Return the requests of one run; the same for every policy."""
    rng = random.Random(seed)
    number = _requests(situation)
    rate = situation.saturation * load
    if situation.talks is not None:
        return talks(situation.talks, MODEL, rate, number, rng)
    if situation.lengths is None:
        return list(_traced(rate, seed, number))
    shape = 1.0 / situation.burst**2
    made, now_s = [], 0.0
    for _ in range(number):
        now_s += rng.gammavariate(shape, 1.0 / (rate * shape))
        prompt, output = situation.lengths(rng)
        by_rule = None
        if rng.random() < situation.images:
            # The engine makes 1,300 tokens of a picture, give or take; by rule it has 4,000.
            by_rule = prompt, 4_000
            prompt += _normal(rng, 1_300, 400)
        elif situation.images:
            by_rule = round(prompt * rng.uniform(0.7, 1.3)), 0
        made.append(Arrival(now_s, MODEL, prompt, output, by_rule=by_rule))
    return made


def _requests(situation: Situation) -> int:
    return round(REQUESTS_PER_REPLICA * len(situation.gpus) * situation.length)


def _traced(rate: float, seed: int, number: int) -> Iterator[Arrival]:
    """The trace, begun elsewhere by each seed, and sped up to *rate*."""
    source = resources.files("bench.workload.traces") / "mooncake_conversation.jsonl"
    rows = read_trace(source.read_text(), "mooncake")
    rng = random.Random(seed)
    first = rng.randrange(len(rows))
    turned = rows[first:] + rows[:first]
    length_s = rows[-1].at_s + 3.0
    speed = rate * length_s / len(rows)
    # The trace counts in steps of 3 s, in which everybody would come at once.
    times = sorted(
        ((row.at_s - rows[first].at_s) % length_s + 3.0 * rng.random()) / speed for row in turned
    )
    for at_s, row in list(zip(times, turned, strict=True))[:number]:
        yield _asked(at_s, row)


def _asked(at_s: float, row: TraceRow) -> Arrival:
    blocks = row.blocks[: row.prompt_tokens // BLOCK_TOKENS]
    return Arrival(at_s, MODEL, row.prompt_tokens, row.output_tokens, blocks, str(row.blocks[1:2]))


def world(situation: Situation, load: float, seed: int) -> Scenario:
    """Return the fleet of *situation*."""
    setups = tuple(
        ReplicaSetup(f"r{number}", MODEL, _calibration(gpu, situation), CONTEXT)
        for number, gpu in enumerate(situation.gpus)
    )
    if situation.claims is not None:
        setups = (*setups[:-1], replace(setups[-1], claims=situation.claims))
    length_s = _requests(situation) / (situation.saturation * load)
    late = (
        (ReplicaFailure(setups[-1].name, 0.0, situation.late * length_s),) if situation.late else ()
    )
    segment_tokens = TALK_BLOCK_TOKENS if situation.talks else BLOCK_TOKENS
    return Scenario(setups, failures=late, seed=seed, segment_tokens=segment_tokens)


@cache
def _calibration(gpu: str, situation: Situation) -> EngineCalibration:
    found = calibration_for(MODEL, gpu=gpu)
    if not situation.constant:
        return found
    step_s = 0.012
    profile = replace(
        found.profile, forward_s=((0.0, step_s), (1.0, step_s)), decode_s=((0.0, 0.0), (1.0, 0.0)),
        kv_token_s=0.0, mixed_kv_token_s=0.0, attended_pair_s=0.0, hot_token_s=0.0, launch_s=(),
    )  # fmt: skip
    return replace(found, profile=profile)


def served(situation: Situation, load: float, seed: int, policy: str) -> FleetOutcome:
    """Serve one run."""
    scenario = world(situation, load, seed)
    seeing: list[World] = []

    def made(rng: random.Random) -> Policy:
        if policy not in SEEING:
            return policy_named(policy, rng)
        return SEEING[policy](rng, seeing)

    run = World(scenario, made)
    seeing.append(run)
    return run.run(arrivals(situation, load, seed))


def figures(situation: Situation, load: float, seed: int, policy: str) -> Figures:
    """Return what one run was like."""
    outcome = served(situation, load, seed, policy)
    assert outcome.failed == 0, f"{situation.name}: {outcome.failed} requests failed"
    p50, p99 = outcome.ttft_quantiles((0.5, 0.99))
    (e2e_p99,) = outcome.e2e_quantiles((0.99,))
    (itl_p99,) = outcome.gaps.quantiles((0.99,))
    hits = 100.0 * outcome.hit_rate
    return Figures(1e3 * p50, 1e3 * p99, fmean(outcome.e2e_s), e2e_p99, 1e3 * itl_p99, hits)


def saturation(situation: Situation) -> float:
    """Return the requests per second that end in the middle half of a long flood."""
    flood = replace(situation, saturation=3.0 * situation.saturation, late=0.0, length=5)
    outcome = served(flood, 1.0, 1, "least-inflight")
    ends = sorted(a + e for a, e in zip(outcome.at_s, outcome.e2e_s, strict=True))
    quarter = len(ends) // 4
    return 2 * quarter / (ends[3 * quarter] - ends[quarter])


Job = tuple[Situation, float, int, str]


def tables(
    situations: Sequence[Situation], loads: Sequence[float], seeds: Sequence[int], names: list[str]
) -> Iterator[str]:
    """Yield the lines of a table for TTFT and one for E2E."""
    jobs: list[Job] = list(product(situations, loads, seeds, names))
    with ProcessPoolExecutor() as pool:
        found = dict(zip(jobs, pool.map(_figures, jobs, chunksize=4), strict=True))
    for first, second, digits in TABLES:
        yield f"| {first} / {second} | " + " | ".join(names) + " | of the best other |"
        yield "|---" * (len(names) + 2) + "|"
        for situation, load in product(situations, loads):
            runs = {n: [found[situation, load, seed, n] for seed in seeds] for n in names}
            head = f"{situation.name}, {load:.0%}"
            cells = [_cell(runs[n], first, second, digits) for n in names]
            compared = f"{_ratio(runs, first)}; {_ratio(runs, second)}"
            yield "| " + " | ".join((head, *cells, compared)) + " |"
        yield ""


def _figures(job: Job) -> Figures:
    return figures(*job)


def _cell(runs: Sequence[Figures], first: str, second: str, digits: str) -> str:
    means = (fmean(getattr(run, key) for run in runs) for key in (first, second))
    return " / ".join(format(mean, digits) for mean in means)


def _ratio(runs: dict[str, list[Figures]], key: str) -> str:
    """Return by how much the last policy differs from the best of the others, in per cent: the
    mean, and the least and the most of the seeds."""
    values = {name: [getattr(run, key) for run in of] for name, of in runs.items()}
    last = list(values)[-1]
    ours = values[last]
    others = [values[name] for name in values if name not in (*SEEING, last)]
    best = (max if key == "hits" else min)(others, key=fmean)
    if not fmean(best):
        return "0"
    changes = [100.0 * (a / b - 1.0) for a, b in zip(ours, best, strict=True)]
    mean = 100.0 * (fmean(ours) / fmean(best) - 1.0)
    return f"{mean:+.0f} ({min(changes):+.0f} to {max(changes):+.0f})"


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("--policies", default="clairvoyant,least-inflight,queue,prefix,latency")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--loads", default=",".join(map(str, LOADS)))
    parser.add_argument("--only", nargs="*", help="situations by name, instead of all")
    parser.add_argument("--saturation", action="store_true")
    asked = parser.parse_args()
    situations = [one for one in SITUATIONS if asked.only is None or one.name in asked.only]
    if asked.saturation:
        for one in situations:
            print(f"{one.name}: {saturation(one):.1f} requests/s")  # noqa: T201
        return
    loads = [float(load) for load in asked.loads.split(",")]
    seeds = range(1, asked.seeds + 1)
    for line in tables(situations, loads, seeds, asked.policies.split(",")):
        print(line)  # noqa: T201


if __name__ == "__main__":
    main()
