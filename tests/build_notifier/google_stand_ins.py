"""Servers on loopback that stand for Cloud Logging (gRPC), Gemini and a webhook (HTTP)."""

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc  # type: ignore[import-untyped]
from google.cloud.logging_v2.types import (
    ListLogEntriesRequest,
    ListLogEntriesResponse,
    LogEntry,
    WriteLogEntriesRequest,
    WriteLogEntriesResponse,
)

from tests.support.loopback import Quiet, http_server

SERVICE = "google.logging.v2.LoggingServiceV2"


@dataclass
class LoggingStandIn:
    """Entries in memory, given out in pages.

    Attributes:
        lines: of every build, by build id, oldest first.
        hidden: looks at a build's log during which its last line has not arrived.
        fail: the status that calls are refused with.
        writes: how many calls wrote.
        pages: how many pages were asked for.
    """

    endpoint: str = ""
    lines: dict[str, list[str]] = field(default_factory=dict)
    hidden: int = 0
    fail: Any = None
    page: int = 50
    pages: int = 0
    written: list[Any] = field(default_factory=list)
    writes: int = 0

    def give(self, request: Any, context: Any) -> Any:
        self._refuse(context)
        self.pages += 1
        found = self._find(request.filter)
        if "desc" in request.order_by:
            found = found[::-1]
        start = int(request.page_token or 0)
        size = min(request.page_size, self.page)
        more = str(start + size) if start + size < len(found) else ""
        return ListLogEntriesResponse(entries=found[start : start + size], next_page_token=more)

    def write(self, request: Any, context: Any) -> Any:
        self._refuse(context)
        self.writes += 1
        kept = {entry.insert_id: entry for entry in self.written}
        kept.update({entry.insert_id: entry for entry in request.entries})
        self.written = [*kept.values()]
        return WriteLogEntriesResponse()

    def _find(self, written: str) -> list[Any]:
        key = re.search(r'insertId="([^"]+)"', written)
        if key:
            return [entry for entry in self.written if entry.insert_id == key[1]]
        build = re.fullmatch(
            r'resource\.type="build" AND resource\.labels\.build_id="([^"]+)"', written
        )
        assert build, written
        lines = self.lines.get(build[1], [])
        if self.hidden > 0:
            self.hidden -= 1
            lines = lines[:-1]
        return [LogEntry(text_payload=line) for line in lines]

    def _refuse(self, context: Any) -> None:
        if self.fail is not None:
            context.abort(self.fail, "refused by the test")


@dataclass
class HttpStandIn:
    """Keeps what is posted, and answers as told.

    Attributes:
        headers: more of them, of every answer.
        byte_every_s: pause after each byte of the answer's head; 0 sends all at once.
    """

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    byte_every_s: float = 0.0
    answer: dict[str, Any] = field(default_factory=dict)
    posted: list[tuple[str, Any]] = field(default_factory=list)


@contextmanager
def logging_stand_in() -> Iterator[LoggingStandIn]:
    stand_in = LoggingStandIn()
    handlers = {
        "ListLogEntries": grpc.unary_unary_rpc_method_handler(
            stand_in.give,
            request_deserializer=ListLogEntriesRequest.deserialize,
            response_serializer=ListLogEntriesResponse.serialize,
        ),
        "WriteLogEntries": grpc.unary_unary_rpc_method_handler(
            stand_in.write,
            request_deserializer=WriteLogEntriesRequest.deserialize,
            response_serializer=WriteLogEntriesResponse.serialize,
        ),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    stand_in.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield stand_in
    finally:
        server.stop(None).wait()


@contextmanager
def http_stand_in() -> Iterator[HttpStandIn]:
    stand_in = HttpStandIn()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            stand_in.posted.append((self.path, json.loads(body)))
            if stand_in.byte_every_s:
                self._drip()
                return
            answer = json.dumps(stand_in.answer).encode()
            self.send_response(stand_in.status)
            for name, value in stand_in.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _drip(self) -> None:
            with suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 200:
                    self.wfile.write(bytes([byte]))
                    time.sleep(stand_in.byte_every_s)

    with http_server(Handler) as stand_in.url:
        yield stand_in


@dataclass
class StorageStandIn:
    """Cloud Storage's JSON API for small objects: media uploads and downloads by generation.

    Attributes:
        objects: generation and content by name.
        status: of every answer, if it is not 0.
    """

    url: str = ""
    objects: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    status: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, content: bytes, generation: int) -> int | None:
        """Return the new generation; None where the object has another one than *generation*."""
        with self.lock:
            if self.objects.get(name, (0, b""))[0] != generation:
                return None
            fresh = max((one for one, _ in self.objects.values()), default=1000) + 1
            self.objects[name] = (fresh, content)
            return fresh


@contextmanager
def storage_stand_in() -> Iterator[StorageStandIn]:
    stand_in = StorageStandIn()

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            query = parse_qs(urlsplit(self.path).query)
            assert query["uploadType"] == ["media"]
            expected = int(query["ifGenerationMatch"][0])
            made = None if stand_in.status else stand_in.put(query["name"][0], content, expected)
            body = json.dumps({"name": query["name"][0], "generation": str(made)}).encode()
            self._answer(stand_in.status or (412 if made is None else 200), body, made or 0)

        def do_GET(self) -> None:
            name = unquote(urlsplit(self.path).path.rpartition("/o/")[2])
            generation, content = stand_in.objects.get(name, (0, b"Not Found"))
            self._answer(stand_in.status or (200 if generation else 404), content, generation)

        def _answer(self, status: int, body: bytes, generation: int) -> None:
            self.send_response(status)
            self.send_header("x-goog-generation", str(generation))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http_server(Handler) as stand_in.url:
        yield stand_in
