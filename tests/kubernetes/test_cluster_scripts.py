"""The set-up scripts: dry runs, and real runs on a scratch root with stand-ins for the commands."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.shell_scripts import ScratchRoot, lint, needs_shellcheck

SCRIPTS = Path("src/kubernetes/cluster").resolve()
PREPARE_NODE = Path("src/terraform/aws_cluster/prepare-node.sh").resolve()
ON_NODES = ["install-k8s", "init-master", "install-gpu-drivers"]

# What a real node would do; here each notes how it was called.
COMMANDS = ["apt-get", "apt-mark", "gpg", "curl", "kubeadm", "kubectl", "systemctl"]


@dataclass(frozen=True, slots=True)
class Node(ScratchRoot):
    """A node of a cluster that is being set up."""

    def gpu(self) -> None:
        device = self.root / "sys/bus/pci/devices/0000:00:1e.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")

    def run(self, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.execute(SCRIPTS / f"{script}.sh", *arguments, **environ)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    node = Node(tmp_path)
    for name in COMMANDS:
        node.command(name)
    # The keyring is written by gpg -o FILE.
    node.command("gpg", 'cat >/dev/null; touch "${@: -1}"')
    admin = tmp_path / "etc/kubernetes/admin.conf"
    node.command("kubeadm", f"mkdir -p {admin.parent}; touch {admin}")
    # A stand-in that does not read what is piped to it would break the pipe.
    node.command("kubectl", 'if [[ $* == *"-f -" ]]; then cat >/dev/null; fi')
    node.command("nvidia-smi", "exit 9")
    return node


@pytest.mark.parametrize("script", ON_NODES)
def test_a_dry_run_changes_nothing(node: Node, script: str) -> None:
    """It needs no root, calls nothing that changes a node, and writes no file."""
    before = sorted(path for path in node.root.rglob("*"))

    done = node.run(script, "--dry-run")

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert {call.split()[0] for call in node.calls} <= {"nvidia-smi"}
    node.forget_calls()
    assert sorted(path for path in node.root.rglob("*")) == before


@pytest.mark.parametrize("script", [*ON_NODES, "deploy-gpu-plugin"])
def test_an_unknown_argument_is_refused(node: Node, script: str) -> None:
    """A mistyped --dry-run must not run for real."""
    done = node.run(script, "--dryrun")

    assert done.returncode == 2
    assert "unknown argument '--dryrun'" in done.stderr
    assert node.calls == []


@pytest.mark.parametrize("script", [*ON_NODES, "deploy-gpu-plugin"])
def test_help_is_the_head_of_the_script(node: Node, script: str) -> None:
    """It says how it is called."""
    done = node.run(script, "--help")

    assert done.returncode == 0
    assert f"{script}.sh [--dry-run]" in done.stdout


def test_kubernetes_is_installed_and_held(node: Node) -> None:
    """containerd counts in systemd's cgroups, and no upgrade comes unasked."""
    done = node.run("install-k8s")

    assert done.returncode == 0, done.stderr
    config = (node.root / "etc/containerd/config.toml").read_text()
    assert "SystemdCgroup = true" in config
    repository = (node.root / "etc/apt/sources.list.d/kubernetes.list").read_text()
    assert "https://pkgs.k8s.io/core:/stable:/v1.36/deb/ /" in repository
    assert "apt-mark hold kubelet kubeadm kubectl" in node.calls


def test_installing_again_restarts_nothing(node: Node) -> None:
    """A node that serves keeps its containers."""
    node.run("install-k8s")
    node.forget_calls()

    done = node.run("install-k8s")

    assert done.returncode == 0, done.stderr
    assert "systemctl restart containerd" not in node.calls
    assert not [call for call in node.calls if call.startswith("curl")]


