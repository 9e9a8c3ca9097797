"""Waiting for containers, with a clock that a test moves."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench_environments.docker import (
    CompletedCommand,
    Container,
    compose_command,
    read_containers,
    starter,
)
from bench_environments.failures import DockerFailed, DockerMissing
from bench_environments.readiness import PodFailed, wait_until_ready
from servekit.errors.tree import EngineNotReady
from tests.support.clock import FakeClock


def container(name: str, status: str = "running", health: str = "healthy") -> Container:
    return Container(
        id=name, name=name, image="i", status=status, health=health, exit_code=1, labels={}
    )


class Shown:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.looks: list[tuple[float, list[str]]] = []

    def show(self, containers: Sequence[Container], after_s: float) -> None:
        self.looks.append((after_s, [one.state for one in containers]))


async def wait(looks: list[list[Container]], timeout_s: float = 60.0) -> tuple[float, Shown]:
    """Wait for a and b, with one of *looks* after the other; the last one stays."""
    shown = Shown()

    def look() -> list[Container]:
        return looks.pop(0) if len(looks) > 1 else looks[0]

    after_s = await wait_until_ready(look, {"a", "b"}, shown, FakeClock(), timeout_s)
    return after_s, shown


async def test_everybody_is_waited_for() -> None:
    """Also for one that does not exist yet; every look is shown."""
    looks = [[container("a")], [container("a"), container("b", health="starting")]]

    after_s, shown = await wait([*looks, [container("a"), container("b")]])

    assert after_s == 2.0
    assert shown.looks == [
        (0.0, ["ready"]),
        (1.0, ["ready", "starting"]),
        (2.0, ["ready", "ready"]),
    ]


@pytest.mark.parametrize(("status", "health"), [("exited", ""), ("running", "unhealthy")])
async def test_one_that_failed_ends_the_wait(status: str, health: str) -> None:
    """At once: it will not come back by itself."""
    looks = [[container("a")], [container("a"), container("b", status, health)]]

    with pytest.raises(PodFailed, match=r"b is .* after 1 s") as failed:
        await wait(looks)

    assert failed.value.container.name == "b"


async def test_the_late_are_named() -> None:
    """With how long they were waited for."""
    with pytest.raises(EngineNotReady, match="not ready after 5 s: b;"):
        await wait([[container("a"), container("b", health="starting")]], timeout_s=5.0)


def test_what_is_no_container_is_refused() -> None:
    """Something called docker that is not Docker."""
    with pytest.raises(DockerFailed, match="did not print containers"):
        read_containers("{}")


@pytest.mark.parametrize(
    ("plugin", "program", "found"),
    [("2.40.0", "1.29.2", ["docker", "compose"]), (None, "1.29.2", ["docker-compose"])],
)
def test_either_compose_will_do(plugin: str | None, program: str, found: list[str]) -> None:
    """Docker's plugin, or the program of its own that Debian 12 has."""
    versions = {"docker": plugin, "docker-compose": program}

    def run(argv: Sequence[str]) -> CompletedCommand:
        version = versions[argv[0]]
        return (
            CompletedCommand(1, "", "no such command")
            if version is None
            else CompletedCommand(0, version + "\n", "")
        )

    assert compose_command(run) == found


def test_without_compose_it_is_said() -> None:
    """With what to install."""
    with pytest.raises(DockerMissing, match="not installed; apt-get install"):
        compose_command(lambda _: CompletedCommand(127, "", "not found"))


def test_a_compose_that_is_broken_says_why() -> None:
    """It is installed, and does not run."""
    broken = CompletedCommand(1, "", "ModuleNotFoundError: No module named 'docker'\n")

    with pytest.raises(DockerMissing, match="does not work: ModuleNotFoundError"):
        compose_command(lambda _: broken)


def test_programs_do_not_see_our_modules(tmp_path: Path) -> None:
    """Debian's docker-compose is Python too."""
    shown = tmp_path / "show"
    shown.write_text('#!/bin/sh\necho "$PYTHONPATH$PYTHONHOME-$KEPT"\n')
    shown.chmod(0o755)

    done = starter({"PYTHONPATH": "/ours", "KEPT": "yes"})([str(shown)])

    assert done.out == "-yes\n"
