"""A hub on loopback that speaks enough of the Hugging Face hub for a snapshot."""

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


@dataclass(slots=True)
class Hub:
    """The endpoints that a snapshot needs.

    Attributes:
        refuse: the status and error code that every call is answered with.
    """

    url: str = ""
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refuse: tuple[int, str] | None = None

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
            siblings = [{"rfilename": name, "size": len(body)} for name, body in FILES.items()]
            return web.json_response({"id": "org/name", "sha": SHA, "siblings": siblings})
        if request.path == "/api/models/org/name/auth-check":
            return web.Response()
        if request.path == f"/api/models/org/name/tree/{SHA}":
            return web.json_response([_entry(name, content) for name, content in FILES.items()])
        content = FILES.get(request.path.removeprefix(f"/org/name/resolve/{SHA}/"))
        if content is None:
            return web.Response(status=404)
        headers = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": SHA}
        return web.Response(body=content, headers=headers)


@asynccontextmanager
async def hub_server() -> AsyncIterator[Hub]:
    """Run a hub with the repository org/name on a free port."""
    hub = Hub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hub.answer)
    async with web_server(app) as hub.url:
        yield hub
