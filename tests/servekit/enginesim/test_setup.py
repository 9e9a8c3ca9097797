"""A model of the fleet file, with its arguments -> an engine."""

from dataclasses import replace
from typing import Any

import pytest

from servekit.enginesim.calibration import calibration_for
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import EngineRequest
from servekit.enginesim.setup import EngineSetup, engine_config, engine_setup
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import FleetModel
from tests.servekit.enginesim.driving import Outcome, drive
from tests.servekit.enginesim.test_model_config import DEEPSEEK_V3, DENSE, GEMMA_2

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def _setup(*words: str, gpu: str = "h200", **changes: Any) -> EngineSetup:
    fields: dict[str, Any] = {"name": LLAMA, "short_name": "m", "gpu_memory_utilization": 0.92}
    return engine_setup(FleetModel(**(fields | changes), engine_args=words), gpu, environ={})


def _drive(setup: EngineSetup, requests: list[tuple[float, EngineRequest]]) -> Outcome:
    config = engine_config(setup.calibration, setup.options, setup.max_model_len)
    return drive(SimulatedEngine(config, setup.calibration.profile), requests)


BURST = [(0.0, EngineRequest(number, 1000, 20)) for number in range(100)]


def _end_s(setup: EngineSetup) -> float:
    return max(_drive(setup, BURST).last_s.values())


def test_without_arguments_it_is_the_measured_engine() -> None:
    setup = _setup()

    assert setup.calibration == calibration_for(LLAMA, gpu="h200")
    assert setup.calibration.verified


def test_a_config_of_the_same_model_is_the_measured_engine_too() -> None:
    """Whether the shape comes from our table or from the model's own folder."""
    assert _setup(config=DENSE).calibration.verified
    assert not _setup(config=DENSE | {"num_hidden_layers": 31}).calibration.verified


def test_arguments_reach_the_scheduler() -> None:
    words = ("--max-num-seqs", "32", "--max-num-batched-tokens", "2048", "--block-size", "32")
    setup = _setup(*words, "--no-enable-prefix-caching", "--max-num-queued-reqs", "9")
    config = engine_config(setup.calibration, setup.options, setup.max_model_len)

    assert (config.max_num_seqs, config.max_num_batched_tokens) == (32, 2048)
    assert (config.block_size, config.segment_tokens) == (32, 32)
    assert config.num_blocks == setup.calibration.kv_cache_tokens // 32
    assert (config.prefix_caching, config.async_scheduling) == (False, True)
    assert config.captured_tokens == 64
    assert config.max_in_flight == 9


def test_arguments_win_over_the_fleet_file() -> None:
    """They come last on vLLM's command line."""
    setup = _setup("--max-model-len", "1k", "-tp", "2", "--gpu-memory-utilization", "0.5")

    assert setup.max_model_len == 1000
    assert setup.calibration.tensor_parallel_size == 2
    like = _setup(tensor_parallel_size=2, gpu_memory_utilization=0.5)
    assert setup.calibration == like.calibration


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        (("--kv-cache-memory-bytes", "18000000000"), 137_329),
        (("--num-gpu-blocks-override", "100"), 1600),
        (("--num-gpu-blocks-override", "100", "--block-size", "32"), 3200),
    ],
)
def test_size_of_the_kv_cache(words: tuple[str, ...], tokens: int) -> None:
    """vLLM 0.26 reported 137,328 tokens for the first on an H200: whole blocks of 16."""
    assert _setup(*words).calibration.kv_cache_tokens == tokens


def test_a_cache_of_bytes_is_per_gpu() -> None:
    words = ("--kv-cache-memory-bytes", "1G")
    one, two = (_setup(*words, tensor_parallel_size=size).calibration for size in (1, 2))

    assert two.kv_cache_tokens == pytest.approx(2 * one.kv_cache_tokens, abs=1)


def test_an_fp8_cache_holds_twice_as_much_and_is_read_in_half_the_time() -> None:
    plain, half = _setup(gpu="h100").calibration, _setup("--kv-cache-dtype", "fp8", gpu="h100")

    assert half.calibration.kv_cache_tokens == pytest.approx(2 * plain.kv_cache_tokens, abs=1)
    assert half.calibration.profile.kv_token_s == pytest.approx(plain.profile.kv_token_s / 2)
    assert half.kv_bytes_per_token == 65_536


