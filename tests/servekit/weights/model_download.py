# ruff: noqa: T201  # a report
"""A whole model over a line of a given speed: time, memory, disk, and what a kill costs.

    PYTHONPATH=src/python:. python -m tests.servekit.weights.model_download --gigabytes 4 --gbit 2.5
    PYTHONPATH=src/python:. python -m tests.servekit.weights.model_download --kills 50

The server is a process of its own on loopback, and sends all its connections together no more than
the line has.  The model is a plain tar of safetensors, fetched and unpacked by `ensure_model` in a
process of its own, whose peak of resident memory is the kernel's (VmHWM).  The columns: size, line,
time at the speed of the line, time taken from the first byte on, their ratio, peak memory, peak of
the disk by the size of the archive, processor time for a GB.
"""

import asyncio
import io
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import typer

from servekit.cli.program import run_program
from servekit.timing.clock import SystemClock
from servekit.weights.cache import Cache, bytes_on_disk
from servekit.weights.download import RangedDownload, open_session
from servekit.weights.hub import HubDownload
from servekit.weights.model import Fetchers, ensure_model
from servekit.weights.source import parse_source
from tests.support.model_archive import model_files

MIB = 1024**2
PATTERN_BYTES = 32 * MIB
PIECE_BYTES = MIB // 4


