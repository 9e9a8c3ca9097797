"""The proxy that spoils a path: whole answers, late in the way that was asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.target.mock_server import serve
from bench.target.slow_path import SlowPath
from servekit.client.client import COMPLETIONS, Client
from servekit.client.outcome import Outcome
from servekit.timing.clock import SystemClock
from servekit.wire.address import read_address

BODY = b'{"model":"mock","prompt":[1],"max_tokens":10,"stream":true}'


@asynccontextmanager
async def a_path(hold: bool, bytes_per_s: float | None) -> AsyncIterator[str]:
    """Ten tokens, the first after 20 ms, the others 10 ms apart, and the proxy before them."""
    server = await serve(0.02, 0.01, 10)
    upstream = read_address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    path = SlowPath(upstream, hold=hold, bytes_per_s=bytes_per_s)
    proxy = await asyncio.start_server(path.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()
        await path.aclose()
        server.close()


async def sent_over(hold: bool = False, bytes_per_s: float | None = None) -> Outcome:
    async with a_path(hold, bytes_per_s) as url:
        client = Client(url, SystemClock())
        outcome = await client.send(COMPLETIONS, BODY)
        again = await client.send(COMPLETIONS, BODY)
        models, _ = await client.get("/v1/models")
        await client.aclose()
    assert (outcome.error, again.error, models) == (None, None, 200)
    assert len(outcome.content_s) == 10
    return outcome


async def test_without_a_fault_tokens_pass_as_they_come() -> None:
    """In several reads, however busy the machine is."""
    outcome = await sent_over()

    assert len(set(outcome.content_s)) > 2


async def test_a_holding_proxy_sends_an_answer_when_it_is_whole() -> None:
    """All tokens in one read, and not before the last one is made."""
    outcome = await sent_over(hold=True)

    assert len(set(outcome.content_s)) == 1
    assert outcome.content_s[0] - outcome.sent_s >= 0.1


async def test_a_throttled_link_takes_as_long_as_its_bytes() -> None:
    """Ten events of about a hundred bytes, a thousand of them a second."""
    outcome = await sent_over(bytes_per_s=2_000.0)

    assert outcome.last_token_s - outcome.sent_s >= 0.3
    assert len(set(outcome.content_s)) > 1
