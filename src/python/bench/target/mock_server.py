"""An upstream whose timing is known: it answers every completion after TTFT, then every ITL.

It is what `client-accuracy` measures the client against, and a process of its own, so that it never
takes turns with the client on one event loop.  `python -m bench.target.mock_server --ttft-ms 50`.
"""

import asyncio
import json
import selectors
import signal
from typing import Annotated, cast

import httptools
import typer

from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce
from servekit.cli.program import run_program

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"cmpl-mock","object":"text_completion","choices":[{"index":0,"text":" a"}]}\n\n'
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _tail(tokens: int) -> bytes:
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    finish = {"index": 0, "text": "", "finish_reason": "length"}
    events = ({"id": "cmpl-mock", "choices": [finish]}, {"choices": [], "usage": usage})
    said = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return _chunk(said.encode()) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _whole(content: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


_MODELS = _whole(b'{"object":"list","data":[{"id":"mock","object":"model","max_model_len":8192}]}')


class MockConnection(asyncio.Protocol):
    """Answers each request with *tokens* events, the first after *ttft_s*, the rest *itl_s* apart.

    Times are absolute: an event that goes out late does not make the next one late.
    """

    def __init__(self, ttft_s: float, itl_s: float, tokens: int) -> None:
        self._ttft_s = ttft_s
        self._itl_s = itl_s
        self._tokens = tokens
        self._event = _chunk(_EVENT)
        self._tail = _tail(tokens)
        self._transport: asyncio.Transport | None = None
        self._received_s = 0.0
        self._is_post = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received_s = asyncio.get_running_loop().time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.abort()

    def on_message_complete(self) -> None:
        assert self._transport is not None
        if self._parser.get_method() != b"POST":
            self._transport.write(_MODELS)
            return
        self._step(0, self._received_s + self._ttft_s)

    def _step(self, sent: int, due_s: float) -> None:
        """Send every event that is due, and come back for the next."""
        loop = asyncio.get_running_loop()
        while due_s <= loop.time():
            if self._transport is None:
                return
            self._transport.write(self._event if sent else _HEAD + self._event)
            sent += 1
            if sent == self._tokens:
                self._transport.write(self._tail)
                return
            due_s += self._itl_s
        loop.call_at(due_s, self._step, sent, due_s)


async def serve(
    ttft_s: float, itl_s: float, tokens: int, *, host: str = "127.0.0.1", port: int = 0
) -> asyncio.Server:
    """Listen; the caller closes the server."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        lambda: MockConnection(ttft_s, itl_s, tokens), host, port, backlog=1024
    )


app = ProgramApp("bench")


@app.command()
def main(
    ttft_ms: Annotated[float, typer.Option(help="Time to first token (ms).")] = 50.0,
    itl_ms: Annotated[float, typer.Option(help="Inter-token latency (ms).")] = 10.0,
    tokens: Annotated[int, typer.Option(min=1, help="Output tokens per response.")] = 20,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 = any free port.")] = 0,
) -> None:
    """Mock server with known latencies, to measure the error of load generators."""
    # select(2) waits to the microsecond, epoll to the millisecond: the mock must be the better
    # clock of the two.  Its limit of 1024 connections is beyond what it is used for.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    asyncio.set_event_loop(loop)
    loop.run_until_complete(_serve_until_stopped(ttft_ms / 1e3, itl_ms / 1e3, tokens, port))


async def _serve_until_stopped(ttft_s: float, itl_s: float, tokens: int, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await serve(ttft_s, itl_s, tokens, port=port)
    announce("ready", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await stop.wait()
    server.close()


if __name__ == "__main__":
    run_program(app)
