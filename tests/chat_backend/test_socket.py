"""A conversation over a WebSocket."""

import aiohttp
import pytest

from simulator.servers import ReplicaServer
from tests.chat_backend.services import backend
from tests.support.waiting import until

SLOW = {"kind": "slow", "factor": 2000}
LONG = {"message": "Tell me all", "max_tokens": 2000}


async def answer(socket: aiohttp.ClientWebSocketResponse) -> tuple[str, dict[str, object]]:
    """Return the text that came, and what ended it."""
    text = ""
    while True:
        said = await socket.receive_json(timeout=10)
        if "delta" not in said:
            return text, said
        text += said["delta"]


async def test_turn_after_turn_is_answered(http: aiohttp.ClientSession, url: str) -> None:
    """On one connection, each in pieces with an end."""
    async with http.ws_connect(url + "/chat/ws") as socket:
        for message in ("Hello", "And then?"):
            await socket.send_json({"message": message, "max_tokens": 5})
            text, end = await answer(socket)

            assert text
            assert "done" in end


async def test_a_stop_ends_the_answer_and_frees_the_engine(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer
) -> None:
    """The connection stays, and takes the next message."""
    await http.post(engine.url + "/simulator/fault", json=SLOW)
    async with http.ws_connect(url + "/chat/ws") as socket:
        await socket.send_json(LONG)
        await until(lambda: engine.replica.engine.in_flight == 1)

        await socket.send_json({"stop": True})
        _, end = await answer(socket)

        assert end["done"]["finish_reason"] == "cancelled"  # type: ignore[index]
        await until(lambda: engine.replica.engine.in_flight == 0)
        await http.post(engine.url + "/simulator/fault", json={"kind": "none"})
        await socket.send_json({"message": "Hi", "max_tokens": 3})
        assert "done" in (await answer(socket))[1]


async def test_a_socket_that_vanishes_frees_the_engine(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer
) -> None:
    """Without a goodbye: the laptop was shut."""
    await http.post(engine.url + "/simulator/fault", json=SLOW)
    socket = await http.ws_connect(url + "/chat/ws")
    await socket.send_json(LONG)
    await until(lambda: engine.replica.engine.in_flight == 1)

    assert socket._conn is not None
    assert socket._conn.transport is not None
    socket._conn.transport.abort()

    await until(lambda: engine.replica.engine.in_flight == 0)


@pytest.mark.parametrize(
    ("text", "code"),
    [("{", "not_json"), ("7", "field_invalid"), ('{"message": ""}', "field_invalid")],
)
async def test_what_is_no_request_is_told_and_forgiven(
    http: aiohttp.ClientSession, url: str, text: str, code: str
) -> None:
    """The connection stays open."""
    async with http.ws_connect(url + "/chat/ws") as socket:
        await socket.send_str(text)
        _, end = await answer(socket)
        assert end["error"]["code"] == code  # type: ignore[index]

        await socket.send_json({"message": "Hi", "max_tokens": 3})
        assert "done" in (await answer(socket))[1]


async def test_a_second_question_waits_for_the_first(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer
) -> None:
    """It is refused; the first goes on."""
    await http.post(engine.url + "/simulator/fault", json=SLOW)
    async with http.ws_connect(url + "/chat/ws") as socket:
        await socket.send_json(LONG)
        await socket.send_json(LONG)

        _, end = await answer(socket)

        assert end["error"]["code"] == "request_invalid"  # type: ignore[index]
        await until(lambda: engine.replica.engine.in_flight == 1)


async def test_an_engine_that_is_down_is_told_in_the_socket(http: aiohttp.ClientSession) -> None:
    """With the code that a program can act on."""
    async with backend("http://127.0.0.1:9") as url, http.ws_connect(url + "/chat/ws") as socket:
        await socket.send_json({"message": "Hi"})
        _, end = await answer(socket)

    assert end["error"]["code"] == "engine_unavailable"  # type: ignore[index]


async def test_a_page_of_another_origin_may_not_connect(
    http: aiohttp.ClientSession, url: str
) -> None:
    """A browser would send its user's cookies and address along, and ask no leave first."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(url + "/chat/ws", headers={"Origin": "https://evil.example"})

    assert refused.value.status == 403


async def test_a_browsers_key_comes_as_a_subprotocol(
    http: aiohttp.ClientSession, engine: ReplicaServer
) -> None:
    """It cannot set a header on a WebSocket."""
    async with backend(engine.url, api_keys=("right",)) as url:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(url + "/chat/ws")
        async with http.ws_connect(url + "/chat/ws", protocols=("chat", "bearer.right")) as socket:
            assert socket.protocol == "chat"
