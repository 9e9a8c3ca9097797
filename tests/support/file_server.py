"""A real file server on loopback that can be told to misbehave."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.web_server import web_server


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        status: answered instead of the file.
        cut_after: bytes of the body after which the connection is closed.
        held: whether nothing is answered until the server ends.
        headers: of the answer with *status*.
    """

    status: int | None = None
    cut_after: int | None = None
    held: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class FileServer:
    """Files by path, and a note of every request.

    Attributes:
        ranges: whether ranges are understood.
        etags: whether answers carry an ETag.
        content_type: of every file.
        pretend_bytes: the size that ranged answers claim; 0 is the true one.
        requests: path and Range header, in order of arrival.
        faults: for the coming requests for more than one byte, in order.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    content_type: str = "application/octet-stream"
    pretend_bytes: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body_requests(self) -> list[tuple[str, str]]:
        """The requests for more than the one byte of a first look."""
        return [request for request in self.requests if request[1] != "bytes=0-0"]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        self.requests.append((request.path, asked))
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=404)
        fault = self.faults.pop(0) if self.faults and asked != "bytes=0-0" else Fault()
        if fault.held:
            await self.ending.wait()
        if fault.status is not None:
            return web.Response(status=fault.status, headers=fault.headers)
        return await self._send(request, content, asked, fault)

    async def _send(
        self, request: web.Request, content: bytes, asked: str, fault: Fault
    ) -> web.StreamResponse:
        etag = f'"{hash(content)}"'
        answer = web.StreamResponse(headers={"ETag": etag} if self.etags else {})
        part = content
        if self.ranges and asked and request.headers.get("If-Range", etag) == etag:
            start, end = (int(edge) for edge in asked.removeprefix("bytes=").split("-"))
            part = content[start : end + 1]
            answer.set_status(206)
            last = start + len(part) - 1
            answer.headers["Content-Range"] = (
                f"bytes {start}-{last}/{self.pretend_bytes or len(content)}"
            )
        answer.content_type = self.content_type
        answer.content_length = len(part)
        await answer.prepare(request)
        if fault.cut_after is None:
            await answer.write(part)
            return answer
        await answer.write(part[: fault.cut_after])
        if request.transport is not None:
            request.transport.close()
        return answer


@asynccontextmanager
async def file_server(files: dict[str, bytes] | None = None) -> AsyncIterator[FileServer]:
    """Run a file server on a free port."""
    app = web.Application()
    server = FileServer("", dict(files or {}))
    app.router.add_get("/{path:.*}", server.answer)
    async with web_server(app) as server.url:
        try:
            yield server
        finally:
            server.ending.set()
