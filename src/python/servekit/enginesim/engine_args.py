"""Arguments of `vllm serve` -> what they change in a simulated engine.  Pure.

An argument either changes the simulation, or has no effect on speed and memory, or is refused by
name: none is ignored without a word.  Names and meanings are those of vLLM 0.26 to 0.33
(vllm/engine/arg_utils.py); a test holds them to the captured `serve --help`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from servekit.errors.tree import SettingInvalid

# vLLM's own defaults: a step's budget and sequences are larger on GPUs of 70 GiB and more, but for
# the A100 (EngineArgs.get_batch_defaults).
_SMALL_GPUS = frozenset({"a100-80gb", "l4"})

# CUDA graphs are captured up to twice max_num_seqs, at most this (VllmConfig._set_cudagraph_sizes).
_MOST_CAPTURED = 512

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine was started with; None where vLLM decides.

    Attributes:
        max_captured_tokens: tokens of the largest step that is a CUDA graph; 0 for none.
        kv_cache_memory_bytes: fixed size of the KV cache per GPU, instead of a share of the memory.
        num_blocks: fixed number of KV-cache blocks.
        kv_bytes: bytes per element of the KV cache.
        weight_bits: bits per weight, where vLLM quantizes while it loads.
    """

    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_queued_reqs: int | None = None
    max_captured_tokens: int | None = None
    block_size: int = BLOCK_TOKENS
    prefix_caching: bool = True
    async_scheduling: bool = True
    tensor_parallel_size: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    num_blocks: int | None = None
    kv_bytes: float | None = None
    weight_bits: float | None = None

    def batch_limits(self, gpu: str) -> tuple[int, int]:
        """Return max_num_batched_tokens and max_num_seqs on GPUs of type *gpu*."""
        small = gpu in _SMALL_GPUS
        tokens = self.max_num_batched_tokens or (2048 if small else 8192)
        seqs = self.max_num_seqs or min(tokens, 256 if small else 1024)
        return tokens, seqs

    def captured_tokens(self, max_num_seqs: int) -> int:
        """Return the tokens of the largest step that is a CUDA graph."""
        if self.max_captured_tokens is not None:
            return self.max_captured_tokens
        return min(2 * max_num_seqs, _MOST_CAPTURED)


DEFAULT_OPTIONS = EngineOptions()


def read_engine_args(words: Sequence[str]) -> EngineOptions:
    """Return what *words*, arguments of `vllm serve`, ask for.  A later one wins, as in vLLM.

    Raises:
        SettingInvalid: one is not simulated, lacks its value, or has one that vLLM refuses.
    """
    found: dict[str, Any] = {}
    for flag, values in _arguments(words):
        name, wanted = _positive(flag)
        if name in _SWITCHES:
            found |= _SWITCHES[name](wanted)
        elif name in _VALUES:
            found |= _VALUES[name](name, _one(name, values))
        elif name not in WITHOUT_EFFECT:
            raise SettingInvalid(f"engine argument {flag} is not simulated; remove it")
    return EngineOptions(**found)


def simulated_flags() -> frozenset[str]:
    """Return every flag that is known here."""
    return frozenset(_SWITCHES) | frozenset(_VALUES) | WITHOUT_EFFECT


# Words -> flags.

_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-q": "--quantization",
}
_SHORT |= {"-dp": "--data-parallel-size", "-O": "--optimization-level"}


