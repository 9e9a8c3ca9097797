"""Repositories of a hub, from a real server that speaks enough of it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from servekit.errors.tree import WeightsMissing, WeightsUnreachable
from servekit.weights.hub import HubDownload
from servekit.weights.source import HubRepo
from tests.support.model_archive import model_files

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
        self.requests.append(f"{request.method} {request.path}")
        self.tokens.add(request.headers.get("Authorization", ""))
        if self.refuse:
            status, code = self.refuse
            return web.json_response({"error": code}, status=status, headers={"X-Error-Code": code})
        if request.path.startswith("/api/models/org/name/revision/"):
            siblings = [{"rfilename": name} for name in FILES]
            return web.json_response({"id": "org/name", "sha": SHA, "siblings": siblings})
        if request.path == f"/api/models/org/name/tree/{SHA}":
            return web.json_response([_entry(name, content) for name, content in FILES.items()])
        content = FILES[request.path.removeprefix(f"/org/name/resolve/{SHA}/")]
        headers = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": SHA}
        return web.Response(body=content, headers=headers)


@pytest.fixture(name="hub")
async def _hub() -> AsyncIterator[Hub]:
    hub = Hub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hub.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    hub.url = f"http://{host}:{port}"
    yield hub
    await runner.cleanup()


async def _fetch(hub: Hub, folder: Path, token: str | None = None) -> None:
    await asyncio.to_thread(HubDownload(token, hub.url), HubRepo("org/name", "v1"), folder)


async def test_a_repository_is_fetched_without_what_is_not_used(hub: Hub, tmp_path: Path) -> None:
    """Weights in other formats, often as large again, are left where they are."""
    await _fetch(hub, tmp_path / "repo")

    got = {path.name: path.read_bytes() for path in (tmp_path / "repo").iterdir() if path.is_file()}
    assert got == model_files()
    assert "GET /api/models/org/name/revision/v1" in hub.requests


@pytest.mark.parametrize(("token", "sent"), [("hf_x", {"Bearer hf_x"}), (None, {""})])
async def test_a_token_is_sent_only_where_one_is_given(
    hub: Hub, tmp_path: Path, token: str | None, sent: set[str]
) -> None:
    """A token of the machine's own is never sent along."""
    await _fetch(hub, tmp_path / "repo", token)

    assert hub.tokens == sent


@pytest.mark.parametrize(
    ("refuse", "error", "remedy"),
    [
        ((403, "GatedRepo"), WeightsMissing, "licence"),
        ((404, "RepoNotFound"), WeightsMissing, "correct the name"),
        ((404, "RevisionNotFound"), WeightsMissing, "no revision 'v1'"),
    ],
)
async def test_a_refusal_is_told_with_its_remedy(
    hub: Hub, tmp_path: Path, refuse: tuple[int, str], error: type[Exception], remedy: str
) -> None:
    """Gated, private, absent: each has its own way out."""
    hub.refuse = refuse

    with pytest.raises(error, match=remedy):
        await _fetch(hub, tmp_path / "repo")


async def test_a_hub_that_is_gone_is_told(hub: Hub, tmp_path: Path) -> None:
    """No network is not a wrong name."""
    hub.url = "http://127.0.0.1:9"

    with pytest.raises(WeightsUnreachable, match="org/name"):
        await _fetch(hub, tmp_path / "repo")
