"""vLLM's phases, from logs of real starts."""

import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.container.phases import MILESTONES, PhaseReader
from servekit.timing.timeline import Stage

LOGS = Path(__file__).parents[2] / "golden/vllm_logs"
NAMES = sorted(path.stem.removeprefix("v0.26.0_h200_") for path in LOGS.glob("*h200*.log"))

# Seconds since 1970, or vLLM's own 11-21 08:57:11.
_STAMP = re.compile(r"\) (\d+\.\d+) [A-Z]+ |\) [A-Z]+ \d\d-\d\d (\d\d):(\d\d):(\d\d) ")


def _seconds(line: str) -> float | None:
    match = _STAMP.search(line)
    if match is None:
        return None
    if match[1]:
        return float(match[1])
    hours, minutes, seconds = (int(part) for part in match.groups()[1:])
    return 3600.0 * hours + 60.0 * minutes + seconds


def _read(name: str, engine: str = "v0.26.0_h200") -> dict[str, Stage]:
    """The phases of a captured start; the process began some time before its first line."""
    lines = (LOGS / f"{engine}_{name}.log").read_text().splitlines()
    stamps = [_seconds(line) for line in lines]
    first_s = next(stamp for stamp in stamps if stamp is not None)
    reader = PhaseReader(first_s - 12.0)
    now_s = first_s
    stages = []
    for line, stamp in zip(lines, stamps, strict=True):
        now_s = stamp or now_s
        stage = reader.read(line, now_s)
        stages.append(stage)
    assert reader.current == ""
    return {stage.name: stage for stage in stages if stage is not None}


# Seconds, as they were taken from the same logs by hand when the H200 was measured.
@pytest.mark.parametrize(
    ("name", "phase", "seconds"),
    [
        ("cold", "compile", 14.2),
        ("cold", "graph capture", 3.9),
        ("cold", "Triton", 10.3),
        ("cold", "KV profile", 2.0),
        ("warm", "compile", 3.3),
        ("warm", "Triton", 0.5),
        ("warm", "engine core start", 12.9),
        ("restored", "compile", 3.3),
        ("restored", "Triton", 10.0),
        ("eager", "model inspection", 14.3),
        ("eager", "Triton", 10.5),
        ("O0", "KV profile", 1.5),
        ("realcold", "weights", 7.45),
        ("realcold", "model set-up", 0.55),
    ],
)
def test_phase_takes_as_long_as_it_was_measured(name: str, phase: str, seconds: float) -> None:
    """Within a tenth of a second of the published table."""
    assert _read(name)[phase].seconds == pytest.approx(seconds, abs=0.15)


@pytest.mark.parametrize("name", ["eager", "O0"])
def test_start_without_compilation_has_no_such_phase(name: str) -> None:
    """Nothing was compiled and nothing captured, so nothing is reported."""
    assert not {"compile", "graph capture"} & set(_read(name))


@pytest.mark.parametrize("name", NAMES)
def test_phases_follow_each_other_without_a_gap(name: str) -> None:
    """What they add up to is the whole start of the engine."""
    stages = list(_read(name).values())

    assert stages[0].name == "imports"
    assert stages[-1].name == "API server"
    assert all(before.end_s == after.start_s for before, after in pairwise(stages))


def test_another_release_on_a_cpu_is_read_as_well() -> None:
    """vLLM 0.32 has another banner, and the CPU's worker words of its own."""
    assert list(_read("O0", "v0.32.0_cpu")) == [
        "imports",
        "model inspection",
        "engine core start",
        "device",
        "weights",
        "KV profile",
        "Triton",
        "API server",
    ]


def test_repeated_line_ends_nothing() -> None:
    """vLLM logs some of its configuration twice, from two processes."""
    reader = PhaseReader(0.0)
    line = "INFO Resolved architecture: LlamaForCausalLM"

    assert reader.read(line, 2.0) is not None
    assert reader.read(line, 9.0) is None
    assert reader.current == "engine core start"


@given(seed=st.integers(0, 1000))
def test_phases_only_go_forwards(seed: int) -> None:
    """Lines in any order give phases in the right order, each at most once."""
    lines = [line for path in sorted(LOGS.glob("*.log")) for line in path.read_text().splitlines()]
    random.Random(seed).shuffle(lines)
    reader = PhaseReader(0.0)
    order = [milestone.phase for milestone in MILESTONES]

    found = [stage for at, line in enumerate(lines[:200]) if (stage := reader.read(line, at))]

    positions = [order.index(stage.name) for stage in found]
    assert positions == sorted(set(positions))
