"""Our front before a stand-in engine, on a free port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

from modal_embedding.engine.settings import EmbeddingSettings
from modal_embedding.server.api import EmbeddingApi
from modal_embedding.server.embedding_server import EmbeddingEnginePlan, EmbeddingServer
from servekit.engine.environment import EngineFolders
from servekit.secrets.secret import Secret
from servekit.timing.clock import Clock, SystemClock
from tests.support.modal_engine import StandInEngine, stand_in_engine


def small_settings(**changes: object) -> EmbeddingSettings:
    """Settings that fit the stand-in: a model of 16 dimensions that reads 100 tokens."""
    given: dict[str, object] = {
        "model_name": "tiny",
        "matryoshka_dimensions": (8, 4),
        "max_model_len": 100,
        "enable_sleep_mode": False,
    }
    return EmbeddingSettings(**(given | changes))  # type: ignore[arg-type]


@asynccontextmanager
async def serving(
    settings: EmbeddingSettings,
    plan: EmbeddingEnginePlan | None = None,
    key: str = "",
    clock: Clock | None = None,
) -> AsyncIterator[tuple[str, EmbeddingServer]]:
    """Yield the URL of a front whose engine has answered."""
    clock = clock or SystemClock()
    front = EmbeddingApi(settings, clock, Secret(key))
    server = EmbeddingServer(settings, plan or no_plan(), front, clock)
    try:
        url = await server.listen("127.0.0.1", 0)
        await server.start_engine()
        await server.open()
        yield url, server
    finally:
        await server.close()


def no_plan() -> EmbeddingEnginePlan:
    """For an engine that somebody else started."""
    folders = EngineFolders(PurePosixPath("/nowhere"), PurePosixPath("/nowhere"))
    return EmbeddingEnginePlan(("false",), Path(), 1, {}, folders)


@asynccontextmanager
async def fronted_engine(
    key: str = "", **changes: object
) -> AsyncIterator[tuple[str, StandInEngine]]:
    """Yield the URL of a front, and the stand-in engine behind it."""
    async with stand_in_engine() as engine:
        settings = small_settings(engine_url=engine.url, **changes)
        async with serving(settings, key=key) as (url, _):
            yield url, engine
