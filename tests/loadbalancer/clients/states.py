"""Load balancers over engines that are well, or die."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.loadbalancer.dialect_engine import DialectEngine
from tests.loadbalancer.engine import running

# How the engine behind the load balancer is.
STATES = {"well": "", "dies before": "before", "dies in the middle": "middle"}


@asynccontextmanager
async def every_state(**rules: Any) -> AsyncIterator[dict[str, str]]:
    """Give a load balancer's URL for each state of an engine, and for two of which one dies."""
    async with AsyncExitStack() as stack:
        urls = {}
        for name, dies in STATES.items():
            _, port = await stack.enter_async_context(running(DialectEngine(dies=dies), **rules))
            urls[name] = f"http://127.0.0.1:{port}"
        pair = DialectEngine(dies="before"), DialectEngine()
        _, port = await stack.enter_async_context(running(*pair, **rules))
        urls["one of two dies before"] = f"http://127.0.0.1:{port}"
        yield urls


def fails(state: str) -> bool:
    """Whether no whole answer can be had in this *state*."""
    return state in STATES and bool(STATES[state])
