"""Profiles: what was measured, and what is carried to other hardware."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from servekit.enginesim.calibration import (
    ALL_REDUCE_S,
    READ_EFFICIENCY,
    calibration_for,
    load_calibration,
)
from servekit.enginesim.hardware import GPUS, MODELS, ModelShape
from servekit.enginesim.known_models import KNOWN_MODELS
from servekit.enginesim.step_profile import Knots, StepProfile, interpolate
from servekit.errors.tree import SettingInvalid

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"


def test_measured_pair_is_used_as_it_is() -> None:
    """Llama-3.1-8B on an H200 has a profile of its own."""
    calibration = calibration_for(LLAMA, gpu="h200", utilization=0.92)

    assert calibration.source == "measured"
    assert calibration.kv_cache_tokens == 921_696


def test_scaling_says_so() -> None:
    """A profile that nobody measured names where it comes from."""
    scaled, measured = calibration_for(LLAMA, gpu="h100"), calibration_for(LLAMA, gpu="h200")

    assert "scaled from" in scaled.source
    assert "unverified" in scaled.source
    assert not scaled.verified
    assert measured.verified


def test_scaling_to_where_it_came_from_changes_little() -> None:
    """The KV cache that the rule predicts for the measured pair is what vLLM reported, to 2 %."""
    calibration = calibration_for(LLAMA, gpu="h200", utilization=0.93)

    assert calibration.kv_cache_tokens * 0.92 / 0.93 == pytest.approx(921_696, rel=0.02)


def test_less_bandwidth_decodes_slower_and_prefills_alike() -> None:
    """An H100 has the arithmetic of an H200 and 70 % of its bandwidth."""
    fast, slow = (calibration_for(LLAMA, gpu=gpu).profile for gpu in ("h200", "h100"))

    assert 1.2 < slow.decode_step_s(1, 100) / fast.decode_step_s(1, 100) < 1.5
    assert slow.step_s(8192, 0.0, 0, 0) == pytest.approx(fast.step_s(8192, 0.0, 0, 0), rel=0.02)


def test_two_gpus_are_faster_than_one_but_not_twice() -> None:
    """All-reduces take part of what dividing the work saves."""
    one, two = (
        calibration_for(LLAMA, tensor_parallel_size=size).profile.step_s(4096, 0.0, 0, 0)
        for size in (1, 2)
    )

    assert one / 2 < two < one


def test_all_reduces_are_two_a_layer() -> None:
    """A second GPU divides the reading of weights and adds the all-reduces to a decode step."""
    one, two = (calibration_for(LLAMA, tensor_parallel_size=size) for size in (1, 2))

    shared = one.profile.decode_step_s(1, 0) - two.profile.decode_step_s(1, 0)
    read_s = 2 * MODELS[LLAMA].parameters / (GPUS["h100"].bandwidth * READ_EFFICIENCY)
    launches = 2 * MODELS[LLAMA].layers * ALL_REDUCE_S
    assert shared == pytest.approx(read_s / 2 - launches, rel=0.01)


def test_mixture_reads_more_experts_as_the_batch_grows() -> None:
    """One sequence touches two of eight experts, sixteen touch nearly all."""
    profile = calibration_for(MIXTRAL, tensor_parallel_size=2, utilization=0.9).profile

    alone, many = profile.decode_step_s(1, 100), profile.decode_step_s(16, 1600)

    assert many > 2 * alone


def test_model_that_does_not_fit_is_refused() -> None:
    """A model larger than its GPUs has no KV cache, and the message says what to do."""
    with pytest.raises(SettingInvalid, match="use more GPUs"):
        calibration_for(MIXTRAL, gpu="h100")


def test_unknown_gpu_is_refused() -> None:
    """The message lists the known ones."""
    with pytest.raises(SettingInvalid, match="h100"):
        calibration_for(LLAMA, gpu="abacus")


# The rule, term by term, from the data sheets' numbers: bytes and operations per second.
H200 = (4.8e12, 989e12, 450e9)
SHEETS = {"h200": H200, "h100": (3.35e12, 989e12, 450e9), "l4": (0.3e12, 121e12, 32e9)}
PAIRS = [
    ("Qwen/Qwen2.5-7B-Instruct", "l4", 1),
    ("Qwen/Qwen2.5-14B-Instruct", "h200", 1),
    ("Qwen/Qwen2.5-14B-Instruct", "l4", 4),
    ("meta-llama/Llama-3.1-70B-Instruct", "h100", 4),
    (MIXTRAL, "h100", 2),
    ("casperhansen/mixtral-instruct-awq", "l4", 2),
]


def _read_s(shape: ModelShape, parameters: float, bandwidth: float) -> float:
    return shape.weight_bytes * parameters / (0.93 * bandwidth)


@pytest.mark.parametrize(("model", "gpu", "size"), PAIRS)
def test_every_term_is_scaled_by_what_it_depends_on(model: str, gpu: str, size: int) -> None:
    """Reading by bandwidth, arithmetic by flops, launching by layers, all but that by GPUs."""
    base = calibration_for(LLAMA, gpu="h200").profile
    scaled = calibration_for(model, gpu=gpu, tensor_parallel_size=size, utilization=0.9).profile
    shape, (bandwidth, flops, _) = KNOWN_MODELS[model], SHEETS[gpu]
    arithmetic = 989e12 / flops / size
    active = shape.active_parameters / 8.03e9

    kv = shape.kv_bytes_per_token / 131_072 * 4.8e12 / bandwidth / size
    assert scaled.kv_token_s == pytest.approx(base.kv_token_s * kv)
    assert scaled.mixed_kv_token_s == pytest.approx(base.mixed_kv_token_s * kv)
    width = shape.layers * shape.attention_width / (32 * 4096)
    pair_s = base.attended_pair_s * width * arithmetic
    assert scaled.attended_pair_s == pytest.approx(pair_s)
    assert scaled.hot_token_s == pytest.approx(base.hot_token_s * active * arithmetic)
    launch_s = [one * shape.layers / 32 for one in base.launch_s]
    assert list(scaled.launch_s) == pytest.approx(launch_s)
    same = ("frontend_s", "frontend_token_s", "idle_start_s", "hot_after_s", "jitter_s")
    assert [getattr(scaled, name) for name in same] == [getattr(base, name) for name in same]


@pytest.mark.parametrize(("model", "gpu", "size"), PAIRS)
def test_a_forward_pass_reads_or_computes(model: str, gpu: str, size: int) -> None:
    """Weights are its floor; beyond, each token costs what one GPU's part of it takes."""
    base = calibration_for(LLAMA, gpu="h200").profile
    scaled = calibration_for(model, gpu=gpu, tensor_parallel_size=size, utilization=0.9).profile
    shape, (bandwidth, flops, link) = KNOWN_MODELS[model], SHEETS[gpu]
    launch = base.forward_s[0][1] - 2 * 8.03e9 / (0.93 * 4.8e12)
    per_token = shape.active_parameters / 8.03e9 * 989e12 / flops / size

    def exchanged(tokens: float) -> float:
        """Two rings a layer, each sends 2 (n - 1) / n of the hidden states, two bytes each."""
        sent = 2 * (size - 1) / size * tokens * shape.hidden * 2
        return 0.0 if size == 1 else 2 * shape.layers * (10e-6 + sent / link)

    none = launch + _read_s(shape, shape.weights_read(0), bandwidth) / size
    assert scaled.forward_s[0][0] == 0.0
    assert scaled.forward_s[0][1] == pytest.approx(none + exchanged(0))
    floor = launch + _read_s(shape, shape.parameters, bandwidth) / size
    for (tokens, seconds), (same, before) in zip(
        scaled.forward_s[1:], base.forward_s[1:], strict=True
    ):
        busy = max(floor, launch + (before - launch) * per_token)
        assert tokens == same
        assert seconds == pytest.approx(busy + exchanged(tokens))


