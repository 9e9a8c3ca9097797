"""One start of an engine: its command, and the environment that it is given.  Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from servekit.container.settings import ContainerSettings
from servekit.engine.arguments import EngineArguments
from servekit.engine.environment import EngineFolders, engine_environment

# The same in every container: HOME is part of the compile cache's key.
ENGINE_HOME = PurePosixPath("/tmp/engine-home")  # noqa: S108  (in the container)

# uvicorn's own limit is 5 s; a request that we relay on an idle connection must not meet its end.
ENGINE_KEEP_ALIVE_S = 75

ENGINE_DEFAULTS = {
    # Silence c10d's warning about destroy_process_group() and OpenTelemetry's about trace context.
    "TORCH_DISTRIBUTED_DEBUG": "OFF",
    "OTEL_SDK_DISABLED": "true",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(ENGINE_KEEP_ALIVE_S),
}


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """One start of the engine."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    arguments: EngineArguments


def build_command(
    settings: ContainerSettings,
    arguments: EngineArguments,
    environ: Mapping[str, str],
    *,
    cache: PurePosixPath,
    warn: Callable[[str], None],
    defaults: Mapping[str, str] = ENGINE_DEFAULTS,
) -> EngineCommand:
    """Return the start of an engine that keeps what it compiles in *cache*.

    Of *environ* it is given all but what only our own settings are read from.
    """
    if settings.engine_args.has_hub_token:
        warn("--hf-token of ENGINE_ARGS is not passed to the engine; set HF_TOKEN for a download")
    ours = settings.private_variables()
    given = {name: value for name, value in environ.items() if name not in ours}
    # The model is here by now, whoever brought it.
    hub = {"HF_HOME": str(settings.hf_home), "HF_HUB_OFFLINE": "1"}
    folders = EngineFolders(cache, ENGINE_HOME)
    return EngineCommand(
        argv=(*settings.engine_command, *arguments.argv()),
        environ=engine_environment(
            {**defaults, **given, **hub}, folders, warn, allowed=settings.engine_secrets
        ),
        arguments=arguments,
    )