def test_fp8_weights_leave_more_memory_and_are_read_faster() -> None:
    plain, small = _setup(gpu="h100").calibration, _setup("-q", "fp8", gpu="h100").calibration

    saved = 8.03e9 / 131_072
    assert small.kv_cache_tokens - plain.kv_cache_tokens == pytest.approx(saved, rel=0.001)
    before, after = (c.profile.forward_s[0][1] for c in (plain, small))
    assert before - after == pytest.approx(8.03e9 / (3.35e12 * 0.93))


def test_each_argument_changes_what_clients_see() -> None:
    """A burst of 100 prompts ends later with few sequences and without CUDA graphs."""
    plain = _end_s(_setup())

    assert _end_s(_setup("--max-num-seqs", "8")) > 1.3 * plain
    assert _end_s(_setup("--enforce-eager")) > 1.02 * plain
    assert _end_s(_setup("--num-gpu-blocks-override", "100")) > 2 * plain
    assert _end_s(_setup("-tp", "4")) < plain


def test_eager_decoding_is_as_slow_as_it_was_measured() -> None:
    """Every step is launched kernel by kernel: 13.1 ms on the H200 instead of 4.9."""
    one = [(0.0, EngineRequest(1, 512, 200))]
    step_s = {
        words: (o.last_s[1] - o.first_s[1]) / 199
        for words in ((), ("--enforce-eager",))
        for o in [_drive(_setup(*words), one)]
    }

    assert step_s[()] == pytest.approx(0.0049, rel=0.05)
    assert step_s["--enforce-eager",] == pytest.approx(0.0131, rel=0.15)


def test_contradictions_are_refused() -> None:
    with pytest.raises(SettingInvalid, match="below max_num_seqs"):
        _setup("--max-num-seqs", "512", "--max-num-batched-tokens", "256")
    with pytest.raises(SettingInvalid, match="is quantized already"):
        _setup("-q", "fp8", name="x", config=DEEPSEEK_V3, tensor_parallel_size=8)
    with pytest.raises(SettingInvalid, match="less than a block"):
        _setup("--kv-cache-memory-bytes", str(16 * 131_072 - 1))
    assert _setup("--kv-cache-memory-bytes", str(16 * 131_072)).calibration.kv_cache_tokens == 16
    with pytest.raises(SettingInvalid, match="does not fit"):
        _setup(name="x", config=DEEPSEEK_V3)


def test_a_latent_cache_is_small_and_not_divided() -> None:
    """671 billion parameters in fp8 on eight H200, with a cache of 70 KB a token on each."""
    setup = _setup(name="x", config=DEEPSEEK_V3, tensor_parallel_size=8)
    memory = 143_771 * 2**20 * 0.92 - 1.8e9 - 672.8e9 / 8

    assert setup.kv_bytes_per_token == 70_272
    assert setup.calibration.kv_cache_tokens == pytest.approx(memory / 70_272, rel=0.01)


def test_a_sliding_window_bounds_what_decoding_reads() -> None:
    """Beyond the window only the other half of the layers reads more."""
    profile = _setup(name="x", config=GEMMA_2, max_model_len=32_000).calibration.profile
    whole = replace(profile, window_tokens=0)

    def more(one: Any, kv: int) -> float:
        return float(one.decode_step_s(2, kv) - one.decode_step_s(2, 0))

    assert more(profile, 2 * 4096) == pytest.approx(more(whole, 2 * 4096))
    assert more(profile, 2 * 8192) == pytest.approx(0.75 * more(whole, 2 * 8192))
    assert profile.growth_s(2, 2 * 4000) == pytest.approx(2 * profile.kv_token_s)
    assert profile.growth_s(2, 2 * 5000) == pytest.approx(profile.kv_token_s)
    assert profile.step_s(10, 10 * 8192.0, 0, 0) < whole.step_s(10, 10 * 8192.0, 0, 0)
