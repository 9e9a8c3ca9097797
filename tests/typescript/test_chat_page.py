"""The chat's page in headless Chromium, before the real backend and a simulated engine."""

import asyncio
import gzip
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from servekit.launch.port import free_port
from tests.chat_backend.services import backend, simulated_engine
from tests.support.waiting import until
from tests.typescript.proxy import has_nginx, nginx

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not all(shutil.which(name) for name in ("node", "npm", "chromium")),
        reason="no page was opened: needs node, npm and chromium on the PATH; "
        "apt-get install chromium, and Node 20 or newer",
    ),
]

SOURCE = Path("src/typescript/chat")

LOOKS = ("empty", "light", "offline", "dark", "markdown-light", "markdown-dark", "long", "phone")

# What a page may weigh on its way (bytes, gzip).
MOST_BYTES = 200_000


async def run(*command: str, cwd: Path, **environ: str) -> str:
    """Return what *command* prints; fail with all of it where it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()
    return out.decode()


async def built(folder: Path) -> Path:
    """Copy the page's source and build it."""
    copy = folder / "chat"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    installed = (SOURCE / "node_modules").resolve()
    if installed.is_dir():
        (copy / "node_modules").symlink_to(installed)
    else:
        await run("npm", "ci", "--no-audit", "--no-fund", cwd=copy)
    await run("npm", "test", cwd=copy)
    await run("npm", "run", "build", cwd=copy)
    return copy


@asynccontextmanager
async def served(page: Path, backend_url: str, work: Path) -> AsyncIterator[str]:
    """Serve the built page as its image does, or where there is no nginx as Vite would."""
    server = nginx(page / "dist", backend_url, work) if has_nginx() else vite(page, backend_url)
    async with server as url:
        yield url


@asynccontextmanager
async def vite(page: Path, backend_url: str) -> AsyncIterator[str]:
    """Serve the built page, with /api passed to the backend."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "node",
        "node_modules/vite/bin/vite.js",
        "preview",
        "--host=127.0.0.1",
        f"--port={port}",
        "--strictPort",
        cwd=page,
        env={**os.environ, "CHAT_BACKEND": backend_url},
        stdout=asyncio.subprocess.PIPE,
    )
    said = bytearray()

    async def listen() -> None:
        assert process.stdout is not None
        while piece := await process.stdout.read(1024):
            said.extend(piece)

    listening = asyncio.create_task(listen())
    try:
        await until(lambda: str(port).encode() in said)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
        await listening


async def test_a_person_can_chat(tmp_path: Path) -> None:
    """By keyboard alone: ask, watch, stop, lose the connection, try again, come back."""
    page = await built(tmp_path)
    screenshots = Path(os.environ.get("SERVEKIT_SCREENSHOTS", tmp_path))

    async with (
        simulated_engine(speed=1.0) as engine,
        backend(engine.url) as api,
        served(page, api, tmp_path) as url,
    ):
        seen = json.loads(await run("node", "browser/page.mjs", url, str(screenshots), cwd=page))

    assert len(seen["lengths"]) > 2, "the answer did not appear as it was written"
    assert seen["lengths"] == sorted(seen["lengths"])
    assert len(seen["kept"]) >= seen["lengths"][-1]
    assert len(seen["stopped"]) > 0
    assert "cannot be reached" in seen["offline"]
    assert seen["retried"]
    assert seen["sideways"] == dict.fromkeys(LOOKS, False)
    assert seen["composer"] == dict.fromkeys(LOOKS, True)
    assert seen["violations"] == {name: [] for name in LOOKS}
    assert seen["secure"] is False, "plain http was not tried"
    assert seen["afterABrokenRecord"] == ["From the other tab", "Hello"]
    assert seen["scrolledWhileReading"] == 0, "a reader who scrolled up was moved"
    assert seen["atTheEnd"] < 2
    # Beside 90 exchanges; a busy machine is slow, but never stands still.
    assert max(seen["blocked"], default=0) < 500, seen["blocked"]
    assert seen["errors"] == []
    assert weight(page / "dist") < MOST_BYTES


def weight(built_page: Path) -> int:
    """The bytes that a first visit loads."""
    return sum(len(gzip.compress(it.read_bytes())) for it in built_page.rglob("*") if it.is_file())
