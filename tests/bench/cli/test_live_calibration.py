"""Calibration against a running engine, in wall time."""

import asyncio
from pathlib import Path

import pytest

from bench.cli.calibrate_engine import profile_json
from bench.twin.engine_probe import measure
from bench.twin.step_fit import fit_profile
from servekit.enginesim.calibration import calibration_for, load_calibration
from tests.simulator.serving import serving

pytestmark = pytest.mark.slow

H200 = calibration_for("meta-llama/Llama-3.1-8B-Instruct", gpu="h200")


def test_calibration_of_a_live_engine_finds_its_profile(tmp_path: Path) -> None:
    """What is measured over HTTP on an engine of known speed is that speed."""

    async def live() -> bytes:
        async with serving(speed=1.0, calibration=H200, max_model_len=2048) as client:
            evidence = await measure(client.server.url, None, 8, 1, None)
            profile = fit_profile("found", evidence.decode, evidence.ttft, budget=8192)
            return profile_json(
                profile, evidence.model, "h200", 1, 0.92, evidence.kv_cache_tokens, {}
            )

    path = tmp_path / "profile.json"
    path.write_bytes(asyncio.run(live()))
    found = load_calibration(path)

    assert found.kv_cache_tokens == H200.kv_cache_tokens // 16 * 16
    ours, theirs = found.profile, H200.profile
    # A busy machine answers late and never early.
    assert 0.85 < ours.decode_step_s(4, 2000) / theirs.decode_step_s(4, 2000) < 4
    # The launch of an idle engine's step cannot be told from the step, from outside.
    real = theirs.step_s(1024, 1024**2 / 2, 0, 0) + theirs.frontend_s + theirs.idle_start_s
    assert 0.8 < (ours.step_s(1024, 1024**2 / 2, 0, 0) + ours.frontend_s) / real < 4
