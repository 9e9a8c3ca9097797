"""Download one file over many connections, and go on where an earlier attempt ended.

The file is fetched in parts.  `<target>.parts` notes which are whole, so that a process that comes
after a dead one asks only for the others; it is believed only where the server still has the same
file, by size and by ETag or date.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec

from servekit.errors.tree import WeightsMissing, WeightsUnreachable
from servekit.timing.clock import Clock
from servekit.weights.progress import Progress, Report
from servekit.weights.source import shown

# Eight connections fill a 10 Gbit/s link from one object store; more only queue there.
CONNECTIONS = 8
PART_BYTES = 32 * 1024 * 1024

# Attempts in a row that bring nothing: 0.5 + 1 + 2 + 4 + 8 s, then it is not a hiccup.
_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.5
_READ_BYTES = 1024 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=60.0)
# A range is a range of the bytes as they lie there, not of a compression of them.
_AS_IT_IS = {"Accept-Encoding": "identity"}


class Download(Protocol):
    """Bring the file behind a URL to a path."""

    async def __call__(self, url: str, target: Path) -> None:
        """Return once *target* is whole.

        Raises:
            WeightsMissing: the server says that there is no such file.
            WeightsUnreachable: it could not be brought.
        """


class RangedDownload:
    """Downloads with ranges where the server has them, in one stream where it has not.

    The session belongs to the caller.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        clock: Clock,
        report: Report,
        connections: int = CONNECTIONS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._session = session
        self._clock = clock
        self._report = report
        self._connections = connections
        self._part_bytes = part_bytes

    async def __call__(self, url: str, target: Path) -> None:
        attempts = _Attempts(self._clock, url)
        while True:
            try:
                await self._fetch(url, target, attempts)
                return
            except _FileChanged:
                self._report("the file changed while it was fetched; starting again")
                _journal_of(target).unlink(missing_ok=True)
                await attempts.failed("the file keeps changing")

    async def _fetch(self, url: str, target: Path, attempts: "_Attempts") -> None:
        remote = await self._look(url, attempts)
        target.parent.mkdir(parents=True, exist_ok=True)
        if remote is None:
            await self._fetch_stream(url, target, attempts)
            return
        journal = _Journal.open(target, remote, self._part_bytes)
        progress = Progress("downloading", remote.size, report=self._report, clock=self._clock)
        self._report(
            "download starts", url=shown(url), total_bytes=remote.size, resumed_bytes=journal.done
        )
        with _descriptor(target) as file:
            os.truncate(file, remote.size)
            await self._fetch_missing(_Transfer(url, remote, file, progress), journal)
        progress.finish()

    async def _fetch_missing(self, transfer: "_Transfer", journal: "_Journal") -> None:
        missing = journal.missing()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._connections, journal.count)):
                    group.create_task(self._fetch_parts(transfer, journal, missing))
        except ExceptionGroup as failures:
            # The others failed, or were cancelled, because the first one did.
            raise failures.exceptions[0] from None

    async def _look(self, url: str, attempts: "_Attempts") -> "_Remote | None":
        """Return what the server has; None where it does not offer ranges.

        A GET of one byte, since a signed URL is often signed for GET alone.
        """
        while True:
            headers = {**_AS_IT_IS, "Range": "bytes=0-0"}
            try:
                async with self._session.get(url, headers=headers, timeout=_TIMEOUT) as answer:
                    _require_found(answer, url)
                    return _Remote.of(answer)
            except _TRANSIENT as error:
                await attempts.failed(_why(error))

    async def _fetch_stream(self, url: str, target: Path, attempts: "_Attempts") -> None:
        while True:
            try:
                async with self._session.get(url, headers=_AS_IT_IS, timeout=_TIMEOUT) as answer:
                    _require_found(answer, url)
                    await self._write_stream(answer, target)
                    return
            except _TRANSIENT as error:
                await attempts.failed(_why(error))

    async def _write_stream(self, answer: aiohttp.ClientResponse, target: Path) -> None:
        progress = Progress(
            "downloading", answer.content_length, report=self._report, clock=self._clock
        )
        with _descriptor(target) as file:
            os.truncate(file, 0)
            async for piece in answer.content.iter_chunked(_READ_BYTES):
                _write(file, piece, progress.done)
                progress.add(len(piece))
        progress.finish()

    async def _fetch_parts(
        self, transfer: "_Transfer", journal: "_Journal", missing: "Iterator[int]"
    ) -> None:
        for index in missing:
            start, end = journal.bounds(index)
            await self._fetch_part(transfer, start, end)
            journal.finished(index)

    async def _fetch_part(self, transfer: "_Transfer", start: int, end: int) -> None:
        """Bring the bytes from *start* to before *end*, however many requests it takes."""
        attempts = _Attempts(self._clock, transfer.url)
        while start < end:
            before = start
            try:
                async for piece in self._read_range(transfer, start, end):
                    _write(transfer.file, piece, start)
                    start += len(piece)
                    transfer.progress.add(len(piece))
                if start < end:
                    raise aiohttp.ClientPayloadError("the answer ended early")
            except _TRANSIENT as error:
                if start > before:
                    attempts.progressed()
                await attempts.failed(_why(error))

    async def _read_range(
        self, transfer: "_Transfer", start: int, end: int
    ) -> AsyncIterator[bytes]:
        headers = {**_AS_IT_IS, "Range": f"bytes={start}-{end - 1}", **transfer.remote.condition}
        async with self._session.get(transfer.url, headers=headers, timeout=_TIMEOUT) as answer:
            _require_found(answer, transfer.url)
            if _Remote.of(answer) != transfer.remote or not _starts_at(answer, start):
                raise _FileChanged
            async for piece in answer.content.iter_chunked(_READ_BYTES):
                yield piece[: end - start]
                start += len(piece)


