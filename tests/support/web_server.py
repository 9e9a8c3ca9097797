"""aiohttp's applications on loopback, on the test's own loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def web_server(application: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serve *application* until the end of the block; its URL comes without a path."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
