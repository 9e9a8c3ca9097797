"""vLLM's command line as a value."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from servekit.engine.arguments import EngineArguments
from servekit.errors.tree import SettingInvalid

HELP = (Path(__file__).parents[2] / "golden/vllm/serve_help_v0.32.0.txt").read_text()
KNOWN_FLAGS = frozenset(re.findall(r"--[a-z][a-z0-9-]+", HELP))

WHOLE = EngineArguments(
    model="/models/llama",
    port=8001,
    served_model_names=("meta/llama", "llama"),
    revision="abc",
    dtype="bfloat16",
    max_model_len=2048,
    max_num_seqs=8,
    max_num_batched_tokens=512,
    max_num_queued_reqs=64,
    gpu_memory_utilization=0.95,
    kv_cache_memory_bytes=1024,
    tensor_parallel_size=2,
    optimization_level=2,
    enforce_eager=True,
    enable_prefix_caching=False,
    enable_sleep_mode=True,
    runner="pooling",
    convert="embed",
    load_format="dummy",
    shutdown_timeout=5,
)


def test_only_what_was_asked_for_is_said() -> None:
    """Whatever is left open stays vLLM's decision."""
    asked = EngineArguments(model="/models/llama", port=8001)

    assert asked.argv() == ("serve", "/models/llama", "--host", "127.0.0.1", "--port", "8001")


def test_every_flag_is_one_that_vllm_knows() -> None:
    """With every field set, no flag is missing from the captured help."""
    flags = {word for word in WHOLE.argv() if word.startswith("--")}

    assert len(flags) >= len(fields(EngineArguments)) - 2
    assert flags <= KNOWN_FLAGS


def test_all_names_follow_one_flag() -> None:
    """vLLM takes several served names after one --served-model-name."""
    argv = WHOLE.argv()

    start = argv.index("--served-model-name")
    assert argv[start + 1 : start + 3] == ("meta/llama", "llama")


def test_extra_arguments_come_last() -> None:
    """What we do not model is passed on as it is, and can override."""
    assert replace(WHOLE, extra=("--seed", "7")).argv()[-2:] == ("--seed", "7")


def test_passwords_in_arguments_that_we_do_not_know_are_not_shown() -> None:
    """Neither in a log, nor in the key of a compile cache, which lies in a bucket."""
    asked = replace(WHOLE, extra=("--otlp-traces-endpoint", "http://user:s3cret-pw@collector:4317"))

    assert "s3cret-pw" not in asked.shown()
    assert "s3cret-pw" not in " ".join(asked.compile_flags())
    assert "collector:4317" in asked.shown()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("port", 0),
        ("port", 65536),
        ("gpu_memory_utilization", 0.0),
        ("gpu_memory_utilization", 1.1),
        ("optimization_level", 9),
        ("optimization_level", -1),
        ("max_model_len", 0),
        ("max_num_seqs", 0),
        ("tensor_parallel_size", 0),
    ],
)
def test_impossible_value_is_refused(field: str, value: Any) -> None:
    """An argument that vLLM would refuse minutes later is refused at once."""
    with pytest.raises(SettingInvalid):
        replace(WHOLE, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 9),
        ("served_model_names", ("x",)),
        ("max_num_seqs", 9),
        ("gpu_memory_utilization", 0.5),
    ],
)
def test_compile_flags_ignore_what_compiles_nothing(field: str, value: Any) -> None:
    """A compile cache is found again under another port, name or batch limit."""
    assert replace(WHOLE, **{field: value}).compile_flags() == WHOLE.compile_flags()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "/models/other"),
        ("revision", "abd"),
        ("dtype", "float16"),
        ("max_model_len", 4096),
        ("max_num_batched_tokens", 1024),
        ("optimization_level", 3),
        ("enable_sleep_mode", False),
        ("extra", ("--block-size", "64")),
    ],
)
def test_compile_flags_tell_apart_what_compiles_anew(field: str, value: Any) -> None:
    """Whatever made vLLM compile anew when it was measured is part of the flags."""
    assert replace(WHOLE, **{field: value}).compile_flags() != WHOLE.compile_flags()
