"""Every image of src/docker, as built by build-support/images/build: started, asked, stopped."""

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import pytest

from tests.images.cases import CHAT_BACKEND, NEED_CUDA, NEED_NODE, PROGRAMS, SERVERS, Server
from tests.images.docker import Container, docker, inspect, need_daemon, private_network, running
from tests.images.secret_scan import secrets_in

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

DOCKERFILES = Path(__file__).parents[2] / "src/docker"
NAMES = [*(server.image for server in SERVERS), *PROGRAMS]
NODE_MISSING = "npm is not on the PATH, so there is no image with a page; install Node 20 or newer"


@pytest.fixture(scope="session", autouse=True)
def daemon() -> None:
    need_daemon()


@pytest.fixture(scope="session")
def network() -> Iterator[str]:
    with private_network(f"servekit-{os.getpid()}") as name:
        yield name


@pytest.fixture(scope="session")
def fleet(network: str) -> Iterator[Container]:
    """A simulated fleet for the images that need one."""
    with running("simulator", network=network) as container:
        container.wait_until_healthy(8001, "/health", 15.0)
        yield container


@pytest.fixture(scope="session")
def backend(network: str, fleet: Container) -> Iterator[Container]:
    """The chat's backend, for the image with its page."""
    options = [option.format(fleet=fleet.address) for option in CHAT_BACKEND]
    with running("chat_backend", network=network, options=options) as container:
        container.wait_until_healthy(8080, "/health", 15.0)
        yield container


@pytest.fixture(scope="session")
def clean_layers() -> set[bytes]:
    """What was looked at already: images share layers of gigabytes."""
    return set()


def places_for(server: Server, request: pytest.FixtureRequest) -> dict[str, str]:
    """What the case asks for by name, started now if no earlier one did."""
    asked = " ".join((*server.args, *server.options))
    places = {}
    if "{fleet}" in asked:
        places["fleet"] = request.getfixturevalue("fleet").address
    if "{backend}" in asked:
        places["backend"] = request.getfixturevalue("backend").address
    if "{models}" in asked:
        places["models"] = request.getfixturevalue("models")
    return places


@pytest.fixture(autouse=True)
def built(request: pytest.FixtureRequest) -> None:
    """Skip an image that could not be built on this machine."""
    asked = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    image = asked.get("image") or getattr(asked.get("server"), "image", "")
    if image in NEED_NODE and shutil.which("npm") is None:
        pytest.skip(NODE_MISSING)


def ask(container: Container, server: Server) -> str:
    """One request, small enough to be answered soon."""
    url = f"http://{container.address}:{server.port}"
    body = dict(server.body)
    if server.path.startswith("/v1/"):
        with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:  # noqa: S310
            body["model"] = json.load(answer)["data"][0]["id"]
    request = urllib.request.Request(  # noqa: S310
        url + server.path,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return str(answer.read().decode())


def labels_of(image: str) -> dict[str, str]:
    labels: dict[str, str] = inspect("image", image)["Config"]["Labels"] or {}
    return labels


def read_only(labels: Mapping[str, str]) -> list[str]:
    """Options for a root that nobody can write to but where the image says that it must."""
    if labels.get("io.servekit.read-only-root") != "true":
        return []
    # With `exec`: kernels that are compiled at run time are loaded from there.
    folders = labels.get("io.servekit.writable", "").split()
    mounts = [("--tmpfs", f"{folder}:exec,mode=1777") for folder in folders]
    return ["--read-only", *chain.from_iterable(mounts)]


def test_every_image_has_a_case() -> None:
    """An image that nobody starts is one that nobody knows to start."""
    images = re.compile(r"^(docker|program)_image\(", re.MULTILINE)
    builds = DOCKERFILES.glob("*/BUILD")
    folders = {path.parent.name for path in builds if images.search(path.read_text())}

    assert folders == {*NAMES, *NEED_CUDA}


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.image)
def test_image_starts_answers_and_stops(
    server: Server, network: str, table: list[str], request: pytest.FixtureRequest
) -> None:
    """Healthy in time, one request answered, and a SIGTERM obeyed with exit code 0."""
    places = places_for(server, request)
    args = [arg.format(**places) for arg in server.args]
    options = [option.format(**places) for option in server.options]
    options += read_only(labels_of(server.image))

    with running(server.image, args, network=network, options=options) as container:
        started_s = container.wait_until_healthy(
            server.port, server.health, server.start_s, server.healthy
        )
        answer = ask(container, server)
        code, stopped_s = container.stop()

    assert server.answered in answer.replace('": ', '":')
    assert code == 0
    assert stopped_s < 10
    size_mb = inspect("image", server.image)["Size"] / 1e6
    table.append(f"{server.image:<16}{size_mb:>6.0f}{started_s:>9.2f}{stopped_s:>8.2f}")


@pytest.mark.parametrize("image", PROGRAMS)
def test_program_explains_itself(image: str, table: list[str]) -> None:
    """An image that is no server runs its program."""
    assert "Usage" in docker("run", "--rm", image, "--help")

    table.append(f"{image:<16}{inspect('image', image)['Size'] / 1e6:>6.0f}{'-':>9}{'-':>8}")


@pytest.mark.parametrize("image", NAMES)
def test_image_runs_as_nobody_special(image: str) -> None:
    """Neither by name nor by number is the user root, and the process starts without a shell."""
    configuration = inspect("image", image)["Config"]

    user = configuration["User"].partition(":")[0]
    assert user not in ("", "0", "root")
    assert configuration["Entrypoint"][0] != "/bin/sh"


@pytest.mark.parametrize("image", NAMES)
def test_image_says_where_it_comes_from(image: str) -> None:
    """Source and revision are on the image itself."""
    labels = labels_of(image)

    assert labels["org.opencontainers.image.revision"] not in ("", "unknown")
    assert labels["org.opencontainers.image.source"]


@pytest.mark.parametrize("image", NAMES)
def test_image_holds_no_secret(image: str, clean_layers: set[bytes]) -> None:
    """No layer, no line of history and no variable holds what looks like a token or a key."""
    assert secrets_in(image, clean_layers) == []


@pytest.mark.parametrize("image", [name for name in NAMES if name not in NEED_NODE])
def test_sources_are_a_small_layer_above_the_dependencies(image: str) -> None:
    """A change of one line ships the last copied folder alone."""
    shown = ("--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}")
    history = docker("history", *shown, image)
    program = re.compile(r"^(\d+) COPY (/app|/opt/\S+) \2 # buildkit", re.MULTILINE)

    # The newest comes first.
    sources, dependencies = (int(size) for size, _ in program.findall(history))
    assert 0 < sources < min(4_000_000, dependencies / 20)
