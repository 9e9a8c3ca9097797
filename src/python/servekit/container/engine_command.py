"""One start of an engine: its command, and the environment that it is given.  Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from servekit.container.engine_defaults import ENGINE_DEFAULTS, ENGINE_HOME
from servekit.container.settings import ContainerSettings
from servekit.engine.arguments import EngineArguments
from servekit.engine.environment import EngineFolders, engine_environment


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
        environ=engine_environment({**defaults, **given, **hub}, folders, warn),
        arguments=arguments,
    )
