"""The service on the real vLLM on a CPU, started by `local`; equal to transformers, and OpenAI's
client is content."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from modal_embedding.messages.vectors import Vectors, as_vectors, cosine_distances, normalised
from modal_embedding.test_embedding_client import session
from tests.modal_embedding.real_service import MODEL, SEED, TEXTS, Running, by_hand, local
from tests.real_engine.engine import ensure_model
from tests.real_engine.environment import EngineEnvironment, environment_or_skip

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]


# Cosine distance between two ways to compute the same vector in bfloat16.
PARITY = 1e-3


@pytest.fixture(scope="module")
def environment() -> EngineEnvironment:
    return environment_or_skip(os.environ)


@pytest.fixture(scope="module")
def model(environment: EngineEnvironment) -> Path:
    return ensure_model(environment, SEED)


@pytest.fixture(scope="module")
def service(
    environment: EngineEnvironment, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("logs") / "local.log"
    with local(environment, model, log) as running:
        yield running


@pytest.fixture(scope="module")
def reference(environment: EngineEnvironment, model: Path) -> Vectors:
    return by_hand(environment, "transformers", model)


def test_vectors_equal_those_of_transformers(service: Running, reference: Vectors) -> None:
    """Of texts of one token and of hundreds, in several scripts."""
    distances = cosine_distances(service.embed(TEXTS), reference)

    assert distances.max() < PARITY


def test_order_is_kept(service: Running, reference: Vectors) -> None:
    """Also across the batches of a large request."""
    texts = [f"number {number}" for number in range(150)]

    forwards, backwards = service.embed(texts), service.embed(texts[::-1])

    assert cosine_distances(forwards, backwards[::-1]).max() < PARITY
    assert cosine_distances(service.embed(TEXTS[::-1]), reference[::-1]).max() < PARITY


@pytest.mark.parametrize("size", [64, 128, 256])
def test_dimensions_are_cut_and_brought_to_length_one(service: Running, size: int) -> None:
    """As cutting the whole vector gives."""
    whole = service.embed(TEXTS)

    short = service.embed(TEXTS, dimensions=size)

    assert short.shape == (len(TEXTS), size)
    assert np.allclose(np.linalg.norm(short, axis=1), 1.0, atol=1e-5)
    assert cosine_distances(short, normalised(whole[:, :size])).max() < PARITY


def test_floats_and_base64_are_the_same(service: Running) -> None:
    """Bit by bit but for the engine's own noise; OpenAI's client asks for base64 by itself."""
    with service.client() as client:
        answer = client.embeddings.create(model=MODEL, input=TEXTS[:2], encoding_format="float")

    floats = as_vectors([entry.embedding for entry in answer.data])
    assert cosine_distances(floats, service.embed(TEXTS[:2])).max() < PARITY
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 2


def test_a_text_that_is_too_long_is_named(service: Running) -> None:
    """vLLM says neither which, nor how long it is."""
    with pytest.raises(openai.BadRequestError) as caught:
        service.embed(["ok", "ok", "x y " * 3000])

    body = caught.value.body
    assert isinstance(body, dict)
    assert (body["index"], body["max_model_len"]) == (2, 2048)
    assert body["tokens"] == 12000


def test_openais_client_is_content(service: Running) -> None:
    """The session of test_embedding_client.py, and each refusal as OpenAI's own error."""
    with service.client() as client, service.client("wrong") as stranger:
        lines = session(client, MODEL)
        models = client.models.list().data
        with pytest.raises(openai.AuthenticationError):
            stranger.embeddings.create(model=MODEL, input="a")
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="other", input="a")
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model=MODEL, input="")

    assert lines[0] == "single: 256 dimensions"
    assert lines[1] == "batch: 3 vectors of 256 dimensions"
    assert lines[2].startswith("cosine with the first: 1.000 'A cat sleeps")
    assert [model.id for model in models] == [MODEL]


def test_an_engine_that_died_is_started_again(service: Running) -> None:
    """Its callers are told at once, and served again as soon as it is back."""
    before = service.embed(TEXTS)
    os.killpg(engine_pid(service.process.pid), signal.SIGKILL)

    with pytest.raises(openai.APIStatusError) as caught:
        service.embed(["a"])
    assert caught.value.status_code == 503

    assert cosine_distances(_once_back(service), before).max() < PARITY


def _once_back(service: Running) -> Vectors:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            return service.embed(TEXTS)
        except openai.InternalServerError:
            time.sleep(0.5)
    raise AssertionError("the engine did not come back in 240 s")


def engine_pid(parent: int) -> int:
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(child)


def test_the_class_gives_the_same_vectors(
    environment: EngineEnvironment, model: Path, reference: Vectors
) -> None:
    """vLLM's Python API, as the class on Modal uses it, in the engine's own environment."""
    vectors = by_hand(environment, "vllm", model, PYTHONPATH=source_root())

    assert cosine_distances(vectors, reference).max() < PARITY


def source_root() -> str:
    import modal_embedding.engine.settings

    return str(Path(modal_embedding.engine.settings.__file__).parents[2])
