"""Requests with wrong types and impossible numbers, over HTTP, to the real engine.

In process, such a value reaches the engine's core and ends its input thread; behind HTTP, vLLM's
own models of a request stand before it.  So a front that relays bytes need not look into them.
"""

import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.real_engine.engine import Engine
from tests.real_engine.hostile_requests import hostile_bodies

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(900)]

# A plain answer takes 0.05 s; 2.1 s were seen beside other builds on two cores.
PLAIN_S = 10.0


def _status(engine: Engine, body: dict[str, Any]) -> int:
    request = urllib.request.Request(  # noqa: S310
        f"{engine.url}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_no_request_ends_the_engine(engine: Engine) -> None:
    """Each is answered with a code, and the next plain request is answered as ever."""
    plain = {"model": engine.model, "prompt": "hi", "max_tokens": 2}
    asked = 0
    for body in hostile_bodies(engine.model):
        asked += 1
        assert 200 <= _status(engine, body) < 600, body
        began_s = time.monotonic()
        assert _status(engine, plain) == 200, body
        assert time.monotonic() - began_s < PLAIN_S, body

    assert asked > 1000
