"""The corpus of requests: the real engine still answers each as it was captured."""

import http.client
import json
import urllib.parse
from pathlib import Path

import pytest

from tests.real_engine.engine import Engine
from tests.simulator.request_corpus import requests

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

GOLDEN = Path(__file__).parents[1] / "golden/vllm/requests_v0.32.0.json"


def _status(url: str, path: str, body: object) -> int:
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    connection.request("POST", path, data, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_each_request_is_answered_as_it_was_captured(engine: Engine) -> None:
    """What the simulator is held to is what vLLM does."""
    captured = json.loads(GOLDEN.read_text())

    found = [(path, body, _status(engine.url, path, body)) for path, body in requests("tiny")]

    assert found == [(row["path"], row["body"], row["status"]) for row in captured]
