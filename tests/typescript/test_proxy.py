"""What the image's nginx does between a browser and the backend."""

import asyncio
import io
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yarl

from servekit.launch.port import free_port
from simulator.servers import ReplicaServer
from tests.chat_backend.services import MODEL, backend, simulated_engine
from tests.support.waiting import until
from tests.typescript.proxy import IMAGE, NGINX_MISSING, has_nginx, nginx

pytestmark = pytest.mark.skipif(not has_nginx(), reason=NGINX_MISSING)

SLOW = {"kind": "slow", "factor": 2000}
LONG = {"message": "Tell me all", "max_tokens": 2000}


@pytest.fixture
async def engine() -> AsyncIterator[ReplicaServer]:
    async with simulated_engine() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>LLaMA chat</title>")
    (folder / "assets/index-1a2b.js").write_text("//" + " " * 4000)
    return folder


@pytest.fixture
async def url(engine: ReplicaServer, page: Path, tmp_path: Path) -> AsyncIterator[str]:
    async with backend(engine.url) as api, nginx(page, api, tmp_path) as address:
        yield address


async def test_the_page_may_load_nothing_from_elsewhere(
    http: aiohttp.ClientSession, url: str
) -> None:
    """No script but its own, in no frame; and it is asked for anew each time, which costs a 304."""
    async with http.get(url + "/") as answer:
        assert "LLaMA chat" in await answer.text()

    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-cache"


async def test_what_is_named_by_its_content_is_kept_for_ever(
    http: aiohttp.ClientSession, url: str
) -> None:
    """And sent compressed; what is missing is not remembered as missing."""
    async with http.get(url + "/assets/index-1a2b.js") as found:
        assert "immutable" in found.headers["Cache-Control"]
        assert found.headers["Content-Encoding"] == "gzip"
    async with http.get(url + "/assets/gone.js") as missing:
        assert missing.status == 404
        assert "Cache-Control" not in missing.headers


async def test_pieces_of_an_answer_are_not_held_back(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer
) -> None:
    """The first arrives while the engine still writes the rest; who leaves frees the engine."""
    await http.post(engine.url + "/simulator/fault", json=SLOW)

    async with http.post(url + "/api/chat", json={**LONG, "stream": True}) as answer:
        first = await asyncio.wait_for(answer.content.readany(), 30)
        assert first.startswith(b"data: ")
        assert engine.replica.engine.in_flight == 1
        answer.close()

    await until(lambda: engine.replica.engine.in_flight == 0)


async def test_a_web_socket_passes(http: aiohttp.ClientSession, url: str) -> None:
    """With the page's origin, which the backend compares with the name that it is called by."""
    async with http.ws_connect(url + "/api/chat/ws", headers={"Origin": url}) as socket:
        await socket.send_json({"message": "Hello", "max_tokens": 3})
        said = await socket.receive_json(timeout=30)

    assert said["delta"]


async def test_the_backends_refusals_pass_as_they_are(
    http: aiohttp.ClientSession, url: str
) -> None:
    """Also that of a body which nginx itself would have refused."""
    body = io.BytesIO(b'{"message": "' + b"a" * 1_500_000 + b'"}')

    async with http.post(url + "/api/chat", data=body) as refused:
        error = (await refused.json())["error"]

    assert (refused.status, error["code"]) == (413, "too_long")


@pytest.mark.parametrize(
    "path",
    [
        *("/api/v1/models", "/api/v1/chat/completions", "/api/v1/completions", "/api/metrics"),
        *("/api/docs", "/api/openapi.json", "/api/health", "/api/ready", "/api/", "/api"),
        *("/api/chat/", "/api/chat/ws/", "/api/chat/../v1/models", "/api//v1/models"),
        *(
            "/api/chat/%2e%2e/v1/models",
            "/api/%63hat/../metrics",
            "/API/v1/models",
            "//api/metrics",
        ),
    ],
)
async def test_the_chat_passes_and_nothing_else(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer, path: str
) -> None:
    """The engine's own interface would be free for everybody, and metrics tell how busy we are."""
    asked = yarl.URL(url + path, encoded=True)

    for method in ("GET", "POST"):
        async with http.request(method, asked, json={"model": MODEL, "prompt": "a"}) as answer:
            text = await answer.text()
            assert MODEL not in text
            assert "llama_chat" not in text
            # A path outside /api is the page's.
            assert answer.status in (403, 404, 405), (method, path, answer.status)
    assert engine.replica.engine.in_flight == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "chat-backend.invalid"])
async def test_a_backend_that_is_down_is_told_in_its_own_shape(
    http: aiohttp.ClientSession, page: Path, tmp_path: Path, host: str
) -> None:
    """The page opens all the same, and shows why nothing is answered."""
    async with nginx(page, f"http://{host}:{free_port()}", tmp_path) as url:
        async with http.get(url + "/") as opened:
            assert opened.status == 200
        async with http.post(url + "/api/chat", json={"message": "a"}) as answer:
            error = (await answer.json())["error"]

    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert error["code"] == "backend_unavailable"
    assert error["request_id"]


@pytest.mark.parametrize(
    "backend_url",
    ["chat-backend:8080", "http://", "http://a/b", "http://a; return 200", "http://a|b"],
)
def test_an_address_that_is_none_is_refused(backend_url: str, tmp_path: Path) -> None:
    """Before it becomes a line of nginx's configuration."""
    done = subprocess.run(  # noqa: S603
        [IMAGE / "serve-chat"],
        env={
            "BACKEND_URL": backend_url,
            "PATH": os.environ["PATH"],
            "TEMPLATE": str(IMAGE / "nginx.conf.template"),
            "WORK": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert f"BACKEND_URL is '{backend_url}'" in done.stderr
    assert not (tmp_path / "nginx.conf").exists()
