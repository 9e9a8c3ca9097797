"""Dry runs of the set-up scripts on a real Debian: as root, with a root that cannot be written."""

import subprocess
from pathlib import Path

import pytest

from tests.images.docker import base_image, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SCRIPTS = (ROOT / "src/kubernetes/cluster").resolve()


@pytest.fixture(scope="module")
def debian() -> str:
    """The name of a local image that debootstrap made; it is made where it is missing."""
    return base_image("python")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("install-k8s", "+ apt-get install -qy --allow-change-held-packages kubelet kubeadm"),
        ("init-master", "+ kubeadm init --pod-network-cidr=192.168.0.0/16"),
        ("install-gpu-drivers", "this node has no NVIDIA GPU; a real run would stop here"),
        ("deploy-gpu-plugin", "+ kubectl label node gpu-worker --overwrite"),
    ],
)
def test_a_dry_run_gets_to_the_end_without_a_change(debian: str, script: str, says: str) -> None:
    """With no stand-in on the PATH, no network and nothing to write to."""
    closed = ("--read-only", "--network", "none", "--env", "GPU_NODES=gpu-worker")
    mounted = ("--volume", f"{SCRIPTS}:/cluster:ro")

    said = docker("run", "--rm", *closed, *mounted, debian, f"/cluster/{script}.sh", "--dry-run")

    assert says in said
    assert said.splitlines()[-1] == f"{script}: done"


def test_a_real_run_stops_where_a_node_is_not_one(debian: str) -> None:
    """Here, at the first package, since there is no network; and it says so by its exit code."""
    mounted = ("--volume", f"{SCRIPTS}:/cluster:ro")
    command = ("docker", "run", "--rm", "--network", "none", *mounted, debian)

    done = subprocess.run(  # noqa: S603
        (*command, "/cluster/install-k8s.sh"), capture_output=True, text=True, check=False
    )

    assert done.returncode not in (0, 2)
    assert "done" not in done.stdout
