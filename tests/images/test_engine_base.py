"""The local base image with the real vLLM: images that start vLLM are built from it."""

import json
import urllib.request

import pytest

from tests.images.docker import running

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ARGS = ("--enforce-eager", "--kv-cache-memory-bytes", "64M", "--max-num-seqs", "8")


def test_engine_image_serves_a_model(engine_base: str, models: str) -> None:
    """`vllm serve` of the image answers as vllm/vllm-openai would, and obeys SIGTERM."""
    # Processes of the engine talk by shared memory, and Docker gives 64 MB where nothing is said.
    options = ("--volume", f"{models}:/models:ro", "--shm-size", "1g")
    args = ("/models/tiny", "--served-model-name", "tiny", *ARGS)

    with running(engine_base, args, options=options) as container:
        container.wait_until_healthy(8000, "/health", 240.0)
        body = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 4}).encode()
        request = urllib.request.Request(
            f"http://{container.address}:8000/v1/completions",
            data=body,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            answered = json.load(answer)
        code, _ = container.stop()

    assert answered["usage"]["completion_tokens"] == 4
    assert code in (0, 143)
