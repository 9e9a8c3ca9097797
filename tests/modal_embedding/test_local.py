import asyncio
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from modal_embedding import test_embedding_client
from tests.support.modal_engine import stand_in_engine
from tests.support.modal_front import fronted_engine
from tests.support.modal_programs import ready, run
from tests.support.model_archive import write_model
from tests.support.waiting import until

LOCAL = "modal_embedding.local"
ENGINE = f"{sys.executable} -m tests.support.modal_engine"

SMALL = {"SERVED_MODEL_NAME": "tiny", "MAX_MODEL_LEN": "100", "MATRYOSHKA_DIMENSIONS": "8"}


async def embed(url: str, key: str) -> int:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
        session.post(f"{url}/v1/embeddings", json={"input": "a"}) as answer,
    ):
        return answer.status


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_the_service_runs_without_modal(tmp_path: Path) -> None:
    """It starts its engine, makes a key and tells it, and ends both when it is asked to."""
    model = write_model(tmp_path / "model")
    arguments = ("--model", str(model), "--engine", ENGINE)
    environ = {**SMALL, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    async with ready(LOCAL, arguments, **environ) as (told, process):
        assert await embed(told["url"], told["api_key"]) == 200
        assert await embed(told["url"], "wrong") == 401
        engine = child_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0

    await until(lambda: not alive(engine))


async def test_a_key_of_ours_is_not_told() -> None:
    """Whoever set it knows it."""
    async with stand_in_engine() as engine:
        environ = {**SMALL, "EMBEDDING_API_KEY": "mine"}
        async with ready(LOCAL, ("--engine-url", engine.url), **environ) as (told, _):
            assert set(told) == {"event", "url"}
            assert await embed(told["url"], "mine") == 200


async def test_it_can_be_opened_to_everybody() -> None:
    """Only when it is said."""
    async with stand_in_engine() as engine:
        arguments = ("--engine-url", engine.url, "--no-auth")
        async with ready(LOCAL, arguments, **SMALL) as (told, _):
            assert await embed(told["url"], "") == 200


async def test_an_engine_that_cannot_start_ends_it(tmp_path: Path) -> None:
    """With the engine's own reason, and at once."""
    model = write_model(tmp_path / "model")
    arguments = ("--model", str(model), "--engine", ENGINE, "--", "--fail")

    ended = await run(LOCAL, *arguments, environ={**SMALL, "XDG_CACHE_HOME": str(tmp_path)})

    assert ended.code == 1
    assert "No available memory for the cache blocks" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "/nowhere"), "'/nowhere' does not exist"),
        (("--engine", "/no/engine", "--model", "."), "/no/engine"),
        (("--host", "no.such.host.invalid", "--engine-url", "http://x"), "cannot be listened on"),
    ],
)
async def test_what_was_said_wrongly_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """Exit code 2, with the value."""
    ended = await run(LOCAL, *arguments, environ={"XDG_CACHE_HOME": str(tmp_path)})

    assert ended.code == 2
    assert message in ended.stderr.splitlines()[-1]


async def test_openais_client_has_its_session() -> None:
    """test_embedding_client.py against our front: one, a batch, similarities, latency."""
    async with fronted_engine(key="k") as (url, _):
        environ = {"BASE_URL": url, "EMBEDDING_API_KEY": "k", "MODEL_NAME": "tiny"}
        ended = await run(test_embedding_client.__name__, environ=environ)

    assert ended.code == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[:2] == ["single: 16 dimensions", "batch: 3 vectors of 16 dimensions"]
    assert lines[2].startswith("cosine with the first: 1.000 'A cat sleeps on the sofa.'")
    assert lines[3].startswith("latency over 5: median ")


async def test_openais_client_tells_a_wrong_key() -> None:
    """In one line."""
    async with fronted_engine(key="k") as (url, _):
        ended = await run(
            test_embedding_client.__name__, environ={"BASE_URL": url, "MODEL_NAME": "tiny"}
        )

    assert ended.code == 1
    assert "401" in ended.stderr
    assert "Traceback" not in ended.stderr
