"""Ramp, plateau and tail; throughput and goodput."""

import heapq
import random
from itertools import accumulate

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.loadgen.record import Record
from bench.stats.plateau import Rates, is_behind, plateau_of, rates
from tests.support.records import a_record


def a_request(sent_s: float, latency_s: float, **changes: object) -> Record:
    times = (sent_s + latency_s / 2, sent_s + latency_s * 0.75, sent_s + latency_s)
    about: dict[str, object] = {"due_s": sent_s, "sent_s": sent_s, "part_s": sent_s}
    return a_record(**about, content_s=times, end_s=times[-1], **changes)


def open_loop(gaps_s: list[float], latency_s: float) -> list[Record]:
    return [a_request(at_s, latency_s) for at_s in accumulate(gaps_s)]


def closed_loop(users: int, n: int, rng: random.Random, latency_s: float = 1.0) -> list[Record]:
    free = [0.0] * users
    made = []
    for _ in range(n):
        sent_s = heapq.heappop(free)
        made.append(a_request(sent_s, latency_s * rng.uniform(0.6, 1.4)))
        heapq.heappush(free, made[-1].end_s)
    return made


def saturated(rate: float, capacity: float, n: int, rng: random.Random) -> list[Record]:
    """One server that takes 1 / *capacity* for each, and is asked *rate* a second."""
    at_s = free_s = 0.0
    made = []
    for _ in range(n):
        at_s += rng.expovariate(rate)
        free_s = max(at_s, free_s) + 1.0 / capacity
        made.append(a_request(at_s, free_s - at_s + 0.1))
    return made


def throughput(records: list[Record]) -> float | None:
    return rates(records, [True] * len(records)).request_throughput


@pytest.mark.parametrize("n", [100, 200, 600])
def test_ten_a_second_with_answers_of_eight_seconds_is_ten(n: int) -> None:
    """However long answers take, what is answered in a second is what was asked in one."""
    found = rates(open_loop([0.1] * n, 8.0), [True] * n)

    assert found.reached
    assert found.request_throughput == pytest.approx(10.0, rel=0.01)
    assert found.goodput == found.request_throughput


@pytest.mark.parametrize("rate", [0.5, 2.0, 33.0])
def test_idle_gaps_are_time_too(rate: float) -> None:
    """Two requests a second are two, though the upstream is idle for most of each second."""
    assert throughput(open_loop([1 / rate] * 60, 0.1 / rate)) == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_a_closed_loop_is_its_users_over_the_mean_latency(seed: int) -> None:
    """Little's law, whatever the start and the end of the load look like."""
    records = closed_loop(20, 600, random.Random(seed))

    assert throughput(records) == pytest.approx(20.0, rel=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_a_saturated_upstream_shows_its_capacity(seed: int) -> None:
    """What was asked and only answered long after is no throughput."""
    records = saturated(10.0, 5.0, 600, random.Random(seed))

    assert throughput(records) == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_an_upstream_that_warms_up_is_measured_once_it_is_warm(seed: int) -> None:
    """A first stretch at half the speed is found by its completions."""
    rng = random.Random(seed)
    cold = closed_loop(10, 75, rng, latency_s=2.0)
    ready_s = cold[-1].sent_s
    warm = [a_request(ready_s + r.sent_s, r.end_s - r.sent_s) for r in closed_loop(10, 500, rng)]

    assert throughput([*cold, *warm]) == pytest.approx(10.0, rel=0.08)


@pytest.mark.parametrize(
    "records",
    [
        [],
        open_loop([0.1] * 10, 0.1),
        open_loop([0.01] * 100, 60.0 + 1.0)[:11],
        [a_request(0.05 * n, 30.0 - 0.05 * n) for n in range(100)],
        open_loop([1.0 / (1 + n / 20) for n in range(600)], 0.5),
    ],
    ids=["nothing", "too few", "fewer than a plateau needs", "all at once", "a load that grows"],
)
def test_what_never_was_steady_has_no_plateau(records: list[Record]) -> None:
    """And says so."""
    assert plateau_of(records) is None
    if records:
        assert not rates(records, [True] * len(records)).reached


def test_without_a_plateau_everything_counts() -> None:
    """From the first request to the last token, and the reader is told."""
    found = rates(open_loop([0.1] * 10, 0.1), [True] * 10)

    assert found.completed == 10
    assert found.seconds == pytest.approx(1.0)


@settings(max_examples=200, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.floats(0.0, 5.0),
            st.floats(0.0, 60.0),
            st.booleans(),
            st.booleans(),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=120,
    )
)
def test_goodput_never_exceeds_throughput(
    requests: list[tuple[float, float, bool, bool, int]],
) -> None:
    """Whatever was sent, answered, failed, and met its limits."""
    starts = list(accumulate(gap for gap, *_ in requests))
    records = [
        a_request(at_s, latency_s, part=part, error=None if ok else "cut")
        for at_s, (_, latency_s, ok, _, part) in zip(starts, requests, strict=True)
    ]

    found = rates(records, [good for _, _, _, good, _ in requests])

    assert found.good <= found.completed
    assert (found.goodput or 0.0) <= (found.request_throughput or 0.0)


