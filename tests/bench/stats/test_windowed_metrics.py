"""Throughput, goodput and tokens of two arms that take turns."""

import random
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.loadgen.run_result import RunResult
from bench.report.charts import PlotLine, over_time
from bench.stats.comparison import Comparison, compare
from bench.stats.intervals import Verdict
from bench.stats.verdict import conclude
from bench.stats.windowed_metrics import (
    METRICS,
    ArmWindows,
    SloLimits,
    delivered_tokens,
    turns_of,
    windows_of,
)
from bench.workload.schedule import Call, Part, Schedule
from tests.support.records import a_record, at

PART_S = 40.0
PARTS = [Part(number, number * PART_S, PART_S, ()) for number in range(6)]
WINDOWS = windows_of(PARTS)
TURNS = turns_of(PARTS)
METRIC = {metric.key: metric for metric in METRICS}
_STARTED = datetime(2026, 1, 1, tzinfo=UTC)
NO_LIMIT = SloLimits(ttft_ms=None, itl_ms=None)


def answered_after(record: Record, latency_s: float) -> Record:
    times = tuple(record.due_s + latency_s * share for share in (0.5, 0.75, 1.0))
    return msgspec.structs.replace(record, content_s=times, end_s=times[-1])


def an_arm(latency_s: float, seed: int, *, capacity: float = 1e9, arm: str = "a") -> list[Record]:
    """Ten requests a second; an upstream of some *capacity* takes them one after the other."""
    rng, made = random.Random(99), []
    own = random.Random(seed)
    for part in PARTS:
        at_s = free_s = 0.0
        while (at_s := at_s + rng.expovariate(10.0)) < PART_S:
            free_s = max(free_s, at_s) + 1.0 / capacity
            waited_s = free_s - at_s + latency_s * own.uniform(0.8, 1.2)
            one = at(a_record(arm=arm, completion_tokens=30), part.number, at_s)
            made.append(answered_after(one, waited_s))
    return made


def compared(one: list[Record], other: list[Record]) -> Comparison:
    return compare(one, other, TURNS, goal=NO_LIMIT, seed=3)


def test_arms_that_differ_in_latency_only_do_not_differ_in_throughput() -> None:
    """Both serve ten a second, the one in a second and the other in five."""
    found = compared(an_arm(1.0, 1), an_arm(5.0, 2))

    for key, rate in (("request_throughput", 10.0), ("output_throughput", 300.0)):
        row = found.row(key)
        assert row.verdict is Verdict.NOT_SHOWN
        assert row.baseline == pytest.approx(rate, rel=0.05)
        assert row.candidate == pytest.approx(rate, rel=0.05)
    assert found.row("e2e_p50").verdict is Verdict.WORSE


def test_an_arm_that_falls_behind_is_worse_in_throughput() -> None:
    """It serves seven of ten a second; what it answers long after its part is none."""
    found = compared(an_arm(1.0, 1), an_arm(1.0, 2, capacity=7.0))

    row = found.row("request_throughput")
    assert row.verdict is Verdict.WORSE
    assert row.candidate == pytest.approx(7.0, rel=0.03)


def test_steady_load_reads_the_same_in_throughput_and_goodput() -> None:
    """Ten a second with answers of eight seconds are ten, and so are those that met no limit."""
    found = compared(an_arm(8.0, 1), an_arm(8.0, 2))

    assert found.row("goodput").baseline == found.row("request_throughput").baseline
    assert found.row("goodput").baseline == pytest.approx(10.0, rel=0.06)


