"""Profiles from data files, and the rule that carries one to another model, GPU or size.

Pure but for reading the package's own data.  A profile that was measured is used as it is; all
others are scaled from the nearest measured one and are not verified: no engine of that kind was
measured, and `EngineCalibration.source` says so.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from servekit.enginesim.hardware import GPUS, GpuType, ModelShape
from servekit.enginesim.known_models import KNOWN_MODELS
from servekit.enginesim.step_profile import Knots, StepProfile, interpolate
from servekit.errors.tree import SettingInvalid

# Activations, CUDA graphs and the allocator's slack: on the H200, memory times utilization, less
# the weights and the KV cache that vLLM then reported, leaves 1.8 GB.
OVERHEAD_BYTES = 1.8e9

# Share of the data sheet's bandwidth that reading reaches: on the H200, 131,072 bytes of KV cache
# per token at 4.8 TB/s would take 27.3 ns, and decoding took 29.4 ns.
READ_EFFICIENCY = 0.93

# Start of one all-reduce between GPUs of a host; assumed, not measured here.
ALL_REDUCE_S = 10e-6

# Batches at which the experts that a mixture reads are worked out.
_EXPERT_KNOTS = (0, 1, 2, 4, 8, 16, 32, 64, 256)


@dataclass(frozen=True, slots=True)
class EngineCalibration:
    """How fast one model runs on one kind of GPU, and what KV cache it has there.

    Attributes:
        kv_cache_tokens: tokens that the KV cache holds.
        source: "measured", or the rule and the measurement it was scaled from.
        verified: whether an engine of just this kind was measured.
    """

    model: str
    gpu: str
    tensor_parallel_size: int
    profile: StepProfile
    kv_cache_tokens: int
    source: str
    verified: bool = False


def calibration_for(
    model: str,
    *,
    gpu: str = "h100",
    tensor_parallel_size: int = 1,
    utilization: float = 0.92,
    shape: ModelShape | None = None,
) -> EngineCalibration:
    """Return the calibration of *model* on *tensor_parallel_size* GPUs of type *gpu*.

    *shape* is needed where the model is not one of `known_models`.

    Raises:
        SettingInvalid: the GPU or the model is unknown, or the model does not fit on so many.
    """
    if gpu not in GPUS:
        raise SettingInvalid(f"GPU type {gpu!r} is unknown; known: {', '.join(sorted(GPUS))}")
    known = KNOWN_MODELS.get(model)
    measured = _measured()
    if shape is None or (known is not None and shape.is_like(known)):
        for raw in measured:
            if (raw["model"], raw["gpu"], raw["tensor_parallel_size"]) == (
                model,
                gpu,
                tensor_parallel_size,
            ) and raw["gpu_memory_utilization"] == utilization:
                return read_calibration(raw)
    if (shape := shape or known) is None:
        raise SettingInvalid(
            f"model {model!r} is unknown to the simulator; give its config.json, or one of: "
            f"{', '.join(sorted(KNOWN_MODELS))}"
        )
    return scaled(read_calibration(measured[0]), shape, gpu, tensor_parallel_size, utilization)


def load_calibration(path: Path) -> EngineCalibration:
    """Return the calibration in a file, as `calibrate-engine` writes it.

    Raises:
        SettingInvalid: it cannot be read, or is not a calibration.
    """
    try:
        return read_calibration(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingInvalid(f"{path} is not a calibration profile: {error!r}") from error


def read_calibration(raw: dict[str, Any]) -> EngineCalibration:
    """Return the calibration in *raw*, the JSON object of a profile file."""
    step = raw["step"]
    name = f"{raw['model']} on {raw['tensor_parallel_size']} x {raw['gpu']}"
    profile = StepProfile(
        name=name,
        forward_s=_knots(step["forward_s"]),
        decode_s=_knots(step["decode_s"]),
        kv_token_s=step["kv_token_s"],
        mixed_kv_token_s=step["mixed_kv_token_s"],
        attended_pair_s=step["attended_pair_s"],
        frontend_s=step.get("frontend_s", 0.0),
        frontend_token_s=step.get("frontend_token_s", 0.0),
        idle_start_s=step.get("idle_start_s", 0.0),
        launch_s=tuple(step.get("launch_s", ())),
        hot_token_s=step.get("hot_token_s", 0.0),
        hot_after_s=step.get("hot_after_s", 0.05),
        jitter_s=step.get("jitter_s", 0.0),
    )
    return EngineCalibration(
        model=raw["model"],
        gpu=raw["gpu"],
        tensor_parallel_size=raw["tensor_parallel_size"],
        profile=profile,
        kv_cache_tokens=raw["kv_cache_tokens"],
        source="measured",
        verified=True,
    )


def scaled(
    base: EngineCalibration,
    shape: ModelShape,
    gpu: str,
    tensor_parallel_size: int,
    utilization: float,
) -> EngineCalibration:
    """Carry *base*, a measurement of a dense model on one GPU, to another model, GPU and size.

    The rule, part by part:
    - a decode step without sequences reads the weights at the memory's bandwidth; what it takes
      beyond that is the launch of kernels and stays;
    - each further prefill token costs arithmetic: active parameters over flops;
    - KV cache is read at the memory's bandwidth, attention costs width times layers over flops;
    - all of these are divided over the GPUs (the KV cache over as many as it has heads), which adds
      two all-reduces a layer, behind attention and behind the MLP
      (vllm/model_executor/layers/linear.py, RowParallelLinear);
    - a mixture of experts reads, in a step, those experts that any token chose.
    """
    here, there = GPUS[base.gpu], GPUS[gpu]
    origin = KNOWN_MODELS[base.model]
    tp = tensor_parallel_size
    compute = here.flops / there.flops / tp
    read = here.bandwidth / there.bandwidth
    profile = base.profile
    width = shape.layers * shape.attention_width / (origin.layers * origin.attention_width)
    kv = shape.kv_bytes_per_token / origin.kv_bytes_per_token * read / shape.kv_shards(tp)
    return EngineCalibration(
        model=shape.name,
        gpu=gpu,
        tensor_parallel_size=tp,
        profile=StepProfile(
            name=f"{shape.name} on {tp} x {gpu}",
            forward_s=_forward(profile, origin, shape, here, there, tp),
            decode_s=_decode(profile, shape, there, tp),
            kv_token_s=profile.kv_token_s * kv,
            mixed_kv_token_s=profile.mixed_kv_token_s * kv,
            attended_pair_s=profile.attended_pair_s * width * compute,
            frontend_s=profile.frontend_s,
            frontend_token_s=profile.frontend_token_s,
            idle_start_s=profile.idle_start_s,
            launch_s=tuple(y * shape.layers / origin.layers for y in profile.launch_s),
            hot_token_s=profile.hot_token_s
            * compute
            * shape.active_parameters
            / origin.active_parameters,
            hot_after_s=profile.hot_after_s,
            jitter_s=profile.jitter_s,
            window_tokens=shape.window or 0,
            window_share=shape.sliding_layers / shape.layers,
        ),
        kv_cache_tokens=kv_cache_tokens(shape, there, tp, utilization),
        source=f"scaled from {profile.name} by parameters, bandwidth and flops, unverified",
    )


def _forward(
    profile: StepProfile,
    origin: ModelShape,
    shape: ModelShape,
    here: GpuType,
    there: GpuType,
    tp: int,
) -> Knots:
    """Scale the forward pass: launching stays, reading weights and arithmetic change."""
    first = profile.forward_s[0][1]
    launch = max(0.0, first - _read_s(origin, origin.parameters, here))
    base = launch + _read_s(shape, shape.weights_read(0), there) / tp
    compute = shape.active_parameters / origin.active_parameters * here.flops / there.flops / tp
    # Reading, not arithmetic, is the floor of a small step, and a mixture then reads every expert.
    floor = launch + _read_s(shape, shape.parameters, there) / tp
    knots = [(0.0, base + _all_reduce_s(shape, there, tp, 0))]
    for tokens, seconds in profile.forward_s[1:]:
        busy = max(floor, launch + (seconds - launch) * compute)
        knots.append((tokens, busy + _all_reduce_s(shape, there, tp, tokens)))
    return tuple(knots)


def _decode(profile: StepProfile, shape: ModelShape, there: GpuType, tp: int) -> Knots:
    """Decoding sequences cost what they did, and make a mixture read more of its experts."""
    if not shape.experts:
        return profile.decode_s
    none = shape.weights_read(0)
    return tuple(
        (
            float(batch),
            interpolate(profile.decode_s, batch)
            + _read_s(shape, shape.weights_read(batch) - none, there) / tp,
        )
        for batch in _EXPERT_KNOTS
    )


def _read_s(shape: ModelShape, parameters: float, gpu: GpuType) -> float:
    return shape.weight_bytes * parameters / (gpu.bandwidth * READ_EFFICIENCY)


def _all_reduce_s(shape: ModelShape, gpu: GpuType, tp: int, tokens: float) -> float:
    """Two all-reduces a layer, in a ring: each moves 2 (n - 1) / n of the hidden states."""
    if tp == 1:
        return 0.0
    moved = 2 * (tp - 1) / tp * tokens * shape.hidden * 2
    return 2 * shape.layers * (ALL_REDUCE_S + moved / gpu.link)


def kv_cache_tokens(shape: ModelShape, gpu: GpuType, tp: int, utilization: float) -> int:
    weights = shape.weight_bytes * shape.parameters / tp
    per_gpu = gpu.memory_bytes * utilization - OVERHEAD_BYTES - weights
    tokens = int(per_gpu * shape.kv_shards(tp) / shape.kv_bytes_per_token)
    if tokens < 1:
        raise SettingInvalid(
            f"{shape.name} does not fit on {tp} x {gpu.name} at gpu_memory_utilization "
            f"{utilization}; use more GPUs or larger ones"
        )
    return tokens


def _knots(raw: list[list[float]]) -> Knots:
    return tuple((x, y) for x, y in raw)


def _measured() -> list[dict[str, Any]]:
    folder = resources.files("servekit.enginesim") / "profiles"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return [json.loads(file.read_text()) for file in files if file.name.endswith(".json")]
