"""One question to an upstream, with a client of its own."""

from servekit.client.client import Client
from servekit.timing.clock import SystemClock

# An upstream that takes longer than this to say what it is cannot be measured.
_TIMEOUT_S = 10.0


async def ask(url: str, path: str, api_key: str = "") -> tuple[int, bytes]:
    """Return status and body of a GET; status 0, and what went wrong, without an answer."""
    client = Client(url, SystemClock(), timeout_s=_TIMEOUT_S, api_key=api_key)
    try:
        return await client.get(path)
    finally:
        await client.aclose()