def _arguments(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each flag with the words behind it, as argparse would group them."""
    flag: str | None = None
    values: list[str] = []
    for word in words:
        if not _is_flag(word):
            if flag is None:
                raise SettingInvalid(f"engine argument {word!r} belongs to no flag; remove it")
            values.append(word)
            continue
        if flag is not None:
            yield flag, values
        name, equals, value = word.partition("=")
        if name[:2] == "-O" and name[2:].isdigit():
            name, equals, value = "-O", "=", name[2:]
        flag = _SHORT.get(name, name.replace("_", "-"))
        values = [value] if equals else []
    if flag is not None:
        yield flag, values


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\d+(\.\d+)?", word)


def _positive(flag: str) -> tuple[str, bool]:
    """Return `--x` and whether it is switched on: `--no-x` switches it off."""
    if flag.startswith("--no-") and f"--{flag[5:]}" in {*_SWITCHES, *WITHOUT_EFFECT}:
        return f"--{flag[5:]}", False
    return flag, True


def _one(flag: str, values: list[str]) -> str:
    if len(values) != 1:
        raise SettingInvalid(f"engine argument {flag} needs one value, got {len(values)}")
    return values[0]


# Values.

# vLLM reads 1k as 1,000 and 1K as 1,024 (human_readable_int).
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)")
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SCALES |= {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _count(flag: str, text: str) -> int:
    match = _NUMBER.fullmatch(text)
    value = float(match[1]) * _SCALES[match[2]] if match else 0.0
    if value < 1 or value != int(value):
        raise SettingInvalid(
            f"engine argument {flag} is {text!r}; it must be a whole number above 0"
        )
    return int(value)


def _counted(name: str) -> Callable[[str, str], dict[str, Any]]:
    return lambda flag, text: {name: _count(flag, text)}


def _only(*allowed: str) -> Callable[[str, str], dict[str, Any]]:
    """Take a value that is what is simulated in any case."""

    def read(flag: str, text: str) -> dict[str, Any]:
        if text not in allowed:
            raise SettingInvalid(
                f"engine argument {flag} {text} is not simulated; use {' or '.join(allowed)}"
            )
        return {}

    return read


def _share(flag: str, text: str) -> dict[str, Any]:
    share = float(text) if _NUMBER.fullmatch(text) and text[-1].isdigit() else None
    if share is None or not 0 < share <= 1:
        raise SettingInvalid(
            f"engine argument {flag} is {text!r}; it must be above 0 and at most 1"
        )
    return {"gpu_memory_utilization": share}


def _block_size(flag: str, text: str) -> dict[str, Any]:
    size = _count(flag, text)
    if size not in (16, 32, 64, 128):
        raise SettingInvalid(f"engine argument {flag} is {text!r}; it must be 16, 32, 64 or 128")
    return {"block_size": size}


_KV_BYTES = {"auto": None, "bfloat16": 2.0, "float16": 2.0}
_KV_BYTES |= {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0}
_WEIGHT_BITS = {"fp8": 8.0, "bitsandbytes": 4.5}


def _choice(
    name: str, known: dict[str, float | None] | dict[str, float]
) -> Callable[[str, str], dict[str, Any]]:
    def read(flag: str, text: str) -> dict[str, Any]:
        if text not in known:
            raise SettingInvalid(
                f"engine argument {flag} {text} is not simulated; use {', '.join(known)}"
            )
        return {name: known[text]}

    return read


def _optimization(flag: str, text: str) -> dict[str, Any]:
    if text not in ("0", "1", "2", "3"):
        raise SettingInvalid(f"engine argument {flag} is {text!r}; it must be 0, 1, 2 or 3")
    return {"max_captured_tokens": 0} if text == "0" else {}


def _eager(wanted: bool) -> dict[str, Any]:
    return {"max_captured_tokens": 0} if wanted else {}


def _always(flag: str, simulated: bool) -> Callable[[bool], dict[str, Any]]:
    """Take a switch only where it stands as the simulation has it."""

    def read(wanted: bool) -> dict[str, Any]:
        if wanted is not simulated:
            shown = flag if wanted else f"--no-{flag[2:]}"
            raise SettingInvalid(f"engine argument {shown} is not simulated; remove it")
        return {}

    return read


_SWITCHES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "--enable-prefix-caching": lambda wanted: {"prefix_caching": wanted},
    "--async-scheduling": lambda wanted: {"async_scheduling": wanted},
    "--enforce-eager": _eager,
    "--enable-chunked-prefill": _always("--enable-chunked-prefill", simulated=True),
    "--scheduler-reserve-full-isl": _always("--scheduler-reserve-full-isl", simulated=True),
    "--enable-expert-parallel": _always("--enable-expert-parallel", simulated=False),
    "--enable-lora": _always("--enable-lora", simulated=False),
    "--disable-hybrid-kv-cache-manager": _always(
        "--disable-hybrid-kv-cache-manager", simulated=True
    ),
}

_VALUES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "--max-model-len": _counted("max_model_len"),
    "--max-num-seqs": _counted("max_num_seqs"),
    "--max-num-batched-tokens": _counted("max_num_batched_tokens"),
    "--max-num-queued-reqs": _counted("max_num_queued_reqs"),
    "--max-cudagraph-capture-size": _counted("max_captured_tokens"),
    "--block-size": _block_size,
    "--tensor-parallel-size": _counted("tensor_parallel_size"),
    "--gpu-memory-utilization": _share,
    "--kv-cache-memory-bytes": _counted("kv_cache_memory_bytes"),
    "--num-gpu-blocks-override": _counted("num_blocks"),
    "--kv-cache-dtype": _choice("kv_bytes", _KV_BYTES),
    "--quantization": _choice("weight_bits", _WEIGHT_BITS),
    "--optimization-level": _optimization,
    "--dtype": _only("auto", "bfloat16", "float16", "half"),
    "--scheduling-policy": _only("fcfs"),
    "--pipeline-parallel-size": _only("1"),
    "--data-parallel-size": _only("1"),
    "--decode-context-parallel-size": _only("1"),
    "--runner": _only("auto", "generate"),
    "--stream-interval": _only("1"),
}

# What changes neither the time of a step nor the size of the KV cache.
WITHOUT_EFFECT = frozenset(
    {
        *("--host", "--port", "--uds", "--root-path", "--api-key", "--served-model-name"),
        *("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs"),
        *("--allowed-origins", "--allowed-methods", "--allowed-headers", "--allow-credentials"),
        *("--uvicorn-log-level", "--disable-uvicorn-access-log", "--enable-log-requests"),
        *("--disable-log-stats", "--max-log-len", "--enable-request-id-headers"),
        *("--otlp-traces-endpoint", "--shutdown-timeout", "--enable-sleep-mode"),
        *("--chat-template", "--chat-template-content-format", "--response-role"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "--reasoning-parser"),
        *("--enable-prompt-tokens-details", "--enable-force-include-usage"),
        *("--trust-remote-code", "--revision", "--code-revision", "--tokenizer"),
        *("--tokenizer-mode", "--tokenizer-revision", "--hf-token", "--download-dir"),
        *("--load-format", "--config-format", "--generation-config", "--seed"),
        *("--override-generation-config", "--max-logprobs", "--logprobs-mode"),
        *("--use-tqdm-on-load", "--model-loader-extra-config", "--safetensors-load-strategy"),
        *("--prefix-caching-hash-algo", "--distributed-executor-backend"),
        *("--limit-mm-per-prompt", "--structured-outputs-config"),
    }
)
