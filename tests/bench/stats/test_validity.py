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
