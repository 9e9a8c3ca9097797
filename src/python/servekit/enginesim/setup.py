"""A model, its GPUs and its arguments of `vllm serve` -> an engine to simulate.

Pure, but that a model's config.json may be read.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from servekit.enginesim.calibration import EngineCalibration, calibration_for
from servekit.enginesim.config import EngineConfig
from servekit.enginesim.engine_args import EngineOptions, read_engine_args
from servekit.enginesim.hardware import ModelShape
from servekit.enginesim.model_files import find_shape
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import FleetModel


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """An engine as it would be started.

    Attributes:
        kv_bytes_per_token: of its KV cache, in all of its GPUs.
    """

    calibration: EngineCalibration
    options: EngineOptions
    max_model_len: int
    kv_bytes_per_token: float


def engine_setup(
    model: FleetModel, gpu: str, environ: Mapping[str, str] = os.environ
) -> EngineSetup:
    """Return the engine that serves *model* on GPUs of type *gpu*.

    One of its `engine_args` wins over the same field of the fleet file, as on vLLM's command line.

    Raises:
        SettingInvalid: an argument is not simulated, the model or the GPU is unknown, or the model
            does not fit.
    """
    options = read_engine_args(model.engine_args)
    found = find_shape(model.name, weights=model.weights, config=model.config, environ=environ)
    shape = _changed(found, options)
    size = options.tensor_parallel_size or model.tensor_parallel_size
    calibration = calibration_for(
        model.name,
        gpu=gpu,
        tensor_parallel_size=size,
        utilization=options.gpu_memory_utilization or model.gpu_memory_utilization,
        shape=shape,
    )
    if options.kv_cache_memory_bytes is not None:
        shards = shape.kv_shards(size)
        tokens = int(options.kv_cache_memory_bytes * shards / shape.kv_bytes_per_token)
        calibration = replace(calibration, kv_cache_tokens=tokens)
    if options.num_blocks is not None:
        tokens = options.num_blocks * options.block_size
        calibration = replace(calibration, kv_cache_tokens=tokens)
    setup = EngineSetup(
        calibration, options, options.max_model_len or model.max_model_len, shape.kv_bytes_per_token
    )
    engine_config(setup.calibration, options, setup.max_model_len)
    return setup


def engine_config(
    calibration: EngineCalibration,
    options: EngineOptions,
    max_model_len: int,
    *,
    segment_tokens: int | None = None,
    max_in_flight: int | None = None,
    counts_failed_lookups: bool = False,
) -> EngineConfig:
    """Return what shapes the schedule of an engine.

    Raises:
        SettingInvalid: the options contradict one another, or the KV cache holds nothing.
    """
    blocks = calibration.kv_cache_tokens // options.block_size
    if blocks < 1:
        raise SettingInvalid(
            f"the KV cache of {calibration.model} holds {calibration.kv_cache_tokens} tokens, less "
            f"than a block of {options.block_size}; give it more memory"
        )
    tokens, seqs = options.batch_limits(calibration.gpu)
    return EngineConfig(
        num_blocks=blocks,
        max_model_len=max_model_len,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        block_size=options.block_size,
        segment_tokens=segment_tokens or options.block_size,
        prefix_caching=options.prefix_caching,
        async_scheduling=options.async_scheduling,
        captured_tokens=options.captured_tokens(seqs),
        max_in_flight=options.max_num_queued_reqs if max_in_flight is None else max_in_flight,
        counts_failed_lookups=counts_failed_lookups,
    )


def _changed(shape: ModelShape, options: EngineOptions) -> ModelShape:
    """Return *shape* as the engine's arguments make it."""
    if options.kv_bytes is not None:
        shape = replace(shape, kv_bytes=options.kv_bytes)
    if options.weight_bits is not None:
        if shape.weight_bytes < 2.0:
            raise SettingInvalid(
                f"engine argument --quantization: {shape.name} is quantized already; remove it"
            )
        shape = replace(shape, weight_bytes=options.weight_bits / 8)
    return shape
