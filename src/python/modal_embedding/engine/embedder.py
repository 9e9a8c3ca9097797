"""Sentences to vectors with an engine of this process: what the class on Modal does.

The engine comes in as an argument; what it is asked is decided here, and pure.
"""

from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np

from modal_embedding.engine.instructions import Phrasing, phrased
from modal_embedding.engine.settings import EmbeddingSettings
from modal_embedding.messages.protocol import Embedded, EmbedOptions, check_texts
from modal_embedding.messages.vectors import Vectors, check_dimensions, normalised, shortened

# Tokens.  No embedding model reads fewer.
_SHORTEST_MODEL = 128


def warm_up_texts(max_model_len: int) -> tuple[str, str]:
    """Return a short and a longer text, so that the engine has seen both shapes of its work.

    A length of 0 is one that is not known.
    """
    # Three bytes are at most three tokens, with room for what a tokenizer adds around them.
    return "warm", "up " * max(1, min(500, (max_model_len or _SHORTEST_MODEL) // 4))


class PoolingEngine(Protocol):
    """An engine that can be put to sleep: its GPU memory is let go of, and taken again."""

    def embed(self, prompts: Sequence[str]) -> Embedded:
        """Return the model's own vectors, in order.

        Raises:
            TextTooLong: a prompt has too many tokens; carries its index.
            EngineError: the engine failed.
        """

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


class DescribedEmbedding(TypedDict):
    """One entry of `embed_with_metadata`."""

    text: str
    embedding: list[float]
    dimension: int


class Embedder:
    """A model's rules over an engine."""

    def __init__(self, engine: PoolingEngine, settings: EmbeddingSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._own_dimensions: int | None = None

    def warm_up(self) -> None:
        """Let the engine do once what it will be asked to do, and learn the model's own size."""
        texts = warm_up_texts(self._settings.max_model_len)
        self._own_dimensions = self._engine.embed(texts).vectors.shape[1]

    def embed(self, sentences: Sequence[str], ask: EmbedOptions) -> Vectors:
        """Return one unit-length vector per sentence, in order; none give shape (0, 0).

        Raises:
            RequestInvalid: a sentence is empty or no string, or the dimensions are not offered.
            TextTooLong: a sentence has too many tokens; carries its index.
        """
        texts = check_texts(sentences)
        offered = self._settings.matryoshka_dimensions
        check_dimensions(ask.dimensions, offered, self._own_dimensions)
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        phrasing = phrasing_of(self._settings)
        prompts = phrased(texts, phrasing, instruction=ask.instruction, query=ask.query)
        return shortened(normalised(self._engine.embed(prompts).vectors), ask.dimensions)


def phrasing_of(settings: EmbeddingSettings) -> Phrasing:
    """Return how queries are put to the model."""
    return Phrasing(settings.query_instruction, settings.query_template)


def described(sentences: Sequence[str], vectors: Vectors) -> list[DescribedEmbedding]:
    """Return each sentence with its vector and the vector's size."""
    return [
        {"text": text, "embedding": vector.tolist(), "dimension": len(vector)}
        for text, vector in zip(sentences, vectors, strict=True)
    ]