def test_a_part_that_never_was_steady_has_no_throughput() -> None:
    """Some requests only in each part: unknown, and no verdict."""
    found = compared(an_arm(1.0, 1)[::50], an_arm(1.0, 2))

    row = found.row("request_throughput")
    assert row.baseline is None
    assert row.verdict is Verdict.NOT_SHOWN


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_goodput_never_exceeds_throughput_in_any_resample(data: st.DataObject) -> None:
    """Whatever failed and whatever met its limits: the same requests, the same seconds."""
    latency_s = data.draw(st.floats(0.1, 20.0))
    failing = data.draw(st.floats(0.0, 1.0))
    rng = random.Random(data.draw(st.integers(0, 999)))
    records = [
        msgspec.structs.replace(r, error="cut") if rng.random() < failing else r
        for r in an_arm(latency_s, 1)[:1200]
    ]
    goal = SloLimits(e2e_ms=data.draw(st.floats(100.0, 20_000.0)))
    arm = ArmWindows(records, WINDOWS, goal)
    weights = np.array([[float(rng.randrange(3)) for _ in WINDOWS] for _ in range(20)])

    good = METRIC["goodput"].draw(arm, weights)
    done = METRIC["request_throughput"].draw(arm, weights)

    assert np.all((good <= done + 1e-12) | (np.isnan(good) & np.isnan(done)))


def test_without_usage_there_is_no_token_throughput_and_no_verdict_on_it() -> None:
    """Unknown is not zero, and not 100 % worse."""
    uncounted = [msgspec.structs.replace(r, completion_tokens=None) for r in an_arm(1.0, 2)]

    row = compared(an_arm(1.0, 1), uncounted).row("output_throughput")

    assert row.candidate is None
    assert row.difference is None
    assert row.verdict is Verdict.NOT_SHOWN


def test_tokens_that_were_not_counted_are_not_drawn() -> None:
    """Neither at zero nor on an empty axis."""
    uncounted = [msgspec.structs.replace(r, completion_tokens=None) for r in an_arm(1.0, 2)]

    names = [plot.name for plot in over_time([PlotLine("a", uncounted, "s0")], WINDOWS)]

    assert np.isnan(delivered_tokens(uncounted, WINDOWS)).any()
    assert names == ["ttft-over-time", "due-over-time"]


def test_an_answer_that_came_whole_is_held_to_its_end() -> None:
    """Its first token came with its last: a limit of TTFT is one of E2E."""
    whole = a_record(content_s=(), end_s=2.0)

    assert not SloLimits(ttft_ms=1000.0).met_by(whole)
    assert SloLimits(ttft_ms=2500.0).met_by(whole)


def test_an_uncounted_answer_is_held_to_its_slowest_possible_token() -> None:
    """Gaps of 60 ms can hide several tokens, and no token can have taken longer."""
    uncounted = a_record(content_s=(0.1, 0.16, 0.22), completion_tokens=None)

    assert not SloLimits(itl_ms=50.0).met_by(uncounted)
    assert SloLimits(itl_ms=61.0).met_by(uncounted)


def test_arms_that_did_different_work_get_no_verdict_on_latency() -> None:
    """An arm that stops early is fast for another reason."""
    parts = [msgspec.structs.replace(part, calls=_calls(part)) for part in PARTS]
    baseline = an_arm(2.0, 1, arm="a")
    short = [msgspec.structs.replace(r, completion_tokens=15) for r in an_arm(1.0, 2, arm="b")]
    run = RunResult(
        arms=("a", "b"),
        schedule=Schedule("s", 1, ()),
        layout=None,
        manifest={},
        records=[*baseline, *short],
        burden=ClientLoad(wall_s=1.0, cpu_s=0.1, cores=1, lag_p50_ms=0.1, lag_p99_ms=0.2),
        started=_STARTED,
        partial=False,
    )

    judged = conclude(run, NO_LIMIT, parts=tuple(parts))

    found = judged.comparison
    assert "output tokens per request differ: 30 of a, 15 of b" in found.incomparable
    assert found.row("e2e_p50").difference is not None
    assert found.row("e2e_p50").verdict is Verdict.NOT_SHOWN
    assert found.verdict is Verdict.NOT_SHOWN
    assert found.incomparable in found.reason


def _calls(part: Part) -> tuple[Call, ...]:
    n = sum(one.part == part.number for one in an_arm(1.0, 1))
    return tuple(Call(at_s=0.0, model="m", prompt_tokens=1, output_tokens=1) for _ in range(n))