@pytest.mark.parametrize(("model", "gpu", "size"), PAIRS)
def test_decoding_reads_the_experts_that_were_chosen(model: str, gpu: str, size: int) -> None:
    base = calibration_for(LLAMA, gpu="h200").profile
    scaled = calibration_for(model, gpu=gpu, tensor_parallel_size=size, utilization=0.9).profile
    shape = KNOWN_MODELS[model]

    if not shape.experts:
        assert scaled.decode_s == base.decode_s
        return
    for batch in (1, 2, 8, 64):
        chosen = 1 - (1 - shape.experts_per_token / shape.experts) ** batch
        more = _read_s(shape, shape.expert_parameters * chosen, SHEETS[gpu][0]) / size
        before = interpolate(base.decode_s, batch)
        assert interpolate(scaled.decode_s, batch) == pytest.approx(before + more)


@pytest.mark.parametrize(
    ("model", "gpu", "size", "share", "memory"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "l4", 1, 0.92, 23_034),
        ("meta-llama/Llama-3.1-70B-Instruct", "h100", 4, 0.9, 81_559),
        ("Qwen/Qwen2.5-7B-Instruct", "a100-80gb", 2, 0.5, 81_920),
    ],
)
def test_kv_cache_is_what_weights_and_activations_leave(
    model: str, gpu: str, size: int, share: float, memory: int
) -> None:
    """1.8 GB of each GPU are neither; nvidia-smi counts MiB."""
    shape = KNOWN_MODELS[model]
    left = memory * 2**20 * share - 1.8e9 - 2 * shape.parameters / size

    found = calibration_for(model, gpu=gpu, tensor_parallel_size=size, utilization=share)

    assert found.kv_cache_tokens == int(left * size / shape.kv_bytes_per_token)
    assert (found.model, found.gpu, found.tensor_parallel_size) == (model, gpu, size)
    assert found.profile.name == f"{model} on {size} x {gpu}"


