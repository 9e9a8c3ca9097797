"""The image's nginx, with the configuration that the image has, before a backend."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from servekit.launch.port import free_port
from tests.support.waiting import until

IMAGE = Path("src/docker/chat").resolve()

NGINX_MISSING = "no nginx on the PATH, so its configuration was not run; apt-get install nginx"


def with_sbin() -> str:
    """PATH, with where Debian puts servers."""
    return os.environ.get("PATH", "") + ":/usr/sbin"


def has_nginx() -> bool:
    return shutil.which("nginx", path=with_sbin()) is not None


@asynccontextmanager
async def nginx(page: Path, backend_url: str, work: Path) -> AsyncIterator[str]:
    """Serve the files of *page*, and *backend_url* under /api; write to *work* only."""
    port = free_port()
    template = work / "nginx.conf.template"
    template.write_text(_for_this_user() + (IMAGE / template.name).read_text())
    process = await asyncio.create_subprocess_exec(
        IMAGE / "serve-chat",
        env={
            "BACKEND_URL": backend_url,
            "PAGE": str(page),
            "PATH": with_sbin(),
            "PORT": str(port),
            "TEMPLATE": str(template),
            "WORK": str(work),
        },
    )
    try:
        await until(lambda: _listens(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


def _for_this_user() -> str:
    """As root, nginx would serve as nobody, who cannot read a test's folder."""
    return "user root;\n" if os.geteuid() == 0 else ""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
