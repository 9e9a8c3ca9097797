"""From COG_WEIGHTS to a predictor that has answered once."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import aiohttp

from cog_predictor.engine.engine import EngineFactory, GenerationEngine
from cog_predictor.prompts.choice import Prompts, choose_prompts
from cog_predictor.reporting.error_codes import PredictorConfigInvalid
from cog_predictor.service.inputs import PredictionInputs
from cog_predictor.service.predictor import TextPredictor
from cog_predictor.service.predictor_config import PredictorConfig, engine_args, load_config
from servekit.errors.tree import EngineNotReady, ServeError, SettingInvalid, TemplateInvalid
from servekit.timing.clock import Clock
from servekit.timing.timeline import Timeline
from servekit.weights.cache import choose_cache
from servekit.weights.download import Download, RangedDownload
from servekit.weights.hub import HubDownload
from servekit.weights.model import Fetchers, ensure_model
from servekit.weights.pget import PgetDownload
from servekit.weights.progress import ProgressReporter
from servekit.weights.source import parse_source

# Three tokens wake every part of the engine, and cost nothing.
WARM_UP = PredictionInputs(
    prompt="hi",
    system_prompt="",
    min_tokens=0,
    max_tokens=3,
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    stop_sequences="",
    prompt_template="",
    seed=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorStart:
    """Where a predictor runs, and with what.

    Attributes:
        engine_kind: called once the weights are there, since importing an engine takes seconds.
        environ: HF_TOKEN and HF_ENDPOINT for the hub; WEIGHTS_DOWNLOADER, and PATH to find pget.
        folder: the current directory: ./checkpoints and ./predictor_config.json.
        volume: keeps the copies where it is mounted.
    """

    engine_kind: Callable[[], EngineFactory]
    environ: Mapping[str, str]
    clock: Clock
    report: ProgressReporter
    folder: Path = Path()
    volume: Path = Path("/weights")

    async def start(self, weights: str) -> TextPredictor:
        """Return a predictor for *weights*, once it has answered.

        Raises:
            ServeError: as the table of error codes says.
        """
        timeline = Timeline(self.clock)
        with timeline.stage("weights"):
            model = await self._ensure_model(weights)
        config = load_config([model, self.folder])
        with timeline.stage("engine import"):
            kind = self.engine_kind()
        args, warnings = engine_args(
            config.engine_args or {}, kind.known_args, gpu_count=kind.gpu_count
        )
        for warning in warnings:
            self.report(warning)
        with timeline.stage("engine"):
            engine = await kind.start(model, args)
        self.report("context length", tokens=engine.max_model_len, **_why_less(engine))
        prompts = self._choose_prompts(config, engine)
        self.report("prompt template chosen", origin=prompts.origin)
        predictor = TextPredictor(engine, prompts, self.clock, Random())
        with timeline.stage("first answer"):
            await _warm_up(predictor)
        stages = {stage.name: round(stage.seconds, 2) for stage in timeline.stages}
        self.report("predictor ready", after_s=round(timeline.total_s, 2), stages=stages)
        return predictor

    async def _ensure_model(self, weights: str) -> Path:
        source = parse_source(weights)
        cache = choose_cache(self.volume, self.folder / "checkpoints")
        hub = HubDownload(self.environ.get("HF_TOKEN"), self.environ.get("HF_ENDPOINT"))
        # trust_env: the proxies that pget would use.
        async with aiohttp.ClientSession(trust_env=True) as session:
            fetchers = Fetchers.of(self._download(session), hub, self.environ)
            return await ensure_model(source, cache, fetchers, clock=self.clock, report=self.report)

    def _download(self, session: aiohttp.ClientSession) -> Download:
        if (downloader := self.environ.get("WEIGHTS_DOWNLOADER", "")) not in ("", "pget"):
            raise SettingInvalid(f"WEIGHTS_DOWNLOADER is {downloader!r}; it is pget, or not set")
        if downloader:
            pget = shutil.which("pget", path=self.environ.get("PATH", ""))
            if pget is None:
                raise SettingInvalid(
                    "WEIGHTS_DOWNLOADER is pget, and there is no pget on the PATH; install it, or "
                    "unset the variable: the built-in downloader resumes, pget does not"
                )
            return PgetDownload(pget)
        return RangedDownload(session, clock=self.clock, report=self.report)

    def _choose_prompts(self, config: PredictorConfig, engine: GenerationEngine) -> Prompts:
        try:
            return choose_prompts(
                config_template=config.prompt_template,
                tokenizer_template=engine.chat_template,
                special_tokens=engine.special_tokens,
                now=lambda: datetime.now(UTC),
            )
        except TemplateInvalid as error:
            if not config.prompt_template:
                raise
            raise PredictorConfigInvalid(f"prompt_template: {error}") from error


def _why_less(engine: GenerationEngine) -> dict[str, object]:
    if engine.max_model_len >= engine.own_length:
        return {}
    return {
        "of_the_model": engine.own_length,
        "reason": "engine_args.max_model_len, or the memory left for the KV cache: a larger GPU "
        "or a higher gpu_memory_utilization gives more",
    }


async def _warm_up(predictor: TextPredictor) -> None:
    try:
        async for _ in predictor.predict(WARM_UP, lambda _key, _value: None):
            pass
    except ServeError as error:
        raise EngineNotReady(f"the engine started, and did not answer: {error}") from error
