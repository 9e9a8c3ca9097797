"""Profiles: what was measured, and what is carried to other hardware."""

import pytest

from servekit.enginesim.calibration import ALL_REDUCE_S, READ_EFFICIENCY, calibration_for
from servekit.enginesim.hardware import GPUS, MODELS
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
