"""An engine that hangs is noticed, and everybody is told."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from cog_predictor.engine.watched_llm import watched
from cog_predictor.prompts.choice import choose_prompts
from cog_predictor.reporting.error_codes import CodedError
from cog_predictor.service.prediction_service import PredictionService
from cog_predictor.service.predictor import TextPredictor
from cog_predictor.service.startup import WARM_UP
from servekit.launch.engine_work import EngineWork
from tests.cog_predictor.fake_engine import FakeEngine
from tests.support.clock import FakeClock
from tests.support.waiting import until


@dataclass
class Scene:
    """A service on a fake engine, and what became of it."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    ended: list[bool] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def service(self) -> PredictionService:
        engine = FakeEngine(Path("none"), {}, self.folder / "engine.log")
        engine.now = self.clock.now
        prompts = choose_prompts(config_template=None, tokenizer_template=None)
        return PredictionService(
            TextPredictor(engine, prompts, self.clock, Random(1)),
            end=lambda: self.ended.append(True),
            report=lambda event, **fields: self.told.append(f"{event}: {fields['reason']}"),
        )


async def _answer(service: PredictionService, prompt: str) -> list[str]:
    request = replace(WARM_UP, prompt=prompt)
    return [piece async for piece in service.run(request, lambda _key, _value: None)]


async def test_engine_that_owes_an_answer_and_computes_nothing_is_ended(tmp_path: Path) -> None:
    """Whoever waits is told why, and the server ends: no restart is ours to make."""
    scene = Scene(tmp_path)
    service = scene.service()
    asked = asyncio.ensure_future(_answer(service, "hang"))
    await until(lambda: service.predictor.engine.work.open)

    await service.watch(scene.clock)

    why = "the engine hangs: 1 requests open, no token for"
    with pytest.raises(CodedError, match=f"E1200 .*the engine is gone: {why}"):
        await asked
    assert scene.ended
    assert scene.told[0].startswith(f"engine is dead: {why}")
    assert scene.clock.now() <= 60.0
    assert not await service.healthy()


async def test_engine_that_answers_is_left_alone(tmp_path: Path) -> None:
    """And so is one that is asked nothing."""
    scene = Scene(tmp_path)
    service = scene.service()
    watching = asyncio.ensure_future(service.watch(scene.clock))

    for _ in range(20):
        assert await _answer(service, "hi")
        await until(lambda: scene.clock.now() % 60 > 50)
        scene.clock.advance(10)

    assert not watching.done()
    watching.cancel()


class _Llm:
    """As AsyncLLM generates: `hang` never, `refuse` not, else two outputs."""

    async def generate(
        self,
        prompt: str,
        sampling_params: object,  # noqa: ARG002
        request_id: str,  # noqa: ARG002
    ) -> AsyncGenerator[int, None]:
        if prompt == "refuse":
            raise ValueError("no")
        if prompt == "hang":
            await asyncio.Event().wait()
        yield 1
        yield 2


def _parameters(schema: object = None) -> SimpleNamespace:
    return SimpleNamespace(structured_outputs=SimpleNamespace(json=schema, structural_tag=None))


async def test_requests_are_counted_by_whichever_door_they_come() -> None:
    """An end, a refusal and a client that gave up are told apart."""
    work = EngineWork()
    llm = watched(_Llm, work, lambda: 5.0)()

    assert [one async for one in llm.generate("hi", _parameters(), "1")] == [1, 2]
    with pytest.raises(ValueError, match="no"):
        await anext(llm.generate("refuse", _parameters(), "2"))
    assert (work.open, work.doubted, work.heard_s) == (0, False, 5.0)

    async with aclosing(llm.generate("hi", sampling_params=_parameters(), request_id="3")) as some:
        await anext(some)
    assert (work.open, work.doubted) == (0, False)

    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(llm.generate("hang", _parameters(), "4"))
    assert (work.open, work.doubted) == (0, True)


@pytest.mark.parametrize("schema", [{"minItems": 10**9}, '{"items": {"maxItems": 1e9}}'])
async def test_schema_that_would_end_the_process_is_refused(schema: object) -> None:
    """As a ValueError, which vLLM's routes answer with 400."""
    work = EngineWork()
    llm = watched(_Llm, work, lambda: 5.0)()

    with pytest.raises(ValueError, match=r"counts 1e[+]09 items"):
        await anext(llm.generate("hi", _parameters(schema), "1"))
    assert work.open == 0
