"""A machine for tests: a folder with programs on its PATH, fleets on free ports, our program."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass(frozen=True, slots=True)
class Host:
    """Where our program is started, with nothing on its PATH but what a test puts there."""

    root: Path

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

    def fleet(self, name: str = "fleet", gpus: tuple[int, ...] = ()) -> Path:
        """A fleet of one model on ports that are free, with a replica for each GPU, or one."""
        first = free_ports(max(1, len(gpus)))
        path = self.root / f"{name}.yaml"
        path.write_text(fleet_text(first, gpus or (None,)))
        return path

    def run(self, *args: object, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run our program here."""
        return subprocess.run(  # noqa: S603
            [sys.executable, "-m", "bench_environments.main", *map(str, args)],
            cwd=self.root,
            env={
                "PATH": str(self.root / "bin"),
                "FAKE_DOCKER": str(self.root / "docker"),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                **environ,
            },
            capture_output=True,
            text=True,
            check=False,
        )


def fleet_text(first: int, gpus: tuple[int | None, ...], model: str = MODEL) -> str:
    """One model, a replica for each of *gpus* (None: none) on ports from *first*."""
    replicas = [
        f"  - {{name: r{first}-{n}, model: {model}, gpus: {[] if gpu is None else [gpu]}, "
        f"port: {first + n}}}\n"
        for n, gpu in enumerate(gpus)
    ]
    return f"models:\n  - {{name: {model}, short_name: m}}\nreplicas:\n{''.join(replicas)}"


def free_ports(count: int, also: tuple[int, ...] = ()) -> int:
    """Return the first of *count* ports in a row that nobody has, nor those *also* further on."""
    while True:
        with socket.socket() as tried:
            tried.bind(("127.0.0.1", 0))
            first = int(tried.getsockname()[1])
        wanted = [first + n + shift for shift in (0, *also) for n in range(count)]
        if all(port < 65536 and _is_free(port) for port in wanted):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0
