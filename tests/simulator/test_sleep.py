"""What falling asleep and waking up take, against what was measured."""

import json
from pathlib import Path

import pytest

from simulator.sleep import SLEEP_S, WAKE_S

MEASURED = Path(__file__).parents[1] / "golden/h200_vllm_0.26.0"


def test_sleeps_are_as_long_as_they_were_measured() -> None:
    """By level; not the first sleep of all, for which the host has yet to find memory."""
    sleeps = json.loads((MEASURED / "sleep.json").read_text())
    usual = {sleep["level"]: sleep for sleep in sleeps}

    for level, sleep in usual.items():
        assert SLEEP_S[level] == pytest.approx(sleep["sleep_s"], abs=0.01)
        assert WAKE_S[level] == pytest.approx(sleep["wake_s"], abs=0.01)


def test_deeper_sleep_is_reached_sooner() -> None:
    """Level 2 throws away what level 1 carries to the host; awake at level 0 nothing moves."""
    assert SLEEP_S[0] == WAKE_S[0] == 0.0
    assert SLEEP_S[2] < SLEEP_S[1]
    assert WAKE_S[2] < WAKE_S[1]
