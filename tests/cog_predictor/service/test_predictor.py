"""Predictions, without a server."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cog_predictor.engine.engine import Sampling, TextDelta
from cog_predictor.prompts.choice import choose_prompts
from cog_predictor.service.inputs import PredictionInputs
from cog_predictor.service.predictor import TextPredictor
from cog_predictor.service.startup import WARM_UP
from tests.cog_predictor.fake_engine import FakeEngine
from tests.support.clock import FakeClock

PROMPTS = choose_prompts(config_template=None, tokenizer_template=None)


class ScriptedEngine(FakeEngine):
    """Answers with the pieces that it was given, 0.25 s each."""

    def __init__(self, pieces: Sequence[TextDelta], clock: FakeClock, log: Path) -> None:
        super().__init__(Path("none"), {}, log)
        self._pieces = pieces
        self._clock = clock
        self.aborted: list[str] = []

    async def generate(
        self,
        prompt_token_ids: Sequence[int],  # noqa: ARG002
        sampling: Sampling,  # noqa: ARG002
        request_id: str,  # noqa: ARG002
    ) -> AsyncGenerator[TextDelta, None]:
        for piece in self._pieces:
            await self._clock.sleep(0.25)
            yield piece

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)


class Metrics(dict[str, float]):
    def record(self, key: str, value: float) -> None:
        self[key] = value


def _predictor(pieces: Sequence[TextDelta]) -> tuple[TextPredictor, ScriptedEngine]:
    clock = FakeClock()
    engine = ScriptedEngine(pieces, clock, Path("unused"))
    return TextPredictor(engine, PROMPTS, clock, Random(1)), engine


async def _texts(
    predictor: TextPredictor, metrics: Metrics, request: PredictionInputs = WARM_UP
) -> list[str]:
    return [text async for text in predictor.predict(request, metrics.record)]


async def test_metrics_are_measured_where_they_happen() -> None:
    """The first token after 0.5 s, three in one second."""
    pieces = [TextDelta("", 0), TextDelta("a", 1), TextDelta("b", 1), TextDelta("c", 1)]
    predictor, engine = _predictor(pieces)
    metrics = Metrics()

    assert await _texts(predictor, metrics) == ["a", "b", "c"]
    assert metrics == {
        "input_token_count": 1,
        "time_to_first_token": 0.5,
        "output_token_count": 3,
        "tokens_per_second": 3.0,
    }
    assert engine.aborted == []


@given(st.lists(st.text(alphabet="ab\N{REPLACEMENT CHARACTER}", max_size=4), max_size=6))
def test_half_characters_are_left_out_wherever_the_text_is_cut(texts: list[str]) -> None:
    """The text is the engine's, without what stands for half a character, and no empty pieces."""
    predictor, _ = _predictor([TextDelta(text, 1) for text in texts])

    got = asyncio.run(_texts(predictor, Metrics()))

    assert "".join(got) == "".join(texts).replace("\N{REPLACEMENT CHARACTER}", "")
    assert all(got)


async def test_a_caller_who_stops_listening_aborts_the_request() -> None:
    """Closing the answer is enough; the engine is told at once, once."""
    predictor, engine = _predictor([TextDelta("a", 1)] * 100)

    async with aclosing(predictor.predict(WARM_UP, lambda _key, _value: None)) as texts:
        await anext(texts)

    assert len(engine.aborted) == 1


async def test_cancelling_aborts_the_request() -> None:
    """A prediction that is cancelled while the engine thinks is aborted there too."""
    predictor, engine = _predictor([TextDelta("a", 1)] * 100_000)
    task = asyncio.create_task(_texts(predictor, Metrics()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(engine.aborted) == 1


async def test_a_request_may_bring_its_template() -> None:
    """The tokens counted are those of the formatted prompt."""
    predictor, _ = _predictor([])
    metrics = Metrics()

    await _texts(predictor, metrics, replace(WARM_UP, prompt_template="{prompt} and more"))

    assert metrics["input_token_count"] == 3
