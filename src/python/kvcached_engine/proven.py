"""Run vLLM, and let it serve only if its GPU memory follows its load, as it does with KVCached."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import aiohttp
import structlog
from aiohttp import web

from kvcached_engine.exposition import exposition
from kvcached_engine.gpu_memory import used_memory
from kvcached_engine.installed import installed_versions
from kvcached_engine.memory_proof import MemoryCourse, disproof
from kvcached_engine.prover import ProvedEngine, watch_memory
from kvcached_engine.segment import SegmentUsage, read_usage, turn
from kvcached_engine.settings import KVCachedSettings, Serving, engine_environ
from kvcached_engine.versions import V2_RUNNER
from servekit.cli.server import until_stopped
from servekit.errors.tree import EngineNotReady, SettingInvalid
from servekit.launch.child import Child, start_child
from servekit.launch.readiness import wait_until_ready
from servekit.timing.clock import Clock

# With these words KVCached reports that a patch did not fit this vLLM; it goes on without.
NOT_PATCHED = "Failed to patch"

# vLLM 0.26 on an H200 ends 0.5 s after SIGTERM when idle; workers of two GPUs take longer.
STOP_GRACE_S = 10.0

# KVCached makes its segment before vLLM answers; this is for a machine that is busy.
_SEGMENT_TIMEOUT_S = 10.0

_REMEDY = (
    "run versions that work together (see the README), share /dev/shm (ipc: host), or set "
    "ENABLE_KVCACHED=false"
)

log = structlog.get_logger()


class ProvenEngine:
    """An engine, its segment, and the page that says whether its memory follows its load.

    Attributes:
        course: what the GPU's memory did over the proof's load; None before.
    """

    def __init__(
        self,
        settings: KVCachedSettings,
        serving: Serving,
        segment: Path,
        clock: Clock,
        *,
        memory_command: str,
    ) -> None:
        self.course: MemoryCourse | None = None
        self._memory_command = memory_command
        self._settings = settings
        self._serving = serving
        self._segment = segment
        self._clock = clock
        self._serves = False
        self._not_patched: list[str] = []
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._serving.port}"

    async def listen(self) -> str:
        """Serve /health and /metrics, and return their URL.

        Raises:
            SettingInvalid: the address cannot be listened on.
        """
        application = web.Application()
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        host, port = self._settings.kvcached_metrics_host, self._settings.kvcached_metrics_port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise SettingInvalid(
                f"{host}:{port} cannot be listened on: {error.strerror}; choose another "
                "KVCACHED_METRICS_PORT"
            ) from error
        return f"http://{host}:{runner.addresses[0][1]}"

    async def start(self, command: Sequence[str], environ: Mapping[str, str]) -> Child:
        """Return the engine once it serves, with KVCached if that is enabled.

        Raises:
            SettingInvalid: the versions are known not to work together.
            EngineExited: it ended.
            EngineNotReady: it was not ready in time, or serves without KVCached.
        """
        argv = (*command, "serve", *self._serving.arguments)
        installed = await installed_versions(command, environ)
        own = engine_environ(environ, self._settings, installed)
        log.info("versions", **asdict(installed), runner=own.get(V2_RUNNER))
        before = 0
        if self._settings.enable_kvcached:
            before = await used_memory(self._memory_command, environ)
        child = await start_child(argv, own, self._hear)
        self._stack.push_async_callback(child.stop, STOP_GRACE_S)
        await child.while_running(self._until_ready())
        if self._settings.enable_kvcached:
            await child.while_running(self._until_proven(before, environ))
        self._serves = True
        return child

    def usage(self) -> SegmentUsage | None:
        return read_usage(self._segment)

    async def close(self) -> None:
        """Stop the engine, then the page."""
        self._serves = False
        await self._stack.aclose()

    def _hear(self, line: str) -> None:
        log.info("engine", line=line)
        if NOT_PATCHED in line:
            self._not_patched.append(line[line.index(NOT_PATCHED) :].strip())

    async def _until_ready(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session:

            async def healthy() -> bool:
                try:
                    async with session.get(f"{self.url}/health") as answer:
                        return answer.status == 200
                except (aiohttp.ClientError, TimeoutError):
                    return False

            await wait_until_ready(
                healthy, clock=self._clock, timeout_s=self._settings.engine_startup_timeout_s
            )

    async def _until_proven(self, before: int, environ: Mapping[str, str]) -> None:
        """Wait for the segment, then watch the memory over a load, one engine of a host at a time.

        Raises:
            EngineNotReady: there is no segment, or the memory does not follow the load.
        """
        await self._until_segment()
        engine = ProvedEngine(
            url=self.url,
            api_key=self._settings.vllm_api_key.reveal(),
            environ=environ,
            memory_command=self._memory_command,
            kept_tokens=self._settings.kvcached_max_cached_tokens,
            usage=self.usage,
        )
        timeout_s = self._settings.kvcached_proof_timeout_s
        async with turn(self._segment.parent, self._clock, timeout_s):
            self.course = await watch_memory(engine, before, self._clock)
        log.info("memory under load", **asdict(self.course))
        why = disproof(self.course)
        if why is not None:
            raise EngineNotReady(f"vLLM serves without KVCached: {why}{self._heard()}; {_REMEDY}")

    async def _until_segment(self) -> None:
        async def there() -> bool:
            return self.usage() is not None

        timeout_s = min(_SEGMENT_TIMEOUT_S, self._settings.kvcached_proof_timeout_s)
        try:
            await wait_until_ready(there, clock=self._clock, timeout_s=timeout_s)
        except EngineNotReady as error:
            raise EngineNotReady(
                f"vLLM serves without KVCached: {self._segment} has no usage record"
                f"{self._heard()}; {_REMEDY}"
            ) from error

    def _heard(self) -> str:
        return f" (KVCached: {self._not_patched[0]})" if self._not_patched else ""

    async def _health(self, _: web.Request) -> web.Response:
        sound = self._serves and (not self._settings.enable_kvcached or self.usage() is not None)
        return web.Response(status=200 if sound else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        text = exposition(self._settings.kvcached_ipc_name, self.usage(), self.course)
        return web.Response(text=text)


async def run_engine(
    engine: ProvenEngine,
    command: Sequence[str],
    environ: Mapping[str, str],
    stop: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    """Serve until *stop* is set; *ready* is called once, with the URL of the metrics.

    Raises:
        EngineExited: the engine ended by itself.
        EngineNotReady: see `ProvenEngine.start`.
    """

    async def serve() -> None:
        page = await engine.listen()
        child = await engine.start(command, environ)
        ready(page)
        await child.while_running(asyncio.Event().wait())

    try:
        await until_stopped(serve(), stop)
    finally:
        await engine.close()
