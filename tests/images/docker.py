"""Docker by its command line, as far as tests need it.  Runs processes."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def docker(*args: str, check: bool = True) -> str:
    run = subprocess.run(("docker", *args), capture_output=True, text=True, check=False)  # noqa: S603, S607
    if check and run.returncode != 0:
        raise AssertionError(f"docker {' '.join(args)}: {run.stderr.strip()}")
    return run.stdout.strip()


def inspect(kind: str, name: str) -> dict[str, Any]:
    """What Docker knows of an image or a container."""
    found: list[dict[str, Any]] = json.loads(docker(kind, "inspect", name))
    return found[0]


def need_daemon() -> None:
    """Skip the test that asks where no daemon answers."""
    run = subprocess.run(("docker", "version"), capture_output=True, check=False)  # noqa: S607
    if run.returncode != 0:
        pytest.skip("no Docker daemon answers; build-support/images/dockerd starts one")


def base_image(kind: str) -> str:
    """Return the name of the local base image of *kind*; it is made where it is missing.

    Skips the test that asks where no daemon answers.
    """
    need_daemon()
    script = ROOT / "build-support/images/base"
    made = subprocess.run((script, kind), stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return made.stdout.strip()


@dataclass(frozen=True, slots=True)
class Container:
    """A container that runs, or has run.

    Attributes:
        started_at: on the monotonic clock, when `docker run` was called.
    """

    id: str
    started_at: float

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = inspect("container", self.id)["State"]
        return state

    @property
    def address(self) -> str:
        networks = inspect("container", self.id)["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def logs(self) -> str:
        return subprocess.run(  # noqa: S603
            ("docker", "logs", "--tail", "30", self.id),  # noqa: S607
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        ).stdout

    def wait_until_healthy(self, port: int, path: str, timeout_s: float, says: str = "") -> float:
        """Return the seconds from `docker run` to the first 200 that contains *says*."""
        url = f"http://{self.address}:{port}{path}"
        while time.monotonic() < self.started_at + timeout_s:
            if not self.state["Running"]:
                break
            with (
                suppress(urllib.error.URLError, OSError),
                urllib.request.urlopen(url, timeout=2) as answer,
            ):
                if says.encode() in answer.read():
                    return time.monotonic() - self.started_at
            time.sleep(0.05)
        raise AssertionError(f"{url} is not healthy after {timeout_s} s; logs:\n{self.logs()}")

    def stop(self) -> tuple[int, float]:
        """SIGTERM; return the exit code and the seconds that it took."""
        began = time.monotonic()
        docker("stop", "--time", "20", self.id)
        return int(self.state["ExitCode"]), time.monotonic() - began


@contextmanager
def running(
    image: str,
    args: Sequence[str] = (),
    *,
    network: str = "bridge",
    options: Sequence[str] = (),
) -> Iterator[Container]:
    """Run *image* in the background, with more *options* of `docker run`; remove it in the end."""
    began = time.monotonic()
    flags = ("--network", network, *options)
    container = Container(docker("run", "--detach", *flags, image, *args), began)
    try:
        yield container
    finally:
        docker("rm", "--force", container.id)


@contextmanager
def private_network(name: str) -> Iterator[str]:
    docker("network", "create", name)
    try:
        yield name
    finally:
        docker("network", "rm", name)
