"""The twin of a real engine, calibrated and validated on the spot."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.real_engine.engine import Engine
from tests.real_engine.programs import command, environ

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]


def _run(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        command("bench.runner", *arguments),
        env=environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_twin_of_a_real_engine_is_near(engine: Engine, tmp_path: Path) -> None:
    """A profile is measured, and the same load on the engine and in virtual time is compared.

    Shared cores make a CPU engine's times noisy: a median within a factor of three is all that is
    asked for; the figures are in the output.
    """
    profile, figures = tmp_path / "profile.json", tmp_path / "figures.json"
    measured = ("--gpu", "cpu", "--most", "8", "--budget", "2048", "--output", str(profile))
    _run("calibrate-engine", "--url", engine.url, *measured)

    load = ("--rate", "2", "--seconds", "15", "--output", str(figures))
    said = _run("validate-engine", "--url", engine.url, "--profile", str(profile), *load)

    rows = {row["metric"]: row for row in json.loads(figures.read_text())}
    assert "largest error" in said
    assert 1 / 3 < rows["E2E p50 ms"]["twin"] / rows["E2E p50 ms"]["real"] < 3
