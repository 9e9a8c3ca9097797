"""The twin against the recorded loads, and against a live engine over HTTP."""

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.cli.calibrate_engine import recorded_profile
from bench.cli.validate_engine import (
    JUDGED,
    TwinTooFarOff,
    calibration_without,
    compare,
    measure_load,
    replay,
    validate_engine,
)
from bench.twin.engine_probe import NotMeasured, decode_at, measure
from bench.twin.live_engine import ProbeAnswer
from bench.twin.recordings import (
    LoadRequest,
    RecordedLoad,
    read_decode,
    read_loads,
    read_steps,
    read_ttft,
)
from bench.twin.step_fit import DecodePoint, TtftPoint, fit_profile
from servekit.enginesim.calibration import calibration_for
from servekit.errors.tree import SettingInvalid, WorkloadInvalid
from tests.servekit.enginesim.driving import PROFILE
from tests.simulator.serving import serving

RECORDED = Path(__file__).parents[2] / "golden/h200_vllm_0.26.0"
H200 = calibration_for("meta-llama/Llama-3.1-8B-Instruct", gpu="h200")

# What the twin must keep; what it reached is in docs/benchmarks/twin.md.
REACHED = 0.10


@pytest.mark.parametrize("load", read_loads(RECORDED), ids=lambda load: load.name)
def test_twin_follows_the_recorded_load(load: RecordedLoad) -> None:
    """TTFT and ITL at p50 and p90 are as near as the documentation says, and so is E2E."""
    rows = {row.metric: row for row in compare(load, H200)}

    assert max(abs(rows[metric].error) for metric in JUDGED) < REACHED
    assert abs(rows["E2E p50 ms"].error) < 0.05
    assert abs(rows["running mean"].error) < 0.05
    assert rows["running correlation"].twin > 0.9
    assert rows["KV usage correlation"].twin > 0.9


@pytest.mark.parametrize("load", read_loads(RECORDED), ids=lambda load: load.name)
def test_twin_predicts_a_load_that_it_never_saw(load: RecordedLoad) -> None:
    """A profile fitted to the steps of the two other loads is as near."""
    rows = {row.metric: row for row in compare(load, calibration_without(RECORDED, load))}

    assert max(abs(rows[metric].error) for metric in JUDGED) < REACHED


def test_steps_of_a_load_are_told_from_those_of_others() -> None:
    """Each load's steps are some, and together with the rest they are all."""
    everything = len(read_steps(RECORDED, 921_696).ended_ms)
    rest = [len(read_steps(RECORDED, 921_696, load).ended_ms) for load in read_loads(RECORDED)]

    assert all(0 < number < everything for number in rest)
    own = sum(everything - number for number in rest)
    # The first request of all, a warm-up, belongs to none.
    assert everything - 200 < own <= everything


def test_profile_is_what_the_measurements_say() -> None:
    """The committed profile is the fit of the committed measurements."""
    fitted = json.loads(recorded_profile(RECORDED))["step"]
    kept = H200.profile

    assert [y for _, y in fitted["forward_s"]] == pytest.approx(
        [y for _, y in kept.forward_s], rel=1e-3
    )
    assert fitted["kv_token_s"] == pytest.approx(kept.kv_token_s, rel=1e-3)
    assert fitted["hot_token_s"] == pytest.approx(kept.hot_token_s, rel=1e-3)
    assert tuple(fitted["launch_s"]) == pytest.approx(kept.launch_s, rel=1e-3)
    assert fitted["frontend_s"] == pytest.approx(kept.frontend_s, rel=1e-2)


def test_fit_from_outside_finds_a_known_profile() -> None:
    """Measurements that a profile would give lead back to it."""
    decode = [
        DecodePoint(n, n * context, PROFILE.decode_step_s(n, int(n * context)), 0.0)
        for n in (1, 4, 16, 64)
        for context in (500.0, 4000.0)
    ]
    ttft = [
        TtftPoint(n, 0.003 + PROFILE.step_s(n, n * n / 2, 0, 0))
        for n in (64, 256, 1024, 4096, 8192)
    ]
    hits = [TtftPoint(n, 0.003 + PROFILE.decode_step_s(1, 0), n - 1) for n in (500, 2000)]

    found = fit_profile("found", decode, [*ttft, *hits])

    for n in (300, 2000, 8000):
        real = PROFILE.step_s(n, n * n / 2, 0, 0)
        assert found.step_s(n, n * n / 2, 0, 0) == pytest.approx(real, rel=0.1)
    assert found.decode_step_s(16, 16_000) == pytest.approx(
        PROFILE.decode_step_s(16, 16_000), rel=0.02
    )
    assert found.frontend_s == pytest.approx(0.003, rel=0.1)


def test_too_few_measurements_are_refused() -> None:
    """Two points are the least that a line needs."""
    with pytest.raises(WorkloadInvalid, match="two decode points"):
        fit_profile("none", read_decode(RECORDED)[:1], read_ttft(RECORDED))


def test_folder_without_loads_is_named(tmp_path: Path) -> None:
    """The message has the folder and what should be in it."""
    with pytest.raises(WorkloadInvalid, match="Dreq_"):
        read_loads(tmp_path)


