"""The local base image with the real vLLM: images that start vLLM are built from it."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.docker import daemon_answers, docker, running

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
ARGS = ("--enforce-eager", "--kv-cache-memory-bytes", "64M", "--max-num-seqs", "8")


@pytest.fixture(scope="session")
def base() -> str:
    """The image's name; it is made where it is missing."""
    if not daemon_answers():
        pytest.skip("no Docker daemon answers; build-support/images/dockerd starts one")
    made = subprocess.run(  # noqa: S603
        (ROOT / "build-support/images/base", "engine"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return made.stdout.strip()


@pytest.fixture(scope="session")
def models(base: str) -> Iterator[str]:
    """A volume with a tiny model in /models/tiny, made by the image itself."""
    volume = docker("volume", "create")
    script = ROOT / "tests/real_engine/make_tiny_model.py"
    mounts = ("--volume", f"{volume}:/models", "--volume", f"{script.resolve()}:/make.py:ro")
    docker("run", "--rm", *mounts, "--entrypoint", "python3", base, "/make.py", "/models/tiny", "0")
    yield volume
    docker("volume", "rm", volume)


def test_engine_image_serves_a_model(base: str, models: str) -> None:
    """`vllm serve` of the image answers as vllm/vllm-openai would, and obeys SIGTERM."""
    # Processes of the engine talk by shared memory, and Docker gives 64 MB where nothing is said.
    options = ("--volume", f"{models}:/models:ro", "--shm-size", "1g")
    args = ("/models/tiny", "--served-model-name", "tiny", *ARGS)

    with running(base, args, options=options) as container:
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
