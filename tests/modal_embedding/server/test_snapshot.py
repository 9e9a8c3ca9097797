from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from modal_embedding.engine.embedder import described, warm_up_texts
from modal_embedding.engine.settings import EmbeddingSettings
from modal_embedding.messages.coldstart import ColdStart, TimedStage, report
from modal_embedding.messages.protocol import Embedded, EmbedOptions
from modal_embedding.messages.vectors import as_vectors
from modal_embedding.server.snapshot import SnapshotEmbedder
from servekit.errors.tree import EngineExited, RequestInvalid
from tests.support.clock import FakeClock
from tests.support.modal_engine import vector_of
from tests.support.modal_front import small_settings


class FakeEngine:
    """An engine that takes its time, and refuses to work asleep."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.asleep = False
        self.prompts: list[str] = []

    def embed(self, prompts: Sequence[str]) -> Embedded:
        if self.asleep:
            raise EngineExited("asleep")
        self.clock.advance(1.0)
        self.prompts.extend(prompts)
        return Embedded(as_vectors([3.0 * vector_of(prompt) for prompt in prompts]), 1)

    def sleep(self) -> None:
        self.clock.advance(7.0)
        self.asleep = True

    def wake(self) -> None:
        self.clock.advance(0.9)
        self.asleep = False

    def close(self) -> None:
        self.clock.advance(1.0)


def started(
    settings: EmbeddingSettings, *, wake: bool = True
) -> tuple[SnapshotEmbedder, FakeEngine]:
    clock = FakeClock()
    engine = FakeEngine(clock)
    embedder = SnapshotEmbedder(settings, clock)

    def bring() -> Path:
        clock.advance(20.0)
        return Path("/model")

    def open_engine(folder: Path) -> FakeEngine:
        assert folder == Path("/model")
        clock.advance(30.0)
        return engine

    embedder.load(bring, open_engine)
    if wake:
        embedder.wake()
    return embedder, engine


def test_the_snapshot_is_taken_of_a_warm_engine_that_sleeps() -> None:
    """Warm, because kernels are compiled at their first use; asleep, so that it is small."""
    embedder, engine = started(small_settings(), wake=False)

    assert engine.asleep
    assert engine.prompts == list(warm_up_texts(100))
    assert [stage.name for stage in embedder.cold_start().made] == [
        "weights",
        "engine",
        "warm-up",
        "sleep",
    ]


def test_after_the_snapshot_the_engine_answers() -> None:
    """Vectors of length 1, in order, whatever length the engine gave them."""
    embedder, _ = started(small_settings())

    vectors = embedder.embed(["b", "a"], EmbedOptions())

    assert np.allclose(vectors, [vector_of("b"), vector_of("a")], atol=1e-6)


def test_a_query_is_put_as_the_model_wants_it() -> None:
    """The engine sees the prompt, the caller gets the vector."""
    embedder, engine = started(small_settings())

    embedder.embed(["why"], EmbedOptions(4, "Sort"))

    assert engine.prompts[-1] == "Instruct: Sort \n Query: why"


def test_dimensions_are_refused_before_the_engine_is_asked() -> None:
    """The model's own are known from the warm-up."""
    embedder, engine = started(small_settings())
    asked = len(engine.prompts)

    with pytest.raises(RequestInvalid, match="use one of 4, 8, 16"):
        embedder.embed(["a"], EmbedOptions(5))

    assert len(engine.prompts) == asked
    assert embedder.embed(["a"], EmbedOptions(16)).shape == (1, 16)
    assert embedder.embed(["a"], EmbedOptions(8)).shape == (1, 8)


def test_no_sentences_are_refused() -> None:
    """The engine is not asked."""
    embedder, engine = started(small_settings())
    asked = len(engine.prompts)

    with pytest.raises(RequestInvalid, match="there are no texts"):
        embedder.embed([], EmbedOptions())
    assert len(engine.prompts) == asked


def test_the_cold_start_says_where_the_time_went() -> None:
    """Before the snapshot, after it, and in the first request alone."""
    embedder, _ = started(small_settings())
    embedder.embed(["a"], EmbedOptions())
    embedder.embed(["b"], EmbedOptions())

    start = embedder.cold_start()

    assert sum(stage.seconds for stage in start.made) == pytest.approx(58.0)
    assert start.woken_s == pytest.approx(1.9)
    assert start.first_embedding_s == pytest.approx(1.0)


def test_what_the_container_does_not_know_remains_of_the_call() -> None:
    """Modal's placing and restoring is the call less what the container did."""
    start = ColdStart((TimedStage("engine", 60.0),), (TimedStage("wake", 1.5),), 0.5)

    lines = report(start, first_call_s=9.0).splitlines()

    assert [line.split()[-2] for line in lines] == ["60.00", "1.50", "0.50", "7.00", "9.00"]
    assert lines[3].split()[:4] == ["caller", "placed,", "restored,", "network"]


def test_each_sentence_is_described_with_its_vector() -> None:
    """Text, vector and its size."""
    assert described(["a"], as_vectors([[0.5, 0.25]])) == [
        {"text": "a", "embedding": [0.5, 0.25], "dimension": 2}
    ]
