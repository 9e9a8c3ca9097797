"""The network of the cluster, from the files that make it.  Runs kubectl and bash."""

import re
import subprocess
from pathlib import Path

import yaml

from tests.kubernetes.flows import ClusterNetwork
from tests.kubernetes.manifests import Manifest, manifests
from tests.terraform.plan import Plan

_SETTINGS = re.compile(r"node\.env\" <<'END_OF_FILE'\n(.*?)\nEND_OF_FILE", re.DOTALL)
_INSTALLATION = re.compile(r"^    apiVersion: operator.tigera.io/v1\n(?:    .*\n)+", re.MULTILINE)

# What the charts beside ours create.
NAMESPACES = ("calico-apiserver", "keda", "kube-system", "llama-platform", "monitoring")


def node_settings(plan: Plan, role: str = "control-plane") -> dict[str, str]:
    """Return what the user data of a node of *role* sets (node.env)."""
    node = next(node for node in plan.of("aws_instance") if node["tags"]["Role"] == role)
    found = _SETTINGS.search(node["user_data"])
    assert found, "the user data sets nothing"
    return dict(line.split("=", 1) for line in found[1].splitlines())


def installation(folder: Path, settings: dict[str, str]) -> Manifest:
    """Return what `init-master.sh` of *folder* tells Calico with these settings."""
    done = subprocess.run(  # noqa: S603
        [folder / "init-master.sh", "--dry-run"],
        env={"PATH": "/usr/bin:/bin", **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    block = _INSTALLATION.search(done.stdout)
    assert block, done.stdout
    found: Manifest = yaml.safe_load(block[0])
    return found


def cluster_network(plan: Plan, scripts: Path, parts: list[str]) -> ClusterNetwork:
    """Return what decides about packets, with the manifests of *parts*."""
    found = [manifest for part in parts for manifest in manifests(part)]
    return ClusterNetwork(
        plan,
        installation(scripts, node_settings(plan)),
        [it for it in found if it["kind"] == "NetworkPolicy"],
        {name: {"kubernetes.io/metadata.name": name} for name in NAMESPACES},
    )
