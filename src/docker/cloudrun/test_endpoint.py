"""Is the deployed service there, and does it answer?  `pytest test_endpoint.py`

Finds the service by gcloud (SERVICE_NAME, REGION), or takes SERVICE_URL.  A service that asks for
an identity is given TOKEN, or gcloud's own.
"""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest

SERVICE_NAME = os.environ.get("SERVICE_NAME", "vllm-gemma-3-1b-it")
REGION = os.environ.get("REGION", "us-central1")
MODEL_NAME = os.environ.get("MODEL_NAME", "google/gemma-3-1b-it")

# An instance that starts answers 503; five looks, ten seconds apart, as many as the seed's.
ATTEMPTS = 5
PAUSE_S = float(os.environ.get("PAUSE_S", "10"))


def _gcloud(*words: str) -> str:
    command = ["gcloud", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()  # noqa: S603


@pytest.fixture(scope="session")
def url() -> str:
    given = os.environ.get("SERVICE_URL")
    if given:
        return given.rstrip("/")
    where = ("--region", REGION, "--format", "value(status.url)")
    return _gcloud("run", "services", "describe", SERVICE_NAME, *where)


@pytest.fixture(scope="session")
def headers(url: str) -> dict[str, str]:
    token = os.environ.get("TOKEN")
    if token is None and url.endswith(".run.app"):
        token = _gcloud("auth", "print-identity-token")
    return {"Authorization": f"Bearer {token}"} if token else {}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def _ask(request: urllib.request.Request, timeout_s: float) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as refusal:
        return Answer(refusal.code, refusal.read())
    except OSError as error:
        return Answer(0, str(error).encode())


def _until_served(request: urllib.request.Request, timeout_s: float) -> Answer:
    """Ask again while nobody serves; anything else is an answer."""
    answer = _ask(request, timeout_s)
    for _ in range(ATTEMPTS - 1):
        if answer.status not in (0, 503):
            break
        time.sleep(PAUSE_S)
        answer = _ask(request, timeout_s)
    return answer


def test_models_are_listed(url: str, headers: dict[str, str]) -> None:
    """Under the full and under the short name."""
    request = urllib.request.Request(f"{url}/v1/models", headers=headers)  # noqa: S310

    answer = _until_served(request, timeout_s=30)

    assert answer.status == 200, answer.body
    names = {model["id"] for model in answer.json()["data"]}
    assert {MODEL_NAME, MODEL_NAME.rpartition("/")[2]} <= names


def test_completion_is_written(url: str, headers: dict[str, str]) -> None:
    """Fifty tokens at most, and at least one."""
    body = {
        "model": MODEL_NAME,
        "prompt": "Why is the sky blue?",
        "max_tokens": 50,
        "temperature": 0.7,
    }
    request = urllib.request.Request(  # noqa: S310
        f"{url}/v1/completions",
        data=json.dumps(body).encode(),
        headers={**headers, "Content-Type": "application/json"},
    )

    answer = _until_served(request, timeout_s=60)

    assert answer.status == 200, answer.body
    assert answer.json()["choices"][0]["text"]
    assert 1 <= answer.json()["usage"]["completion_tokens"] <= 50
