import asyncio
from pathlib import Path
from random import Random

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_embedding.client.backends import HttpService, open_session
from modal_embedding.client.cache import EmbeddingCache
from modal_embedding.client.embedding_client import (
    EmbeddingClient,
    EmbedProgress,
    Retries,
    all_or_none,
)
from modal_embedding.messages.protocol import EmbedOptions, TextTooLong
from servekit.errors.tree import (
    EngineRefused,
    EngineUnreachable,
    ModelUnknown,
    RequestInvalid,
    SettingInvalid,
)
from tests.support.clock import FakeClock
from tests.support.modal_engine import StandInEngine, stand_in_engine, vector_of


def client_of(
    session: aiohttp.ClientSession, engine: StandInEngine, model: str = "tiny", **options: object
) -> EmbeddingClient:
    options.setdefault("random", Random(0))
    service = HttpService(session, engine.url, model)
    return EmbeddingClient(service, model, **options)  # type: ignore[arg-type]


@given(
    st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_vectors_stand_in_the_order_of_their_texts(
    texts: list[str], batch_size: int, concurrency: int
) -> None:
    """However they were batched, and also where a text stands there twice."""

    async def embed() -> list[bytes]:
        async with stand_in_engine() as engine, open_session() as session:
            client = client_of(session, engine, batch_size=batch_size, concurrency=concurrency)
            vectors = await client.embed(texts)
            asked = [text for body in engine.requests for text in body["input"]]
            assert len(asked) == len(set(asked))
            return [vector.tobytes() for vector in vectors]

    assert asyncio.run(embed()) == [vector_of(text).tobytes() for text in texts]


async def test_no_texts_are_refused_before_anybody_is_asked() -> None:
    """As the endpoint refuses them."""
    async with stand_in_engine() as engine, open_session() as session:
        with pytest.raises(RequestInvalid, match="there are no texts; send at least one"):
            await client_of(session, engine).embed([])

        assert engine.requests == []


async def test_as_many_requests_are_under_way_as_allowed() -> None:
    """Never more, and no fewer while there is work."""
    async with stand_in_engine(delay_s=0.3) as engine, open_session() as session:
        client = client_of(session, engine, batch_size=1, concurrency=3)

        await client.embed([str(number) for number in range(6)])

        assert engine.busiest == 3


async def test_what_was_embedded_once_is_not_asked_for_again(tmp_path: Path) -> None:
    """The second call finds it in the file; only the new text travels."""
    async with stand_in_engine() as engine, open_session() as session:
        with EmbeddingCache(tmp_path / "c") as cache:
            seen: list[EmbedProgress] = []
            client = client_of(session, engine, cache=cache, on_progress=seen.append)
            first = await client.embed(["a", "b"])
            again = await client.embed(["b", "c", "a", "b"])

        assert [body["input"] for body in engine.requests] == [["a", "b"], ["c"]]
        assert np.array_equal(again[[2, 0]], first)
        assert seen[-1] == EmbedProgress(done=3, total=3, cached=2)


async def test_vectors_of_other_dimensions_are_other_vectors(tmp_path: Path) -> None:
    """So are those of a query and of a document."""
    async with stand_in_engine() as engine, open_session() as session:
        with EmbeddingCache(tmp_path / "c") as cache:
            client = client_of(session, engine, cache=cache)
            for ask in (
                EmbedOptions(),
                EmbedOptions(4),
                EmbedOptions(query=True),
                EmbedOptions(instruction="sort"),
            ):
                await client.embed(["a"], ask)

        sent = [set(body) - {"model", "input", "encoding_format"} for body in engine.requests]
        assert sent == [set(), {"dimensions"}, {"input_type"}, {"instruction"}]


async def test_a_busy_service_is_asked_again_after_the_time_that_it_names() -> None:
    """Retry-After is longer than our own first delay, and so it is kept."""
    clock = FakeClock()
    async with stand_in_engine(refusals=[503, 429, 500]) as engine, open_session() as session:
        client = client_of(session, engine, clock=clock)

        vectors = await client.embed(["a"])

        assert np.array_equal(vectors[0], vector_of("a"))
        # 3 s by Retry-After; then our own 1 s and 2 s, each between its half and its whole.
        assert 4.5 <= clock.now() <= 6.0


async def test_after_the_last_attempt_the_failure_is_told() -> None:
    """What other batches gave is kept."""
    async with stand_in_engine(refusals=[500] * 9) as engine, open_session() as session:
        client = client_of(session, engine, clock=FakeClock(), retries=Retries(attempts=3))

        with pytest.raises(EngineRefused, match="answers 500: asked to refuse"):
            await client.embed(["a"])

        assert len(engine.requests) == 3


async def test_nobody_there_is_told_with_the_address() -> None:
    """After the attempts, because it may have been starting."""
    async with open_session() as session:
        service = HttpService(session, "http://127.0.0.1:1", "tiny")
        client = EmbeddingClient(service, "tiny", retries=Retries(2), clock=FakeClock())

        with pytest.raises(EngineUnreachable, match=r"http://127\.0\.0\.1:1 cannot be reached"):
            await client.embed(["a"])


async def test_no_url_is_no_address() -> None:
    """It is not tried again."""
    async with open_session() as session:
        with pytest.raises(SettingInvalid, match="no URL"):
            await HttpService(session, "not a url", "tiny").embed(["a"], EmbedOptions())


async def test_a_wrong_model_is_not_tried_again() -> None:
    """It would be as wrong the second time."""
    async with stand_in_engine() as engine, open_session() as session:
        with pytest.raises(ModelUnknown, match="nope"):
            await client_of(session, engine, "nope").embed(["a"])

        assert len(engine.requests) == 1


async def test_a_refused_text_is_told_in_the_services_words() -> None:
    """An engine cannot say which text was too long; our front can."""
    async with stand_in_engine(max_model_len=2) as engine, open_session() as session:
        with pytest.raises(RequestInvalid, match="maximum context length is 2"):
            await client_of(session, engine).embed(["one", "one two three"])


async def test_the_first_failure_stops_the_others() -> None:
    """Work that nobody waits for is cancelled."""
    cancelled = []

    async def fails() -> None:
        raise EngineRefused("no", status=500)

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(EngineRefused):
        await all_or_none([waits(), fails()])

    assert cancelled == [True]


class TooLongForB:
    """A service that reads everything but one text."""

    async def embed(self, inputs: object, _: EmbedOptions) -> object:
        raise TextTooLong(list(inputs).index("bb"), 9, 8)  # type: ignore[call-overload]


async def test_a_text_that_is_too_long_is_named_by_its_place_in_the_whole() -> None:
    """Not by its place in a batch that was sorted."""
    client = EmbeddingClient(TooLongForB(), "m")  # type: ignore[arg-type]

    with pytest.raises(TextTooLong, match="text 3 has 9 tokens"):
        await client.embed(["ccc", "a", "dddd", "bb"])


@given(st.integers(1, 40))
def test_delays_grow_to_a_limit(failed: int) -> None:
    """Between half and whole of what doubling gives."""
    retries = Retries(first_delay_s=0.5, longest_delay_s=30.0)

    delay_s = retries.delay_s(failed, Random(failed))

    whole = min(30.0, 0.5 * 2 ** (failed - 1))
    assert whole / 2 <= delay_s <= whole
