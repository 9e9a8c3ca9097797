"""Run vLLM, and let it serve only if KVCached has a part in it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import structlog
from aiohttp import web

from kvcached_engine.exposition import exposition
from kvcached_engine.segment import SegmentUsage, read_usage
from kvcached_engine.settings import KVCachedSettings, Serving, engine_environ
from servekit.cli.server import until_stopped
from servekit.errors.tree import EngineNotReady, SettingInvalid
from servekit.launch.child import Child, start_child
from servekit.launch.readiness import wait_until_ready
from servekit.timing.clock import Clock

# With these words KVCached reports that a patch did not fit this vLLM; it goes on without.
NOT_PATCHED = "Failed to patch"

# vLLM 0.26 on an H200 ends 0.5 s after SIGTERM when idle; workers of two GPUs take longer.
STOP_GRACE_S = 10.0

log = structlog.get_logger()


class ProvenEngine:
    """An engine, its segment, and the page that says whether the one uses the other."""

    def __init__(
        self, settings: KVCachedSettings, serving: Serving, segment: Path, clock: Clock
    ) -> None:
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
            EngineExited: it ended.
            EngineNotReady: it was not ready in time, or serves without KVCached.
        """
        argv = (*command, "serve", *self._serving.arguments)
        child = await start_child(argv, engine_environ(environ, self._settings), self._hear)
        self._stack.push_async_callback(child.stop, STOP_GRACE_S)
        await child.while_running(self._until_ready())
        if self._settings.enable_kvcached:
            await child.while_running(self._until_proven())
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

    async def _until_proven(self) -> None:
        async def proven() -> bool:
            return self.usage() is not None

        try:
            await wait_until_ready(
                proven, clock=self._clock, timeout_s=self._settings.kvcached_proof_timeout_s
            )
        except EngineNotReady as error:
            raise EngineNotReady(self._why_not()) from error

    def _why_not(self) -> str:
        heard = f" (KVCached: {self._not_patched[0]})" if self._not_patched else ""
        return (
            f"vLLM serves without KVCached: {self._segment} has no usage record{heard}; run the "
            "versions that the image pins, share /dev/shm (ipc: host), or set ENABLE_KVCACHED=false"
        )

    async def _health(self, _: web.Request) -> web.Response:
        sound = self._serves and (not self._settings.enable_kvcached or self.usage() is not None)
        return web.Response(status=200 if sound else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        text = exposition(self._settings.kvcached_ipc_name, self.usage())
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
