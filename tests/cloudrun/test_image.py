"""The whole life of the image, with the real vLLM on a CPU: build, start, readiness, drain, end."""

import asyncio
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.images.docker import Container, base_image, docker, inspect, running
from tests.images.secret_scan import secrets_in
from tests.support.gated_hub import MODEL, hub

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "src/docker/cloudrun/Dockerfile"
PEXES = [Path(f"src.python.cloudrun/cloudrun_{part}.pex") for part in ("dependencies", "sources")]

# Of the form that the search for secrets knows.
TOKEN = "hf_" + "TokenOfTheStandInThatOpensItsModel"

# A start of vLLM on two busy cores.
PATIENCE_S = 400.0


@pytest.fixture(scope="session")
def base() -> str:
    return base_image("engine")


@pytest.fixture(scope="session")
def model(base: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a model that vLLM can load, by name."""
    folder = tmp_path_factory.mktemp("model")
    script = (ROOT / "tests/real_engine/make_tiny_model.py").resolve()
    mounts = ("--volume", f"{folder}:/made", "--volume", f"{script}:/make.py:ro")
    docker("run", "--rm", *mounts, "--entrypoint", "python3", base, "/make.py", "/made/tiny", "0")
    return {path.name: path.read_bytes() for path in (folder / "tiny").iterdir()}


@pytest.fixture(scope="session")
def image(
    base: str, model: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The image, with the model from a hub that asked for the token."""
    secret = tmp_path_factory.mktemp("secret") / "token"
    secret.write_text(TOKEN)
    context = tmp_path_factory.mktemp("context")
    for pex in PEXES:
        (context / pex).parent.mkdir(exist_ok=True)
        (context / pex).write_bytes(_built(pex).read_bytes())
    name = f"servekit.local/cloudrun-test:{context.parent.name}"
    with hub(TOKEN, model) as gated:
        arguments = {
            "BASE_IMAGE": base,
            "BAKE": "1",
            "MODEL_NAME": MODEL,
            "MODEL_REVISION": "main",
            "HF_ENDPOINT": gated.url,
        }
        subprocess.run(  # noqa: S603
            (
                *("docker", "build", "--network", "host", "--tag", name, "--file", str(DOCKERFILE)),
                *("--secret", f"id=HF_TOKEN,src={secret}"),
                *(f"--build-arg={key}={value}" for key, value in arguments.items()),
                str(context),
            ),
            check=True,
            # Debian's client speaks to BuildKit by itself.
            env={"DOCKER_BUILDKIT": "1", "PATH": "/usr/bin:/bin", "HOME": str(context)},
        )
    yield name
    docker("rmi", "--force", name)


def _built(pex: Path) -> Path:
    """Where Pants put a part of the program: into a test's sandbox, or into dist."""
    return next(path for path in (pex, ROOT / "dist" / pex) if path.exists())


@pytest.fixture
def started(image: str) -> Iterator[Container]:
    variables = {
        "ENGINE_ARGS": "--enforce-eager --kv-cache-memory-bytes 64M",
        "MAX_MODEL_LEN": "1024",
        "DTYPE": "bfloat16",
    }
    # Docker's 64 MiB of shared memory are too few for vLLM's own processes.
    options = ["--shm-size", "1g"]
    options += [word for pair in variables.items() for word in ("--env", "=".join(pair))]
    with running(image, options=options) as container:
        yield container


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:
        yield session


def test_token_is_nowhere_in_the_image(image: str) -> None:
    """No layer, no variable, no line of the history; the model is there, owned by nobody else."""
    history = docker("history", "--no-trunc", image)
    variables = json.dumps(inspect("image", image)["Config"])

    assert TOKEN not in history + variables
    assert secrets_in(image, set()) == []


async def test_container_starts_offline_serves_and_drains(
    started: Container, session: aiohttp.ClientSession
) -> None:
    """503s that say how far it is, then completions, then SIGTERM under load with none lost."""
    url = f"http://{started.address}:8000"
    stages = await asyncio.to_thread(_stages_until_ready, started, url)
    assert "vLLM server startup" in stages

    async with session.get(f"{url}/v1/models") as answer:
        served = {model["id"] for model in (await answer.json())["data"]}
    assert {MODEL, "tiny-1b"} <= served
    async with session.get(f"{url}/startup") as answer:
        start = await answer.json()
    assert {"weights", "KV profile"} <= {phase["name"] for phase in start["phases"]}

    async def stream() -> bytes:
        body = {"model": MODEL, "prompt": "hi", "max_tokens": 200, "stream": True}
        async with session.post(
            f"{url}/v1/completions", json={**body, "ignore_eos": True}
        ) as answer:
            return await answer.read()

    streams = [asyncio.create_task(stream()) for _ in range(8)]
    await asyncio.sleep(0.3)
    code, _ = await asyncio.to_thread(started.stop)
    bodies = await asyncio.gather(*streams)

    assert code == 0
    assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)


def _stages_until_ready(container: Container, url: str) -> set[str]:
    """Look at /health until it says 200; return the stages that it named meanwhile."""
    stages: set[str] = set()
    for _ in range(int(PATIENCE_S / 0.2)):
        assert container.state["Running"], container.logs()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310
                return stages
        except urllib.error.HTTPError as refusal:
            assert refusal.code == 503
            assert refusal.headers["Retry-After"]
            stages.add(str(json.load(refusal)["stage"]))
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not ready: {container.logs()}")
