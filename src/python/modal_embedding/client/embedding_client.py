"""Embed any number of texts: from the cache where possible, in batches, several at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from modal_embedding.client.backends import Busy, EmbeddingBackend
from modal_embedding.client.batches import batched
from modal_embedding.client.cache import EmbeddingCache, Recipe
from modal_embedding.messages.protocol import EmbedOptions, TextTooLong, check_texts
from modal_embedding.messages.vectors import Vector, Vectors, as_vectors
from servekit.errors.tree import EngineError
from servekit.timing.clock import Clock, SystemClock

T = TypeVar("T")

Take = Callable[[Sequence[str], Vectors], None]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a failed batch is tried again.

    Attributes:
        attempts: in all, the first included.
        first_delay_s: before the second attempt; doubles for each further one.
        longest_delay_s: where doubling ends.
    """

    attempts: int = 5
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0

    def delay_s(self, failed: int, random: Random) -> float:
        """Return how long to wait after *failed* attempts: at random between half and whole, so
        that clients which failed together do not come back together."""
        whole = min(self.longest_delay_s, self.first_delay_s * 2.0 ** (failed - 1))
        return whole * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class EmbedProgress:
    """How far a call has come, in distinct texts.

    Attributes:
        cached: how many of them were known before.
    """

    done: int
    total: int
    cached: int


class EmbeddingClient:
    """Texts to vectors.

    async with open_session(api_key) as session:
        client = EmbeddingClient(HttpService(session, url, model), model)
        vectors = await client.embed(["Hello world"])
    """

    def __init__(
        self,
        service: EmbeddingBackend,
        model: str,
        *,
        revision: str = "",
        cache: EmbeddingCache | None = None,
        batch_size: int = 64,
        concurrency: int = 8,
        retries: Retries | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        on_progress: Callable[[EmbedProgress], None] = lambda _: None,
    ) -> None:
        """*model* and *revision* tell the cache what *service* serves."""
        self._service = service
        self._model = model
        self._revision = revision
        self._cache = cache
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._retries = retries or Retries()
        self._clock = clock or SystemClock()
        self._random = random or Random()
        self._on_progress = on_progress

    async def embed(self, texts: Sequence[str], ask: EmbedOptions | None = None) -> Vectors:
        """Return one unit-length vector per text, in the order given; none give shape (0, 0).

        A text that stands there twice is embedded once.

        Raises:
            RequestInvalid: a text is empty or no string; names its index.
            TextTooLong: a text has too many tokens; carries its index.
            EngineError: a batch failed every time; what other batches gave is in the cache.
        """
        wanted = check_texts(texts)
        unique = list(dict.fromkeys(wanted))
        recipe = Recipe(self._model, self._revision, ask or EmbedOptions())
        found = self._known(unique, recipe)
        cached = len(found)
        self._on_progress(EmbedProgress(cached, len(unique), cached))

        def take(batch: Sequence[str], vectors: Vectors) -> None:
            found.update(zip(batch, vectors, strict=True))
            self._keep(batch, vectors, recipe)
            self._on_progress(EmbedProgress(len(found), len(unique), cached))

        missing = [text for text in unique if text not in found]
        await self._embed_all(missing, recipe.ask, take, wanted)
        return as_vectors([found[text] for text in wanted])

    def _known(self, texts: Sequence[str], recipe: Recipe) -> dict[str, Vector]:
        if self._cache is None:
            return {}
        by_key = {recipe.key(text): text for text in texts}
        return {by_key[key]: vector for key, vector in self._cache.get(list(by_key)).items()}

    def _keep(self, batch: Sequence[str], vectors: Vectors, recipe: Recipe) -> None:
        if self._cache is not None:
            self._cache.put(zip(map(recipe.key, batch), vectors, strict=True))

    async def _embed_all(
        self, texts: Sequence[str], ask: EmbedOptions, take: Take, wanted: Sequence[str]
    ) -> None:
        # One iterator for all workers: each takes the next batch that nobody has.
        batches = iter(batched(texts, size=self._batch_size))
        workers = [self._work(batches, ask, take, wanted) for _ in range(self._concurrency)]
        await all_or_none(workers)

    async def _work(
        self, batches: Iterator[list[str]], ask: EmbedOptions, take: Take, wanted: Sequence[str]
    ) -> None:
        for batch in batches:
            try:
                take(batch, await self._patiently(batch, ask))
            except TextTooLong as error:
                index = wanted.index(batch[error.index])
                raise TextTooLong(index, error.tokens, error.limit) from error

    async def _patiently(self, batch: Sequence[str], ask: EmbedOptions) -> Vectors:
        failed = 0
        while True:
            try:
                embedded = await self._service.embed(batch, ask)
                return embedded.vectors
            except EngineError as error:
                failed += 1
                if failed >= self._retries.attempts:
                    raise
                asked_for = error.retry_after_s if isinstance(error, Busy) else None
                wait_s = self._retries.delay_s(failed, self._random)
                await self._clock.sleep(max(wait_s, asked_for or 0.0))


async def all_or_none(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what all return, in order; the first that fails cancels the others, and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
