"""An OpenTelemetry collector: a real server for OTLP over HTTP that keeps what it is sent."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_LENGTH = re.compile(rb"content-length: (\d+)")


@dataclass
class Collector:
    """It stands for any collector; nothing of what it answers is looked at but the status.

    Attributes:
        script: `take`, `hang` without an answer, or a status.
        resources: what the spans are of, one for each request that came.
        heads: lower-case heads of those requests.
        bodies: their bodies, unpacked.
        chunks_received: set once a request came.
    """

    script: str = "take"
    url: str = ""
    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    chunks_received: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self._take(head, gzip.decompress(body) if b"encoding: gzip\r\n" in head else body)
                if self.script == "hang":
                    await reader.read()
                    return
                status = 200 if self.script == "take" else int(self.script)
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _take(self, head: bytes, body: bytes) -> None:
        self.heads.append(head)
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(told(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans
        self.chunks_received.set()


def told(thing: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value")) for item in thing.attributes
    }


@asynccontextmanager
async def collecting(script: str = "take") -> AsyncIterator[Collector]:
    """Give a collector that listens."""
    collector = Collector(script)
    server = await asyncio.start_server(collector.serve, "127.0.0.1", 0)
    collector.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield collector
    finally:
        server.close()


async def serve() -> None:
    """Say where, and take spans until killed."""
    async with collecting() as collector:
        print(collector.url, flush=True)  # noqa: T201
        await asyncio.Event().wait()
