"""What the engine is started with, from the settings and what was found.  Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from cloudrun.settings import CloudRunSettings
from servekit.container.engine_defaults import ENGINE_DEFAULTS, ENGINE_HOME
from servekit.container.model import Model
from servekit.engine.arguments import EngineArguments
from servekit.engine.dtype import GpuArch, choose_dtype
from servekit.engine.environment import EngineFolders, engine_environment
from servekit.engine.retired_flags import translate_retired

# Ours; they mean nothing to the engine.
_OURS = frozenset(
    {
        "PORT",
        "LISTEN_HOST",
        "MODEL_NAME",
        "MODEL_REVISION",
        "COMPILE_CACHE",
        "COMPILE_CACHE_CAPTURE",
        "ENGINE_ARGS",
        "ENGINE_COMMAND",
        "ENGINE_PYTHON",
        "OPTIMIZATION_LEVEL",
        "SKIP_PREWARM",
        # We have translated it, and said so.
        "VLLM_TORCH_COMPILE_LEVEL",
    }
)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """One start of the engine."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    arguments: EngineArguments


def plan_engine(
    settings: CloudRunSettings,
    model: Model,
    arch: GpuArch | None,
    *,
    port: int,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
) -> EnginePlan:
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
        # In the environment it would be part of the compile cache's key.
        api_key=settings.vllm_api_key or None,
        extra=translate_retired(settings.extra_args, warn),
    )
    folders = EngineFolders(PurePosixPath(settings.vllm_cache_root), ENGINE_HOME)
    given = {name: value for name, value in environ.items() if name not in _OURS}
    return EnginePlan(
        argv=(*settings.engine_words, *arguments.argv()),
        environ=engine_environment({**ENGINE_DEFAULTS, **given, **_hub(settings)}, folders, warn),
        arguments=arguments,
    )


def _hub(settings: CloudRunSettings) -> dict[str, str]:
    # The model is here by now, whoever brought it.
    return {"HF_HOME": settings.hf_home, "HF_HUB_OFFLINE": "1"}
