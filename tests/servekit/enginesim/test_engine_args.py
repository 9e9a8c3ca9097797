"""Arguments of `vllm serve` change the simulation, have no effect, or are refused by name."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.enginesim.engine_args import (
    DEFAULT_OPTIONS,
    EngineOptions,
    read_engine_args,
    simulated_flags,
)
from servekit.errors.tree import SettingInvalid

HELP = Path(__file__).parents[2] / "golden/vllm/serve_help_v0.32.0.txt"


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ((), {}),
        (("--max-num-seqs", "32"), {"max_num_seqs": 32}),
        (("--max-num-seqs=32",), {"max_num_seqs": 32}),
        (("--max-num-seqs", "1"), {"max_num_seqs": 1}),
        (("--max_num_seqs", "32"), {"max_num_seqs": 32}),
        (("--max-num-seqs", "32", "--max-num-seqs", "64"), {"max_num_seqs": 64}),
        (("--max-num-batched-tokens", "2k"), {"max_num_batched_tokens": 2000}),
        (("--max-num-batched-tokens", "2K"), {"max_num_batched_tokens": 2048}),
        (("--max-model-len", "32.5k"), {"max_model_len": 32500}),
        (("--max-num-queued-reqs", "7"), {"max_num_queued_reqs": 7}),
        (("--no-enable-prefix-caching",), {"prefix_caching": False}),
        (("--enable-prefix-caching",), {"prefix_caching": True}),
        (("--no-async-scheduling",), {"async_scheduling": False}),
        (("--block-size", "32"), {"block_size": 32}),
        (("--enforce-eager",), {"max_captured_tokens": 0}),
        (("--no-enforce-eager",), {}),
        (("-O0",), {"max_captured_tokens": 0}),
        (("-O", "0"), {"max_captured_tokens": 0}),
        (("-O2",), {}),
        (("--max-cudagraph-capture-size", "64"), {"max_captured_tokens": 64}),
        (("-tp", "2"), {"tensor_parallel_size": 2}),
        (("--gpu-memory-utilization", "0.5"), {"gpu_memory_utilization": 0.5}),
        (("--kv-cache-memory-bytes", "64M"), {"kv_cache_memory_bytes": 64 * 2**20}),
        (("--num-gpu-blocks-override", "100"), {"num_blocks": 100}),
        (("--kv-cache-dtype", "fp8"), {"kv_bytes": 1.0}),
        (("--kv-cache-dtype", "auto"), {"kv_bytes": None}),
        (("--quantization", "fp8"), {"weight_bits": 8.0}),
        (("--dtype", "bfloat16", "-pp", "1", "--scheduling-policy", "fcfs"), {}),
        (("--served-model-name", "a", "b", "--seed", "-1", "--port", "1"), {}),
        (("--no-trust-remote-code",), {}),
    ],
)
def test_arguments_are_followed(words: tuple[str, ...], changes: dict[str, Any]) -> None:
    """As vLLM reads them: `--a b`, `--a=b`, `_` for `-`, the last one wins, 1k and 1K."""
    assert read_engine_args(words) == EngineOptions(**changes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--speculative-config", "{}"), "--speculative-config is not simulated"),
        (("--scheduling-policy", "priority"), "--scheduling-policy priority is not simulated"),
        (("--pipeline-parallel-size", "2"), "--pipeline-parallel-size 2 is not simulated"),
        (("--no-enable-chunked-prefill",), "--no-enable-chunked-prefill is not simulated"),
        (("--enable-lora",), "--enable-lora is not simulated"),
        (("--enable-expert-parallel",), "--enable-expert-parallel is not simulated"),
        (("--kv-cache-dtype", "nvfp4"), "--kv-cache-dtype nvfp4 is not simulated"),
        (("--quantization", "awq"), "--quantization awq is not simulated"),
        (("--dtype", "float32"), "--dtype float32 is not simulated"),
        (("--runner", "pooling"), "--runner pooling is not simulated"),
        (("--max-nun-seqs", "3"), "--max-nun-seqs is not simulated"),
        (("--max-num-seqs",), "--max-num-seqs needs one value, got 0"),
        (("--max-num-seqs", "1", "2"), "--max-num-seqs needs one value, got 2"),
        (("--max-num-seqs", "0"), "--max-num-seqs is '0'"),
        (("--max-num-seqs", "-1"), "--max-num-seqs is '-1'"),
        (("--max-num-seqs", "1.5"), "--max-num-seqs is '1.5'"),
        (("--max-model-len", "auto"), "--max-model-len is 'auto'"),
        (("--block-size", "17"), "--block-size is '17'"),
        (("--gpu-memory-utilization", "nan"), "--gpu-memory-utilization is 'nan'"),
        (("--gpu-memory-utilization", "1.1"), "--gpu-memory-utilization is '1.1'"),
        (("--gpu-memory-utilization", "much"), "--gpu-memory-utilization is 'much'"),
        (("-O9",), "--optimization-level is '9'"),
        (("32", "--max-num-seqs"), "'32' belongs to no flag"),
    ],
)
def test_what_is_not_simulated_is_refused_by_name(words: tuple[str, ...], message: str) -> None:
    """With the flag and the value; nothing is ignored without a word."""
    with pytest.raises(SettingInvalid, match=re.escape(message)):
        read_engine_args(words)


def test_every_flag_is_one_of_vllm() -> None:
    """A name that vLLM does not have would never be met."""
    known = set(re.findall(r"--[a-z0-9-]+", HELP.read_text()))

    assert simulated_flags() <= known


def test_every_flag_of_vllm_is_followed_or_refused() -> None:
    """None raises anything else, with a value or without."""
    for flag in set(re.findall(r"--[a-z0-9-]+", HELP.read_text())):
        for words in ((flag,), (flag, "1"), (f"{flag}=x",)):
            try:
                read_engine_args(words)
            except SettingInvalid as error:
                assert flag in str(error)


@given(st.lists(st.text(max_size=12) | st.sampled_from(sorted(simulated_flags())), max_size=6))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    try:
        read_engine_args(words)
    except SettingInvalid:
        return


@pytest.mark.parametrize(
    ("gpu", "options", "limits", "captured"),
    [
        ("h200", DEFAULT_OPTIONS, (8192, 1024), 512),
        ("h100", DEFAULT_OPTIONS, (8192, 1024), 512),
        ("l4", DEFAULT_OPTIONS, (2048, 256), 512),
        ("a100-80gb", DEFAULT_OPTIONS, (2048, 256), 512),
        ("h100", EngineOptions(max_num_seqs=32), (8192, 32), 64),
        ("h100", EngineOptions(max_num_batched_tokens=512), (512, 512), 512),
        ("l4", EngineOptions(max_captured_tokens=0), (2048, 256), 0),
    ],
)
def test_what_vllm_decides_by_itself(
    gpu: str, options: EngineOptions, limits: tuple[int, int], captured: int
) -> None:
    """EngineArgs.get_batch_defaults and VllmConfig._set_cudagraph_sizes."""
    assert options.batch_limits(gpu) == limits
    assert options.captured_tokens(limits[1]) == captured
