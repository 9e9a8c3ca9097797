"""What the engine is started with, from the settings and what was found.  Pure."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from cloudrun.settings import CloudRunSettings
from servekit.container.engine_command import EngineCommand, build_command
from servekit.container.local_model import LocalModel
from servekit.engine.arguments import EngineArguments
from servekit.engine.dtype import GpuArch, choose_dtype
from servekit.engine.retired_flags import translate_retired


def plan_engine(
    settings: CloudRunSettings,
    model: LocalModel,
    arch: GpuArch | None,
    *,
    port: int,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
) -> EngineCommand:
    """Return the engine's command and environment; it listens on *port* of loopback."""
    arguments = EngineArguments(
        model=str(model.folder),
        port=port,
        served_model_names=model.served_names,
        dtype=settings.dtype or choose_dtype(model.facts.family, arch),
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        optimization_level=settings.optimization_level,
        load_format=settings.load_format or None,
        extra=translate_retired(settings.engine_args.words, warn),
    )
    cache = PurePosixPath(settings.vllm_cache_root)
    return build_command(settings, arguments, environ, cache=cache, warn=warn)