def test_a_version_that_is_none_is_refused(node: Node) -> None:
    """Before a repository of a version that does not exist is written."""
    done = node.run("install-k8s", KUBERNETES_MINOR="latest")

    assert done.returncode == 2
    assert "KUBERNETES_MINOR is 'latest'" in done.stderr
    assert node.calls == []


def test_the_control_plane_is_initialised_once(node: Node) -> None:
    """A second run leaves it alone, and still prints a way to join."""
    first = node.run("init-master")
    node.forget_calls()

    second = node.run("init-master")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "left alone" in second.stdout
    assert not [call for call in node.calls if call.startswith("kubeadm init")]
    assert "kubeadm token create --print-join-command" in node.calls


def test_calico_gets_the_pods_range(node: Node) -> None:
    """What kubeadm and Calico take for the pods is one value."""
    done = node.run("init-master", "--dry-run", POD_CIDR="172.20.0.0/16")

    assert "--pod-network-cidr=172.20.0.0/16" in done.stdout
    assert "- cidr: 172.20.0.0/16" in done.stdout


def test_drivers_are_refused_without_a_gpu(node: Node) -> None:
    """They would install for minutes, and never load."""
    done = node.run("install-gpu-drivers")

    assert done.returncode == 1
    assert "this node has no NVIDIA GPU" in done.stderr


@pytest.mark.parametrize(
    ("version", "installs"), [("580.65.06", False), ("590.1", False), ("535.216.03", True)]
)
def test_a_driver_is_installed_where_it_is_too_old(
    node: Node, version: str, installs: bool
) -> None:
    """One that is new enough stays; after an install the node must reboot (exit code 3)."""
    node.gpu()
    node.command("nvidia-smi", f"echo {version}")

    done = node.run("install-gpu-drivers")

    assert done.returncode == (3 if installs else 0), done.stderr
    assert any("nvidia-headless-580-server-open" in call for call in node.calls) == installs


def test_pods_get_the_gpu_runtime_by_default(node: Node) -> None:
    """In a file of its own, and containerd is restarted for it once."""
    node.gpu()
    node.command("nvidia-smi", "echo 580.65.06")

    node.run("install-gpu-drivers")
    node.run("install-gpu-drivers")

    config = (node.root / "etc/containerd/conf.d/nvidia.toml").read_text()
    assert 'default_runtime_name = "nvidia"' in config
    assert node.calls.count("systemctl restart containerd") == 1


def test_the_plugin_is_deployed_to_the_gpu_workers(node: Node) -> None:
    """They are found by name, labelled, tainted, and must offer a GPU in the end."""
    node.command(
        "kubectl",
        'case "$*" in\n'
        '"get nodes"*) echo node/llama-master; echo node/llama-gpu-worker-2 ;;\n'
        "*allocatable*) echo 1 ;;\nesac",
    )

    done = node.run("deploy-gpu-plugin")

    assert done.returncode == 0, done.stderr
    assert "llama-gpu-worker-2 offers 1 GPU" in done.stdout
    labelled = [call for call in node.calls if call.startswith("kubectl label")]
    assert labelled == [
        "kubectl label node llama-gpu-worker-2 --overwrite nvidia.com/gpu.present=true"
    ]


def test_a_plugin_that_offers_nothing_is_a_failure(node: Node) -> None:
    """Every pod would stay Pending."""
    done = node.run("deploy-gpu-plugin", GPU_NODES="worker-7", PLUGIN_TIMEOUT_S="0")

    assert done.returncode == 1
    assert "worker-7 offers no GPU" in done.stderr


def test_a_cluster_without_gpu_workers_is_refused(node: Node) -> None:
    """Nothing is deployed for nobody."""
    done = node.run("deploy-gpu-plugin")

    assert done.returncode == 2
    assert "name them in GPU_NODES" in done.stderr


@needs_shellcheck
def test_scripts_are_clean() -> None:
    """By shellcheck, with what they source."""
    lint([*sorted(SCRIPTS.glob("*.sh")), PREPARE_NODE])
