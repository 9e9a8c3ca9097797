"""The twin of a real engine, calibrated and validated on the spot."""

import json
from pathlib import Path

import pytest

from tests.real_engine.engine import Engine
from tests.support.programs import run

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(900)]

# How far the machine's own speed may be from what it was in either calibration: with ten processes
# per core it was seen to change by four, and a queue makes more of it.
_MACHINE = 8.0


def _calibrate(engine: Engine, profile: Path, seed: int) -> None:
    """Write a profile of the engine as it is now; *seed* makes prompts that it does not know."""
    load = ("--max-batch", "4", "--max-num-batched-tokens", "2048", "--seed", str(seed))
    run(
        "bench.runner",
        *("calibrate-engine", "--url", engine.url, "--gpu", "cpu", *load),
        *("--output", str(profile)),
    )


def _step_s(profile: Path) -> float:
    step = json.loads(profile.read_text())["step"]
    return float(step["forward_s"][0][1])


def test_twin_of_a_real_engine_is_near(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A profile is measured, and the same load on the engine and in virtual time is compared.

    Cores that others use change their speed by the minute.  So the engine is calibrated before and
    after the load, and the load's median is held to lie about where the two twins have it; the
    figures are in the output.
    """
    # The engine remembers the prompts of a run that failed, and a calibration refuses those.
    seed = 10 * getattr(request.node, "execution_count", 1)
    before, after, figures = (tmp_path / f"{name}.json" for name in ("before", "after", "figures"))
    _calibrate(engine, before, seed=seed)

    load = ("--rate", "2", "--seconds", "15", "--seed", str(seed + 1), "--output", str(figures))
    asked = ("validate-engine", "--url", engine.url, "--profile", str(before))
    said = run("bench.runner", *asked, *load)
    _calibrate(engine, after, seed=seed + 2)

    (row,) = (r for r in json.loads(figures.read_text()) if r["metric"] == "E2E p50 ms")
    drift = _step_s(after) / _step_s(before)
    least, most = sorted((row["twin"], row["twin"] * drift))
    assert "max error" in said
    assert least / _MACHINE < row["real"] < most * _MACHINE
