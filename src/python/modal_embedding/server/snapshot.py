"""The life of the class on Modal, without Modal: load, warm up, sleep | snapshot | wake, embed."""

from collections.abc import Callable, Sequence
from pathlib import Path

from modal_embedding.engine.embedder import Embedder, PoolingEngine
from modal_embedding.engine.settings import EmbeddingSettings
from modal_embedding.messages.coldstart import ColdStart, timed_stages
from modal_embedding.messages.protocol import EmbedOptions
from modal_embedding.messages.vectors import Vectors
from servekit.timing.clock import Clock
from servekit.timing.timeline import Timeline


class SnapshotEmbedder:
    """An embedder that sleeps through a snapshot, and notes where its start spent its time."""

    def __init__(self, settings: EmbeddingSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._made = Timeline(clock)
        self._woken = Timeline(clock)
        self._first_embedding_s: float | None = None

    def load(self, bring: Callable[[], Path], open_engine: Callable[[Path], PoolingEngine]) -> None:
        """Do everything that a snapshot can keep.

        Args:
            bring: returns the folder of the model.
            open_engine: returns an engine that holds the model of a folder.
        """
        with self._made.stage("weights"):
            folder = bring()
        with self._made.stage("engine"):
            self._engine = open_engine(folder)
            self._embedder = Embedder(self._engine, self._settings)
        with self._made.stage("warm-up"):
            self._embedder.warm_up()
        with self._made.stage("sleep"):
            self._engine.sleep()

    def wake(self) -> None:
        """Take the GPU's memory again, and see that the engine answers."""
        # The clock of before the snapshot may have been another machine's.
        self._woken = Timeline(self._clock)
        with self._woken.stage("wake"):
            self._engine.wake()
        with self._woken.stage("warm-up"):
            self._embedder.warm_up()

    def embed(self, sentences: Sequence[str], ask: EmbedOptions) -> Vectors:
        """As `Embedder.embed`."""
        start_s = self._clock.now()
        vectors = self._embedder.embed(sentences, ask)
        if self._first_embedding_s is None:
            self._first_embedding_s = self._clock.now() - start_s
        return vectors

    def cold_start(self) -> ColdStart:
        """Return where the start spent its time."""
        made, woken = timed_stages(self._made), timed_stages(self._woken)
        return ColdStart(made, woken, self._first_embedding_s)

    def close(self) -> None:
        self._engine.close()
