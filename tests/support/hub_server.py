"""A hub on loopback that speaks enough of the Hugging Face hub for a snapshot."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.model_archive import model_files
from tests.support.web_server import web_server

SHA = "c0ffee" * 6 + "c0ff"
FILES = {**model_files(), "model.gguf": b"unused", "original/params.json": b"{}"}


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": _sha1(content)}


def _sibling(name: str, content: bytes) -> dict[str, object]:
    blob = _sha1(b"blob %d\0" % len(content) + content)
    entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith((".safetensors", ".bin", ".pt")):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return entry


def _ranged(request: web.Request, content: bytes, headers: dict[str, str]) -> web.Response:
    asked = request.headers.get("Range", "")
    if not asked:
        return web.Response(body=content, headers=headers)
    start, end = (int(edge) for edge in asked.removeprefix("bytes=").split("-"))
    part = content[start : end + 1]
    if not part:
        return web.Response(status=416)
    span = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
    return web.Response(status=206, body=part, headers={**headers, "Content-Range": span})


@dataclass(slots=True)
class Hub:
    """The endpoints that a snapshot needs.

    Attributes:
        refuse: the status and error code that every call is answered with.
        files: of the repository, by path.
        flips: how many of the coming answers for a path have a flipped bit.
        hold: until it is set, no file is answered.
    """

    url: str = ""
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refuse: tuple[int, str] | None = None
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    flips: dict[str, int] = field(default_factory=dict)
    hold: asyncio.Event | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if not request.path.startswith(("/api/models/", "/org/")):
            # The client asks for other things by itself, without a token.
            return web.Response(status=404)
        self.requests.append(f"{request.method} {request.path}")
        self.tokens.add(request.headers.get("Authorization", ""))
        if self.refuse:
            status, code = self.refuse
            return web.json_response({"error": code}, status=status, headers={"X-Error-Code": code})
        if request.path in ("/api/models/org/name", "/api/models/org/name/revision/v1"):
            siblings = [_sibling(name, body) for name, body in self.files.items()]
            return web.json_response({"id": "org/name", "sha": SHA, "siblings": siblings})
        if request.path == "/api/models/org/name/auth-check":
            return web.Response()
        if request.path == f"/api/models/org/name/tree/{SHA}":
            return web.json_response(
                [_entry(name, content) for name, content in self.files.items()]
            )
        name = request.path.removeprefix(f"/org/name/resolve/{SHA}/")
        content = self.files.get(name)
        if content is None:
            return web.Response(status=404)
        if self.hold is not None:
            await self.hold.wait()
        if self.flips.get(name, 0) > 0 and request.headers.get("Range") != "bytes=0-0":
            self.flips[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        headers = {"ETag": f'"{_sha1(self.files[name])}"', "X-Repo-Commit": SHA}
        return _ranged(request, content, headers)


@asynccontextmanager
async def hub_server() -> AsyncIterator[Hub]:
    """Run a hub with the repository org/name on a free port."""
    hub = Hub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hub.answer)
    async with web_server(app) as hub.url:
        yield hub
