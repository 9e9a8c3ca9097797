# ruff: noqa: T201  # a report
"""Seconds to fetch one file over one connection and over several.

    PYTHONPATH=src/python:. python -m tests.servekit.weights.download_speed

The server is a process of its own on loopback.  It sends each connection as much as an object store
does (the first rows), or all that it can (the last).
"""

import argparse
import asyncio
import os
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
from aiohttp import web

from servekit.timing.clock import SystemClock
from servekit.weights.download import PART_BYTES, RangedDownload

MIB = 1024**2
FILE_BYTES = 512 * MIB
ROUNDS = 3

# Per connection; about what one stream from S3 or GCS brings (85 to 95 MB/s by AWS's own guide).
STORE_MIB_PER_S = 90

_PIECE = os.urandom(MIB)


async def _send(request: web.Request) -> web.StreamResponse:
    start, end = 0, FILE_BYTES - 1
    ranged = request.headers.get("Range", "")
    if ranged:
        start, end = (int(edge) for edge in ranged.removeprefix("bytes=").split("-"))
    answer = web.StreamResponse(status=206 if ranged else 200, headers={"ETag": '"one"'})
    if ranged:
        answer.headers["Content-Range"] = f"bytes {start}-{end}/{FILE_BYTES}"
    answer.content_length = end - start + 1
    await answer.prepare(request)
    rate = float(request.path.removeprefix("/"))
    began, sent = time.monotonic(), 0
    while sent < answer.content_length:
        piece = _PIECE[: answer.content_length - sent]
        await answer.write(piece)
        sent += len(piece)
        if rate:
            await asyncio.sleep(max(0.0, began + sent / (rate * MIB) - time.monotonic()))
    return answer


async def _serve(told: Connection) -> None:
    application = web.Application()
    application.router.add_get("/{rate}", _send)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    told.send(runner.addresses[0][1])
    await asyncio.Event().wait()


def serve(told: Connection) -> None:
    asyncio.run(_serve(told))


async def seconds(url: str, connections: int, folder: Path) -> float:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        download = RangedDownload(
            session,
            clock=SystemClock(),
            report=lambda *_, **__: None,
            connections=connections,
            part_bytes=PART_BYTES if connections > 1 else FILE_BYTES,
        )
        target = folder / "model.tar"
        began = time.monotonic()
        await download(url, target)
        took = time.monotonic() - began
        assert target.stat().st_size == FILE_BYTES
        target.unlink()
        return took


def measure(port: int, folder: Path) -> None:
    print("| each connection | connections | MiB/s, median of 3 | lowest | highest |")
    print("|---|---|---|---|---|")
    for rate in (STORE_MIB_PER_S, 0):
        for connections in (1, 2, 4, 8):
            url = f"http://127.0.0.1:{port}/{rate}"
            took = [asyncio.run(seconds(url, connections, folder)) for _ in range(ROUNDS)]
            speeds = sorted(FILE_BYTES / MIB / one for one in took)
            shown = f"{rate} MiB/s" if rate else "as fast as it can"
            row = f"{speeds[1]:.0f} | {speeds[0]:.0f} | {speeds[-1]:.0f}"
            print(f"| {shown} | {connections} | {row} |", flush=True)


def main() -> None:
    ours, theirs = get_context("spawn").Pipe()
    server = get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(ours.recv(), Path(folder))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
