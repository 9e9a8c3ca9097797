"""A stand-in for servers of odd behaviour: what each sends, when, and what is true of it.

A behaviour is reached below its own path, `http://host:port/NAME/v1/chat/completions`, so that any
client can be pointed at it.  Its script marks which steps carry how many tokens of which kind; the
server keeps when it wrote each, and the truth is worked out from these marks and times alone.

As a program, `python -m tests.support.odd_server PORT [SCALE]` serves every behaviour until it is
stopped, SCALE times as slow.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"

# Between two tokens, and before the first, in seconds.
TOKEN_S = 0.02
PREFILL_S = 0.04


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes that are written *after_s* the step before.

    Attributes:
        tokens: how many generated tokens are in it; kind: of which kind.
        raw: it is sent as it is, not as a chunk.
    """

    data: bytes
    after_s: float = 0.0
    tokens: int = 0
    kind: str = "text"
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a server does, and what is true of it.

    Attributes:
        source: where this was seen.
        error: how the request fails; None where it is answered.
        says: words of the server that its failure must quote.
        notices: what must be said of an answer.
        unknown: measures that this server makes unknowable: none may be invented.
        counted: completion tokens as `usage` says; None where it says nothing that can be true.
        hangs: it never closes the body.
        path: the endpoint that a client asks.
    """

    name: str
    source: str
    steps: tuple[Step, ...]
    head: bytes = STREAM
    end: bytes = END
    error: str | None = None
    says: str = ""
    notices: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    counted: int | None = None
    closes: bool = False
    hangs: bool = False
    path: str = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Truth:
    """What was true of one answer, in seconds since the request came."""

    ttft_s: float | None
    answer_s: float | None
    e2e_s: float | None
    token_time_s: float | None


def truth_of(steps: Sequence[Step], written_s: Sequence[float]) -> Truth:
    """Return the truth of *steps*, of which the *n*-th was written at the *n*-th time."""
    made = [(at_s, step) for step, at_s in zip(steps, written_s, strict=True) if step.tokens]
    if not made:
        return Truth(None, None, None, None)
    first_s, last_s = made[0][0], made[-1][0]
    after = sum(step.tokens for at_s, step in made if at_s > first_s)
    answered = [at_s for at_s, step in made if step.kind != "reasoning"]
    return Truth(
        ttft_s=first_s,
        answer_s=answered[0] if answered else None,
        e2e_s=last_s,
        token_time_s=(last_s - first_s) / after if after else None,
    )


@dataclass
class OddServer:
    """Serves *behaviours*, *scale* times as slow; keeps when the steps of a request were written.

    Attributes:
        written_s: by behaviour, the times of the last request's steps, since it came.
    """

    behaviours: dict[str, Behaviour]
    scale: float = 1.0
    written_s: dict[str, list[float]] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
        if lengths:
            await reader.readexactly(int(lengths[0].partition(b":")[2]))
        name = head.split(b" ")[1].decode().strip("/").split("/")[0]
        behaviour = self.behaviours.get(name)
        if behaviour is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        self.written_s[name] = await _play(behaviour, writer, self.scale)
        await writer.drain()
        if behaviour.hangs:
            await reader.read()
        return not behaviour.closes


async def _play(behaviour: Behaviour, writer: asyncio.StreamWriter, scale: float) -> list[float]:
    now = asyncio.get_running_loop().time
    begun_s = now()
    written: list[float] = []
    # The headers go with the first step, as from an engine that makes a token before it answers.
    held = behaviour.head
    for step in behaviour.steps:
        # Since the step before was written, not since it was due: a machine that is busy with
        # something else delays steps, and must not bring them closer together.
        if step.after_s:
            await asyncio.sleep(step.after_s * scale)
        raw = step.raw or b"chunked" not in behaviour.head
        held += step.data if raw else b"%x\r\n%s\r\n" % (len(step.data), step.data)
        # Steps without a pause between them leave in one write, and so with one time.
        if step.after_s or not written:
            written.append(now() - begun_s)
        else:
            written.append(written[-1])
        if _is_followed_by_pause(behaviour.steps, len(written)):
            writer.write(held)
            held = b""
    writer.write(held + (b"" if behaviour.hangs else behaviour.end))
    return written


def _is_followed_by_pause(steps: Sequence[Step], number: int) -> bool:
    return number < len(steps) and steps[number].after_s > 0


@asynccontextmanager
async def odd_server(
    behaviours: Sequence[Behaviour], scale: float = 1.0
) -> AsyncIterator[tuple[str, OddServer]]:
    """Serve on loopback until the end of the block; give the URL and the server."""
    serving = OddServer({one.name: one for one in behaviours}, scale)
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serving.serve(reader, writer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", serving
    finally:
        listening.close()
        for writer in writers:
            writer.transport.abort()
        # Aborted transports end on the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)


async def _serve_until_stopped(port: int, scale: float) -> None:
    from tests.support.odd_behaviours import BEHAVIOURS

    serving = OddServer({one.name: one for one in BEHAVIOURS}, scale)
    async with await asyncio.start_server(serving.serve, "127.0.0.1", port) as server:
        sys.stdout.write(f"http://127.0.0.1:{port}\n")
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(
        _serve_until_stopped(int(sys.argv[1]), float(sys.argv[2] if len(sys.argv) > 2 else 1))
    )
