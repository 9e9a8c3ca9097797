"""Build our manifests as `kubectl apply -k` would."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

ROOT = Path("src/kubernetes")
PARTS = ["platform/single", "platform/replicated", "ecr_credentials", "monitoring"]

KUBECTL_MISSING = (
    "kubectl is not on the PATH, so no manifest was built; "
    "https://kubernetes.io/docs/tasks/tools/#kubectl"
)

Manifest = dict[str, Any]


@cache
def build(part: str) -> str:
    """Return the YAML of *part*, with its patches applied."""
    done = subprocess.run(  # noqa: S603
        ["kubectl", "kustomize", ROOT / part],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


def manifests(part: str) -> list[Manifest]:
    return [found for found in yaml.safe_load_all(build(part)) if found]


def pod_specs(found: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Give the name and the pod of everything that runs one."""
    for manifest in found:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield manifest["metadata"]["name"], spec["template"]["spec"]


def containers(found: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Give every container, first ones too, with the name of what runs it."""
    for name, pod in pod_specs(found):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield name, container


def bytes_of(quantity: str) -> int:
    """Return a quantity of memory: "8Gi" is 8589934592."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]]


def read(path: str) -> Manifest:
    text: Manifest = msgspec.yaml.decode((ROOT / path).read_bytes())
    return text