def test_tokens_are_those_of_what_was_completed_and_unknown_if_one_is() -> None:
    """Three tokens each at ten a second; one answer without a count, and nobody knows."""
    records = open_loop([0.1] * 200, 1.0)
    uncounted = [*records[:100], a_request(10.05, 1.0, completion_tokens=None), *records[100:]]

    assert rates(records, [True] * 200).token_throughput == pytest.approx(30.0, rel=0.02)
    assert rates(uncounted, [True] * 201).token_throughput is None


@pytest.mark.parametrize("later_s", [7.0, 500.0])
def test_when_a_load_starts_changes_nothing(later_s: float) -> None:
    """Rates are of stretches of time, wherever these lie."""
    early = open_loop([0.1] * 200, 3.0)
    late = [a_request(r.sent_s + later_s, 3.0) for r in early]

    first, second = (rates(records, [True] * 200) for records in (early, late))

    assert first.seconds == pytest.approx(second.seconds)
    assert first.request_throughput == pytest.approx(second.request_throughput)
    assert first.sent_per_s == pytest.approx(second.sent_per_s) == pytest.approx(10.0)


@pytest.mark.parametrize("seed", range(3))
def test_an_upstream_that_slows_down_at_the_end_is_cut_off_there(seed: int) -> None:
    """A last fifth at half the speed is no part of the plateau."""
    rng = random.Random(seed)
    fast = closed_loop(10, 500, rng)
    since_s = fast[-1].sent_s
    slow = [
        a_request(since_s + r.sent_s, r.end_s - r.sent_s)
        for r in closed_loop(10, 60, rng, latency_s=2.0)
    ]

    found = plateau_of([*fast, *slow])

    assert found is not None
    assert found.end_s == pytest.approx(since_s, abs=3.0)
    assert throughput([*fast, *slow]) == pytest.approx(10.0, rel=0.06)


@pytest.mark.parametrize(
    ("sent_per_s", "seconds", "completed", "behind"),
    [
        (10.0, 100.0, 899, True),
        (10.0, 100.0, 901, False),
        # 15 of 20 due are a quarter less, and by chance.
        (2.0, 10.0, 15, False),
        (2.0, 10.0, 5, True),
        (10.0, 100.0, 1_000, False),
        (None, 100.0, 1, False),
    ],
)
def test_an_upstream_is_behind_beyond_chance(
    sent_per_s: float | None,
    seconds: float,
    completed: int,
    behind: bool,
) -> None:
    """Below 90 % of what is due on the plateau, and by three standard errors of a count."""
    found = Rates(
        reached=True,
        seconds=seconds,
        completed=completed,
        good=0,
        tokens=None,
        sent_per_s=sent_per_s,
    )

    assert is_behind(found) is behind
    assert not is_behind(msgspec.structs.replace(found, reached=False))
