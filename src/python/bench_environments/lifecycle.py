"""Bring an environment up, and take it down.  Input and output."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from bench_environments.compose import balancer_container, compose_text
from bench_environments.deployment import Environment, FleetDeployment, Resources
from bench_environments.docker import Compose, Container, Docker, Run, compose_command
from bench_environments.failures import ResourceTaken
from bench_environments.machine import check_gpus, check_ports
from bench_environments.readiness import (
    ChangedLines,
    LiveTable,
    PodFailed,
    ProgressView,
    table_of,
    wait_until_ready,
)
from servekit.errors.tree import ServeError, SettingInvalid
from servekit.timing.clock import Clock

# An engine's traceback with the core's below it.
_LOG_LINES = 60


@dataclass(frozen=True, slots=True)
class Machine:
    """The world that environments are deployed to."""

    run: Run
    clock: Clock
    console: Console

    @property
    def docker(self) -> Docker:
        return Docker(self.run)


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """How a deployment is asked for.

    Attributes:
        keep: leave what failed where it is, to be looked at.
    """

    env_file: Path | None
    timeout_s: float
    keep: bool


def deploy(deployment: FleetDeployment, wishes: DeployOptions, machine: Machine) -> None:
    """Bring *deployment* up and wait until all of it serves.  One that is up stays as it is.

    Raises:
        DockerFailed: Docker is not there, an image cannot be had, or nothing could be started.
        ResourceTaken: a port or a GPU is.
        PodFailed, EngineNotReady: it does not serve.  What was started is removed, unless it was
            there before.
    """
    docker, environment = machine.docker, deployment.environment
    docker.check()
    command = compose_command(machine.run)
    before = docker.containers(environment)
    check_free(deployment, before, machine)
    with tempfile.TemporaryDirectory(prefix="servekit-") as folder:
        file = Path(folder) / "compose.yaml"
        file.write_text(compose_text(deployment))
        compose = Compose(machine.run, command, environment.folder, wishes.env_file)
        _bring_images(compose.images(file), machine)
        try:
            _start(deployment, compose, file, wishes.timeout_s, machine)
        except ServeError:
            if not before and not wishes.keep:
                docker.remove(docker.containers(environment), environment)
            raise


def check_free(deployment: FleetDeployment, own: Sequence[Container], machine: Machine) -> None:
    """Raise if another program holds what *deployment* needs; *own* are its containers that exist.

    Raises:
        ResourceTaken: another environment is up, or a port or GPU is taken.
    """
    wanted = deployment.resources
    for container in machine.docker.containers():
        other = container.environment
        shared = wanted.shared_with(container.resources)
        if other != deployment.environment.name and container.status == "running" and shared:
            raise ResourceTaken(
                f"the {other} environment is up and uses {shared} (container {container.name}); "
                f"stop it first: scripts/teardown.sh {other}"
            )
    held = _together(one.resources for one in own if one.status == "running")
    check_ports(wanted.ports - held.ports, machine.docker)
    check_gpus(wanted.gpus - held.gpus, machine.run)


def teardown(environments: Sequence[Environment], machine: Machine) -> None:
    """Stop and remove *environments*; what is not there is no error.  Models stay.

    Raises:
        DockerFailed: something could not be removed.
    """
    machine.docker.check()
    for environment in environments:
        containers = machine.docker.containers(environment)
        machine.docker.remove(containers, environment)
        print_line(machine, f"{environment.name}: removed {len(containers)} containers")


def remove_cache(folder: Path, machine: Machine) -> None:
    """Remove the models that were downloaded to *folder*.

    Raises:
        SettingInvalid: it does not look like a cache of Hugging Face's, or cannot be removed.
    """
    if not (folder / "hub").is_dir():
        raise SettingInvalid(
            f"{folder} has no folder hub, so it is not a model cache; correct MODEL_CACHE"
        )
    try:
        shutil.rmtree(folder / "hub")
    except OSError as error:
        raise SettingInvalid(
            f"{folder}/hub cannot be removed: {error.strerror}; the engines wrote it as root"
        ) from error
    print_line(machine, f"removed the models in {folder}/hub")


def status(machine: Machine) -> None:
    """Print a table of what is there."""
    machine.docker.check()
    containers = machine.docker.containers()
    if containers:
        machine.console.print(table_of(containers))
    else:
        print_line(machine, "no environment is up")


def print_line(machine: Machine, text: str) -> None:
    machine.console.print(text, highlight=False, soft_wrap=True)


def _bring_images(images: Sequence[str], machine: Machine) -> None:
    for image in images:
        if not machine.docker.has_image(image):
            print_line(machine, f"pulling {image}")
            machine.docker.pull(image)


def _start(
    deployment: FleetDeployment, compose: Compose, file: Path, timeout_s: float, machine: Machine
) -> None:
    """Start stage after stage, each when the one before it serves, and show how far it is."""
    console, docker = machine.console, machine.docker

    def look() -> Sequence[Container]:
        return docker.containers(deployment.environment)

    def stage_by_stage(watcher: ProgressView) -> None:
        names = {balancer_container(deployment)}
        services = [deployment.environment.balancer]
        for stage in deployment.stages:
            names |= {pod.container for pod in stage}
            services += [pod.service for pod in stage]
            compose.up(file, services)
            asyncio.run(wait_until_ready(look, names, watcher, machine.clock, timeout_s))

    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                stage_by_stage(LiveTable(live))
            return
        stage_by_stage(ChangedLines(console))
        console.print(table_of(look()))
    except PodFailed as error:
        print_line(machine, f"--- {error.container.name}, last log lines:")
        machine.console.print(
            docker.logs(error.container, _LOG_LINES), markup=False, highlight=False, soft_wrap=True
        )
        raise


def _together(several: Iterable[Resources]) -> Resources:
    ports: frozenset[int] = frozenset()
    gpus: frozenset[int] = frozenset()
    for one in several:
        ports, gpus = ports | one.ports, gpus | one.gpus
    return Resources(ports, gpus)
