"""Boot a node of the plan on a scratch root, and say what it did.  Runs its user data."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.shell_scripts import ScratchRoot
from tests.terraform.plan import Plan, Values

# What a real node would do; here each notes how it was called.
COMMANDS = (
    *("apt-get", "apt-mark", "gpg", "curl", "kubeadm", "kubectl", "systemctl", "hostnamectl"),
    *("swapoff", "modprobe", "sysctl", "snap", "nvidia-smi", "aws"),
)

JOIN = "kubeadm join 10.10.128.7:6443 --token a.b --discovery-token-ca-cert-hash sha256:c"


@dataclass(frozen=True, slots=True)
class BootedNode:
    """A node after its first boot.

    Attributes:
        prepared: how the user data ended; None where it was not run.
        joined: how bootstrap-node.sh ended.
    """

    scratch: ScratchRoot
    prepared: "subprocess.CompletedProcess[str]"
    joined: "subprocess.CompletedProcess[str]"

    def text(self, path: str) -> str:
        """Return a file's text; empty where there is none."""
        file = self.scratch.root / path
        return file.read_text() if file.exists() else ""

    def called(self, start: str) -> str:
        """Return the first call that begins with *start*, or nothing."""
        return next((call for call in self.scratch.calls if call.startswith(start)), "")


def boot(node: Values, root: Path) -> BootedNode:
    """Run the user data of *node* and then its bootstrap, as systemd would."""
    scratch = ScratchRoot(root)
    for folder in (
        "etc/modules-load.d",
        "etc/sysctl.d",
        "etc/systemd/system",
        "var/log",
        "etc/default",
    ):
        (root / folder).mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/fstab").write_text("/dev/sda1 / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n")
    (root / "etc/os-release").write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    device = root / "sys/bus/pci/devices/0000:00:1e.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    for name in COMMANDS:
        scratch.command(name)
    scratch.command("gpg", 'cat >/dev/null; touch "${@: -1}"')
    scratch.command("nvidia-smi", "echo 580.65.06")
    admin = root / "etc/kubernetes/admin.conf"
    scratch.command(
        "kubeadm",
        f'case "$1" in init) mkdir -p {admin.parent}; '
        f'echo "    server: https://10.10.128.7:6443" >{admin} ;;\n'
        f'token) echo "{JOIN}" ;; esac',
    )
    scratch.command("kubectl", 'if [[ $* == *"-f -" ]]; then cat >/dev/null; fi')
    scratch.command("aws", f'case "$*" in *get-parameter*) echo "{JOIN}" ;; esac')
    user_data = root / "user-data"
    user_data.write_text(node["user_data"])
    user_data.chmod(0o755)
    prepared = scratch.execute(user_data)
    bootstrap = root / "opt/servekit/bootstrap-node.sh"
    joined = (
        scratch.execute(bootstrap, **_settings(root))
        if bootstrap.exists()
        else subprocess.CompletedProcess([], 127, "", "there is no bootstrap-node.sh")
    )
    return BootedNode(scratch, prepared, joined)


def _settings(root: Path) -> dict[str, str]:
    settings = root / "opt/servekit/node.env"
    lines = settings.read_text().splitlines() if settings.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line)


def boot_faults(plan: Plan, folder: Path) -> Iterator[str]:
    """Boot every node of *plan* in a folder of its own, and say what is wrong with it."""
    for address, node in plan.named("aws_instance").items():
        name, role = node["tags"]["Name"], node["tags"]["Role"]
        root = folder / name
        root.mkdir()
        booted = boot(node, root)
        for done in (booted.prepared, booted.joined):
            if done.returncode:
                yield f"{address} does not boot: {done.stderr.strip()[-300:]}"
        if not booted.prepared.stdout.endswith("prepare-node: done\n"):
            yield f"{address} does not say that it is prepared"
        yield from (f"{address}: {fault}" for fault in _prepared_faults(booted, name))
        yield from (f"{address}: {fault}" for fault in _joined_faults(booted, role))


def _prepared_faults(booted: BootedNode, name: str) -> Iterator[str]:
    if booted.called("hostnamectl") != f"hostnamectl set-hostname {name}":
        yield "its host name is not that of the plan"
    if f" {name}" not in booted.text("etc/hosts"):
        yield "it does not find itself by name"
    if not booted.called("swapoff -a") or "# /swap.img" not in booted.text("etc/fstab"):
        yield "swap is on, now or after a boot"
    if not booted.text("etc/fstab").startswith("/dev/sda1 / ext4 defaults"):
        yield "its root disk is not mounted after a boot"
    for module in ("overlay", "br_netfilter"):
        loaded = booted.called(f"modprobe {module}")
        if not loaded or module not in booted.text("etc/modules-load.d/kubernetes.conf"):
            yield f"the module {module} is not loaded"
    for setting in ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"):
        if f"{setting} = 1" not in booted.text("etc/sysctl.d/90-kubernetes.conf"):
            yield f"{setting} is off"
    if not booted.called("sysctl --system"):
        yield "its kernel settings wait for the next boot"
    if "amazon-ssm-agent" not in " ".join(booted.scratch.calls):
        yield "no agent answers SSM"
    unit = booted.text("etc/systemd/system/servekit-bootstrap.service")
    if "/opt/servekit/bootstrap-node.sh" not in unit or "Restart=on-failure" not in unit:
        yield "nothing brings it into the cluster, or only once"
    if not booted.called("systemctl start --no-block servekit-bootstrap.service"):
        yield "its bootstrap waits for the next boot"


def _joined_faults(booted: BootedNode, role: str) -> Iterator[str]:
    if "apt-mark hold kubelet kubeadm kubectl" not in booted.scratch.calls:
        yield "Kubernetes is not installed"
    if role == "control-plane":
        yield from _control_plane_faults(booted)
        return
    if booted.called("kubeadm join") != JOIN:
        yield "it does not join"
    if role == "gpu-worker":
        marks = booted.text("etc/default/kubelet")
        if (
            "nvidia.com/gpu.present=true" not in marks
            or "nvidia.com/gpu=present:NoSchedule" not in marks
        ):
            yield "it joins without label or taint"
        if 'default_runtime_name = "nvidia"' not in booted.text(
            "etc/containerd/conf.d/nvidia.toml"
        ):
            yield "its pods get no GPU"
        if not (booted.scratch.root / "var/lib/servekit/models-0").is_dir():
            yield "there is no folder for the weights"


def _control_plane_faults(booted: BootedNode) -> Iterator[str]:
    begun = booted.called("kubeadm init")
    settings = _settings(booted.scratch.root)
    for name, option in (("POD_CIDR", "pod-network-cidr"), ("SERVICE_CIDR", "service-cidr")):
        if f"--{option}={settings.get(name)}" not in begun:
            yield f"the cluster has another {option} than the plan"
    if "--apiserver-cert-extra-sans=127.0.0.1" not in begun:
        yield "the API server is not trusted through a port forward"
    for parameter in ("join", "kubeconfig"):
        puts = [call for call in booted.scratch.calls if "put-parameter" in call]
        if not any(f"{settings.get('ACCESS_PARAMETERS')}/{parameter} " in put for put in puts):
            yield f"the parameter {parameter} is not written"
    if not booted.called("systemctl enable --now servekit-bootstrap.timer"):
        yield "nodes that come after a day cannot join"
