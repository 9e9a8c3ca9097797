"""An embedding engine as a child process on loopback, and the front before it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import structlog
from aiohttp import web

from modal_embedding.client.backends import HttpService
from modal_embedding.engine.embedder import warm_up_texts
from modal_embedding.engine.settings import EmbeddingSettings
from modal_embedding.messages.coldstart import ColdStart, timed_stages
from modal_embedding.messages.protocol import EmbedOptions
from modal_embedding.server.api import EmbeddingApi, engine_session
from servekit.engine.arguments import EngineArguments
from servekit.engine.environment import EngineFolders, engine_environment
from servekit.errors.tree import EngineExited, EngineUnreachable, ServeError, SettingInvalid
from servekit.launch.child import Child, describe_exit, start_child
from servekit.launch.memory_limit import describe_memory_kill, read_memory_limit
from servekit.launch.readiness import wait_until_ready
from servekit.launch.watchdog import Watchdog, core_counters
from servekit.timing.clock import Clock
from servekit.timing.timeline import Timeline

# vLLM 0.26 on an H200 ends 0.5 s after SIGTERM when idle; on two CPU cores 2.5 s were seen.
STOP_GRACE_S = 10.0

# Answers that are under way when we are asked to stop.
DRAIN_S = 20.0

# A look must not hang on an engine that takes requests and does not answer.
LOOK_TIMEOUT_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EmbeddingEnginePlan:
    """How to start the engine.

    Attributes:
        command: what stands before `serve`: ("vllm",) or a Python with a module.
        model: the model's folder.
        port: on loopback.
        environ: what it is given, before what must not reach it is taken out.
        folders: where it keeps its caches.
        arguments: further arguments of `vllm serve`.
        has_gpu: a CPU has no share of a GPU's memory to be given.
    """

    command: tuple[str, ...]
    model: Path
    port: int
    environ: Mapping[str, str]
    folders: EngineFolders
    arguments: tuple[str, ...] = ()
    has_gpu: bool = True


def engine_command(settings: EmbeddingSettings, plan: EmbeddingEnginePlan) -> tuple[str, ...]:
    """Return the command line of the engine."""
    trust = ("--trust-remote-code",) if settings.trust_remote_code else ()
    # vLLM's word for the model's own length, or what fits into memory.
    length = () if settings.max_model_len else ("--max-model-len", "auto")
    arguments = EngineArguments(
        model=str(plan.model),
        host="127.0.0.1",
        port=plan.port,
        served_model_names=(settings.public_model_name,),
        max_model_len=settings.max_model_len or None,
        gpu_memory_utilization=settings.gpu_memory_utilization if plan.has_gpu else None,
        enforce_eager=settings.enforce_eager,
        enable_sleep_mode=settings.enable_sleep_mode,
        runner="pooling",
        convert="embed",
        extra=(*trust, *length, *plan.arguments),
    )
    return (*plan.command, *arguments.argv())


def engine_environ(
    settings: EmbeddingSettings, plan: EmbeddingEnginePlan, warn: Callable[[str], None]
) -> dict[str, str]:
    """Return the environment of the engine: offline, and with the routes that put it to sleep."""
    ours = EmbeddingSettings.secret_variables()
    given = {name: value for name, value in plan.environ.items() if name not in ours}
    environ = engine_environment(given, plan.folders, warn)
    # The weights are here; a start must not depend on the hub.
    environ["HF_HUB_OFFLINE"] = "1"
    if settings.enable_sleep_mode:
        # Opens /sleep and much else: the reason why the engine listens on loopback only.
        environ["VLLM_SERVER_DEV_MODE"] = "1"
    return environ


class EmbeddingServer:
    """The engine and its front, from start to stop."""

    def __init__(
        self,
        settings: EmbeddingSettings,
        plan: EmbeddingEnginePlan,
        front: EmbeddingApi,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._front = front
        self._clock = clock
        self._child: Child | None = None
        self._made = Timeline(clock)
        self._woken = Timeline(clock)
        self._stack = AsyncExitStack()

    @property
    def engine_url(self) -> str:
        return self._settings.engine_url or f"http://127.0.0.1:{self._plan.port}"

    async def start_engine(self) -> None:
        """Return once the engine has answered what it will be asked.

        Raises:
            EngineExited: it ended; the message says what it said.
            EngineNotReady: it was not ready in time.
        """
        self._made = Timeline(self._clock)
        with self._made.stage("engine"):
            if not self._settings.engine_url:
                self._child = await start_child(
                    engine_command(self._settings, self._plan),
                    engine_environ(self._settings, self._plan, log.warning),
                    _print_line,
                )
            await self._while_running(self._until_ready())
        with self._made.stage("warm-up"):
            await self._while_running(self._warm_up())

    async def sleep(self) -> None:
        """Let the engine let go of the GPU's memory; weights go to the host's (level 1)."""
        with self._made.stage("sleep"):
            await self._control("/sleep?level=1")

    async def wake(self) -> None:
        """Undo `sleep`, and see that the engine answers."""
        self._woken = Timeline(self._clock)
        with self._woken.stage("wake"):
            await self._control("/wake_up")
            await self._until_ready()
        with self._woken.stage("warm-up"):
            await self._warm_up()

    async def listen(self, host: str, port: int) -> str:
        """Listen, and return the URL; until `open`, everything is answered 503.

        Raises:
            SettingInvalid: the address cannot be listened on.
        """
        runner = web.AppRunner(
            self._front.application(),
            access_log=None,
            # Who hangs up does not want the rest of a large request either.
            handler_cancellation=True,
            shutdown_timeout=DRAIN_S,
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise SettingInvalid(
                f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port"
            ) from error
        bound = runner.addresses[0][1]
        return f"http://{host}:{bound}"

    async def open(self) -> None:
        """Let requests through to the engine."""
        self._front.started(ColdStart(timed_stages(self._made), timed_stages(self._woken)))
        if self._front.engine is None:
            session = engine_session()
            self._stack.push_async_callback(session.close)
            self._front.engine = self._service(session)

    async def watch(self, restarts: int) -> None:
        """Start the engine again when it ends, up to *restarts* times.

        Raises:
            EngineExited: it ended once more.
        """
        if self._child is None:
            return
        while True:
            ending = await self._ending(self._child)
            if restarts <= 0:
                raise EngineExited(f"{ending}; it is not started again")
            restarts -= 1
            log.error("engine ended, starting it again", reason=ending, restarts_left=restarts)
            await self.start_engine()
            await self.open()

    async def _ending(self, child: Child) -> str:
        """Return why the engine is gone, once no request reaches it; one that hangs is ended."""
        before = read_memory_limit()
        async with engine_session() as session:
            probe = _HttpProbe(self._service(session))
            watchdog = Watchdog(child.pid, self._front.work, probe, clock=self._clock)
            watching = asyncio.ensure_future(watchdog.verdict())
            gone = asyncio.ensure_future(child.wait())
            try:
                await asyncio.wait([watching, gone], return_when=asyncio.FIRST_COMPLETED)
                self._front.engine = None
                if not gone.done():
                    await child.stop(STOP_GRACE_S)
                    return watching.result()
                why = describe_memory_kill(before, read_memory_limit())
                ending = describe_exit(gone.result(), child.tail)
                return f"{why}; {ending}" if why else ending
            finally:
                watching.cancel()
                gone.cancel()

    async def close(self) -> None:
        """Let running requests end, then the engine."""
        await self._stack.aclose()
        if self._child is not None:
            await self._child.stop(STOP_GRACE_S)

    def _service(self, session: aiohttp.ClientSession) -> HttpService:
        return HttpService(session, self.engine_url, self._settings.public_model_name)

    async def _while_running(self, work: Awaitable[None]) -> None:
        await (work if self._child is None else self._child.while_running(work))

    async def _until_ready(self) -> None:
        async with engine_session() as session:

            async def healthy() -> bool:
                try:
                    await self._service(session).get("/health")
                except EngineUnreachable:
                    return False
                return True

            await wait_until_ready(
                healthy, clock=self._clock, timeout_s=self._settings.engine_startup_timeout_s
            )

    async def _warm_up(self) -> None:
        # Sessions do not outlive their phase: an open connection would not survive a snapshot.
        async with engine_session() as session:
            service = self._service(session)
            if not self._settings.max_model_len:
                self._front.max_model_len = await service.max_model_len() or 0
            warm = await service.embed(warm_up_texts(self._front.max_model_len), EmbedOptions())
        self._front.own_dimensions = warm.vectors.shape[1]

    async def _control(self, path: str) -> None:
        if self._settings.enable_sleep_mode:
            async with engine_session() as session:
                await self._service(session).post(path)


class _HttpProbe:
    """How the watchdog asks the engine."""

    def __init__(self, engine: HttpService) -> None:
        self._engine = engine

    async def counters(self) -> object | None:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return core_counters(await self._engine.get("/metrics"))
        except (TimeoutError, ServeError):
            return None

    async def computes(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await self._engine.embed(["a"], EmbedOptions())
        except (TimeoutError, EngineUnreachable):
            return False
        except ServeError:
            return True
        return True


def _print_line(line: str) -> None:
    log.info("engine", line=line)
