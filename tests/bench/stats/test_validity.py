"""When a run must not be believed."""

import msgspec
import pytest

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.stats.validity import achieved_share, judge
from tests.support.records import a_record, at

LIGHT = ClientLoad(wall_s=10.0, cpu_s=2.0, cores=1, lag_p50_ms=0.1, lag_p99_ms=1.0)
RECORDS = [at(a_record(), 0, n / 10) for n in range(100)]


def sent_late(records: list[Record], growth_s: float) -> list[Record]:
    """Return *records*, each sent *growth_s* later than the one before it."""
    return [
        msgspec.structs.replace(r, sent_s=r.sent_s + n * growth_s) for n, r in enumerate(records)
    ]


def test_a_light_client_that_kept_its_schedule_is_valid() -> None:
    """Nothing to object to, and the figures are told."""
    found = judge(RECORDS, LIGHT)

    assert found.valid
    assert found.client_cpu_share == pytest.approx(0.2)
    assert found.achieved_share == 1.0


@pytest.mark.parametrize(
    ("records", "burden", "reason"),
    [
        (RECORDS, msgspec.structs.replace(LIGHT, cpu_s=8.5), "85% of 1 core"),
        (RECORDS, msgspec.structs.replace(LIGHT, lag_p99_ms=7.0), "lag p99 was 7.0 ms (max 5 ms)"),
        (sent_late(RECORDS, 0.002), LIGHT, "of the scheduled rate was sent"),
        ([a_record(error="refused"), *RECORDS[:9]], LIGHT, "10.0% of requests failed"),
        ([], LIGHT, "no request was sent"),
    ],
)
def test_a_run_that_its_client_limited_is_invalid(
    records: list[Record], burden: ClientLoad, reason: str
) -> None:
    """The reason has the figure and the bound."""
    found = judge(records, burden)

    assert not found.valid
    assert reason in " ".join(found.reasons)


def test_two_workers_have_two_cores() -> None:
    """160 % of one core is 80 % of two."""
    assert judge(RECORDS, msgspec.structs.replace(LIGHT, cpu_s=15.0, cores=2)).valid


def test_arms_are_judged_each_by_its_own_turns() -> None:
    """The time in which an arm was not asked does not count as being late."""
    other = [msgspec.structs.replace(at(r, 1, r.part_s), arm="managed") for r in RECORDS]

    assert achieved_share([*RECORDS, *other]) == 1.0


@pytest.mark.parametrize(
    ("records", "burden"),
    [
        (RECORDS, msgspec.structs.replace(LIGHT, cpu_s=8.0)),
        (RECORDS, msgspec.structs.replace(LIGHT, lag_p99_ms=5.0)),
        (RECORDS, msgspec.structs.replace(LIGHT, lag_p99_ms=None)),
        # 9.9 s due, sent in 10.0 s: exactly 99 %.
        ([*RECORDS[:99], msgspec.structs.replace(RECORDS[99], sent_s=10.0)], LIGHT),
        (
            [*RECORDS[:95], *(msgspec.structs.replace(r, error="reset") for r in RECORDS[95:])],
            LIGHT,
        ),
    ],
)
def test_a_run_at_a_bound_is_valid(records: list[Record], burden: ClientLoad) -> None:
    """80 % of a core, 5 ms of lag, 99 % of the rate and 5 % of failures are the most allowed."""
    assert judge(records, burden).reasons == ()


def test_the_figures_are_those_of_the_run() -> None:
    """Sent 0, 1 … 100 ms late: the median is 50 ms, p99 is 99 ms; 25 of 101 failed."""
    records = [
        msgspec.structs.replace(r, sent_s=r.due_s + n / 1e3, error="reset" if n < 25 else None)
        for n, r in enumerate([*RECORDS, at(a_record(), 0, 10.0)])
    ]

    found = judge(records, LIGHT)

    assert found.dispatch_p50_ms == pytest.approx(50.0)
    assert found.dispatch_p99_ms == pytest.approx(99.0)
    assert found.error_share == pytest.approx(25 / 101)
    assert (found.lag_p50_ms, found.lag_p99_ms) == (0.1, 1.0)
    # The last was due at 10.0 s and sent at 10.1 s.
    assert found.achieved_share == pytest.approx(10.0 / 10.1)


