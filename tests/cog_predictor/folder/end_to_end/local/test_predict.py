"""Predictions of a running server: `cog serve -p 5000`, then

    COG_URL=http://localhost:5000 pytest tests/end_to_end/local/test_predict.py

Needs the standard library and pytest.
"""

import json
import os
import urllib.request
from typing import Any

import pytest


@pytest.fixture(name="url")
def _url() -> str:
    url = os.environ.get("COG_URL")
    if not url:
        pytest.skip("COG_URL is not set; start `cog serve -p 5000` and name it")
    return url


def _predict(url: str, **inputs: object) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310  # COG_URL is whoever's who runs this
        f"{url}/predictions",
        data=json.dumps({"input": inputs}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
        return dict(json.load(answer))


def test_a_prediction_has_text_and_counts(url: str) -> None:
    """Eight tokens are asked for, and at most eight come."""
    answer = _predict(url, prompt="Once upon a time", max_tokens=8, seed=7)

    assert answer["status"] == "succeeded"
    assert "".join(answer["output"])
    assert 1 <= answer["metrics"]["output_token_count"] <= 8


def test_a_seed_makes_an_answer_repeat(url: str) -> None:
    """One seed, one answer."""
    first, second = (_predict(url, prompt="Once upon", max_tokens=8, seed=7) for _ in range(2))

    assert "".join(first["output"]) == "".join(second["output"])


def test_a_blank_prompt_is_refused_with_its_code(url: str) -> None:
    """E1001, and no answer."""
    answer = _predict(url, prompt=" ")

    assert answer["status"] == "failed"
    assert "E1001" in answer["error"]
