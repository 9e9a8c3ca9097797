"""One model server: a device, a model on the volume, and an engine that serves it."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog

from model_server.device import Device, choose_device
from model_server.gpus import look_for_gpus
from model_server.plan import max_model_len, plan_engine
from model_server.settings import ModelServerSettings
from model_server.weights import Hub, bring_model
from servekit.container.engine_command import ENGINE_HOME
from servekit.container.engine_versions import find_versions
from servekit.container.lifecycle import PreparedEngine
from servekit.container.local_model import LocalModel, require_length
from servekit.container.startup_progress import StartupProgress
from servekit.errors.tree import SettingInvalid
from servekit.timing.clock import Clock

log = structlog.get_logger()

# As the seed's script was called.
DOWNLOAD = "Model download"


@dataclass(frozen=True, slots=True)
class ModelServer:
    """One server's decisions."""

    settings: ModelServerSettings
    progress: StartupProgress
    environ: Mapping[str, str]
    clock: Clock
    hub: Hub

    async def prepare(self, engine_port: int) -> PreparedEngine:
        settings = self.settings
        # First what takes no time: a node without a GPU need not download anything.
        device = await find_device(settings, self.environ, _warn)
        model = await self._bring_model()
        require_length(settings.max_model_len, model)
        plan = plan_engine(
            settings,
            model,
            device,
            port=engine_port,
            cache=await asyncio.to_thread(engine_cache, settings, _warn),
            environ=self.environ,
            warn=_warn,
        )
        await asyncio.to_thread(make_engine_home, Path(ENGINE_HOME))
        self.progress.facts.update(
            model=model.name,
            revision=model.revision,
            device=str(device),
            dtype=plan.arguments.dtype,
        )
        log.info("engine planned", device=str(device), dtype=plan.arguments.dtype)
        return PreparedEngine(
            argv=plan.argv,
            environ=plan.environ,
            shown=plan.arguments.shown(),
            model=settings.names[0],
            # A download took what it took; the engine's time begins now.
            ready_by_s=self.progress.stages.elapsed_s + settings.startup_timeout_s,
            max_model_len=max_model_len(settings, model),
            max_num_seqs=settings.max_num_seqs,
            vocab_size=model.facts.vocab_size,
            prewarms=not settings.skip_prewarm,
        )

    def on_engine_line(self, line: str) -> None:
        """What the engine logs is passed on, and no more."""

    async def on_ready(self) -> None:
        """Nothing more is kept: what the engine compiles is on the volume already."""

    async def _bring_model(self) -> LocalModel:
        with self.progress.within(DOWNLOAD):
            return await bring_model(
                self.settings,
                self.hub,
                self.progress,
                environ=self.environ,
                clock=self.clock,
                report=log.info,
            )


async def find_device(
    settings: ModelServerSettings, environ: Mapping[str, str], warn: Callable[[str], None]
) -> Device:
    """Return what the engine runs on here.

    Raises:
        DeviceMissing: nothing that it was built for.
    """
    node = await look_for_gpus(environ)
    versions = await find_versions(settings.engine_python, environ)
    return choose_device(
        settings.device, node, versions, parallel=settings.tensor_parallel_size, warn=warn
    )


def engine_cache(settings: ModelServerSettings, warn: Callable[[str], None]) -> PurePosixPath:
    """Return where the engine keeps what it compiles: on the volume, so that a restart finds it.

    Where the volume is read-only, in the container's own temporary folder.
    """
    folder = settings.vllm_cache_root or settings.models_folder / "cache" / "vllm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return PurePosixPath(folder)
    except OSError:
        pass
    spare = ENGINE_HOME / "cache"
    warn(f"{folder} cannot be written; what the engine compiles is lost with the container")
    return spare


def make_engine_home(folder: Path) -> None:
    """Make the folder that the engine takes for its own.

    Raises:
        SettingInvalid: nothing can be written there, as under a read-only root.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingInvalid(
            f"{folder} cannot be made: {error.strerror}; mount an emptyDir (docker run --tmpfs) on "
            f"{folder.parent}"
        ) from error


def _warn(message: str) -> None:
    log.warning(message)
