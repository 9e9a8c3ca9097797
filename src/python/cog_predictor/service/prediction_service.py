"""What the runner file calls: a predictor with error codes, logs and an end."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from cog_predictor.engine.engine import EngineFactory, GenerationEngine
from cog_predictor.engine.guardian import start_guardian
from cog_predictor.engine.library_path import preload_libraries
from cog_predictor.engine.openai_routes import openai_port, serve_openai
from cog_predictor.engine.process import end_at_once_at_exit, end_server_soon
from cog_predictor.engine.start_failure import keep_error_log
from cog_predictor.engine.vllm_engine import start_vllm, vllm_kind
from cog_predictor.reporting.error_codes import coded
from cog_predictor.reporting.logs import report
from cog_predictor.service.given_weights import weights_text
from cog_predictor.service.inputs import PredictionInputs
from cog_predictor.service.predictor import RecordMetric, TextPredictor
from cog_predictor.service.startup import PredictorStart
from servekit.engine.environment import holds_secret
from servekit.errors.tree import EngineExited
from servekit.launch.watchdog import Watchdog
from servekit.timing.clock import Clock, SystemClock
from servekit.weights.progress import ProgressReporter


@dataclass(frozen=True, slots=True)
class PredictionService:
    """A predictor, and how the process ends when its engine does."""

    predictor: TextPredictor
    end: Callable[[], None]
    report: ProgressReporter = report

    async def watch(self, clock: Clock) -> None:
        """Return once the engine was found dead: everybody was told, and the process ends.

        vLLM's own health sees neither a core that is stopped nor one that takes in no requests.
        """
        engine = self.predictor.engine
        why = await Watchdog(os.getpid(), engine.work, engine, clock=clock).verdict()
        self.report("engine is dead", reason=why)
        engine.condemn(why)
        self.end()

    async def run(
        self, request: PredictionInputs, record: RecordMetric
    ) -> AsyncGenerator[str, None]:
        """Yield the answer to *request*.

        Raises:
            CodedError: with the code that the table gives.
        """
        with coded():
            try:
                async with aclosing(self.predictor.predict(request, record)) as pieces:
                    async for piece in pieces:
                        yield piece
            except EngineExited as error:
                self.report("engine is dead", reason=str(error))
                self.end()
                raise

    async def healthy(self) -> bool:
        """Return whether the engine lives."""
        try:
            await self.predictor.engine.check()
        except EngineExited as error:
            self.report("engine is dead", reason=str(error))
            self.end()
            return False
        return True


def import_vllm(environ: MutableMapping[str, str]) -> EngineFactory:
    """Return vLLM, imported where it finds its libraries."""
    # The weights are here: what runs beside the engine, and is started by it, needs no token.
    kept = environ.get("ENGINE_SECRETS", "").split(",")
    own = dict(environ)
    for name in [name for name, value in environ.items() if holds_secret(name, value)]:
        if name not in kept:
            del environ[name]
    # A key may be among them.
    environ.pop("OPENAI_ARGS", None)
    preload_libraries(environ)
    error_log = keep_error_log(environ, Path(tempfile.mkdtemp(prefix="vllm-log-")))
    kind = vllm_kind()

    async def start(model: Path, args: Mapping[str, object]) -> GenerationEngine:
        openai_port(own)
        engine = await start_vllm(model, args, error_log)
        await serve_openai(engine.llm, str(model), own)
        end_at_once_at_exit()
        start_guardian(os.getppid())
        return engine

    return replace(kind, start=start)


async def start_service(
    weights: object,
    environ: MutableMapping[str, str],
    import_engine: Callable[[MutableMapping[str, str]], EngineFactory] = import_vllm,
) -> PredictionService:
    """Start, within Cog's worker process, the engine that it serves with.

    Raises:
        CodedError: it cannot be started.
    """
    deployment = PredictorStart(
        engine_kind=lambda: import_engine(environ),
        environ=environ,
        clock=SystemClock(),
        report=report,
    )
    with coded():
        predictor = await deployment.start(weights_text(weights))
    server = os.getppid()
    service = PredictionService(predictor, end=lambda: end_server_soon(server))
    watching = asyncio.get_running_loop().create_task(service.watch(SystemClock()), name="watchdog")
    # The loop keeps only a weak reference to its tasks.
    _WATCHING.add(watching)
    return service


_WATCHING: "set[asyncio.Task[None]]" = set()
