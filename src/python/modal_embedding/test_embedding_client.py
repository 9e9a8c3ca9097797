"""Ask a running endpoint four things: `BASE_URL=https://… python test_embedding_client.py`.

One text, a batch, similarities, and how long an answer takes.  With OpenAI's own client, as anybody
would; EMBEDDING_API_KEY is its key, and MODAL_KEY and MODAL_SECRET pass Modal's edge.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# As in modal_vllm_embedding_with_snapshot.py.
sys.path.append(str(Path(__file__).resolve().parents[1]))

try:
    import openai

    from modal_embedding.engine.settings import DEFAULT_MODEL
    from modal_embedding.messages.vectors import as_vectors, nearest
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}: pip install -r {Path(__file__).with_name('requirements.txt')}")

SENTENCES = ("A cat sleeps on the sofa.", "A kitten naps.", "Interest rates rose.")

ROUNDS = 5


def client_of(environ: Mapping[str, str]) -> openai.OpenAI:
    """Return OpenAI's client for BASE_URL, with or without /v1."""
    base_url = environ.get("BASE_URL", "http://127.0.0.1:8000").rstrip("/").removesuffix("/v1")
    proxy = {"Modal-Key": environ.get("MODAL_KEY"), "Modal-Secret": environ.get("MODAL_SECRET")}
    return openai.OpenAI(
        base_url=f"{base_url}/v1",
        api_key=environ.get("EMBEDDING_API_KEY") or "EMPTY",
        default_headers={name: value for name, value in proxy.items() if value},
    )


def embed(client: openai.OpenAI, model: str, texts: Sequence[str]) -> list[list[float]]:
    """Return one vector per text."""
    answer = client.embeddings.create(model=model, input=list(texts))
    return [entry.embedding for entry in answer.data]


def session(client: openai.OpenAI, model: str) -> list[str]:
    """Return what was seen, one line each."""
    one = embed(client, model, SENTENCES[:1])
    batch = as_vectors(embed(client, model, SENTENCES))
    matches = nearest(batch[0], batch, len(SENTENCES))
    similar = ", ".join(f"{match.score:.3f} {SENTENCES[match.index]!r}" for match in matches)
    seconds = sorted(_seconds(client, model) for _ in range(ROUNDS))
    return [
        f"single: {len(one[0])} dimensions",
        f"batch: {len(batch)} vectors of {batch.shape[1]} dimensions",
        f"cosine with the first: {similar}",
        f"latency over {ROUNDS}: median {seconds[ROUNDS // 2] * 1000:.0f} ms, "
        f"longest {seconds[-1] * 1000:.0f} ms",
    ]


def _seconds(client: openai.OpenAI, model: str) -> float:
    start_s = time.monotonic()
    embed(client, model, SENTENCES[:1])
    return time.monotonic() - start_s


def run() -> None:
    """Print the session, or the reason why there is none."""
    model = os.environ.get("MODEL_NAME") or DEFAULT_MODEL
    try:
        print("\n".join(session(client_of(os.environ), model)))  # noqa: T201
    except openai.OpenAIError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


if __name__ == "__main__":
    run()
