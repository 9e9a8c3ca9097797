"""`modal_embedding`: embed texts through the service, search the vectors, look at a cold start."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from modal_embedding.client.backends import (
    EmbeddingBackend,
    HttpService,
    ModalService,
    open_session,
)
from modal_embedding.client.cache import DEFAULT_MAX_BYTES, EmbeddingCache
from modal_embedding.client.embedding_client import EmbeddingClient, EmbedProgress, Retries
from modal_embedding.client.files import (
    Embeddings,
    check_ending,
    jsonl_rows,
    labels,
    read_embeddings,
    read_texts,
    write_embeddings,
)
from modal_embedding.engine.settings import DEFAULT_MODEL
from modal_embedding.messages.coldstart import ColdStart, report
from modal_embedding.messages.protocol import EmbedOptions
from modal_embedding.messages.vectors import Vectors, nearest
from servekit.cli.app import ProgramApp
from servekit.cli.logs import configure_logs
from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid

log = structlog.get_logger()

T = TypeVar("T")

app = ProgramApp(
    "modal_embedding", no_args_is_help=True, help="Embed texts with the service, and search them."
)

MB = 1024**2
DEFAULT_CACHE_MB = DEFAULT_MAX_BYTES // MB

MODAL_APP = "vllm-embedding-snapshot"
MODAL_CLASS = "VLLMEmbeddingSnapshot"

Url = Annotated[
    str,
    typer.Option(
        envvar="EMBEDDING_URL", help="URL of the embedding service; default: the class on Modal."
    ),
]
Model = Annotated[str, typer.Option(envvar="MODEL_NAME", help="Model name, as the service has it.")]
Revision = Annotated[
    str, typer.Option(envvar="MODEL_REVISION", help="Model revision, part of the key of the cache.")
]
Dimensions = Annotated[
    int | None, typer.Option(help="Dimensions of the vectors; default: the model's.")
]
Instruction = Annotated[
    str | None, typer.Option(help="Task description that the model gets with each query.")
]
Concurrency = Annotated[int, typer.Option(help="Max concurrent requests.", min=1)]
BatchSize = Annotated[int, typer.Option(help="Texts per request.", min=1)]
Attempts = Annotated[int, typer.Option(help="Max attempts per batch.", min=1)]
CacheFile = Annotated[
    Path | None, typer.Option("--cache", help="File of the cache of vectors; default: no cache.")
]
CacheMb = Annotated[
    int,
    typer.Option(
        help="Max size of the cache (MB); the least recently used vectors are evicted.", min=1
    ),
]


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """What the options say about the service.

    Attributes:
        url: empty for the class on Modal.
    """

    url: str
    model: str
    revision: str = ""
    concurrency: int = 8
    batch_size: int = 64
    attempts: int = 5
    cache: Path | None = None
    cache_mb: int = DEFAULT_CACHE_MB


@app.command()
def embed(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files with one text per line; default: standard input."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output file: .jsonl, .parquet or .npy; default: standard output.",
        ),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--jsonl", help='Read lines as {"text": …}; implied for *.jsonl files.')
    ] = False,
    url: Url = "",
    model: Model = DEFAULT_MODEL,
    revision: Revision = "",
    dimensions: Dimensions = None,
    instruction: Instruction = None,
    query: Annotated[bool, typer.Option(help="Embed the texts as queries.")] = False,
    concurrency: Concurrency = 8,
    batch_size: BatchSize = 64,
    attempts: Attempts = 5,
    cache: CacheFile = None,
    cache_mb: CacheMb = DEFAULT_CACHE_MB,
) -> None:
    """Embed texts, one per line, into JSON lines, Parquet or npy."""
    configure_logs()
    if output is not None:
        check_ending(output)
    texts = _texts(files or [], json_lines)
    target = EndpointOptions(
        url, model, revision, concurrency, batch_size, attempts, cache, cache_mb
    )
    vectors = asyncio.run(_embed(target, texts, EmbedOptions(dimensions, instruction, query)))
    embeddings = Embeddings(tuple(texts), vectors)
    if output is not None:
        write_embeddings(output, embeddings)
        return
    sys.stdout.buffer.writelines(jsonl_rows(embeddings))
    sys.stdout.buffer.flush()


@app.command()
def search(
    embeddings: Annotated[Path, typer.Argument(help="File of vectors that `embed` wrote.")],
    text: Annotated[str, typer.Argument(help="Query text.")],
    count: Annotated[int, typer.Option("--count", "-n", help="Number of results.", min=1)] = 5,
    url: Url = "",
    model: Model = DEFAULT_MODEL,
    revision: Revision = "",
    instruction: Instruction = None,
    attempts: Attempts = 5,
    cache: CacheFile = None,
    cache_mb: CacheMb = DEFAULT_CACHE_MB,
) -> None:
    """Print the texts most similar to TEXT: cosine similarity, tab, text."""
    configure_logs()
    found = read_embeddings(embeddings)
    if not len(found.vectors):
        raise SettingInvalid(f"{embeddings} holds no vectors; embed some texts first")
    target = EndpointOptions(
        url, model, revision, attempts=attempts, cache=cache, cache_mb=cache_mb
    )
    # The query in the size of those that it is compared with.
    ask = EmbedOptions(found.vectors.shape[1], instruction, query=True)
    vector = asyncio.run(_embed(target, [text], ask))[0]
    names = labels(found)
    for match in nearest(vector, found.vectors, count):
        print(f"{match.score:.4f}\t{names[match.index]}")  # noqa: T201


@app.command()
def coldstart(url: Url = "", model: Model = DEFAULT_MODEL) -> None:
    """Embed one text, and print where the time of the container's start went."""
    configure_logs()
    target = EndpointOptions(url, model, attempts=1)
    first_call_s, start = asyncio.run(_cold_start(target))
    print(report(start, first_call_s))  # noqa: T201


