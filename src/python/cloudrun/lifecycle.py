"""The life of a container: start, be ready when it is fast, drain, end."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from cloudrun.compile_cache import CompileKey, capture, restore, write_key
from cloudrun.fetch import FetchRepo, fetch_model
from cloudrun.plan import ENGINE_HOME, EnginePlan, plan_engine
from cloudrun.settings import CloudRunSettings
from cloudrun.stores import open_store
from servekit.cli.logs import announce
from servekit.client.client import Client
from servekit.container import progress as stages
from servekit.container.engine_versions import find_versions
from servekit.container.front import FrontServer
from servekit.container.model import Model, find_model, require_length
from servekit.container.phases import PhaseReader
from servekit.container.prewarm import plan_shapes, prewarm
from servekit.container.progress import Progress
from servekit.container.system import find_arch, free_port, name_host, raise_open_files
from servekit.engine.dtype import GpuArch
from servekit.engine.environment import compile_variables
from servekit.errors.tree import EngineExited, ServeError
from servekit.health.readiness import wait_until_ready
from servekit.launch.child import Child, describe_exit, start_child
from servekit.timing.clock import Clock
from servekit.timing.timeline import Stage

log = structlog.get_logger()

# An idle vLLM ends 0.5 s after SIGTERM (H200), or 2.5 s on a CPU; it gets at most this of the
# platform's grace, and the streams get the rest.
ENGINE_STOP_S = 2.0

# vLLM's words for a compile cache that it found and could not load.
REJECTED = "Compiling model again due to a load failure"

# A look at /health must not hang on an engine that accepts and does not answer.
PROBE_TIMEOUT_S = 5.0

# The seed's limit for one warm-up request.
PREWARM_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class World:
    """What a container's life needs of the outside.

    Attributes:
        write: takes the engine's own log lines and our summary.
    """

    environ: Mapping[str, str]
    clock: Clock
    fetch: FetchRepo
    write: Callable[[str], None]


async def serve(
    settings: CloudRunSettings, progress: Progress, world: World, stop: asyncio.Event
) -> None:
    """Serve until *stop*, and then drain.

    Raises:
        EngineExited: the engine ended by itself; carries its last words.
        EngineNotReady: it did not serve in time.
        ConfigError: something that was set cannot be used.
    """
    front = FrontServer(progress, world.clock, engine_port=free_port())
    port = await front.start(settings.listen_host, settings.port)
    announce("listening", url=f"http://{settings.listen_host}:{port}")
    life = _Life(settings, progress, world, front)
    try:
        await life.run(stop, port)
    finally:
        front.close()


@dataclass(slots=True)
class _Life:
    settings: CloudRunSettings
    progress: Progress
    world: World
    front: FrontServer
    child: Child | None = None

    async def run(self, stop: asyncio.Event, port: int) -> None:
        starting = asyncio.ensure_future(self._start(port))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                await self._until_stopped(stopping)
            await self._drain()
        finally:
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
            if self.child is not None:
                await self.child.stop(ENGINE_STOP_S)

    async def _start(self, port: int) -> None:
        with self.progress.during(stages.SYSTEM):
            raise_open_files(_warn)
            name_host(_warn)
        with self.progress.during(stages.ENVIRONMENT):
            model, plan, key = await self._prepare()
        with self.progress.during(stages.ENGINE):
            await self._start_engine(plan)
        if self.settings.prewarms:
            with self.progress.during(stages.PREWARM):
                await self._prewarm(model)
        with self.progress.during(stages.READY):
            self.progress.ready = True
        self._report(port)
        if key is not None:
            await self._capture(key)

    async def _prepare(self) -> tuple[Model, EnginePlan, CompileKey | None]:
        settings = self.settings
        model = await asyncio.to_thread(self._find_model)
        require_length(settings.max_model_len, model)
        arch = await find_arch(settings.torch_cuda_arch_list, _warn)
        plan = plan_engine(
            settings,
            model,
            arch,
            port=self.front.engine_port,
            environ=self.world.environ,
            warn=_warn,
        )
        await asyncio.to_thread(Path(ENGINE_HOME).mkdir, parents=True, exist_ok=True)
        key = await self._restore(model, plan, arch)
        self.progress.facts.update(
            model=model.name,
            revision=model.revision,
            gpu_arch=str(arch) if arch else None,
            dtype=plan.arguments.dtype,
            optimization_level=plan.arguments.optimization_level,
        )
        return model, plan, key

    def _find_model(self) -> Model:
        settings, hf_home = self.settings, Path(self.settings.hf_home)
        if settings.offline:
            return find_model(settings.model_name, settings.model_revision, hf_home)
        return fetch_model(settings.model_name, settings.model_revision, hf_home, self.world.fetch)

    async def _restore(
        self, model: Model, plan: EnginePlan, arch: GpuArch | None
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
        root = Path(self.settings.vllm_cache_root)
        restored = await asyncio.to_thread(self._restore_from, root, key)
        self.progress.facts["compile_cache"] = "restored" if restored else "none"
        await asyncio.to_thread(write_key, root, key)
        return None if restored else key

    def _restore_from(self, root: Path, key: CompileKey) -> bool:
        try:
            store = open_store(self.settings.compile_cache, self.world.environ)
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

    async def _start_engine(self, plan: EnginePlan) -> None:
        clock, timeline = self.world.clock, self.progress.stages
        log.info("engine starting", command=plan.arguments.shown())
        reader = PhaseReader(timeline.elapsed_s)
        secrets = [s for s in (self.settings.vllm_api_key, self.settings.hf_token) if s]

        def on_line(line: str) -> None:
            self._take_phase(reader.read(line, timeline.elapsed_s), reader.current)
            if REJECTED in line:
                self.progress.facts["compile_cache"] = "rejected by the engine"
            self.world.write(_masked(line, secrets))

        self.child = await start_child(plan.argv, plan.environ, on_line)
        probe = self._client(PROBE_TIMEOUT_S)

        async def healthy() -> bool:
            return (await probe.get("/health"))[0] == 200

        try:
            await self.child.while_running(
                wait_until_ready(
                    healthy,
                    clock=clock,
                    timeout_s=self.settings.startup_timeout_s - timeline.elapsed_s,
                )
            )
        finally:
            await probe.aclose()
            self.progress.phase = ""

    def _take_phase(self, stage: Stage | None, current: str) -> None:
        if stage is None or self.progress.stage != stages.ENGINE:
            return
        self.progress.phases.append(stage)
        self.progress.phase = current

    async def _prewarm(self, model: Model) -> None:
        assert self.child is not None
        client = self._client(PREWARM_TIMEOUT_S)
        length = self.settings.max_model_len or model.facts.max_model_len
        work = prewarm(
            client,
            model.name,
            plan_shapes(length, self.settings.max_num_seqs),
            vocab_size=model.facts.vocab_size,
            clock=self.world.clock,
        )
        left_s = self.settings.startup_timeout_s - self.progress.stages.elapsed_s
        try:
            results = await self.child.while_running(asyncio.wait_for(work, max(1.0, left_s)))
        except TimeoutError:
            log.warning("prewarm given up", after_s=round(left_s, 1))
            return
        finally:
            await client.aclose()
        for result in results:
            tell = log.warning if result.error else log.info
            tell(
                "prewarmed" if result.error is None else "prewarm failed",
                tokens=result.shape.prompt_tokens,
                requests=result.shape.requests,
                seconds=round(result.seconds, 3),
                **({"error": result.error} if result.error else {}),
            )

    def _report(self, port: int) -> None:
        self.world.write(self.progress.summary())
        try:
            Path(self.settings.timeline_file).write_bytes(self.progress.to_json())
        except OSError as error:
            log.warning("timeline not kept", file=self.settings.timeline_file, reason=str(error))
        url = f"http://{self.settings.listen_host}:{port}"
        announce("ready", url=url, after_s=round(self.progress.total_s, 3))

    async def _capture(self, key: CompileKey) -> None:
        where = self.settings.compile_cache_capture
        if not where:
            return
        try:
            store = open_store(where, self.world.environ)
            root = Path(self.settings.vllm_cache_root)
            manifest = await asyncio.to_thread(capture, root, store)
        except ServeError as error:
            log.warning("compile cache not captured", reason=str(error))
            return
        log.info("compile cache captured", digest=key.digest, files=manifest.files, to=where)

    async def _until_stopped(self, stopping: "asyncio.Future[Literal[True]]") -> None:
        assert self.child is not None
        gone = asyncio.ensure_future(self.child.wait())
        ends: list[asyncio.Future[Any]] = [gone, stopping]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise EngineExited(describe_exit(gone.result(), self.child.tail))
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _drain(self) -> None:
        in_flight = len(self.front.active)
        log.info("draining", in_flight=in_flight, grace_s=self.settings.shutdown_grace_s)
        limit_s = max(0.0, self.settings.shutdown_grace_s - ENGINE_STOP_S)
        lost = await self.front.drain(limit_s)
        tell = log.warning if lost else log.info
        tell("drained", in_flight=in_flight, lost=lost)

    def _client(self, timeout_s: float) -> Client:
        return Client(
            f"http://127.0.0.1:{self.front.engine_port}",
            self.world.clock,
            timeout_s=timeout_s,
            api_key=self.settings.vllm_api_key,
        )


def _masked(line: str, secrets: list[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, "***")
    return line


def _warn(message: str) -> None:
    log.warning(message)
