"""Download one file over many connections, and go on where an earlier attempt ended.

The file is fetched in parts.  `<target>.parts` notes how far each is, so that a process that comes
after a dead one asks only for what is missing; it is believed only where the server still has the
same file, by size and by ETag or date.
"""

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec

from servekit.errors.tree import WeightsMissing, WeightsUnreachable
from servekit.secrets.masking import masked
from servekit.secrets.urls import public_url
from servekit.timing.clock import Clock
from servekit.weights.arrivals import Arrivals
from servekit.weights.progress import DownloadProgress, ProgressReporter

# Eight connections fill a 10 Gbit/s link from one object store; more only queue there.
CONNECTIONS = 8
PART_BYTES = 32 * 1024 * 1024

# Attempts in a row that bring nothing: 0.5 + 1 + 2 + 4 + 8 s, then it is not a hiccup.
_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.5
# The longest that a server may ask us to wait by Retry-After.
_MAX_PAUSE_S = 120.0
_READ_BYTES = 1024 * 1024
# What a killed process had received and not written is fetched again: 8 MiB over all connections.
_SOCKET_BYTES = 1024 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=60.0)
# A range is a range of the bytes as they lie there, not of a compression of them.
_AS_IT_IS = {"Accept-Encoding": "identity"}

# Headers that prove who asks, for a method and a URL.
Sign = Callable[[str], Mapping[str, str]]


def open_session() -> aiohttp.ClientSession:
    """Return a session for downloads: any number of connections, each with a small buffer."""
    connector = aiohttp.TCPConnector(limit=0, socket_factory=_socket)
    return aiohttp.ClientSession(connector=connector, read_bufsize=_READ_BYTES)


def _socket(address: Any) -> socket.socket:
    made = socket.socket(family=address[0], type=address[1], proto=address[2])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)
    return made


class Download(Protocol):
    """Bring the file behind a URL to a path."""

    async def __call__(self, url: str, target: Path, arrivals: Arrivals | None = None) -> None:
        """Return once *target* is whole; *arrivals* is told of what comes.

        Raises:
            WeightsMissing: the server says that there is no such file.
            WeightsUnreachable: it could not be brought.
        """


