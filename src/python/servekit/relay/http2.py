"""Whether HTTP/2 is spoken: where the library h2, an extra, is installed."""

import asyncio
from importlib.util import find_spec

from servekit.relay.client_connection import ClientSet, Handler


def is_available() -> bool:
    """Whether it is installed."""
    return find_spec("h2") is not None


def make_connection(handler: Handler, clients: ClientSet) -> asyncio.Protocol:
    """Return a connection that speaks HTTP/2."""
    # Only here: the library takes 4 MiB, and most clients speak HTTP/1.1.
    from servekit.relay.http2_connection import Http2Connection

    return Http2Connection(handler, clients)
