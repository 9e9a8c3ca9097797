"""Schedules: the same bytes for the same ask, and back."""

import random
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.loadgen.replay import in_random_order
from bench.workload.arrivals import read_arrivals
from bench.workload.generators import NAMES
from bench.workload.registry import WorkloadSpec, make_schedule
from bench.workload.schedule import Call, Schedule, read_schedule, split, write_schedule
from servekit.errors.tree import SettingInvalid, WorkloadInvalid

CALLS = st.lists(
    st.builds(
        Call,
        at_s=st.floats(0, 100),
        model=st.sampled_from(["a", "b"]),
        prompt_tokens=st.integers(1, 2000),
        output_tokens=st.integers(1, 100),
        blocks=st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
        text=st.text(max_size=5),
    ),
    max_size=20,
)


def an_ask(workload: str, **changes: object) -> WorkloadSpec:
    ask = WorkloadSpec(
        workload=workload,
        shares={"a": 2.0, "b": 1.0},
        requests=200,
        rate=10.0,
        arrivals="trace",
        seed=3,
    )
    return msgspec.structs.replace(ask, **changes)


@given(calls=CALLS)
def test_a_schedule_is_read_back_as_it_was_written(calls: list[Call]) -> None:
    """A saved schedule can be replayed byte for byte."""
    schedule = Schedule("w", 1, tuple(sorted(calls, key=lambda call: call.at_s)))

    again = read_schedule(write_schedule(schedule), "s")

    assert again == schedule
    assert again.digest == schedule.digest


@pytest.mark.parametrize("workload", NAMES)
def test_the_same_ask_gives_the_same_bytes(workload: str) -> None:
    """Both arms, and tomorrow's run, are asked the same."""
    first, second = make_schedule(an_ask(workload)), make_schedule(an_ask(workload))

    assert write_schedule(first) == write_schedule(second)
    assert make_schedule(an_ask(workload, seed=4)).digest != first.digest
    assert len(first.calls) == 200


@pytest.mark.parametrize("workload", NAMES)
def test_calls_are_in_order_and_fit(workload: str) -> None:
    """Every call has the blocks that its prompt fills, and the context has room for it."""
    schedule = make_schedule(an_ask(workload))

    times = [call.at_s for call in schedule.calls]
    assert times == sorted(times)
    for call in schedule.calls:
        assert call.prompt_tokens + call.output_tokens <= 8192
        assert call.text or len(call.blocks) == -(-call.prompt_tokens // 512)


def test_a_conversation_keeps_its_model() -> None:
    """What shares a prefix is asked of the same engines, or there would be nothing to share."""
    schedule = make_schedule(an_ask("mooncake", requests=1500))

    models: dict[int, set[str]] = {}
    for call in schedule.calls:
        models.setdefault(call.conversation, set()).add(call.model)
    assert all(len(own) == 1 for own in models.values())
    shares = [call.model for call in schedule.calls].count("a") / len(schedule.calls)
    assert 0.55 < shares < 0.78


def test_turns_of_a_conversation_grow_from_one_another() -> None:
    """The second turn's prompt starts with the first one's."""
    schedule = make_schedule(an_ask("multi-turn"))

    last: dict[int, tuple[int, ...]] = {}
    grown = 0
    for call in schedule.calls:
        before = last.get(call.conversation, ())
        assert call.blocks[: len(before)] == before
        grown += bool(before)
        last[call.conversation] = call.blocks
    assert grown > 50


def test_a_trace_is_played_at_the_rate_that_was_asked() -> None:
    """Twice the rate is half the time, for the same requests."""
    slow = make_schedule(an_ask("mooncake", rate=5.0))
    fast = make_schedule(an_ask("mooncake", rate=10.0))

    assert fast.length_s == pytest.approx(slow.length_s / 2)


def test_parts_hold_each_call_once() -> None:
    """What is due within the parts is in exactly one of them."""
    schedule = make_schedule(an_ask("synthetic", arrivals="poisson"))

    parts = split(schedule, [3.0, 4.0, 5.0])

    kept = [call for part in parts for call in part.calls]
    assert kept == [call for call in schedule.calls if call.at_s < 12.0]
    assert [part.start_s for part in parts] == [0.0, 3.0, 7.0]


def test_arms_take_turns_in_random_order() -> None:
    """Each part goes to every arm before the next does; each order comes up about as often."""
    parts = split(make_schedule(an_ask("synthetic", arrivals="poisson")), [0.01] * 400)

    turns = list(in_random_order(parts, "AB", random.Random(1)))

    assert [part for _, part in turns] == [part for part in parts for _ in "AB"]
    pairs = ["".join(arm for arm, _ in turns[n : n + 2]) for n in range(0, 800, 2)]
    assert set(pairs) == {"AB", "BA"}
    # Of 400 coins, half are heads within 3.5 standard errors.
    assert abs(pairs.count("AB") - 200) < 35
    # No coin knows the one before: as many pairs are as the last one as are not.
    same = sum(one == other for one, other in pairwise(pairs))
    assert abs(same - 200) < 35


@pytest.mark.parametrize("shape", ["constant", "poisson", "gamma:2", "burst:8"])
def test_arrivals_keep_their_rate(shape: str) -> None:
    """Whatever the shape, ten a second are ten a second."""
    times = read_arrivals(shape, 10.0)(4000, random.Random(1))

    assert times == sorted(times)
    assert times[-1] == pytest.approx(400.0, rel=0.1)


def test_a_ramp_ends_at_its_rate() -> None:
    """From 5 to 15 a second, the last tenth of the time holds three times the first one's."""
    times = read_arrivals("ramp:15", 5.0)(4000, random.Random(1))

    tenth = times[-1] / 10
    first = sum(at < tenth for at in times)
    last = sum(at > 9 * tenth for at in times)
    assert last / first == pytest.approx(14.5 / 5.5, rel=0.2)


@pytest.mark.parametrize("shape", ["sometimes", "gamma:x", "gamma:0", "burst:", "poisson:3"])
def test_arrivals_that_make_no_sense_are_refused(shape: str) -> None:
    """The message repeats what was asked."""
    with pytest.raises(SettingInvalid, match=shape):
        read_arrivals(shape, 1.0)


def test_a_workload_that_nobody_wrote_is_refused() -> None:
    """The message names the ones there are."""
    with pytest.raises(WorkloadInvalid, match="mooncake, default"):
        make_schedule(an_ask("mooncakes"))
