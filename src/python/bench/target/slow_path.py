"""A proxy that spoils the path on purpose: it holds event streams back until they are whole, or
lets only so many bytes per second through.  Input and output.

What a run behind it shows is known, and so is the cause.  `python -m bench.target.slow_path --to
http://127.0.0.1:8080 --hold`.
"""

import asyncio
import signal
from typing import Annotated

import typer

from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce
from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid
from servekit.wire.address import Address, read_address

_PIECE = 65_536
# What a throttled link lets through at once: about half of an event.
_SLICE = 128
_STREAM = b"text/event-stream"
# The last chunk of a body (RFC 9112, 7.1).
_LAST_CHUNK = b"0\r\n\r\n"


class SlowPath:
    """Passes bytes between clients and one upstream; answers are late in the way that is asked."""

    def __init__(self, upstream: Address, *, hold: bool, bytes_per_s: float | None) -> None:
        self._upstream = upstream
        self._hold = hold
        self._bytes_per_s = bytes_per_s
        # The two ways of each connection, and the task that waits for them.
        self._open: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until either side closes it."""
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        await serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up = await asyncio.open_connection(self._upstream.host, self._upstream.port)
        except OSError:
            writer.close()
            return
        ways = {
            asyncio.create_task(_pass(reader, up[1])),
            asyncio.create_task(self._answer(up[0], writer)),
        }
        self._open |= ways
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        await _end(ways)
        self._open -= ways
        for one in (writer, up[1]):
            one.close()

    async def aclose(self) -> None:
        """Let go of every connection."""
        await _end(set(self._open))
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        while piece := await reader.read(_PIECE):
            held += piece
            if self._hold and _STREAM in held and not held.endswith(_LAST_CHUNK):
                continue
            await self._send(held, writer)
            held = b""

    async def _send(self, content: bytes, writer: asyncio.StreamWriter) -> None:
        size = _SLICE if self._bytes_per_s else len(content)
        for start in range(0, len(content), size):
            piece = content[start : start + size]
            if self._bytes_per_s:
                await asyncio.sleep(len(piece) / self._bytes_per_s)
            writer.write(piece)
            await writer.drain()


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()


app = ProgramApp("bench")


@app.command()
def main(
    to: Annotated[str, typer.Option(help="URL of the server behind the proxy.")],
    hold: Annotated[
        bool, typer.Option("--hold", help="Hold event streams back until they are complete.")
    ] = False,
    bytes_per_s: Annotated[
        float | None, typer.Option(help="Max bytes per second of each connection.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 = any free port.")] = 0,
) -> None:
    """Proxy with a known fault, to check what the benchmark says of it."""
    if bytes_per_s is not None and not bytes_per_s > 0:
        raise SettingInvalid(f"--bytes-per-s is {bytes_per_s:g}; must be above 0")
    path = SlowPath(read_address(to), hold=hold, bytes_per_s=bytes_per_s)
    asyncio.run(_serve_until_stopped(path, port))


async def _serve_until_stopped(path: SlowPath, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await asyncio.start_server(path.serve, "127.0.0.1", port, limit=_PIECE)
    announce("ready", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await stop.wait()
    server.close()
    await path.aclose()


if __name__ == "__main__":
    run_program(app)