def test_each_reason_says_what_to_do() -> None:
    """Everything wrong at once: all of it is said, in order, with figure and bound."""
    burden = msgspec.structs.replace(LIGHT, cpu_s=18.0, cores=2, lag_p99_ms=12.3)
    records = [msgspec.structs.replace(r, error="reset") for r in sent_late(RECORDS, 0.01)]

    # 9.9 s due, sent in 9.9 + 0.99 s.
    assert judge(records, burden).reasons == (
        "client CPU usage was 90% of 2 core(s) (max 80%); lower --rate or raise --workers",
        "client event-loop lag p99 was 12.3 ms (max 5 ms); use an otherwise idle machine or raise "
        "--workers",
        "90.9% of the scheduled rate was sent (min 99%); lower --rate",
        "100.0% of requests failed (max 5%); the latencies of the rest are biased",
    )


def test_a_caller_may_allow_more_failures() -> None:
    """Half of them, where that is what was asked for."""
    half = [
        msgspec.structs.replace(r, error="reset" if n % 2 else None) for n, r in enumerate(RECORDS)
    ]

    assert judge(half, LIGHT, max_error_share=0.5).valid
    assert not judge(half, LIGHT, max_error_share=0.49).valid


def test_nothing_sent_has_figures_of_nothing() -> None:
    """No division by no requests."""
    found = judge([], LIGHT)

    assert found.reasons == ("no request was sent",)
    assert (found.error_share, found.achieved_share) == (0.0, 1.0)
    assert (found.dispatch_p50_ms, found.dispatch_p99_ms) == (0.0, 0.0)


def test_the_achieved_share_adds_up_the_turns() -> None:
    """Turn 0: due in 1 s, sent in 2 s.  Turn 1: due in 3 s, sent in 3 s.  (1 + 3) / (2 + 3)."""
    due = [at(a_record(), 0, 0.0), at(a_record(), 0, 1.0), at(a_record(), 1, 0.0)]
    due += [at(a_record(), 1, 3.0)]
    sent = [due[0], msgspec.structs.replace(due[1], sent_s=due[0].due_s + 2.0), *due[2:]]

    assert achieved_share(sent) == pytest.approx(0.8)


def test_two_arms_of_one_turn_are_two_stretches() -> None:
    """Both replayed turn 0, one after the other: the pause between them is not lateness."""
    first = [at(a_record(), 0, 0.0), at(a_record(), 0, 1.0)]
    second = [
        msgspec.structs.replace(r, arm="managed", due_s=r.due_s + 50, sent_s=r.sent_s + 50)
        for r in first
    ]
    late = [second[0], msgspec.structs.replace(second[1], sent_s=second[1].sent_s + 2.0)]

    assert achieved_share([*first, *second]) == 1.0
    assert achieved_share([*first, *late]) == pytest.approx(2.0 / 4.0)


def test_one_request_is_too_little_to_tell() -> None:
    """Nor can more than all be sent."""
    one = at(a_record(), 0, 0.0)
    early = msgspec.structs.replace(at(a_record(), 0, 2.0), sent_s=1.0)

    assert achieved_share([one]) == 1.0
    assert achieved_share([msgspec.structs.replace(one, sent_s=3.0)]) == 1.0
    assert achieved_share([one, early]) == 1.0
    assert achieved_share([]) == 1.0


def test_a_short_stretch_counts_like_a_long_one() -> None:
    """Due in 0.5 s, sent in 0.8 s; sent in no time at all, before it was due: all of it."""
    first, last = at(a_record(), 0, 0.0), at(a_record(), 0, 0.5)

    late = msgspec.structs.replace(last, sent_s=0.8)
    at_once = msgspec.structs.replace(last, sent_s=0.0)
    assert achieved_share([first, late]) == pytest.approx(0.5 / 0.8)
    assert achieved_share([first, at_once]) == 1.0
