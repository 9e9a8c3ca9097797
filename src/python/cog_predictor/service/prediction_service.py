"""What the runner file calls: a predictor with error codes, logs and an end."""

import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from cog_predictor.engine.engine import EngineFactory, GenerationEngine
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
from servekit.errors.tree import EngineExited
from servekit.timing.clock import SystemClock


@dataclass(frozen=True, slots=True)
class PredictionService:
    """A predictor, and how the process ends when its engine does."""

    predictor: TextPredictor
    end: Callable[[], None]

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
            except EngineExited:
                self.end()
                raise

    async def healthy(self) -> bool:
        """Return whether the engine lives."""
        try:
            await self.predictor.engine.check()
        except EngineExited:
            self.end()
            return False
        return True


def import_vllm(environ: MutableMapping[str, str]) -> EngineFactory:
    """Return vLLM, imported where it finds its libraries."""
    preload_libraries(environ)
    error_log = keep_error_log(environ, Path(tempfile.mkdtemp(prefix="vllm-log-")))
    kind = vllm_kind()

    async def start(model: Path, args: Mapping[str, object]) -> GenerationEngine:
        openai_port(environ)
        engine = await start_vllm(model, args, error_log)
        await serve_openai(engine.llm, str(model), environ)
        end_at_once_at_exit()
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
    return PredictionService(predictor, end=lambda: end_server_soon(server))
