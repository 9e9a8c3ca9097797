"""What a start and a nap take, against what was measured."""

import json
from pathlib import Path

import pytest

from servekit.enginesim.startup import SLEEP_S, STAGES, WAKE_S, Start, start_s, start_stages
from servekit.errors.tree import SettingInvalid

MEASURED = Path(__file__).parents[2] / "golden/h200_vllm_0.26.0"
PHASES = "coldstart_phases.json"

# Each start, and which of the measured ones it is.
STARTS: dict[Start, str] = {
    "empty": "t1_allcold",
    "cold": "cold",
    "warm": "t2_warm",
    "plan": "plan2",
    "eager": "eager",
    "no-compile": "O0",
}

# The keys of a measured start, in the order of STAGES.
KEYS = (
    *("api_import", "model_inspect", "core_spawn_import", "dev_init", "weights", "compile"),
    *("profile_kv", "graph_capture", "triton_warmup", "api_up"),
)


@pytest.mark.parametrize("start", STARTS)
def test_start_is_as_long_as_it_was_measured(start: Start) -> None:
    """Every stage is the measured one, and together they are the whole but for repeats of 2 s."""
    starts = {one["name"]: one for one in json.loads((MEASURED / PHASES).read_text())}
    measured = starts[STARTS[start]]

    assert [stage.seconds for stage in start_stages(start)] == [measured[key] for key in KEYS]
    assert start_s(start) == pytest.approx(measured["ready"], abs=2.0)


def test_stages_of_a_start_come_in_order_and_add_up() -> None:
    """Every start has every stage, in the order in which vLLM takes them."""
    stages = start_stages("cold")

    assert tuple(stage.name for stage in stages) == STAGES
    assert sum(stage.seconds for stage in stages) == start_s("cold")


def test_weights_from_disk_take_their_time() -> None:
    """16 GB took 8 s where dummy weights take 1."""
    stages = {stage.name: stage.seconds for stage in start_stages("warm", 16.06e9)}

    assert stages["weights"] == pytest.approx(8.0, abs=0.1)


def test_unknown_start_is_refused() -> None:
    """The message lists what was measured."""
    with pytest.raises(SettingInvalid, match="warm"):
        start_stages("lukewarm")  # type: ignore[arg-type]


def test_naps_are_as_long_as_they_were_measured() -> None:
    """Falling asleep and waking, by level; the first nap of all, which moves the weights into
    memory that the host has yet to find, is another matter."""
    naps = json.loads((MEASURED / "sleep.json").read_text())
    usual = {nap["level"]: nap for nap in naps}

    for level, nap in usual.items():
        assert SLEEP_S[level] == pytest.approx(nap["sleep_s"], abs=0.01)
        assert WAKE_S[level] == pytest.approx(nap["wake_s"], abs=0.01)


def test_deeper_sleep_is_reached_sooner() -> None:
    """Level 2 throws away what level 1 carries to the host; awake at level 0 nothing moves."""
    assert SLEEP_S[0] == WAKE_S[0] == 0.0
    assert SLEEP_S[2] < SLEEP_S[1]
    assert WAKE_S[2] < WAKE_S[1]