@dataclass(frozen=True, slots=True)
class _Remote:
    """A file on a server that offers ranges.

    Attributes:
        validator: what changes with the file: its ETag, else its date; empty where there is none.
    """

    size: int
    validator: str

    @classmethod
    def of(cls, answer: aiohttp.ClientResponse) -> "_Remote | None":
        """Return what a ranged *answer* says of the whole file; None where it is not ranged."""
        _, _, total = answer.headers.get("Content-Range", "").partition("/")
        if answer.status != 206 or not total.isdecimal():
            return None
        headers = answer.headers
        return cls(int(total), headers.get("ETag") or headers.get("Last-Modified") or "")

    @property
    def condition(self) -> dict[str, str]:
        # A weak ETag may not stand in If-Range (RFC 9110, section 13.1.5).
        strong = self.validator and not self.validator.startswith("W/")
        return {"If-Range": self.validator} if strong else {}


@dataclass(frozen=True, slots=True)
class _Transfer:
    url: str
    remote: _Remote
    file: int
    progress: Progress


class _JournalHead(msgspec.Struct, frozen=True):
    size: int
    validator: str
    part_bytes: int


class _Journal:
    """Which parts of a file are whole: a line for the file, then a line for each part."""

    def __init__(self, path: Path, head: _JournalHead, whole: set[int]) -> None:
        self._path = path
        self._head = head
        self._whole = whole
        self.count = -(-head.size // head.part_bytes)

    @classmethod
    def open(cls, target: Path, remote: _Remote, part_bytes: int) -> "_Journal":
        """Return the journal of *target*: the old one where it speaks of the same file."""
        path = _journal_of(target)
        head = _JournalHead(remote.size, remote.validator, part_bytes)
        whole = _read_journal(path, head) if target.is_file() and remote.validator else None
        if whole is None:
            path.write_bytes(msgspec.json.encode(head) + b"\n")
        return cls(path, head, whole or set())

    @property
    def done(self) -> int:
        return sum(end - start for start, end in map(self.bounds, self._whole))

    def missing(self) -> Iterator[int]:
        return iter([index for index in range(self.count) if index not in self._whole])

    def bounds(self, index: int) -> tuple[int, int]:
        start = index * self._head.part_bytes
        return start, min(start + self._head.part_bytes, self._head.size)

    def finished(self, index: int) -> None:
        with self._path.open("ab") as file:
            file.write(b"%d\n" % index)


def _read_journal(path: Path, head: _JournalHead) -> set[int] | None:
    try:
        first, *lines = path.read_bytes().split(b"\n")
        if msgspec.json.decode(first, type=_JournalHead) != head:
            return None
    except (OSError, msgspec.MsgspecError):
        return None
    # The last piece has no line end unless the process died while it wrote.
    return {int(line) for line in lines[:-1] if line.isdigit()}


def _journal_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.parts")


class _FileChanged(Exception):
    """The server has another file now."""


class _Retry(Exception):
    """The server asks for patience: 408, 425, 429 or 5xx."""


_TRANSIENT = (aiohttp.ClientError, TimeoutError, ConnectionError, _Retry)


class _Attempts:
    """Patience for one thing: pauses that double, and an end to them."""

    def __init__(self, clock: Clock, url: str) -> None:
        self._clock = clock
        self._url = url
        self._failed = 0

    def progressed(self) -> None:
        self._failed = 0

    async def failed(self, why: str) -> None:
        """Pause, for longer each time.

        Raises:
            WeightsUnreachable: it failed too often in a row.
        """
        self._failed += 1
        if self._failed >= _ATTEMPTS:
            raise WeightsUnreachable(
                f"{shown(self._url)} could not be downloaded in {_ATTEMPTS} attempts: {why}; "
                "check the address and the network, and start again: what came is kept"
            )
        await self._clock.sleep(_FIRST_PAUSE_S * 2 ** (self._failed - 1))


def _require_found(answer: aiohttp.ClientResponse, url: str) -> None:
    status = answer.status
    if status < 400:
        return
    if status in (404, 410):
        raise WeightsMissing(f"{shown(url)} answered {status}: there is no such file")
    if status == 416:
        raise WeightsMissing(f"{shown(url)} is empty; upload a tarball there")
    if status in (408, 425, 429) or status >= 500:
        raise _Retry(f"status {status}")
    raise WeightsUnreachable(
        f"{shown(url)} answered {status}; the URL must let anybody who has it download the file"
    )


def _starts_at(answer: aiohttp.ClientResponse, start: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(file: int, piece: bytes, offset: int) -> None:
    while piece:
        written = os.pwrite(file, piece, offset)
        piece, offset = piece[written:], offset + written


def _why(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
