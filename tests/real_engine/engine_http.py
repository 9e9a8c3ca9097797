"""Ask an engine, or what stands before it, in the plainest way.  Does input and output."""

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from servekit.metrics.engine_load import EngineLoad, read_engine_load


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310
        return str(answer.read().decode())


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
    return found


def load_of(url: str) -> EngineLoad:
    return read_engine_load(get(f"{url}/metrics"))


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Return once *condition* holds.

    Raises:
        TimeoutError: it did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not hold within {timeout_s} s")
        time.sleep(0.05)


@contextmanager
def open_stream(url: str, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A streaming request whose first bytes have arrived; leaving it closes the connection."""
    address = urlsplit(url)
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port or 80), timeout=30) as stream:
        stream.sendall(head.encode() + payload)
        first = stream.recv(4096)
        assert first.startswith(b"HTTP/1.1 200"), first[:200]
        yield stream


def endless(model: str, **more: object) -> dict[str, Any]:
    """A completion that goes on for as long as the context allows."""
    return {
        "model": model,
        "prompt": "Requests come in",
        "max_tokens": 1900,
        "ignore_eos": True,
        "stream": True,
        **more,
    }