def test_a_profile_that_is_faster_is_faster_in_everything() -> None:
    """Every time is divided: a step, its launch, the way to it."""
    profile = calibration_for(LLAMA, gpu="h200").profile
    twice = profile.faster(2.0)

    def times(one: StepProfile) -> list[float]:
        knots: list[Knots] = [one.forward_s, one.decode_s]
        single = ["kv_token_s", "mixed_kv_token_s", "attended_pair_s", "frontend_s"]
        single += ["frontend_token_s", "idle_start_s", "hot_token_s", "hot_after_s", "jitter_s"]
        curves = [seconds for curve in knots for _, seconds in curve]
        return [*curves, *one.launch_s, *(getattr(one, name) for name in single)]

    assert times(twice) == pytest.approx([seconds / 2 for seconds in times(profile)])
    assert [x for x, _ in twice.forward_s] == [x for x, _ in profile.forward_s]


def test_a_line_through_knots() -> None:
    """Straight between them, and on beyond the ends; a single one is everywhere."""
    knots = ((0.0, 1.0), (10.0, 2.0), (20.0, 5.0))
    xs = (0, 5, 10, 15, 20, 30)

    assert [interpolate(knots, x) for x in xs] == pytest.approx([1, 1.5, 2, 3.5, 5, 8])
    assert interpolate(((3.0, 7.0),), 99) == 7.0


def test_launches_take_every_value_in_turn() -> None:
    """In an order without a pattern: each value as often as any other."""
    none = StepProfile("p", ((0.0, 1.0),), ((0.0, 0.0),), 0.0, 0.0, 0.0)
    profile = replace(none, launch_s=(1.0, 2.0, 3.0))
    seen = [profile.nth_launch_s(number) for number in range(300)]

    assert [seen.count(value) for value in (1.0, 2.0, 3.0)] == pytest.approx([100] * 3, abs=2)
    assert seen[:6] == [1.0, 2.0, 1.0, 3.0, 2.0, 1.0]
    assert none.nth_launch_s(1) == 0.0


def test_a_step_is_the_sum_of_its_parts() -> None:
    profile = StepProfile(
        name="p",
        forward_s=((0.0, 1.0), (100.0, 3.0)),
        decode_s=((0.0, 0.0), (10.0, 0.5)),
        kv_token_s=0.001,
        mixed_kv_token_s=0.002,
        attended_pair_s=0.0001,
        hot_token_s=0.01,
    )

    assert profile.decode_step_s(4, 50) == pytest.approx(1.0 + 0.2 + 0.05)
    assert profile.step_s(0, 0.0, 4, 50, heat=1.0) == profile.decode_step_s(4, 50)
    mixed = 2.0 + 0.01 * 0.5 * 50 + 0.0001 * 1000 + 0.2 + 0.002 * 50
    assert profile.step_s(50, 1000.0, 4, 50, heat=0.5) == pytest.approx(mixed)


def test_a_profile_can_be_written_and_read(tmp_path: Path) -> None:
    """What is left out is zero, but for the time in which heat follows."""
    path = tmp_path / "profile.json"
    step = {"forward_s": [[0, 1]], "decode_s": [[0, 2]], "kv_token_s": 3, "mixed_kv_token_s": 4}
    step |= {"attended_pair_s": 5}
    profile = {"model": "m", "gpu": "g", "tensor_parallel_size": 2, "kv_cache_tokens": 6}
    path.write_text(json.dumps(profile | {"step": step}))

    found = load_calibration(path)

    expected = StepProfile("m on 2 x g", ((0, 1),), ((0, 2),), 3, 4, 5)
    assert found.profile == expected
    assert (found.kv_cache_tokens, found.source, found.verified) == (6, "measured", True)
    path.write_text(json.dumps(profile | {"step": step | {"jitter_s": 1, "launch_s": [7]}}))
    assert load_calibration(path).profile.launch_s == (7,)
    assert load_calibration(path).profile.jitter_s == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": "m"}'])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)

    with pytest.raises(SettingInvalid, match=r"profile\.json is not a calibration profile"):
        load_calibration(path)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="'org/m' is unknown to the simulator"):
        calibration_for("org/m")
