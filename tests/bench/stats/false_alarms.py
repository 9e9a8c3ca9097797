"""How often the verdict calls an arm different from itself, under drift: the tables of
docs/benchmarks/verdict.md.

    python -m tests.bench.stats.false_alarms [RUNS]

Each request's times are those of a steady server, with noise of its own, and multiplied by the
state of the machine: an AR(1) process over the seconds of the run.  The figures of each turn, or
run, go through the product's tests and Holm's rule.  Of turns only the p of sign flips is taken,
which is never above the one that the product takes: the product errs at most as often.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.run_result import RunResult
from bench.stats.comparison import holm
from bench.stats.estimators import Floats
from bench.stats.intervals import CONFIDENCE
from bench.stats.looks import looks_of, share_of
from bench.stats.separate_runs import LEAST_RUNS, row_of, widening_of
from bench.stats.turn_tests import swap_p, swaps, turns_needed
from bench.stats.windowed_metrics import METRICS
from bench.workload.schedule import PartLayout, Schedule

RATE = 10.0
# Between two runs that are measured apart: start-up and warm-up.
PAUSE_S = 20.0
TTFT = next(metric for metric in METRICS if metric.key == "ttft_p50")
_STARTED = datetime(2026, 1, 1, tzinfo=UTC)


class Drift(msgspec.Struct, frozen=True):
    """The state of a machine: its standard deviation, and over how many seconds it forgets."""

    sd: float
    memory_s: float

    def over(self, seconds: float, rng: np.random.Generator) -> Floats:
        """Return by what the machine is slower in each second."""
        carried = float(np.exp(-1.0 / self.memory_s))
        noise = rng.normal(size=int(seconds) + 2) * np.sqrt(1.0 - carried**2)
        state = [float(rng.normal())]
        for step in noise[1:]:
            state.append(carried * state[-1] + float(step))
        found: Floats = np.maximum(0.2, 1.0 + self.sd * np.array(state))
        return found


def figures(state: Floats, start_s: float, length_s: float, rng: np.random.Generator) -> Floats:
    """Return the headline metrics of one stretch of load that starts at *start_s*."""
    at_s = np.arange(round(length_s * RATE)) / RATE
    factor = state[(start_s + at_s).astype(int)]
    first_s, token_s = (
        factor * mean_s * rng.lognormal(0.0, 0.1, len(at_s)) for mean_s in (0.05, 0.01)
    )
    whole_s = first_s + 50 * token_s
    good = (first_s < 0.06) & (token_s < 0.012)
    ordered = np.sort([first_s, token_s, whole_s], axis=1)
    places = [len(at_s) // 2, len(at_s) * 99 // 100]
    return np.array([*ordered[:, places].ravel(), good.mean()])


def turns_differ(
    layout: PartLayout, drift: Drift, rng: np.random.Generator, slower: float = 1.0
) -> bool:
    """Whether two arms that take turns, in the order that coins decide, are called different."""
    state = drift.over(2 * sum(layout.lengths_s), rng)
    differences = []
    now_s = 0.0
    for length_s in layout.lengths_s:
        pair = [figures(state, now_s + n * length_s, length_s, rng) for n in (0, 1)]
        b = int(rng.integers(0, 2))
        differences.append(slower * pair[b] - pair[1 - b])
        now_s += 2 * length_s
    return any(
        _shown(np.array(differences[:look]), share_of(layout.looks))
        for look in layout.looks or (layout.parts,)
    )


def _shown(differences: Floats, share: float) -> bool:
    """Whether a look at *differences*, shape (turns, metrics), shows one."""
    turns, metrics = differences.shape
    if turns < turns_needed(metrics, (1.0 - CONFIDENCE) * share):
        return False
    means = (1.0 - 2.0 * swaps(turns, 1)) @ differences
    return bool(holm([(of, swap_p(means[:, of]) / share) for of in range(metrics)]))


def saved_differ(
    order: str, length_s: float, drift: Drift, rng: np.random.Generator, slower: float = 1.0
) -> bool:
    """Whether arms are called different that are measured apart, one run after the other as *order*
    says."""
    state = drift.over(len(order) * (length_s + PAUSE_S), rng)
    starts_s = [n * (length_s + PAUSE_S) for n in range(len(order))]
    found = [figures(state, start_s, length_s, rng) for start_s in starts_s]
    a, b = ([n for n, one in enumerate(order) if one == arm] for arm in "ab")
    if min(len(a), len(b)) < LEAST_RUNS:
        return False
    widening = widening_of([a_run(starts_s[n]) for n in a], [a_run(starts_s[n]) for n in b])
    ps = []
    for of in range(len(found[0])):
        arms = [[float(found[n][of]) for n in a], [slower * float(found[n][of]) for n in b]]
        ps.append((of, row_of(TTFT, arms, widening=widening).p or 0.0))
    return bool(holm(ps))


def a_run(start_s: float) -> RunResult:
    """Return a run of which only the time matters."""
    return RunResult(
        arms=("a",),
        records=[],
        burden=ClientLoad(wall_s=1.0, cpu_s=0.0, cores=1, lag_p50_ms=None, lag_p99_ms=None),
        started=_STARTED + timedelta(seconds=start_s),
        partial=False,
        schedule=Schedule("synthetic", 1, ()),
        layout=None,
        manifest={},
    )


SHAPES = {
    "default: 16 of 3 s, the first 16 s": PartLayout(steady_s=16.0),
    "9 of 6 s": PartLayout(parts=9, part_s=6.0),
    "12 of 15 s": PartLayout(parts=12, part_s=15.0),
    "40 of 3 s": PartLayout(parts=40, part_s=3.0),
    "4 of 15 s": PartLayout(parts=4, part_s=15.0),
    "`--until-sure`, at most 48 of 3 s": PartLayout(parts=48, part_s=3.0, looks=looks_of(48)),
}
ORDERS = {
    "saved, a b a b a b of 60 s": ("ababab", 60.0),
    "saved, a b b a a b of 20 s": ("abbaab", 20.0),
    "saved, five of each by turns, 30 s": ("ababababab", 30.0),
    "saved, a a a b b b of 60 s": ("aaabbb", 60.0),
    "saved, a a a b b b of 20 s": ("aaabbb", 20.0),
    "saved, a a a a a b b b b b of 30 s": ("aaaaabbbbb", 30.0),
    "saved, one of each": ("ab", 60.0),
}
MEMORIES_S = (0.1, 5.0, 20.0, 50.0, 100.0)


def cells(
    sd: float, runs: int, slower: float = 1.0, memories_s: Sequence[float] = MEMORIES_S
) -> Iterator[tuple[str, list[int]]]:
    """Yield each shape with how many of its *runs* were called different, by the drift's memory."""
    for name, layout in SHAPES.items():
        yield (
            name,
            [
                sum(turns_differ(layout, Drift(sd, s), rng, slower) for rng in generators(runs))
                for s in memories_s
            ],
        )
    for name, (order, length_s) in ORDERS.items():
        drifts = [Drift(sd, memory_s) for memory_s in memories_s]
        yield (
            name,
            [
                sum(saved_differ(order, length_s, drift, rng, slower) for rng in generators(runs))
                for drift in drifts
            ],
        )


def generators(runs: int) -> Iterator[np.random.Generator]:
    return map(np.random.default_rng, range(runs))


def tables(runs: int) -> Iterator[str]:
    """Yield the lines of the tables."""
    for sd, slower in ((0.05, 1.0), (0.15, 1.0), (0.05, 1.1)):
        yield f"\nDrift {sd:.0%}, one arm {slower - 1:.0%} slower: % of {runs} called different\n"
        yield "| turns | " + " | ".join(f"{s:g} s" for s in MEMORIES_S) + " |"
        yield "|---" * (1 + len(MEMORIES_S)) + "|"
        for name, counts in cells(sd, runs, slower):
            yield f"| {name} | {' | '.join(f'{100 * count / runs:.1f}' for count in counts)} |"


if __name__ == "__main__":
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("runs", nargs="?", type=int, default=200, help="runs of each cell")
    for line in tables(reader.parse_args().runs):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
