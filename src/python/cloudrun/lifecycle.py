"""A container of Cloud Run: which model, which command, and the compile cache put back and kept."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from cloudrun.compile_cache import CompileKey, capture, restore, write_key
from cloudrun.fetch import BlockingHub, fetch_model
from cloudrun.plan import plan_engine
from cloudrun.settings import CloudRunSettings
from cloudrun.stores import open_store
from servekit.container.engine_command import ENGINE_HOME, EngineCommand
from servekit.container.engine_versions import find_versions
from servekit.container.lifecycle import PreparedEngine
from servekit.container.local_model import LocalModel, find_model, require_length
from servekit.container.startup_progress import StartupProgress
from servekit.container.system import find_arch
from servekit.engine.dtype import GpuArch
from servekit.engine.environment import compile_variables
from servekit.errors.tree import ServeError
from servekit.weights.threads import in_thread

log = structlog.get_logger()

# vLLM's words for a compile cache that it found and could not load.
REJECTED = "Compiling model again due to a load failure"


@dataclass(slots=True)
class CloudRun:
    """One container's decisions.

    Attributes:
        key: of the compile cache; None where there is nothing to capture.
    """

    settings: CloudRunSettings
    progress: StartupProgress
    environ: Mapping[str, str]
    fetch: BlockingHub
    key: CompileKey | None = None

    async def prepare(self, engine_port: int) -> PreparedEngine:
        settings = self.settings
        model = await in_thread(self._find_model)
        require_length(settings.max_model_len, model)
        arch = await find_arch(settings.torch_cuda_arch_list, _warn)
        plan = plan_engine(
            settings, model, arch, port=engine_port, environ=self.environ, warn=_warn
        )
        await asyncio.to_thread(Path(ENGINE_HOME).mkdir, parents=True, exist_ok=True)
        self.key = await self._restore(model, plan, arch)
        self.progress.facts.update(
            model=model.name,
            revision=model.revision,
            gpu_arch=str(arch) if arch else None,
            dtype=plan.arguments.dtype,
            optimization_level=plan.arguments.optimization_level,
        )
        return PreparedEngine(
            argv=plan.argv,
            environ=plan.environ,
            shown=plan.arguments.shown(),
            model=model.name,
            ready_by_s=settings.startup_timeout_s,
            max_model_len=settings.max_model_len or model.facts.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            vocab_size=model.facts.vocab_size,
            prewarms=not settings.skip_prewarm,
        )

    def on_engine_line(self, line: str) -> None:
        if REJECTED in line:
            self.progress.facts["compile_cache"] = "rejected by the engine"

    async def on_ready(self) -> None:
        where = self.settings.compile_cache_capture
        if self.key is None or not where:
            return
        try:
            store = open_store(where, self.environ)
            root = self.settings.vllm_cache_root
            manifest = await asyncio.to_thread(capture, root, store)
        except ServeError as error:
            log.warning("compile cache not captured", reason=str(error))
            return
        log.info("compile cache captured", digest=self.key.digest, files=manifest.files, to=where)

    def _find_model(self, stop: threading.Event) -> LocalModel:
        settings, hf_home = self.settings, self.settings.hf_home
        if settings.hf_hub_offline:
            return find_model(settings.model_name, settings.model_revision, hf_home)
        fetch = partial(self.fetch, stop=stop)
        return fetch_model(settings.model_name, settings.model_revision, hf_home, fetch)

    async def _restore(
        self, model: LocalModel, plan: EngineCommand, arch: GpuArch | None
    ) -> CompileKey | None:
        """Put the caches back; return their key where there is something to capture.

        At level 0 as well: what vLLM found out about the model, and Triton's kernels, are 20 s of
        a start with nothing cached (H200).
        """
        versions = await find_versions(self.settings.engine_python, plan.environ)
        if arch is None or versions is None:
            return None
        key = CompileKey(
            gpu_arch=str(arch),
            vllm=versions.vllm,
            torch=versions.torch,
            model=str(model.folder),
            revision=model.revision,
            flags=plan.arguments.compile_flags(),
            variables=compile_variables(plan.environ),
        )
        root = self.settings.vllm_cache_root
        restored = await asyncio.to_thread(self._restore_from, root, key)
        self.progress.facts["compile_cache"] = "restored" if restored else "none"
        await asyncio.to_thread(write_key, root, key)
        return None if restored else key

    def _restore_from(self, root: Path, key: CompileKey) -> bool:
        try:
            store = open_store(self.settings.compile_cache, self.environ)
            manifest = restore(root, key, store)
        except ServeError as error:
            # A start without the cache is slow, and right.
            log.warning("compile cache refused", reason=str(error))
            return False
        if manifest is None:
            log.info("no compile cache for this engine", digest=key.digest)
            return False
        log.info("compile cache restored", digest=key.digest, files=manifest.files)
        return True


def _warn(message: str) -> None:
    log.warning(message)