async def _embed(target: EndpointOptions, texts: list[str], ask: EmbedOptions) -> Vectors:
    async def work(service: EmbeddingBackend) -> Vectors:
        with _bar(len(texts)) as bar:
            if target.cache is None:
                return await _client(target, service, None, bar).embed(texts, ask)
            with EmbeddingCache(target.cache, target.cache_mb * MB) as cache:
                return await _client(target, service, cache, bar).embed(texts, ask)

    return await _with_service(target, work)


def _client(
    target: EndpointOptions, service: EmbeddingBackend, cache: EmbeddingCache | None, bar: Bar
) -> EmbeddingClient:
    task = bar.add_task("texts")

    def show(progress: EmbedProgress) -> None:
        bar.update(task, total=progress.total, completed=progress.done)
        if progress.done == progress.total:
            log.info("embedded", distinct_texts=progress.total, from_cache=progress.cached)

    return EmbeddingClient(
        service,
        target.model,
        revision=target.revision,
        cache=cache,
        batch_size=target.batch_size,
        concurrency=target.concurrency,
        retries=Retries(target.attempts),
        on_progress=show,
    )


async def _cold_start(target: EndpointOptions) -> tuple[float, ColdStart]:
    async def work(service: EmbeddingBackend) -> tuple[float, ColdStart]:
        start_s = time.monotonic()
        await service.embed(["cold start"], EmbedOptions())
        first_call_s = time.monotonic() - start_s
        if isinstance(service, HttpService):
            told = await service.get("/coldstart")
            return first_call_s, msgspec.json.decode(told, type=ColdStart)
        assert isinstance(service, ModalService)
        return first_call_s, msgspec.convert(await service.call("cold_start"), ColdStart)

    return await _with_service(target, work)


async def _with_service(
    target: EndpointOptions, work: Callable[[EmbeddingBackend], Awaitable[T]]
) -> T:
    if not target.url:
        return await work(ModalService(MODAL_APP, MODAL_CLASS))
    async with open_session(*_credentials()) as session:
        return await work(HttpService(session, target.url, target.model))


def _credentials() -> tuple[str, tuple[str, str] | None]:
    """Our key, and the token that Modal's edge wants, as far as they are set."""
    token = os.environ.get("MODAL_KEY", ""), os.environ.get("MODAL_SECRET", "")
    if any(token) and not all(token):
        raise SettingInvalid("MODAL_KEY and MODAL_SECRET belong together; set both or none")
    return os.environ.get("EMBEDDING_API_KEY", ""), token if all(token) else None


def _texts(files: list[Path], json_lines: bool) -> list[str]:
    if not files:
        return read_texts(sys.stdin.buffer, "stdin", json_lines=json_lines)
    texts: list[str] = []
    for path in files:
        try:
            with path.open("rb") as lines:
                texts += read_texts(
                    lines, str(path), json_lines=json_lines or path.suffix == ".jsonl"
                )
        except OSError as error:
            raise SettingInvalid(f"{path} cannot be read: {error.strerror}") from error
    return texts


def _bar(total: int) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    quiet = not console.is_terminal or total == 0
    return Bar(*columns, TimeRemainingColumn(), console=console, disable=quiet)


if __name__ == "__main__":
    run_program(app)
