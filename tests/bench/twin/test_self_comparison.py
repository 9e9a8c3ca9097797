"""The verdict against itself, in virtual time."""

from bench.twin.self_comparison import ArmTurn, self_test, virtual_run
from bench.workload.registry import schedule_for, trace_on_fleet
from bench.workload.schedule import Part, PartLayout, Schedule
from servekit.fleet.fleet import load_fleet

FLEET = load_fleet("h100")
SHAPE = PartLayout(parts=12, part_s=3.0, warmup_s=0.0)


def a_schedule(seed: int) -> Schedule:
    return schedule_for(SHAPE, trace_on_fleet(FLEET, 8.0, seed))


def test_virtual_requests_are_all_answered_in_order_of_cause() -> None:
    """Each call is answered once, its first token after it was sent and before its end."""
    schedule = a_schedule(1)
    part = Part(0, 0.0, 36.0, tuple(c for c in schedule.calls if c.at_s < 36.0))

    records = virtual_run("a", [ArmTurn(part, 0.0)], FLEET, 1)

    assert len(records) == len(part.calls)
    assert all(r.due_s < r.content_s[0] <= r.end_s for r in records)
    assert virtual_run("a", [ArmTurn(part, 0.0)], FLEET, 1) == records


def test_an_arm_compared_with_itself_is_rarely_called_different() -> None:
    """`self-comparison` runs 200 of these; five are enough to notice a verdict that errs often."""
    found = self_test((a_schedule(seed) for seed in range(5)), FLEET, SHAPE)

    assert found.runs == 5
    assert found.false_alarms <= 1


def test_an_arm_that_is_a_third_slower_is_seen() -> None:
    """The verdict is not silent for want of power."""
    found = self_test((a_schedule(seed) for seed in range(3)), FLEET, SHAPE, slow=1.3)

    assert found.false_alarms == 3
