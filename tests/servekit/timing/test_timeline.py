"""A start-up timeline."""

import json

import pytest

from servekit.timing.timeline import Stage, Timeline
from tests.support.clock import FakeClock


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock(now=100.0)


def test_stages_are_timed_from_the_start(clock: FakeClock) -> None:
    """A stage starts where the clock stood when it was entered, counted from the start."""
    timeline = Timeline(clock)

    with timeline.stage("Container initialization"):
        clock.advance(2.0)
    clock.advance(1.0)
    with timeline.stage("Ready to serve"):
        clock.advance(0.5)

    assert timeline.stages == (
        Stage("Container initialization", 0.0, 2.0),
        Stage("Ready to serve", 3.0, 3.5),
    )
    assert timeline.total_s == 3.5


def test_failing_stage_is_kept(clock: FakeClock) -> None:
    """The stage that broke is the one somebody wants to see."""
    timeline = Timeline(clock)

    with pytest.raises(ZeroDivisionError), timeline.stage("vLLM server startup"):
        clock.advance(4.0)
        raise ZeroDivisionError

    assert [stage.name for stage in timeline.stages] == ["vLLM server startup"]


def test_json_has_every_stage(clock: FakeClock) -> None:
    """The JSON form says what the value says."""
    timeline = Timeline(clock)
    with timeline.stage("weights"):
        clock.advance(1.25)

    assert json.loads(timeline.to_json()) == {
        "total_s": 1.25,
        "stages": [{"name": "weights", "start_s": 0.0, "end_s": 1.25}],
    }


def test_text_has_seconds_and_total(clock: FakeClock) -> None:
    """A line per stage, with its own seconds and the total at its end."""
    timeline = Timeline(clock)
    clock.advance(1.0)
    with timeline.stage("weights"):
        clock.advance(2.5)

    assert timeline.to_text().split() == ["weights", "2.50s", "(total", "3.50s)"]


def test_timeline_without_stages_is_empty(clock: FakeClock) -> None:
    """Nothing timed, nothing said."""
    assert (Timeline(clock).total_s, Timeline(clock).to_text()) == (0.0, "")


def test_stage_that_somebody_else_timed_is_kept(clock: FakeClock) -> None:
    """An engine times its own phases; ours began before we could look at a clock."""
    timeline = Timeline(clock, started_s=98.5)
    timeline.record(Stage("Container initialization", 0.0, timeline.elapsed_s))

    assert timeline.stages == (Stage("Container initialization", 0.0, 1.5),)
