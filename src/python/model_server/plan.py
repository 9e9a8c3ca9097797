"""What the engine is started with, from the settings and what was found.  Pure."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from model_server.device import Device
from model_server.settings import MAX_MODEL_LEN, ModelServerSettings
from servekit.container.engine_command import ENGINE_DEFAULTS, EngineCommand, build_command
from servekit.container.local_model import LocalModel
from servekit.engine.arguments import EngineArguments
from servekit.engine.dtype import choose_dtype
from servekit.engine.retired_flags import translate_retired

# vLLM would take half of the node's memory for its KV cache; beside 6.4 GB of weights, the seed's
# 12 GiB leave room for this: four conversations of 4096 tokens with Llama 3.2 3B (112 KiB a token).
_CPU_KV_CACHE_GIB = "2"


def plan_engine(
    settings: ModelServerSettings,
    model: LocalModel,
    device: Device,
    *,
    port: int,
    cache: PurePosixPath,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
) -> EngineCommand:
    """Return the engine's command and environment; it listens on *port* of loopback and keeps what
    it compiles in *cache*."""
    on_gpu = device.kind == "cuda"
    arguments = EngineArguments(
        model=str(model.folder),
        port=port,
        served_model_names=settings.names,
        dtype=settings.dtype or _dtype(model, device),
        max_model_len=max_model_len(settings, model),
        max_num_seqs=settings.max_num_seqs,
        gpu_memory_utilization=settings.gpu_memory_utilization if on_gpu else None,
        tensor_parallel_size=settings.tensor_parallel_size if on_gpu else None,
        optimization_level=settings.optimization_level if on_gpu else None,
        # Compiling for the CPU needs a C++ compiler, which images for serving do not have.
        enforce_eager=not on_gpu,
        load_format=settings.load_format or None,
        extra=translate_retired(settings.engine_args.words, warn),
    )
    return build_command(
        settings,
        arguments,
        environ,
        cache=cache,
        warn=warn,
        defaults={**ENGINE_DEFAULTS, **({} if on_gpu else _CPU_DEFAULTS)},
    )


def max_model_len(settings: ModelServerSettings, model: LocalModel) -> int:
    """Return what was asked for; else the seed's 4096, or what the model has of them."""
    return settings.max_model_len or min(MAX_MODEL_LEN, model.facts.max_model_len or MAX_MODEL_LEN)


_CPU_DEFAULTS = {"VLLM_CPU_KVCACHE_SPACE": _CPU_KV_CACHE_GIB}


def _dtype(model: LocalModel, device: Device) -> str:
    return choose_dtype(model.facts.family, device.gpus[0].arch if device.gpus else None)
