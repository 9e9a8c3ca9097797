"""Put a load on an engine and watch the GPU's memory.  Input and output."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import msgspec

from kvcached_engine.gpu_memory import used_memory
from kvcached_engine.memory_proof import (
    OUTPUT_TOKENS,
    MemoryCourse,
    ProofLoad,
    has_grown,
    is_given_back,
    proof_load,
)
from kvcached_engine.segment import SegmentUsage
from servekit.errors.tree import EngineNotReady
from servekit.timing.clock import Clock

# Token ids that every vocabulary has, and no special token among them.
_TOKENS = (1_000, 20_000)

_SAMPLE_S = 0.1

# KVCached unmaps pages within a second of the last request.
_GIVEN_BACK_S = 5.0

# Other engines of a card start beside this one: what they allocate meanwhile is not the load's.
_ATTEMPTS = 2

_LOAD_TIMEOUT_S = 120.0

_BLOCKS = re.compile(r'[{,]num_gpu_blocks="(\d+)"')
_BLOCK_SIZE = re.compile(r'[{,]block_size="(\d+)"')


@dataclass(frozen=True, slots=True)
class ProvedEngine:
    """What of an engine the prover needs.

    Attributes:
        usage: what its segment says now.
        kept_tokens: cached prefixes that KVCached keeps; below 0 for all.
    """

    url: str
    api_key: str
    environ: Mapping[str, str]
    memory_command: str
    kept_tokens: int
    usage: Callable[[], SegmentUsage | None]


async def watch_memory(engine: ProvedEngine, before: int, clock: Clock) -> MemoryCourse:
    """Return the course of the memory over a load; after a disproof it is tried again.

    Raises:
        EngineNotReady: the load cannot be put on the engine, or the memory cannot be read.
    """
    prover = _Prover(engine, clock)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LOAD_TIMEOUT_S)) as http:
        try:
            return await prover.course(http, before)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineNotReady(
                f"KVCached cannot be proven: a request to {engine.url} failed: {error!r}"
            ) from error


class _Prover:
    def __init__(self, engine: ProvedEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def course(self, http: aiohttp.ClientSession, before: int) -> MemoryCourse:
        model, max_model_len = await self._model(http)
        capacity_tokens = await self._capacity_tokens(http)
        course: MemoryCourse | None = None
        for _ in range(_ATTEMPTS):
            usage = self._engine.usage()
            if usage is None:
                break
            load = proof_load(usage.limit, capacity_tokens, max_model_len, self._engine.kept_tokens)
            course = await self._one_course(http, model, load, before, usage)
            if has_grown(course) and is_given_back(course):
                return course
        if course is None:
            raise EngineNotReady("KVCached cannot be proven: its usage record is gone")
        return course

    async def _one_course(
        self,
        http: aiohttp.ClientSession,
        model: str,
        load: ProofLoad,
        before: int,
        usage: SegmentUsage,
    ) -> MemoryCourse:
        idle = await self._used()
        loaded = await self._highest_during(self._load(http, model, load))
        course = MemoryCourse(
            before=before,
            idle=idle,
            loaded=max(loaded, idle),
            released=max(loaded, idle),
            capacity=usage.limit,
            load_bytes=load.kv_bytes,
            preallocated=usage.preallocated,
        )
        until_s = self._clock.now() + (_GIVEN_BACK_S if has_grown(course) else 0.0)
        while True:
            released = min(course.released, await self._used())
            course = replace(course, released=released)
            if is_given_back(course) or self._clock.now() >= until_s:
                return course
            await self._clock.sleep(_SAMPLE_S)

    async def _highest_during(self, work: Awaitable[None]) -> int:
        """Return the most memory that was used until *work* is done."""
        highest = 0
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                highest = max(highest, await self._used())
                await self._clock.sleep(_SAMPLE_S)
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return highest

    async def _load(self, http: aiohttp.ClientSession, model: str, load: ProofLoad) -> None:
        """Send all requests of *load* at once, each with a prompt of its own."""
        # Equal prompts would be found in the cache.
        chance = random.Random()
        await asyncio.gather(
            *(
                self._ask(
                    http, model, [chance.randint(*_TOKENS) for _ in range(load.prompt_tokens)]
                )
                for _ in range(load.requests)
            )
        )

    async def _ask(self, http: aiohttp.ClientSession, model: str, prompt: list[int]) -> None:
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": OUTPUT_TOKENS,
            "min_tokens": OUTPUT_TOKENS,
            "ignore_eos": True,
            "temperature": 0.0,
        }
        url = f"{self._engine.url}/v1/completions"
        async with http.post(url, json=body, headers=self._headers()) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise EngineNotReady(
                    f"KVCached cannot be proven: {url} answered {answer.status}: {text[:200]}"
                )

    async def _model(self, http: aiohttp.ClientSession) -> tuple[str, int]:
        """Return the model's name and how many tokens one request may have."""
        text = await self._get(http, "/v1/models")
        try:
            card: dict[str, Any] = msgspec.json.decode(text)["data"][0]
            return str(card["id"]), int(card["max_model_len"])
        except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
            raise EngineNotReady(
                f"KVCached cannot be proven: {self._engine.url}/v1/models says {text[:200]!r}"
            ) from error

    async def _capacity_tokens(self, http: aiohttp.ClientSession) -> int:
        text = await self._get(http, "/metrics")
        tokens = read_capacity_tokens(text)
        if not tokens:
            raise EngineNotReady(
                f"KVCached cannot be proven: {self._engine.url}/metrics has no size of the KV cache"
            )
        return tokens

    async def _get(self, http: aiohttp.ClientSession, path: str) -> str:
        async with http.get(f"{self._engine.url}{path}", headers=self._headers()) as answer:
            return await answer.text()

    def _headers(self) -> dict[str, str]:
        key = self._engine.api_key
        return {"Authorization": f"Bearer {key}"} if key else {}

    async def _used(self) -> int:
        return await used_memory(self._engine.memory_command, self._engine.environ)


def read_capacity_tokens(metrics: str) -> int | None:
    """Return the tokens of the KV cache by `vllm:cache_config_info`; None where it is not said."""
    for line in metrics.splitlines():
        if line.startswith("vllm:cache_config_info{"):
            blocks, size = _BLOCKS.search(line), _BLOCK_SIZE.search(line)
            return int(blocks[1]) * int(size[1]) if blocks and size else None
    return None
