"""Verdicts: what is there is found, what is not there is not."""

import random

import msgspec
import pytest

from bench.loadgen.record import Record
from bench.stats.comparison import Comparison, compare
from bench.stats.intervals import Verdict
from bench.stats.windowed_metrics import SloLimits, delivered_tokens, windows_of
from bench.workload.schedule import Part
from tests.support.records import a_record, at, delayed

PARTS = [Part(number, number * 16.0, 16.0, ()) for number in range(4)]
WINDOWS = windows_of(PARTS)


def an_arm(seed: int, slower_s: float = 0.0) -> list[Record]:
    """Return ten requests a second for the four parts, noisier in every other window."""
    rng = random.Random(seed)
    records = []
    for part in PARTS:
        for tenth in range(160):
            busy_s = 0.02 * (1 + (tenth // 40) % 2)
            noise_s = rng.expovariate(1 / busy_s) + slower_s
            records.append(delayed(at(a_record(), part.number, tenth / 10), noise_s))
    return records


def compared(a: list[Record], b: list[Record]) -> Comparison:
    return compare(a, b, WINDOWS, goal=SloLimits(ttft_ms=120.0), seed=7, resamples=500)


def test_a_slower_arm_is_worse_by_what_it_is_slower() -> None:
    """30 ms more shows as 30 ms more of TTFT and E2E, inside the interval, and as worse."""
    found = compared(an_arm(1), an_arm(2, slower_s=0.030))

    row = found.row("ttft_mean")
    assert found.verdict is Verdict.WORSE
    assert row.verdict is Verdict.WORSE
    assert row.low is not None
    assert row.high is not None
    assert row.low < 30.0 < row.high
    assert found.row("goodput").verdict is Verdict.WORSE


def test_a_faster_arm_is_better() -> None:
    """The sign follows the candidate, and less latency is better."""
    found = compared(an_arm(1, slower_s=0.030), an_arm(2))

    assert found.verdict is Verdict.BETTER
    assert found.row("goodput").verdict is Verdict.BETTER


def test_equal_arms_are_not_told_apart() -> None:
    """Of eight comparisons of an arm with itself, at most one claims a difference."""
    verdicts = [compared(an_arm(2 * n), an_arm(2 * n + 1)).verdict for n in range(8)]

    assert sum(verdict is not Verdict.NOT_SHOWN for verdict in verdicts) <= 1


def test_the_smallest_effect_is_one_that_is_found() -> None:
    """A difference of twice the smallest effect is not missed."""
    nothing = compared(an_arm(1), an_arm(2))
    effect_ms = nothing.row("ttft_mean").smallest_effect
    assert effect_ms is not None

    found = compared(an_arm(1), an_arm(2, slower_s=2 * effect_ms / 1e3))

    assert found.row("ttft_mean").verdict is Verdict.WORSE


def test_failures_are_errors_and_no_latencies() -> None:
    """A request that failed at once does not make its arm fast."""
    broken = [
        msgspec.structs.replace(r, error="reset", end_s=r.due_s) if n % 2 else r
        for n, r in enumerate(an_arm(2))
    ]

    found = compared(an_arm(1), broken)

    assert found.row("error_rate").candidate == 50.0
    assert found.row("error_rate").verdict is Verdict.WORSE
    assert found.row("e2e_p50").verdict is Verdict.NOT_SHOWN


def test_an_arm_without_an_answer_has_no_latency() -> None:
    """Unknown is not zero: the difference to nothing is no difference."""
    dead = [msgspec.structs.replace(r, error="refused", content_s=()) for r in an_arm(2)]

    found = compared(an_arm(1), dead)

    assert found.row("ttft_p50").candidate is None
    assert found.row("ttft_p50").verdict is Verdict.NOT_SHOWN


def test_few_windows_give_no_verdict() -> None:
    """A run of seconds claims nothing, however far its arms are apart."""
    windows = windows_of([PARTS[0]], window_s=8.0)

    found = compare(an_arm(1), an_arm(2, slower_s=9.0), windows, goal=SloLimits(), seed=1)

    assert found.verdict is Verdict.NOT_SHOWN


def test_gaps_between_events_of_several_tokens_are_no_inter_token_latencies() -> None:
    """Where events carried several tokens each, ITL is unknown and the time per token is not."""
    chunked = [msgspec.structs.replace(r, completion_tokens=9) for r in an_arm(1)]

    found = compared(chunked, chunked)

    assert found.row("itl_p50").baseline is None
    assert found.row("per_token_p50").baseline == pytest.approx(2.5)


def test_tokens_count_in_the_window_in_which_they_arrived() -> None:
    """Throughput is what arrived while load was offered, not what was asked for."""
    late = at(a_record(), 0, 3.99)

    tokens = delivered_tokens([late], WINDOWS)

    assert tokens[0] == 0.0
    assert tokens[1] == 3.0