def test_live_load_is_replayed() -> None:
    """Every request that a live engine answered is in the twin's run, with its own lengths."""

    async def live() -> RecordedLoad:
        async with serving(speed=5.0, calibration=H200) as client:
            return await measure_load(client.server.url, 20.0, 1.0, (400, 20), 1)

    load = asyncio.run(live())
    outcome = replay(load.requests, H200)

    assert outcome.requests == len(load.requests) > 5
    assert outcome.tokens == sum(request.output_tokens for request in load.requests)
    assert all(0 < request.ttft_s <= request.last_s for request in load.requests)


class Scripted:
    """An engine that answers as it is told, time after time; the last script goes on for ever.

    A script is the seconds between two tokens of every answer; 0.0: they all came at once.
    """

    url = "http://scripted"
    max_model_len = 2048

    def __init__(self, *steps_s: float) -> None:
        self._steps_s = list(steps_s)

    async def must_ask_together(
        self, prompts: Sequence[int | list[int]], output_tokens: int
    ) -> list[ProbeAnswer]:
        step_s = self._steps_s.pop(0) if len(self._steps_s) > 1 else self._steps_s[0]
        gaps = (step_s,) * (output_tokens - 1)
        one = ProbeAnswer(0.0, 8, output_tokens, 0.1, 0.1 + sum(gaps), gaps, each_seen=step_s > 0)
        return [one for _ in prompts]


def test_step_that_was_not_seen_is_measured_again() -> None:
    """Attempts in which all tokens came at once do not count; the rest gives the median."""
    engine = Scripted(0.0, 0.004, 0.0, 0.030, 0.005)

    point = asyncio.run(decode_at(engine, batch=4, context=256))

    assert point.step_s == pytest.approx(0.005)
    assert point.sequences == 4


def test_step_that_is_never_seen_is_named() -> None:
    """The error has the engine, the batch and the context that could not be measured."""
    with pytest.raises(NotMeasured, match="http://scripted: decoding of 4 sequences at 256 tokens"):
        asyncio.run(decode_at(Scripted(0.0), batch=4, context=256))


def test_noise_in_one_point_leaves_every_step_a_length() -> None:
    """A long context that was slow for another reason is not taken for what contexts cost."""
    decode = [
        DecodePoint(1, 320.0, 0.004, 0.005),
        DecodePoint(1, 1088.0, 0.060, 0.070),
        DecodePoint(8, 2560.0, 0.006, 0.007),
        DecodePoint(8, 8704.0, 0.500, 0.600),
    ]
    ttft = [TtftPoint(n, 0.01 + n * 1e-5) for n in (64, 256, 1024)]

    found = fit_profile("noisy", decode, ttft)

    assert all(found.decode_step_s(point.sequences, 0) > 0 for point in decode)
    assert found.kv_token_s < 0.006 / 2560


def test_prompts_that_the_engine_knows_are_refused() -> None:
    """The same seed sends the same prompts, and a second run would measure the cache."""

    async def twice() -> None:
        async with serving(speed=5.0, calibration=H200) as client:
            await measure_load(client.server.url, 20.0, 0.5, (400, 4), 1)
            await measure_load(client.server.url, 20.0, 0.5, (400, 4), 1)

    with pytest.raises(TwinTooFarOff, match="use another --seed"):
        asyncio.run(twice())


def test_calibration_refuses_prompts_that_the_engine_knows() -> None:
    """A second calibration with the same seed would time the prefix cache."""

    async def twice() -> None:
        async with serving(speed=20.0, calibration=H200, max_model_len=600) as client:
            for _ in range(2):
                await measure(client.server.url, None, 1, 1, None)

    with pytest.raises(NotMeasured, match="use another --seed"):
        asyncio.run(twice())


def test_replay_sends_when_the_client_did() -> None:
    """Two requests far apart do not meet: both have the latency of an idle engine."""
    lonely = [LoadRequest(at, 500, 10, 0.0, 0.0) for at in (0.0, 5.0)]

    outcome = replay(lonely, H200)

    assert outcome.ttft_s[0] == pytest.approx(outcome.ttft_s[1])


def test_figures_can_be_written(tmp_path: Path) -> None:
    """Those of the curves come from numpy."""
    path = tmp_path / "figures.json"

    validate_engine(recorded=RECORDED, output=path)

    rows = json.loads(path.read_text())
    assert {row["metric"] for row in rows} >= {"TTFT p50 ms", "running mean", "KV usage mean"}


def test_loads_are_in_order_of_their_rate(tmp_path: Path) -> None:
    """Not of their files' names: q120 comes after q30."""
    lightest, *_, heaviest = sorted(RECORDED.glob("Dreq_*.json"))
    for name, like in (("q120", heaviest), ("q30", lightest)):
        (tmp_path / f"Dreq_{name}.json").symlink_to(like.resolve())
        about = like.with_name(like.name.replace("Dreq_", "D_"))
        (tmp_path / f"D_{name}.json").symlink_to(about.resolve())

    assert [load.name for load in read_loads(tmp_path)] == ["8.25 requests/s", "24.75 requests/s"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rate": math.nan}, "--rate is nan"),
        ({"rate": -1.0}, "--rate is -1"),
        ({"seconds": math.inf}, "--seconds inf"),
        ({"prompt_tokens": 0}, "--prompt-tokens is 0"),
        ({"output_tokens": -3}, "--output-tokens -3"),
        ({"within": math.nan}, "--max-error is nan"),
        ({"within": -1.0}, "--max-error is -1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], named: str) -> None:
    """Before the engine is asked, or the profile is read: neither is there."""
    with pytest.raises(SettingInvalid, match=named):
        validate_engine(url="http://127.0.0.1:9", profile=Path("none"), **options)
