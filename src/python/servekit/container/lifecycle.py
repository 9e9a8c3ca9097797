"""The life of a container with one engine: start, be ready when it is fast, drain, end.

What differs from one deployable to the next is in its `LifecycleHooks`: which model, which command,
and what is kept once it is up.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from servekit.cli.logs import announce
from servekit.cli.server import until_stopped
from servekit.client.client import Client
from servekit.container import startup_progress as stages
from servekit.container.engine_probe import LOOK_TIMEOUT_S, HttpEngineProbe
from servekit.container.front import STOPPING, FrontServer
from servekit.container.gate import Gate, read_extra_routes
from servekit.container.phases import PhaseReader
from servekit.container.prewarm import plan_shapes, prewarm
from servekit.container.settings import ContainerSettings
from servekit.container.startup_progress import StartupProgress
from servekit.container.system import name_host
from servekit.errors.tree import EngineExited, EngineHung, SettingInvalid
from servekit.launch.child import Child, start_child
from servekit.launch.memory_limit import MemoryLimit, describe_memory_kill, read_memory_limit
from servekit.launch.port import free_port
from servekit.launch.readiness import wait_until_ready
from servekit.launch.watchdog import Watchdog
from servekit.secrets.masking import masked
from servekit.timing.clock import Clock
from servekit.timing.timeline import Stage

log = structlog.get_logger()

# An idle vLLM ends 0.5 s after SIGTERM (H200), or 2.5 s on a CPU; it gets at most this of the
# platform's grace, and the streams get the rest.
ENGINE_STOP_S = 2.0

# A look at /health must not hang on an engine that accepts and does not answer.
PROBE_TIMEOUT_S = 5.0

# The seed's limit for one warm-up request.
PREWARM_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEngine:
    """One start of the engine, and what is known of the model that it serves.

    Attributes:
        shown: the command for a log, without its secrets.
        model: a name that it is served by.
        ready_by_s: seconds on the start's timeline by which it must serve and be warm.
        max_model_len: tokens; None where nobody knows.
        prewarms: whether to send it requests before anybody else may.
    """

    argv: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)
    shown: str
    model: str
    ready_by_s: float
    max_model_len: int | None
    max_num_seqs: int
    vocab_size: int | None
    prewarms: bool


class LifecycleHooks(Protocol):
    """What a deployable decides."""

    async def prepare(self, engine_port: int) -> PreparedEngine:
        """Bring what the engine needs, and say how it is started: on *engine_port* of loopback.

        Raises:
            ConfigError: something that was set cannot be used.
        """

    def on_engine_line(self, line: str) -> None:
        """The engine has logged *line*."""

    async def on_ready(self) -> None:
        """The container is ready; what is worth keeping may be kept."""


async def serve_until_stopped(
    hooks: LifecycleHooks,
    settings: ContainerSettings,
    progress: StartupProgress,
    *,
    clock: Clock,
    write: Callable[[str], None],
    stop: asyncio.Event,
    memory: Callable[[], MemoryLimit | None] = read_memory_limit,
) -> None:
    """Serve until *stop*, and then drain.  *write* takes the engine's log lines and our summary.

    Raises:
        EngineExited: the engine ended by itself; carries its last words.
        EngineNotReady: it did not serve in time.
        EngineHung: it took requests, and answered none.
        ConfigError: something that was set cannot be used.
    """
    gate = Gate(settings.api_keys, read_extra_routes(settings.extra_routes))
    front = FrontServer(progress, clock, engine_port=free_port(), gate=gate)
    port = await front.start(settings.listen_host, settings.port)
    url = f"http://{settings.listen_host}:{port}"
    announce("listening", url=url)
    lifecycle = _Lifecycle(hooks, settings, progress, clock, write, front, url)
    before = memory()
    try:
        await lifecycle.run(stop)
    except EngineExited as error:
        why = describe_memory_kill(before, memory())
        raise (EngineExited(f"{why}; {error}") if why else error) from error
    finally:
        front.close()


@dataclass(slots=True)
class _Lifecycle:
    hooks: LifecycleHooks
    settings: ContainerSettings
    progress: StartupProgress
    clock: Clock
    write: Callable[[str], None]
    front: FrontServer
    url: str
    child: Child | None = None

    async def run(self, stop: asyncio.Event) -> None:
        starting = asyncio.ensure_future(self._start())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                engine = await starting
                await until_stopped(self._watch(engine), stop)
            await self._drain()
        finally:
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
            if self.child is not None:
                await self.child.stop(ENGINE_STOP_S)

    async def _start(self) -> PreparedEngine:
        with self.progress.during(stages.SYSTEM):
            name_host(_warn)
        with self.progress.during(stages.ENVIRONMENT):
            engine = await self.hooks.prepare(self.front.engine_port)
        with self.progress.during(stages.ENGINE):
            await self._start_engine(engine)
        if engine.prewarms:
            with self.progress.during(stages.PREWARM):
                await self._prewarm(engine)
        with self.progress.during(stages.READY):
            self.progress.ready = True
        self._report()
        await self.hooks.on_ready()
        return engine

    async def _start_engine(self, engine: PreparedEngine) -> None:
        timeline = self.progress.stages
        log.info("engine starting", command=engine.shown)
        reader = PhaseReader(timeline.elapsed_s)

        def on_line(line: str) -> None:
            self._take_phase(reader.read(line, timeline.elapsed_s), reader.current)
            self.hooks.on_engine_line(line)
            self.write(masked(line, self.settings.secrets))

        self.child = await start_child(engine.argv, engine.environ, on_line)
        probe = self._client(PROBE_TIMEOUT_S)

        async def healthy() -> bool:
            return (await probe.get("/health"))[0] == 200

        left_s = engine.ready_by_s - timeline.elapsed_s
        try:
            ready = wait_until_ready(healthy, clock=self.clock, timeout_s=left_s)
            await self.child.while_running(ready)
        finally:
            await probe.aclose()
            self.progress.phase = ""

    def _take_phase(self, stage: Stage | None, current: str) -> None:
        if stage is None or self.progress.stage != stages.ENGINE:
            return
        self.progress.phases.append(stage)
        self.progress.phase = current

    async def _prewarm(self, engine: PreparedEngine) -> None:
        assert self.child is not None
        client = self._client(PREWARM_TIMEOUT_S)
        work = prewarm(
            client,
            engine.model,
            plan_shapes(engine.max_model_len, engine.max_num_seqs),
            vocab_size=engine.vocab_size,
            clock=self.clock,
        )
        left_s = engine.ready_by_s - self.progress.stages.elapsed_s
        try:
            results = await self.child.while_running(asyncio.wait_for(work, max(1.0, left_s)))
        except TimeoutError:
            log.warning("prewarm given up", after_s=round(left_s, 1))
            return
        finally:
            await client.aclose()
        if results and all(str(one.error).startswith("http 401") for one in results):
            raise SettingInvalid(
                "the engine asks for an API key that is not ours to know (--config?); set it as "
                "VLLM_API_KEY instead, and the front asks for it"
            )
        for result in results:
            tell = log.warning if result.error else log.info
            tell(
                "prewarmed" if result.error is None else "prewarm failed",
                tokens=result.shape.prompt_tokens,
                requests=result.shape.requests,
                seconds=round(result.seconds, 3),
                **({"error": result.error} if result.error else {}),
            )

    def _report(self) -> None:
        self.write(self.progress.summary())
        try:
            self.settings.timeline_file.write_bytes(self.progress.to_json())
        except OSError as error:
            log.warning(
                "timeline not kept", file=str(self.settings.timeline_file), reason=str(error)
            )
        announce("ready", url=self.url, after_s=round(self.progress.total_s, 3))

    async def _watch(self, engine: PreparedEngine) -> None:
        assert self.child is not None
        client = self._client(LOOK_TIMEOUT_S)
        watchdog = Watchdog(
            self.child.pid,
            self.front.work,
            HttpEngineProbe(client, engine.model),
            clock=self.clock,
            silence_timeout_s=self.settings.engine_silence_timeout_s,
        )
        try:
            why = await self.child.while_running(watchdog.verdict())
        finally:
            await client.aclose()
        # From now on /health says so; those who wait are told, and then the process ends.
        self.front.ill = why
        self.front.interrupt(f"{why}; retry")
        raise EngineHung(f"{why}; it is ended, to be started again")

    async def _drain(self) -> None:
        settings = self.settings
        in_flight = self.front.in_flight
        log.info("draining", in_flight=in_flight, grace_s=settings.shutdown_grace_s)
        limit_s = max(0.0, settings.shutdown_grace_s - ENGINE_STOP_S)
        # Whoever is not ready yet was never sent anything.
        linger_s = min(settings.linger_s, limit_s) if self.progress.ready else 0.0
        lost = await self.front.drain(limit_s, linger_s=linger_s)
        tell = log.warning if lost else log.info
        tell("drained", in_flight=in_flight, lost=lost)
        # Before the engine is stopped: it would break the streams without a word.
        self.front.interrupt(STOPPING)

    def _client(self, timeout_s: float) -> Client:
        return Client(
            f"http://127.0.0.1:{self.front.engine_port}",
            self.clock,
            timeout_s=timeout_s,
        )


def _warn(message: str) -> None:
    log.warning(message)
