"""What is simulated: a schedule, or a mix that is made while it is served.  Pure."""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from bench.fleetsim.scenario import Arrival
from bench.twin.fleet_run import arrivals_of, longest, total_tokens
from bench.workload.schedule import BLOCK_TOKENS, Call, Schedule
from servekit.errors.tree import SettingInvalid

# The mix: what public traces of conversations have in common.  Half of the prompts begin with one
# of a few thousand texts that others begin with too, some far more often than others; lengths are
# log-normal, with a long tail.
MIX = "synthetic"
_SHARED = 2_000
_SHARED_BLOCKS = (1, 2, 3)
_PROMPT = (500.0, 0.9, 12_000)
_OUTPUT = (100.0, 0.8, 1_000)


@dataclass(frozen=True, slots=True)
class VirtualLoad:
    """Requests that are simulated, in order of time; they need not be kept anywhere.

    Attributes:
        longest: prompt and output tokens of the longest request.
        arrivals: the requests, from the first; may be asked for again and again.
        schedule: where they came from, and what a report is made of; None for a mix.
    """

    name: str
    seed: int
    requests: int
    length_s: float
    prompt_tokens: int
    output_tokens: int
    longest: int
    digest: str
    arrivals: Callable[[], Iterator[Arrival]]
    schedule: Schedule | None = None


def scheduled(schedule: Schedule) -> VirtualLoad:
    """Return the calls of *schedule*."""
    prompt, output = total_tokens(schedule.calls)
    return VirtualLoad(
        name=schedule.name,
        seed=schedule.seed,
        requests=len(schedule.calls),
        length_s=schedule.length_s,
        prompt_tokens=prompt,
        output_tokens=output,
        longest=longest(schedule.calls),
        digest=schedule.digest,
        arrivals=lambda: arrivals_of(schedule.calls),
        schedule=schedule,
    )


def mixed(models: Sequence[str], *, requests: int, rate: float, seed: int) -> VirtualLoad:
    """Return *requests* of the mix, *rate* a second, over *models* in equal shares.

    Raises:
        SettingInvalid: there is no request, or no rate.
    """
    if requests < 1 or not rate > 0:
        raise SettingInvalid(f"--requests {requests} and --rate {rate:g}: must be above 0")

    def arrivals() -> Iterator[Arrival]:
        return _mix(models, requests, rate, seed)

    prompt = output = most = 0
    last_s = 0.0
    whole = hashlib.sha256()
    for one in arrivals():
        prompt += one.prompt_tokens
        output += one.output_tokens
        most = max(most, one.prompt_tokens + one.output_tokens)
        last_s = one.at_s
        whole.update(struct.pack("<dqq", one.at_s, one.prompt_tokens, one.output_tokens))
    return VirtualLoad(
        name=MIX,
        seed=seed,
        requests=requests,
        length_s=last_s,
        prompt_tokens=prompt,
        output_tokens=output,
        longest=most,
        digest=whole.hexdigest(),
        arrivals=arrivals,
    )


def as_schedule(load: VirtualLoad) -> Schedule:
    """Return *load* as a schedule that can be kept; a mix's blocks become those of its calls."""
    if load.schedule is not None:
        return load.schedule
    calls = tuple(
        Call(
            at_s=one.at_s,
            model=one.model,
            prompt_tokens=one.prompt_tokens,
            output_tokens=one.output_tokens,
            blocks=(*one.segments, -number - 1)[: -(-one.prompt_tokens // BLOCK_TOKENS)],
            conversation=number,
        )
        for number, one in enumerate(load.arrivals())
    )
    return Schedule(load.name, load.seed, calls)


def _mix(models: Sequence[str], requests: int, rate: float, seed: int) -> Iterator[Arrival]:
    rng, now = Random(seed), 0.0
    fresh = _SHARED * (max(_SHARED_BLOCKS) + 1)
    for number in range(requests):
        now += rng.expovariate(rate)
        shared = _shared(rng) if rng.random() < 0.5 else ()
        own = _length(rng, _PROMPT)
        tokens = len(shared) * BLOCK_TOKENS + own
        blocks = own // BLOCK_TOKENS
        segments = (*shared, *range(fresh, fresh + blocks))
        fresh += blocks
        model = models[rng.randrange(len(models))]
        yield Arrival(now, model, tokens, _length(rng, _OUTPUT), segments, str(number))


def _shared(rng: Random) -> tuple[int, ...]:
    """Return the blocks of one of the shared beginnings: the n-th is asked for 1/n as often."""
    rank = int(_SHARED ** rng.random()) - 1
    first = rank * (max(_SHARED_BLOCKS) + 1)
    return tuple(range(first, first + _SHARED_BLOCKS[rank % len(_SHARED_BLOCKS)]))


def _length(rng: Random, of: tuple[float, float, int]) -> int:
    """Return a length; *of* is the median, the deviation of the logarithm, and the most."""
    median, deviation, most = of
    drawn = median * rng.lognormvariate(0.0, deviation)
    return min(most, max(1, round(drawn)))