class Archive:
    """The bytes of a tar that lie nowhere: a head, a pattern over and over, an end."""

    def __init__(self, size: int) -> None:
        weights = size - size % 4
        tensor = {"w": {"dtype": "F32", "shape": [weights // 4], "data_offsets": [0, weights]}}
        header = json.dumps(tensor).encode()
        start = struct.pack("<Q", len(header)) + header
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in model_files().items():
                if not name.endswith(".safetensors"):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            files_end = archive.offset
        files = buffer.getvalue()[:files_end]
        member = tarfile.TarInfo("model.safetensors")
        member.size = len(start) + weights
        self.head = files + member.tobuf(tarfile.GNU_FORMAT) + start
        self.end_at = len(self.head) + weights
        self.size = -(-self.end_at // 512) * 512 + 1024

    def send(self, connection: socket.socket, offset: int, count: int, pattern: int) -> int:
        """Send up to *count* bytes from *offset*; return how many."""
        if offset < len(self.head):
            return connection.send(self.head[offset : offset + count])
        if offset < self.end_at:
            place = (offset - len(self.head)) % PATTERN_BYTES
            most = min(count, self.end_at - offset, PATTERN_BYTES - place)
            return os.sendfile(connection.fileno(), pattern, place, most)
        return connection.send(b"\0" * min(count, self.size - offset))


class Line:
    """Lets pieces through at so many bytes a second, all connections together."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._free_s = 0.0
        self._lock = threading.Lock()
        self.sent = 0

    def wait(self, count: int) -> None:
        with self._lock:
            self.sent += count
            now_s = time.monotonic()
            self._free_s = max(self._free_s, now_s - 0.01) + count / self._rate
            ahead_s = self._free_s - now_s
        if ahead_s > 0:
            time.sleep(ahead_s)


def serve(told: Connection, archive: Archive, bytes_per_s: float) -> None:
    """Serve *archive*; answer each message by the number of bytes sent so far."""
    line = Line(bytes_per_s)
    with tempfile.TemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as listening:
        file.write(random.Random(1).randbytes(PATTERN_BYTES))
        file.flush()
        told.send(listening.getsockname()[1])

        def accept() -> None:
            while True:
                connection, _ = listening.accept()
                threading.Thread(
                    target=_talk, args=(connection, archive, line, file.fileno()), daemon=True
                ).start()

        threading.Thread(target=accept, daemon=True).start()
        while True:
            told.recv()
            told.send(line.sent)


def _talk(connection: socket.socket, archive: Archive, line: Line, pattern: int) -> None:
    try:
        with connection:
            while head := _head(connection):
                found = re.search(rb"(?i)range: bytes=(\d+)-(\d+)", head)
                start, end = (int(found[1]), int(found[2])) if found else (0, archive.size - 1)
                connection.sendall(
                    b'HTTP/1.1 206 Partial Content\r\nETag: "one"\r\nContent-Length: %d\r\n'
                    b"Content-Range: bytes %d-%d/%d\r\n\r\n"
                    % (end - start + 1, start, end, archive.size)
                )
                while start <= end:
                    count = archive.send(
                        connection, start, min(PIECE_BYTES, end + 1 - start), pattern
                    )
                    start += count
                    line.wait(count)
    except OSError:
        return


def _head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(4096)
        if not piece:
            return b""
        head += piece
    return head


async def fetch(url: str, folder: Path) -> None:
    clock = SystemClock()

    def report(event: str, **fields: object) -> None:
        del event, fields

    async with open_session() as session:
        download = RangedDownload(session, clock=clock, report=report)
        fetchers = Fetchers.of(download, HubDownload(None), {})
        await ensure_model(
            parse_source(url), Cache(folder, folder), fetchers, clock=clock, report=report
        )


def start_fetch(url: str, folder: Path) -> "subprocess.Popen[bytes]":
    command = (sys.executable, "-m", __spec__.name, "fetch", url, str(folder))
    return subprocess.Popen(command)  # noqa: S603


def measure(url: str, told: Connection, archive: Archive, bytes_per_s: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        process = start_fetch(url, Path(folder))
        began_s, first_s, rss, disk = time.monotonic(), 0.0, 0, 0
        while process.poll() is None:
            if not first_s and _sent(told) > 0:
                first_s = time.monotonic()
            rss = max(rss, _peak_of(process.pid))
            disk = max(disk, bytes_on_disk(Path(folder)))
            time.sleep(0.05)
        took_s = time.monotonic() - (first_s or began_s)
        assert process.returncode == 0
        line_s = archive.size / bytes_per_s
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = (spent.ru_utime + spent.ru_stime) / (archive.size / 1e9)
        print(
            f"| {archive.size / 1e9:.1f} GB | {bytes_per_s * 8 / 1e9:g} Gbit/s | {line_s:.1f} s | "
            f"{took_s:.1f} s | {took_s / line_s:.3f} | {rss / 1e6:.0f} MB | "
            f"{disk / archive.size:.3f} | {cpu_s:.2f} s |"
        )


def _peak_of(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def kill_often(url: str, told: Connection, archive: Archive, kills: int) -> None:
    """Kill a download at a random moment, let another one finish it, and count the bytes."""
    again = []
    rng = random.Random(7)
    for _ in range(kills):
        before = _sent(told)
        with tempfile.TemporaryDirectory() as folder:
            first = start_fetch(url, Path(folder))
            share = rng.random()
            while _sent(told) - before < share * archive.size and first.poll() is None:
                time.sleep(0.005)
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert start_fetch(url, Path(folder)).wait() == 0
        again.append((_sent(told) - before - archive.size) / archive.size)
    again.sort()
    median, most = again[len(again) // 2], again[-1]
    print(
        f"{kills} kills of {archive.size / 1e9:.2f} GB: fetched again {100 * median:.2f} % "
        f"(median), {100 * most:.2f} % (most)"
    )


def _sent(told: Connection) -> int:
    told.send(None)
    return int(told.recv())


app = typer.Typer(add_completion=False)


@app.command("measure")
def main(
    gigabytes: Annotated[float, typer.Option(help="size of the model")] = 1.0,
    gbit: Annotated[float, typer.Option(help="speed of the line, in Gbit/s")] = 2.5,
    kills: Annotated[int, typer.Option(help="kill as many downloads at random moments")] = 0,
) -> None:
    """Measure one download, or what kills cost."""
    archive, bytes_per_s = Archive(int(gigabytes * 1e9)), gbit * 1e9 / 8
    ours, theirs = get_context("fork").Pipe()
    server = get_context("fork").Process(
        target=serve, args=(theirs, archive, bytes_per_s), daemon=True
    )
    server.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}/m/model.tar"
        if kills:
            kill_often(url, ours, archive, kills)
        else:
            measure(url, ours, archive, bytes_per_s)
    finally:
        server.terminate()
        server.join()


@app.command("fetch")
def fetch_command(url: str, folder: Path) -> None:
    """Fetch a model into a folder."""
    asyncio.run(fetch(url, folder))


if __name__ == "__main__":
    run_program(app)
