# ruff: noqa: T201  # a report
"""Texts per second of our client against the real vLLM on a CPU, and how exact the vectors are.

    PYTHONPATH=src/python:. python -m tests.modal_embedding.throughput

Starts the service as `local` does, with a tiny model; the table goes to stdout.
"""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from random import Random

from modal_embedding.client.backends import HttpService, open_session
from modal_embedding.client.embedding_client import EmbeddingClient
from modal_embedding.messages.vectors import cosine_distances
from tests.modal_embedding.real_service import KEY, MODEL, TEXTS, by_hand, local
from tests.real_engine.engine import ensure_model
from tests.real_engine.environment import ensure_environment

WORDS = [
    "requests",
    "come",
    "in",
    "and",
    "tokens",
    "go",
    "out",
    "while",
    "a",
    "queue",
    "forms",
    "between",
    "them",
]

# Texts of 5 to 60 words, as sentences and short paragraphs are.
COUNT = 640

ROUNDS = 3


def sample(seed: int) -> list[str]:
    random = Random(seed)
    return [
        f"{number} " + " ".join(random.choices(WORDS, k=random.randint(5, 60)))
        for number in range(COUNT)
    ]


async def seconds(url: str, texts: list[str], concurrency: int, batch_size: int) -> float:
    async with open_session(KEY) as session:
        service = HttpService(session, url, MODEL)
        client = EmbeddingClient(service, MODEL, batch_size=batch_size, concurrency=concurrency)
        start_s = time.monotonic()
        await client.embed(texts)
        return time.monotonic() - start_s


def measure(url: str) -> None:
    print("| texts a request | requests at a time | texts/s, median of 3 | lowest | highest |")
    print("|---|---|---|---|---|")
    asyncio.run(seconds(url, sample(99), 8, 8))
    for batch_size in (1, 16):
        for concurrency in (1, 8, 32):
            rates = sorted(
                COUNT / asyncio.run(seconds(url, sample(seed), concurrency, batch_size))
                for seed in range(ROUNDS)
            )
            shown = f"{rates[1]:.0f} | {rates[0]:.0f} | {rates[-1]:.0f}"
            print(f"| {batch_size} | {concurrency} | {shown} |", flush=True)


def main() -> None:
    environment = ensure_environment(os.environ)
    model = ensure_model(environment, 1)
    reference = by_hand(environment, "transformers", model)
    logs = tempfile.TemporaryDirectory()
    with logs, local(environment, model, Path(logs.name) / "local.log") as service:
        distances = sorted(cosine_distances(service.embed(TEXTS), reference))
        print(f"cosine distance to transformers: {distances[0]:.1e} to {distances[-1]:.1e}\n")
        measure(service.url)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
