"""Ask Docker and Compose.  Starts processes."""

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench_environments.compose import LABEL
from bench_environments.deployment import Environment, Resources
from bench_environments.failures import DockerFailed, DockerMissing

_INSTALL = "install Docker (docs.docker.com/engine/install), or apt-get install docker.io"
_INSTALL_COMPOSE = "apt-get install docker-compose-plugin, or Debian's docker-compose"

# GPU reservations are read since 1.28.
_OLDEST_COMPOSE = (1, 28)

# Not "Encountered errors while bringing up the project.", with which Compose ends.
_ERROR = re.compile(r"\b(error|ERROR|Error)\b")

Run = Callable[[Sequence[str]], "CompletedCommand"]


@dataclass(frozen=True, slots=True)
class CompletedCommand:
    """A program that ended."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last line that names an error; else the last line."""
        lines = [line.strip() for line in f"{self.out}\n{self.err}".splitlines() if line.strip()]
        named = [line for line in lines if _ERROR.search(line)]
        return (named or lines or [f"exit code {self.code} without output"])[-1]


def starter(environ: Mapping[str, str]) -> Run:
    """Return what runs programs in *environ*.

    Without what says where Python's modules are: Debian's docker-compose is Python, and would take
    ours for its own.
    """
    clean = {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
    return lambda argv: run_process(argv, clean)


def run_process(argv: Sequence[str], environ: Mapping[str, str]) -> CompletedCommand:
    """Run *argv* to its end.  One that does not exist ends with 127, as in a shell."""
    try:
        done = subprocess.run(  # noqa: S603
            argv, env=environ, capture_output=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return CompletedCommand(127, "", f"{argv[0]}: not found")
    except OSError as error:
        return CompletedCommand(126, "", f"{argv[0]}: {os.strerror(error.errno or 0)}")
    return CompletedCommand(
        done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container of an environment.

    Attributes:
        status: Docker's word: created, running, exited, …
        health: Docker's word: starting, healthy, unhealthy; empty without a check.
    """

    id: str
    name: str
    image: str
    status: str
    health: str
    exit_code: int
    labels: dict[str, str]

    @property
    def ready(self) -> bool:
        return self.status == "running" and self.health in ("healthy", "")

    @property
    def failed(self) -> bool:
        return self.status in ("exited", "dead") or self.health == "unhealthy"

    @property
    def state(self) -> str:
        """One word or two for people."""
        if self.status == "exited":
            return f"exited ({self.exit_code})"
        return "ready" if self.ready else self.health or self.status

    @property
    def environment(self) -> str:
        return self.labels.get(f"{LABEL}.environment", "")

    @property
    def resources(self) -> Resources:
        port = self.labels.get(f"{LABEL}.port", "")
        gpus = self.labels.get(f"{LABEL}.gpus", "")
        return Resources(
            frozenset([int(port)] if port else ()),
            frozenset(int(gpu) for gpu in gpus.split(",") if gpu),
        )


class Docker:
    """The Docker of this machine."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def check(self) -> None:
        """Raise unless a daemon answers.

        Raises:
            DockerMissing: it does not.
        """
        done = self._run(("docker", "version", "--format", "{{.Server.Version}}"))
        if done.code == 127:
            raise DockerMissing(f"docker is not on the PATH; {_INSTALL}")
        if done.code != 0:
            raise DockerMissing(
                f"no Docker daemon answers ({done.reason}); start it: systemctl start docker, "
                "and be in the group docker"
            )

    def containers(self, environment: Environment | None = None) -> list[Container]:
        """Return the containers of *environment*, or of all, that run or have run."""
        label = f"{LABEL}.environment"
        wanted = f"label={label}={environment.name}" if environment else f"label={label}"
        ids = self._out("ps", "--all", "--quiet", "--no-trunc", "--filter", wanted).split()
        if not ids:
            return []
        done = self._run(("docker", "inspect", *ids))
        # One that has just been removed by another process is no error.
        found = read_containers(done.out)
        return sorted(found, key=lambda one: int(one.labels.get(f"{LABEL}.port", "0")))

    def holder_of(self, port: int) -> str:
        """Return the name of the container that publishes *port*; empty where none does."""
        return self._out("ps", "--filter", f"publish={port}", "--format", "{{.Names}}")

    def has_image(self, image: str) -> bool:
        return self._run(("docker", "image", "inspect", image)).code == 0

    def pull(self, image: str) -> None:
        """Have *image* here.

        Raises:
            DockerFailed: it cannot be pulled.
        """
        done = self._run(("docker", "pull", "--quiet", image))
        if done.code != 0:
            name = image.partition(":")[0]
            raise DockerFailed(
                f"image {image} cannot be pulled: {done.reason}; if servekit builds it, run "
                f"./pants package src/docker/{name}:image, else check its name and docker login"
            )

    def logs(self, container: Container, lines: int) -> str:
        """Return the last *lines* that *container* wrote."""
        done = self._run(("docker", "logs", "--tail", str(lines), container.id))
        return done.out + done.err

    def remove(self, containers: Sequence[Container], environment: Environment) -> None:
        """Stop and remove *containers*, and the network of *environment*.  No volume is touched.

        Raises:
            DockerFailed: one of them stays.
        """
        ids = [container.id for container in containers]
        if ids:
            self._run(("docker", "stop", *ids))
            self._out("rm", "--force", *ids)
        project = f"label=com.docker.compose.project={environment.folder}"
        networks = self._out("network", "ls", "--quiet", "--filter", project).split()
        if networks:
            self._out("network", "rm", *networks)

    def _out(self, *args: str) -> str:
        done = self._run(("docker", *args))
        if done.code != 0:
            raise DockerFailed(
                f"docker {args[0]} failed: {done.reason}; run it by hand for details"
            )
        return done.out.strip()


class Compose:
    """Compose, for one environment."""

    def __init__(self, run: Run, command: Sequence[str], project: str, env_file: Path | None):
        self._run = run
        self._start = [*command, "--project-name", project]
        if env_file is not None:
            self._start += ["--env-file", str(env_file)]

    def images(self, file: Path) -> list[str]:
        """Return the images of *file*, with every variable replaced.

        Raises:
            DockerFailed: Compose does not take the file.
        """
        resolved = self._out(file, "config")
        services = msgspec.yaml.decode(resolved)["services"].values()
        return sorted({service["image"] for service in services})

    def up(self, file: Path, services: Sequence[str]) -> None:
        """Start those of *services* that do not run, replace those that have changed, and return.

        Raises:
            DockerFailed: something could not be started.
        """
        self._out(file, "up", "--detach", "--remove-orphans", *services)

    def _out(self, file: Path, *args: str) -> str:
        done = self._run((*self._start, "--file", str(file), *args))
        if done.code != 0:
            raise DockerFailed(
                f"docker compose {args[0]} failed: {done.reason}; see the Compose file with "
                "--dry-run"
            )
        return done.out


def compose_command(run: Run) -> list[str]:
    """Return how Compose is called here: as Docker's plugin, or as a separate program.

    Raises:
        DockerMissing: there is none, or it is too old.
    """
    for command in (["docker", "compose"], ["docker-compose"]):
        done = run((*command, "version", "--short"))
        if done.code == 0:
            _check_version(" ".join(command), done.out.strip())
            return command
    if done.code != 127:
        raise DockerMissing(f"docker-compose does not work: {done.reason}; {_INSTALL_COMPOSE}")
    raise DockerMissing(f"Docker Compose is not installed; {_INSTALL_COMPOSE}")


def _check_version(command: str, version: str) -> None:
    parts = version.removeprefix("v").split(".")
    known = all(part.isdigit() for part in parts[:2]) and len(parts) > 1
    if known and (int(parts[0]), int(parts[1])) < _OLDEST_COMPOSE:
        raise DockerMissing(
            f"{command} is {version}, which does not support GPUs; 1.28 or newer is needed: "
            f"{_INSTALL_COMPOSE}"
        )


class _Health(msgspec.Struct):
    status: str = msgspec.field(default="", name="Status")


class _State(msgspec.Struct):
    status: str = msgspec.field(name="Status")
    exit_code: int = msgspec.field(default=0, name="ExitCode")
    health: _Health | None = msgspec.field(default=None, name="Health")


class _Config(msgspec.Struct):
    image: str = msgspec.field(default="", name="Image")
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")


class _Inspected(msgspec.Struct):
    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")
    state: _State = msgspec.field(name="State")
    config: _Config = msgspec.field(name="Config")


def read_containers(inspected: str) -> list[Container]:
    """Return the containers in what `docker inspect` printed.

    Raises:
        DockerFailed: that is no list of containers.
    """
    try:
        found = msgspec.json.decode(inspected or "[]", type=list[_Inspected])
    except msgspec.DecodeError as error:
        raise DockerFailed(
            f"docker inspect did not print containers: {error}; check that docker is Docker"
        ) from error
    return [
        Container(
            id=one.id,
            name=one.name.removeprefix("/"),
            image=one.config.image,
            status=one.state.status,
            health=one.state.health.status if one.state.health else "",
            exit_code=one.state.exit_code,
            labels=one.config.labels or {},
        )
        for one in found
    ]
