"""Engines are asked to forget, and arms are named."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from bench.target.arms import Arm, check_installed, reset_prefix_caches
from servekit.errors.tree import EngineUnreachable, SettingInvalid


@asynccontextmanager
async def answering(answers: Iterator[tuple[int, bytes]], asked: list[bytes]) -> AsyncIterator[str]:
    """Give the URL of a server that gives each request the next of *answers*."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        status, body = next(answers)
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n" % (status, len(body)))
        writer.write(b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "answers",
    [
        [(200, b"")],
        [(200, b'{"success":true}')],
        # The engine held a request for a moment longer than its client.
        [(200, b'{"success": false}'), (200, b'{"success":false}'), (200, b'{"success":true}')],
    ],
)
async def test_an_engine_is_asked_until_its_cache_is_empty(
    answers: list[tuple[int, bytes]],
) -> None:
    """Releases of vLLM answer nothing, or whether it was done."""
    asked: list[bytes] = []
    async with answering(iter(answers), asked) as url:
        await reset_prefix_caches(Arm(name="a", url=url, replicas={"one": url}))

    assert asked == [b"POST /reset_prefix_cache HTTP/1.1"] * len(answers)


async def test_an_engine_without_the_route_is_no_arm_of_such_a_comparison() -> None:
    """vLLM has it in development mode only; the message says how."""
    async with answering(iter([(404, b"Not Found")]), []) as url:
        with pytest.raises(EngineUnreachable, match="VLLM_SERVER_DEV_MODE=1"):
            await reset_prefix_caches(Arm(name="a", url=url, replicas={"one": url}))


async def test_an_engine_that_others_use_is_named() -> None:
    """It holds requests as long as they send some."""

    def busy() -> Iterator[tuple[int, bytes]]:
        while True:
            yield 200, b'{"success": false}'

    async with answering(busy(), []) as url:
        with pytest.raises(EngineUnreachable, match="still holds requests"):
            await reset_prefix_caches(Arm(name="a", url=url, replicas={"one": url}))


def test_nothing_need_be_installed_for_arms_that_run_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in the bench's image, which has no simulator."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    check_installed([])

    with pytest.raises(SettingInvalid, match="not part of this installation"):
        check_installed(["managed"])
