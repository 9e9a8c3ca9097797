"""A machine for tests: a folder with programs on its PATH, fleets on free ports, our program."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass(frozen=True, slots=True)
class Host:
    """Where our program is started, with nothing on its PATH but what a test puts there.

    Attributes:
        ports: that are ours; each is given out once.
    """

    root: Path
    ports: Iterator[int] = field(default_factory=lambda: iter(()))

    @property
    def calls(self) -> list[str]:
        """Every call of the stand-in for docker, in order."""
        noted = self.root / "docker/calls"
        return noted.read_text().splitlines() if noted.exists() else []

    @property
    def containers(self) -> dict[str, dict[str, Any]]:
        """What the stand-in for docker has, by name."""
        kept = self.root / "docker/containers.json"
        found: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
        return found

    def with_docker(self) -> "Host":
        (self.root / "docker/fails").mkdir(parents=True)
        self.program("docker", f'exec {sys.executable} {HERE / "fake_docker.py"} "$@"')
        return self

    def with_gpus(self, count: int, used: str = "") -> "Host":
        """nvidia-smi lists *count* GPUs; *used* is what it prints of processes."""
        rows = "".join(f"{number}, GPU-{number}\\n" for number in range(count))
        listed = f"case $1 in *query-gpu*) printf '{rows}' ;; *) printf '{used}' ;; esac"
        self.program("nvidia-smi", listed)
        return self

    def says(self, name: str, text: str = "") -> None:
        """Tell the stand-in for docker what goes wrong."""
        (self.root / "docker" / name).write_text(text)

    def program(self, name: str, body: str) -> None:
        folder = self.root / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    def env_file(self, text: str = "HF_TOKEN=hf_of_a_test\n") -> Path:
        path = self.root / ".env"
        path.write_text(text)
        return path

    def port(self) -> str:
        """The option for the load balancer's port, with one that is ours."""
        return f"--port={next(self.ports)}"

    def fleet(self, gpus: Sequence[int | None] = (None,)) -> Path:
        """A fleet of one model, with a replica for each of *gpus* (None: on the CPU)."""
        path = self.root / "fleet.yaml"
        path.write_text(fleet_text([next(self.ports) for _ in gpus], gpus))
        return path

    def run(self, *args: object, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run our program here, with this PATH."""
        own = {"PATH": str(self.root / "bin"), "FAKE_DOCKER": str(self.root / "docker")}
        return run_here(self.root, "bench_environments.main", *args, environ={**own, **environ})


def run_here(
    folder: Path, module: str, *args: object, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of ours in *folder*; without *environ*, in ours."""
    # Pants names them from its sandbox, which is not where the program is started.
    path = os.pathsep.join(str(Path(place).resolve()) for place in sys.path if place)
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", module, *map(str, args)],
        cwd=folder,
        env={**(os.environ if environ is None else environ), "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def fleet_text(ports: Sequence[int], gpus: Sequence[int | None], model: str = MODEL) -> str:
    """One model, with a replica for each port and GPU (None: on the CPU)."""
    replicas = [
        f"  - {{name: r{port}, model: {model}, gpus: {[] if gpu is None else [gpu]}, "
        f"port: {port}}}\n"
        for port, gpu in zip(ports, gpus, strict=True)
    ]
    return f"models:\n  - {{name: {model}, short_name: m}}\nreplicas:\n{''.join(replicas)}"


@contextmanager
def reserved_ports(count: int, *shifts: int) -> Iterator[Iterator[int]]:
    """Ports that are ours as long as we are in here, and with each those that are *shifts* further.

    We stay bound to them without listening.  Docker binds with SO_REUSEADDR, as we do, and so may
    have them; the kernel gives them to nobody who asks for any free port.
    """
    with ExitStack() as stack:
        yield iter([_reserve(stack, (0, *shifts)) for _ in range(count)])


def _reserve(stack: ExitStack, shifts: Sequence[int]) -> int:
    while True:
        with ExitStack() as tried:
            first = _bound(tried, 0)
            try:
                for shift in shifts[1:]:
                    _bound(tried, first + shift)
            except (OSError, OverflowError):
                continue
            stack.push(tried.pop_all())
            return first


def _bound(stack: ExitStack, port: int) -> int:
    holder = stack.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    return int(holder.getsockname()[1])
