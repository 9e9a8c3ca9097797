"""Engines of a drill, all in one process: `python -m tests.loadbalancer.drill_engines COUNT FAULT`.

Prints their URLs as JSON.  They answer well until SIGUSR1; from then on the first one has the
fault.  An engine that dies stops listening and resets its connections, as one that is killed.
"""

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass, field

from tests.loadbalancer.engine import EVENT, chunk, whole

MODEL = "m"
POISON, BAD = b"poison", b"wrong"
ANSWER = b'{"choices":[{"text":"hello"}],"usage":{"completion_tokens":1}}'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON = b"content-type: application/json\r\n"
FAULTS = {
    "404": whole(b'{"error":{"message":"The model does not exist"}}', 404, JSON),
    "401": whole(b'{"error":"Unauthorized"}', 401, JSON),
    "html": whole(b"<html>It works</html>", 200, b"content-type: text/html\r\n"),
    "empty": whole(b"", 200, JSON),
    "500": whole(b"Internal Server Error", 500),
    "502": whole(b"Bad Gateway", 502),
    "504": whole(b"Gateway Timeout", 504),
    "no-tokens": whole(b'{"choices":[],"usage":{"completion_tokens":0}}', 200, JSON),
    "wrong-model": whole(b'{"error":{"message":"The model does not exist"}}', 404, JSON),
}


@dataclass
class DrillEngine:
    """One engine; *fault* is what is wrong with it, once it is *broken*."""

    fault: str = ""
    broken: bool = False
    running: int = 0
    tokens: int = 0
    server: "asyncio.Server | None" = None
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                length = (
                    int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
                    if b"content-length: " in lower
                    else 0
                )
                body = await reader.readexactly(length)
                await self._answer(head.split(b" ")[1], body, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def _answer(self, path: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == b"/v1/models":
            other = self.broken and self.fault == "wrong-model"
            card = {"id": "other" if other else MODEL}
            writer.write(whole(json.dumps({"data": [card]}).encode(), 200, JSON))
        elif path == b"/metrics":
            writer.write(whole(self._metrics()))
        elif path == b"/health":
            writer.write(whole(b""))
        else:
            self.running += 1
            try:
                await self._complete(body, writer)
            finally:
                self.running -= 1

    def _metrics(self) -> bytes:
        labels = b'{engine="0",model_name="m"}'
        return b"vllm:num_requests_running%b %d.0\nvllm:generation_tokens_total%b %d.0\n" % (
            labels,
            self.running,
            labels,
            self.tokens,
        )

    async def _complete(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        if POISON in body:
            await asyncio.sleep(0.05)
            self.die()
            return
        if BAD in body:
            status = (400, 413, 422)[body[-3] % 3]
            writer.write(whole(b'{"error":{"message":"wrong"}}', status, JSON))
            return
        if self.broken and self.fault == "zombie":
            await asyncio.sleep(3600.0)
        if self.broken and self.fault in FAULTS:
            writer.write(FAULTS[self.fault])
            return
        if b'"stream":true' not in body:
            await asyncio.sleep(0.02)
            self.tokens += 1
            writer.write(whole(ANSWER, 200, JSON))
            return
        writer.write(STREAM)
        for _ in range(4):
            await asyncio.sleep(0.005)
            self.tokens += 1
            writer.write(chunk(EVENT))
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    def die(self) -> None:
        if self.server is not None:
            self.server.close()
        for writer in list(self.connections):
            writer.transport.abort()


async def main(count: int, fault: str) -> None:
    engines = [DrillEngine(fault if number == 0 else "") for number in range(count)]
    urls = []
    for engine in engines:
        engine.server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, backlog=1024)
        urls.append(f"http://127.0.0.1:{engine.server.sockets[0].getsockname()[1]}")

    def break_first() -> None:
        engines[0].broken = True

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, break_first)
    print(json.dumps(urls), flush=True)  # noqa: T201
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
