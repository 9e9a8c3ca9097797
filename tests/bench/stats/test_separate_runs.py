"""Arms measured in runs of their own: Welch's t over runs, and no verdict on too few."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.run_result import RunResult
from bench.stats.comparison import Comparison
from bench.stats.intervals import Verdict
from bench.stats.separate_runs import alternate, compare_runs, row_of
from bench.stats.windowed_metrics import METRICS, SloLimits
from bench.workload.schedule import PartLayout, Schedule
from tests.support.records import a_record, at, delayed

METRIC = {metric.key: metric for metric in METRICS}
TTFT, ERRORS, RATE = (METRIC[key] for key in ("ttft_p50", "error_rate", "request_throughput"))


def a_run(arm: str, minute: int, later_s: float) -> RunResult:
    """Return a run whose answers all come *later_s* later than 50 ms."""
    return RunResult(
        arms=(arm,),
        records=[
            msgspec.structs.replace(delayed(at(a_record(), 1, n / 10), later_s), arm=arm)
            for n in range(60)
        ],
        burden=ClientLoad(wall_s=10.0, cpu_s=1.0, cores=1, lag_p50_ms=0.1, lag_p99_ms=1.0),
        started=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
        partial=False,
        schedule=Schedule("test", 1, ()),
        layout=PartLayout(parts=1, part_s=7.0, warmup_s=0.0),
        manifest={},
    )


def runs(arm: str, minutes: Sequence[int], *later_ms: float) -> list[RunResult]:
    return [a_run(arm, n, ms / 1e3) for n, ms in zip(minutes, later_ms, strict=True)]


def compared(a: list[RunResult], b: list[RunResult]) -> Comparison:
    return compare_runs(a, b, goal=SloLimits(), names=("a", "b"))


def test_welchs_t_by_hand() -> None:
    """1, 2, 3 against 5, 7, 9: 5 apart; variances 1 and 4, so the error is sqrt(5/3) = 1.291 and t
    3.873; degrees of freedom (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.941; p and interval are those of
    scipy 1.17.1's ttest_ind(equal_var=False)."""
    row = row_of(TTFT, [[1.0, 2.0, 3.0], [5.0, 7.0, 9.0]])

    assert (row.baseline, row.candidate, row.difference, row.ratio) == (2.0, 7.0, 5.0, 3.5)
    assert (row.low, row.high) == pytest.approx((0.84460, 9.15540), abs=2e-3)
    assert row.p == pytest.approx(0.03156, abs=3e-4)
    assert row.verdict is Verdict.WORSE
    assert (row.ratio_low, row.ratio_high) == pytest.approx((1.4219, 5.5781), abs=1e-3)
    # 3.219 and 0.979 standard errors.
    assert row.smallest_effect == pytest.approx(1.291 * (3.219 + 0.979), rel=5e-3)


def test_what_is_better_depends_on_the_metric() -> None:
    """More requests per second are better; swapped arms are worse by as much."""
    there = row_of(RATE, [[1.0, 2.0, 3.0], [15.0, 17.0, 19.0]])
    back = row_of(RATE, [[15.0, 17.0, 19.0], [1.0, 2.0, 3.0]])

    assert (there.verdict, back.verdict) == (Verdict.BETTER, Verdict.WORSE)
    assert back.p == pytest.approx(there.p)
    assert (back.low, back.high) == pytest.approx((-(there.high or 0), -(there.low or 0)))


def test_runs_that_do_not_differ_are_known_exactly() -> None:
    """Equal in all: p is 1; equal in each arm: the difference is certain."""
    equal = row_of(TTFT, [[2.0] * 3, [2.0] * 3])
    apart = row_of(TTFT, [[2.0] * 3, [3.0] * 3])

    assert (equal.p, equal.verdict, equal.low) == (1.0, Verdict.NOT_SHOWN, 0.0)
    assert (apart.p, apart.verdict, apart.low) == (0.0, Verdict.WORSE, 1.0)


def test_two_runs_have_an_interval_and_no_verdict() -> None:
    """One has neither; one that lacks the metric makes it unknown."""
    two = row_of(TTFT, [[1.0, 1.1], [9.0, 9.1]])
    one = row_of(TTFT, [[1.0], [9.0]])
    lacking = row_of(TTFT, [[1.0, 2.0, float("nan")], [9.0, 9.1, 9.2]])

    assert two.low is not None
    assert (two.p, two.verdict) == (None, Verdict.NOT_SHOWN)
    assert (one.low, one.p, one.difference) == (None, None, 8.0)
    assert (lacking.baseline, lacking.difference, lacking.p) == (None, None, None)


def test_a_least_effect_is_of_the_baseline_or_in_points() -> None:
    """150 % slower and more; 3 points of errors."""
    slower = [[1.0, 2.0, 3.0], [5.0, 7.0, 9.0]]
    errors = [[0.0, 0.1, 0.2], [3.0, 3.1, 3.2]]

    assert (row_of(TTFT, slower, 0.1).p or 0) > (row_of(TTFT, slower).p or 0)
    assert row_of(TTFT, slower, 0.9).verdict is Verdict.NOT_SHOWN
    assert row_of(ERRORS, errors, 0.02).verdict is Verdict.WORSE
    assert row_of(ERRORS, errors, 0.04).verdict is Verdict.NOT_SHOWN


def test_runs_that_alternate_are_compared() -> None:
    """50 ms against 90, a few apart from run to run."""
    a, b = runs("a", [0, 2, 4], 0, 1, 2), runs("b", [1, 3, 5], 40, 42, 41)

    found = compared(a, b)

    assert (found.verdict, found.apart, found.turns) == (Verdict.WORSE, True, 3)
    assert found.reason == "TTFT p50, E2E p50; no headline metric contradicts"
    assert found.row("ttft_p50").difference == pytest.approx(40.0)
    assert found.row("ttft_p99").baseline is None


def width(found: Comparison) -> float:
    row = found.row("ttft_p50")
    assert row.low is not None
    assert row.high is not None
    return row.high - row.low


def test_groups_of_runs_have_wider_intervals() -> None:
    """All of one arm before the other's: 2.5 times as wide, and it is said."""
    mixed = compared(runs("a", [0, 2, 4], 0, 1, 2), runs("b", [1, 3, 5], 40, 42, 41))
    grouped = compared(runs("a", [0, 1, 2], 0, 1, 2), runs("b", [3, 4, 5], 40, 42, 41))

    one, other = width(mixed), width(grouped)
    assert other == pytest.approx(2.5 * one)
    assert grouped.verdict is Verdict.WORSE
    assert "did not alternate: intervals are 2.5 times as wide" in grouped.reason


@pytest.mark.parametrize(
    ("order", "is_so"),
    [("ababab", True), ("abbaab", True), ("aabbab", True), ("aaabbb", False), ("aabbba", False)],
)
def test_what_alternates(order: str, is_so: bool) -> None:
    """As many changes of the arm as an arm has runs."""
    a, b = ([a_run(arm, n, 0.0) for n, one in enumerate(order) if one == arm] for arm in ("a", "b"))

    assert alternate(a, b) is is_so


@pytest.mark.parametrize(
    ("n_a", "n_b", "missing"),
    [(1, 1, "2 more of a and 2 more of b"), (3, 2, "1 more of b"), (1, 5, "2 more of a")],
)
def test_too_few_runs_say_how_many_are_missing(n_a: int, n_b: int, missing: str) -> None:
    """However far the arms are apart."""
    a, b = runs("a", range(n_a), *[0.0] * n_a), runs("b", range(n_b), *[900.0] * n_b)

    found = compared(a, b)

    assert found.verdict is Verdict.NOT_SHOWN
    assert f"measure {missing}, alternating the arms" in found.reason


def test_one_state_of_the_machine_per_run_errs_in_one_case_of_twenty() -> None:
    """Of 2,000 comparisons of alike arms with 3 to 6 runs each, within three standard errors."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(2_000):
        sizes = rng.integers(3, 7, 2)
        alarms += (row_of(TTFT, [list(rng.normal(9, 1, n)) for n in sizes]).p or 0) <= 0.05

    assert alarms / 2_000 <= 0.05 + 3 * (0.05 * 0.95 / 2_000) ** 0.5
    assert alarms > 20


def test_failed_requests_do_not_count_for_a_p99() -> None:
    """400 answers of a run have one; 360 and 40 failures have none."""
    whole = [
        msgspec.structs.replace(
            run, records=[at(a_record(arm=run.arms[0]), 1, n / 60) for n in range(400)]
        )
        for run in [*runs("a", [0, 2, 4], 0, 0, 0), *runs("b", [1, 3, 5], 0, 0, 0)]
    ]
    broken = [
        msgspec.structs.replace(
            run,
            records=[
                msgspec.structs.replace(r, error=None if n % 10 else "reset")
                for n, r in enumerate(run.records)
            ],
        )
        for run in whole
    ]

    assert compared(whole[:3], whole[3:]).row("ttft_p99").baseline is not None
    assert compared(broken[:3], broken[3:]).row("ttft_p99").baseline is None
