"""The page for people, in headless Chromium, over a load balancer that has served requests."""

import asyncio
import hashlib
import re
import shutil
from pathlib import Path

import pytest

from loadbalancer.server.keys import read_keys
from tests.loadbalancer.engine import Engine, post, running

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="no page was opened: needs chromium on the PATH; apt-get install chromium",
    ),
]


async def opened(port: int, profile: Path, path: str = "/status") -> str:
    """Return what the page holds after some seconds."""
    process = await asyncio.create_subprocess_exec(
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=5000",
        "--dump-dom",
        f"http://127.0.0.1:{port}{path}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(120.0):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return out.decode()


def rows(page: str, table: str) -> list[str]:
    """Return the lines of *table*, without its head."""
    found = re.search(rf'<table id="{table}">(.*?)</table>', page, re.DOTALL)
    assert found is not None, page
    return re.findall(r"<tr.*?</tr>", found[1])[1:]


async def test_page_shows_replicas_and_decisions(tmp_path: Path) -> None:
    """Each replica with its state, who is down marked; the last decisions with their scores."""
    async with running(Engine("die"), Engine(), policy="least-inflight") as (balancer, port):
        while not balancer.replicas["r0"].health.ejections:
            await post(port)
        balancer.replicas["r0"].health.poll_failed()
        balancer.replicas["r0"].health.failed(balancer.now() + 1000.0)
        page = await opened(port, tmp_path)

    first, second = rows(page, "replicas")
    assert 'class="down"' in first
    assert "<td>r0</td>" in first
    assert "<td>open</td>" in first
    assert "<td>r1</td>" in second
    assert "<td>closed</td>" in second
    decisions = rows(page, "decisions")
    assert decisions
    assert all("least-inflight" in row for row in decisions)
    assert re.search(r"r\d: 1\.00", decisions[0])


async def test_page_shows_nothing_without_the_key(tmp_path: Path) -> None:
    """It asks for one."""
    ring = read_keys(hashlib.sha256(b"k").hexdigest(), "keys")
    async with running(Engine(), keys=ring) as (_, port):
        page = await opened(port, tmp_path)

    assert '<form id="asking">' in page
    assert rows(page, "replicas") == []
