"""Answer predictions with an engine."""

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import Protocol

from cog_predictor.engine.engine import GenerationEngine, Sampling, TextDelta
from cog_predictor.prompts.choice import Prompts
from cog_predictor.service.inputs import PredictionInputs, checked, choose_sampling
from servekit.timing.clock import Clock

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class RecordMetric(Protocol):
    """Note a metric of the prediction, as Cog's `record_metric` does."""

    def __call__(self, key: str, value: float) -> object:
        """Note *value* under *key*."""


@dataclass(frozen=True, slots=True)
class TextPredictor:
    """An engine, and how its prompts are written.

    Attributes:
        rng: draws the seeds that callers leave to us.
    """

    engine: GenerationEngine
    prompts: Prompts
    clock: Clock
    rng: Random

    async def predict(
        self, request: PredictionInputs, record: RecordMetric
    ) -> AsyncGenerator[str, None]:
        """Yield the answer piece by piece, and record what it took.

        To stop iterating, or to be cancelled, aborts the request in the engine.

        Raises:
            RequestError: the request cannot be answered; the engine was not asked, or refused.
            EngineExited: the engine is gone.
        """
        start = self.clock.now()
        token_ids, sampling = self._prepare(checked(request))
        record("input_token_count", len(token_ids))
        tokens = 0
        async with aclosing(self._generate(token_ids, sampling)) as pieces:
            async for piece in pieces:
                if tokens == 0 and piece.tokens:
                    record("time_to_first_token", self.clock.now() - start)
                tokens += piece.tokens
                # A model may write half a character, and nobody can read that half.
                text = piece.text.replace(_REPLACEMENT, "")
                if text:
                    yield text
        record("output_token_count", tokens)
        seconds = self.clock.now() - start
        if seconds > 0:
            record("tokens_per_second", tokens / seconds)

    def _prepare(self, request: PredictionInputs) -> tuple[list[int], Sampling]:
        written = self.prompts.write(
            prompt=request.prompt,
            system_prompt=request.system_prompt,
            prompt_template=request.prompt_template,
        )
        token_ids = self.engine.tokenize(written.text, complete=written.complete)
        sampling = choose_sampling(
            request,
            prompt_tokens=len(token_ids),
            max_model_len=self.engine.max_model_len,
            rng=self.rng,
        )
        return token_ids, sampling

    async def _generate(
        self, token_ids: list[int], sampling: Sampling
    ) -> AsyncGenerator[TextDelta, None]:
        request_id = uuid.uuid4().hex
        finished = False
        try:
            async with aclosing(self.engine.generate(token_ids, sampling, request_id)) as pieces:
                async for piece in pieces:
                    yield piece
            finished = True
        finally:
            if not finished:
                await self.engine.abort(request_id)