class RangedDownload:
    """Downloads with ranges where the server has them, in one stream where it has not.

    The session belongs to the caller.  *sign* gives the headers of a request; they are not sent to
    another host that the server redirects to.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        clock: Clock,
        report: ProgressReporter,
        connections: int = CONNECTIONS,
        part_bytes: int = PART_BYTES,
        sign: Sign | None = None,
    ) -> None:
        self._session = session
        self._clock = clock
        self._report = report
        self._connections = connections
        self._part_bytes = part_bytes
        self._sign = sign or (lambda _: {})

    def signed(self, sign: Sign) -> "RangedDownload":
        """Return the same download with other headers."""
        return RangedDownload(
            self._session,
            clock=self._clock,
            report=self._report,
            connections=self._connections,
            part_bytes=self._part_bytes,
            sign=sign,
        )

    async def read(self, url: str, max_bytes: int) -> tuple[bytes, Mapping[str, str]]:
        """Return the body behind *url*, a listing or the like, and the headers of the answer.

        Raises:
            WeightsMissing, WeightsUnreachable: as for a file.
            Refused: the server refuses us.
        """
        attempts = _Attempts(self._clock, url)
        while True:
            try:
                async with self._get(url, self._sign(url)) as answer:
                    if answer.status in (404, 410):
                        raise _refused(answer, url)
                    _require_found(answer, url)
                    return await answer.content.read(max_bytes), answer.headers
            except _TRANSIENT as error:
                await attempts.failed(error)

    def _get(self, url: Any, headers: Mapping[str, str]) -> Any:
        # Not by trust_env, which would also send what a ~/.netrc holds.
        host = urlsplit(str(url)).hostname or ""
        scheme = str(url).partition(":")[0].lower()
        proxy = None if proxy_bypass(host) else getproxies().get(scheme)
        return self._session.get(url, headers=headers, timeout=_TIMEOUT, proxy=proxy)

    async def __call__(self, url: str, target: Path, arrivals: Arrivals | None = None) -> None:
        attempts = _Attempts(self._clock, url)
        arrivals = arrivals or Arrivals()
        while True:
            try:
                await self._fetch(url, target, attempts, arrivals)
                return
            except _FileChanged:
                self._report("the file changed while it was fetched; starting again")
                journal_of(target).unlink(missing_ok=True)
                await attempts.failed(_Retry("the file keeps changing"))

    async def _fetch(
        self, url: str, target: Path, attempts: "_Attempts", arrivals: Arrivals
    ) -> None:
        remote = await self._look(url, attempts)
        target.parent.mkdir(parents=True, exist_ok=True)
        if remote is None:
            await self._fetch_stream(url, target, attempts, arrivals)
            return
        journal = _Journal.open(target, remote, self._part_bytes)
        arrivals.begin(remote.size, self._part_bytes, journal.ends)
        progress = DownloadProgress(
            "downloading", remote.size, report=self._report, clock=self._clock
        )
        progress.resume(journal.done)
        self._report(
            "download starts",
            url=public_url(url),
            total_bytes=remote.size,
            resumed_bytes=journal.done,
        )
        with descriptor(target) as file, journal:
            os.truncate(file, remote.size)
            await self._fetch_missing(_Transfer(url, remote, file, progress, arrivals), journal)
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
            headers = {**_AS_IT_IS, **self._sign(url), "Range": "bytes=0-0"}
            try:
                async with self._get(url, headers) as answer:
                    _require_found(answer, url)
                    return _Remote.of(answer)
            except _TRANSIENT as error:
                await attempts.failed(error)

    async def _fetch_stream(
        self, url: str, target: Path, attempts: "_Attempts", arrivals: Arrivals
    ) -> None:
        while True:
            try:
                headers = {**_AS_IT_IS, **self._sign(url)}
                async with self._get(url, headers) as answer:
                    _require_found(answer, url)
                    await self._write_stream(answer, target, arrivals)
                    return
            except _TRANSIENT as error:
                await attempts.failed(error)

    async def _write_stream(
        self, answer: aiohttp.ClientResponse, target: Path, arrivals: Arrivals
    ) -> None:
        size = answer.content_length
        progress = DownloadProgress("downloading", size, report=self._report, clock=self._clock)
        arrivals.begin(size, 1 << 62, [0])
        with descriptor(target) as file:
            os.truncate(file, 0)
            async for piece in answer.content.iter_chunked(_READ_BYTES):
                write_at(file, piece, progress.done)
                progress.add(len(piece))
                arrivals.advance(0, progress.done)
        arrivals.finish(progress.done)
        progress.finish()

    async def _fetch_parts(
        self, transfer: "_Transfer", journal: "_Journal", missing: "Iterator[int]"
    ) -> None:
        for index in missing:
            await self._fetch_part(transfer, journal, index)

    async def _fetch_part(self, transfer: "_Transfer", journal: "_Journal", index: int) -> None:
        """Bring the bytes that part *index* lacks, however many requests it takes."""
        attempts = _Attempts(self._clock, transfer.url)
        start, end = journal.ends[index], journal.end(index)
        while start < end:
            before = start
            try:
                async for piece in self._read_range(transfer, start, end):
                    write_at(transfer.file, piece, start)
                    start += len(piece)
                    journal.note(index, start)
                    transfer.progress.add(len(piece))
                    transfer.arrivals.advance(index, start)
                if start < end:
                    raise aiohttp.ClientPayloadError("the answer ended early")
            except _TRANSIENT as error:
                if start > before:
                    attempts.progressed()
                await attempts.failed(error)

    async def _read_range(
        self, transfer: "_Transfer", start: int, end: int
    ) -> AsyncIterator[bytes]:
        remote = transfer.remote
        headers = {**_AS_IT_IS, "Range": f"bytes={start}-{end - 1}", **remote.condition}
        # A hub signs an address of its store; to ask the hub again for each range meets its limits.
        direct = remote.address
        if direct is None:
            headers.update(self._sign(transfer.url))
        async with self._get(direct or transfer.url, headers) as answer:
            if direct is not None and answer.status in (400, 401, 403):
                # The signature ran out; the next request asks for a new one.
                remote.forget_address()
                raise _Retry(f"status {answer.status} after a redirect")
            _require_found(answer, transfer.url)
            if answer.history:
                remote.address = answer.url
            if _Remote.of(answer) != remote or not _starts_at(answer, start):
                raise _FileChanged
            async for piece in answer.content.iter_chunked(_READ_BYTES):
                yield piece[: end - start]
                start += len(piece)


class _Remote:
    """A file on a server that offers ranges.

    Attributes:
        validator: what changes with the file: its ETag, else its date; empty where there is none.
        address: where a redirect led to; None where there was none, or once it was refused.
    """

    def __init__(self, size: int, validator: str, address: Any) -> None:
        self.size = size
        self.validator = validator
        self.address = address

    @classmethod
    def of(cls, answer: aiohttp.ClientResponse) -> "_Remote | None":
        """Return what a ranged *answer* says of the whole file; None where it is not ranged."""
        _, _, total = answer.headers.get("Content-Range", "").partition("/")
        if answer.status != 206 or not total.isdecimal():
            return None
        headers = answer.headers
        validator = headers.get("ETag") or headers.get("Last-Modified") or ""
        return cls(int(total), validator, answer.url if answer.history else None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Remote) and (self.size, self.validator) == (
            other.size,
            other.validator,
        )

    __hash__ = None  # type: ignore[assignment]

    def forget_address(self) -> None:
        self.address = None

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
    progress: DownloadProgress
    arrivals: Arrivals


class _JournalHead(msgspec.Struct, frozen=True):
    size: int
    validator: str
    part_bytes: int


class _Journal:
    """How far the parts of a file are: a line for the file, then a line for each piece.

    Attributes:
        ends: of each part, the first byte that is missing.
    """

    def __init__(self, path: Path, head: _JournalHead, ends: Mapping[int, int]) -> None:
        self._path = path
        self._head = head
        self._file: int | None = None
        self.count = -(-head.size // head.part_bytes)
        self.ends = [ends.get(index, index * head.part_bytes) for index in range(self.count)]

    @classmethod
    def open(cls, target: Path, remote: _Remote, part_bytes: int) -> "_Journal":
        """Return the journal of *target*: the old one where it speaks of the same file."""
        path = journal_of(target)
        head = _JournalHead(remote.size, remote.validator, part_bytes)
        ends = _read_journal(path, head) if target.is_file() and remote.validator else None
        if ends is None:
            path.write_bytes(msgspec.json.encode(head) + b"\n")
        return cls(path, head, ends or {})

    def __enter__(self) -> "_Journal":
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)

    @property
    def done(self) -> int:
        return sum(end - n * self._head.part_bytes for n, end in enumerate(self.ends))

    def missing(self) -> Iterator[int]:
        return iter([n for n in range(self.count) if self.ends[n] < self.end(n)])

    def end(self, index: int) -> int:
        return min((index + 1) * self._head.part_bytes, self._head.size)

    def note(self, index: int, end: int) -> None:
        """Keep that part *index* is written up to *end*."""
        assert self._file is not None
        self.ends[index] = end
        os.write(self._file, b"%d %d\n" % (index, end))


def _read_journal(path: Path, head: _JournalHead) -> dict[int, int] | None:
    try:
        first, *lines = path.read_bytes().split(b"\n")
        if msgspec.json.decode(first, type=_JournalHead) != head:
            return None
    except (OSError, msgspec.MsgspecError):
        return None
    ends: dict[int, int] = {}
    # The last piece has no line end unless the process died while it wrote.
    for line in lines[:-1]:
        note = re.fullmatch(rb"(\d+) (\d+)", line)
        if note is None:
            return None
        index, end = int(note[1]), int(note[2])
        start = index * head.part_bytes
        if not start <= end <= min(start + head.part_bytes, head.size):
            return None
        ends[index] = end
    return ends


def journal_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.parts")


class Refused(WeightsUnreachable):
    """The server does not let us read.

    Attributes:
        status: 401, 403 and the like; for a listing also 404 and 410.
        code: the hub's own word for it; empty elsewhere.
    """

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _FileChanged(Exception):
    """The server has another file now."""


class _Retry(Exception):
    """The server asks for patience: 408, 425, 429 or 5xx.

    Attributes:
        after_s: for how long, where it says so.
    """

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


_TRANSIENT = (aiohttp.ClientError, TimeoutError, ConnectionError, _Retry)


class _Attempts:
    """Patience for one thing: pauses that double, and an end to them."""

    def __init__(self, clock: Clock, url: str) -> None:
        self._clock = clock
        self._url = url
        self._failed = 0

    def progressed(self) -> None:
        self._failed = 0

    async def failed(self, error: BaseException) -> None:
        """Pause, for longer each time, and at least as long as the server asks for.

        Raises:
            WeightsUnreachable: it failed too often in a row.
        """
        self._failed += 1
        if self._failed >= _ATTEMPTS:
            raise WeightsUnreachable(
                f"{public_url(self._url)} could not be downloaded in {_ATTEMPTS} attempts: "
                f"{_why(error)}; check the address and the network, and start again: what came is "
                "kept"
            )
        asked_s = error.after_s if isinstance(error, _Retry) else 0.0
        await self._clock.sleep(max(_FIRST_PAUSE_S * 2 ** (self._failed - 1), asked_s))


def _require_found(answer: aiohttp.ClientResponse, url: str) -> None:
    status, shown = answer.status, public_url(url)
    if status < 400:
        _require_file(answer, url)
        return
    if status in (404, 410):
        raise WeightsMissing(f"{shown} answered {status}: there is no such file")
    if status == 416:
        raise WeightsMissing(f"{shown} is empty; upload a tarball there")
    if status in (408, 425, 429) or status >= 500:
        raise _Retry(f"status {status}", _retry_after_s(answer.headers.get("Retry-After", "")))
    raise _refused(answer, url)


def _refused(answer: aiohttp.ClientResponse, url: str) -> Refused:
    message = f"{public_url(url)} answered {answer.status}; the URL must let its owner download"
    code = answer.headers.get("X-Error-Code", "")
    return Refused(message, status=answer.status, code=code)


def _require_file(answer: aiohttp.ClientResponse, url: str) -> None:
    if answer.content_type == "text/html" and not url.partition("?")[0].endswith((".html", ".htm")):
        raise WeightsUnreachable(
            f"{public_url(url)} answered a web page ({answer.url.host} sent text/html), not a "
            "file: a login page or a captive portal is in between; correct the URL or the network"
        )


def _retry_after_s(value: str) -> float:
    """Return the seconds that Retry-After asks for (RFC 9110, section 10.2.3), within a bound."""
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return min(float(value), _MAX_PAUSE_S)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    # The only use of the date of this machine: a date is compared with nothing else.
    from_now_s = moment.timestamp() - time.time()
    return min(max(from_now_s, 0.0), _MAX_PAUSE_S)


def _starts_at(answer: aiohttp.ClientResponse, start: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")


@contextmanager
def descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_at(file: int, piece: bytes, offset: int) -> None:
    while piece:
        written = os.pwrite(file, piece, offset)
        piece, offset = piece[written:], offset + written


def _why(error: BaseException) -> str:
    # aiohttp quotes the whole URL, whose query may be a signature.
    text = re.sub(r",? url=(?:'[^']*'|\S+)", "", " ".join(str(error).split()))
    return masked(text) or type(error).__name__
