"""An engine that answers at once, so that what is measured is what stands before it.

Takes as much of vLLM's arguments as it must: `python instant_engine.py serve … --port N`.
"""

import asyncio
import json
import signal
import sys

import uvloop

MODELS = json.dumps({"object": "list", "data": [{"id": "m"}]}).encode()
ANSWER = json.dumps(
    {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [{"index": 0, "text": "x" * 64, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 128, "completion_tokens": 16, "total_tokens": 144},
    }
).encode()


def _whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


_PAGES = {b"/health": _whole(b""), b"/v1/models": _whole(MODELS)}
_ANSWER = _whole(ANSWER)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request once it is whole."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            if length:
                await reader.readexactly(int(length))
            writer.write(_PAGES.get(head.split(b" ", 2)[1], _ANSWER))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port: int) -> None:
    await asyncio.start_server(serve, "127.0.0.1", port)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[sys.argv.index("--port") + 1])))
