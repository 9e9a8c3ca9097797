"""What must hold on a node, as commands and what their output means.  Pure."""

from collections.abc import Callable
from dataclasses import dataclass

CONTROL_PLANE, WORKER, GPU_WORKER = "control-plane", "worker", "gpu-worker"
ROLES = (CONTROL_PLANE, WORKER, GPU_WORKER)

# The first branch of NVIDIA's driver that runs CUDA 13, which vLLM's images are built with.
OLDEST_DRIVER = 580


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A machine of the cluster.

    Attributes:
        instance_id: EC2's; empty for the machine that we run on.
        private_ip: empty where unknown; then no other node is asked to reach it.
    """

    name: str
    role: str
    instance_id: str = ""
    private_ip: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command said.

    Attributes:
        code: its exit status; None where it could not be run at all, and *text* says why.
    """

    code: int | None
    text: str


@dataclass(frozen=True, slots=True)
class NodeFinding:
    """The result of one check on one node.

    Attributes:
        detail: the fact, in a few words.
        remedy: what to do; empty where it passed.
    """

    node: str
    check: str
    passed: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A promise about a node.

    Attributes:
        command: a shell command that changes nothing.
        fault: what its output says is wrong, or "" where nothing is.
    """

    name: str
    command: str
    fault: Callable[[str], str]
    remedy: str
    roles: tuple[str, ...] = ROLES

    def judge(self, node: ClusterNode, output: Output) -> NodeFinding:
        """Return what *output* means for *node*."""
        if output.code is None:
            remedy = "see that the node runs and its SSM agent is online"
            return NodeFinding(node.name, self.name, False, output.text, remedy)
        fault = self.fault(output.text.strip())
        if fault:
            return NodeFinding(node.name, self.name, False, fault, self.remedy)
        return NodeFinding(node.name, self.name, True, "ok")


def checks_for(node: ClusterNode, others: list[ClusterNode]) -> list[Check]:
    """Return what must hold on *node*, which must reach each of the *others*."""
    neighbours = [other for other in others if other.private_ip and other != node]
    reachable = [other.private_ip for other in neighbours]
    checks = [*_CHECKS, *([_network(reachable), _node_ports(neighbours)] if reachable else [])]
    return [check for check in checks if node.role in check.roles]


def _last_line_says_done(text: str) -> str:
    if not text:
        return "user data has left no log"
    last = text.splitlines()[-1]
    return "" if last.endswith("done") else f"user data ended with {last!r}"


def _nothing(text: str) -> str:
    return f"swap on {', '.join(text.split())}" if text else ""


def _all_of(*wanted: str) -> Callable[[str], str]:
    def fault(text: str) -> str:
        missing = [name for name in wanted if name not in text.split()]
        return f"missing: {', '.join(missing)}" if missing else ""

    return fault


def _all_ones(text: str) -> str:
    return "" if text.split() == ["1", "1"] else f"forwarding and bridging are {text.split()}"


def _all_active(text: str) -> str:
    states = dict(zip(("containerd", "kubelet"), text.split(), strict=False))
    idle = [f"{unit} is {states.get(unit, 'absent')}" for unit in ("containerd", "kubelet")]
    return ", ".join(line for line in idle if not line.endswith(" is active"))


def _driver_fault(text: str) -> str:
    """*text* is `GPU name, driver version` per line."""
    name, _, version = text.partition("\n")[0].rpartition(", ")
    if not name:
        return f"no GPU: {text or 'nvidia-smi says nothing'}"
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_DRIVER:
        return f"{name} has driver {version}; vLLM needs {OLDEST_DRIVER} or newer"
    return ""


def _network(addresses: list[str]) -> Check:
    return Check(
        "network",
        f"for ip in {' '.join(addresses)}; do ping -c 1 -W 2 $ip >/dev/null 2>&1 || echo $ip; done",
        lambda text: f"cannot reach {', '.join(text.split())}" if text else "",
        "see the security group of the nodes: ICMP between them, and Calico's ports",
    )


def _node_ports(neighbours: list[ClusterNode]) -> Check:
    """The ports that every node must reach on the others: the kubelet's, and the API server's."""
    ends = [f"{node.private_ip}/10250" for node in neighbours]
    ends += [f"{node.private_ip}/6443" for node in neighbours if node.role == CONTROL_PLANE]
    return Check(
        "node ports",
        f"for end in {' '.join(ends)}; do "
        'timeout 3 bash -c "</dev/tcp/$end" 2>/dev/null || echo $end; done',
        lambda text: f"cannot connect to {', '.join(text.split())}" if text else "",
        "see the security group of the nodes, and that the kubelet runs there",
    )


_CHECKS = (
    Check(
        "user data",
        "tail -n 1 /var/log/prepare-node.log 2>/dev/null",
        _last_line_says_done,
        "read /var/log/prepare-node.log, then run prepare-node.sh again",
    ),
    Check(
        "swap",
        "tail -n +2 /proc/swaps | cut -d' ' -f1",
        _nothing,
        "swapoff -a, and take swap out of /etc/fstab",
    ),
    Check(
        "kernel modules",
        # One that is built in stands in /sys/module, not in /proc/modules.
        "for m in overlay br_netfilter; do test -d /sys/module/$m && echo $m; done",
        _all_of("overlay", "br_netfilter"),
        "modprobe overlay br_netfilter; see /etc/modules-load.d/kubernetes.conf",
    ),
    Check(
        "packet forwarding",
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/bridge/bridge-nf-call-iptables 2>&1",
        _all_ones,
        "sysctl --system; see /etc/sysctl.d/90-kubernetes.conf",
    ),
    Check(
        "services",
        "systemctl is-active containerd kubelet 2>/dev/null",
        _all_active,
        "run install-k8s.sh, join the cluster, then: journalctl -u kubelet",
    ),
    Check(
        "pod network",
        # kube-proxy takes another pod each time, so six tries also meet one on another node.
        "dns=$(sed -n '/^clusterDNS:/{n;s/^- *//p}' /var/lib/kubelet/config.yaml 2>/dev/null); "
        'test -n "$dns" || echo no clusterDNS; for n in 1 2 3 4 5 6; do '
        'timeout 3 bash -c "</dev/tcp/$dns/53" 2>/dev/null || echo try $n; done',
        lambda text: (
            f"the cluster's DNS does not answer: {', '.join(text.splitlines())}" if text else ""
        ),
        "kubectl get tigerastatus; security groups must pass IPIP (protocol 4) between nodes",
    ),
    Check(
        "gpu",
        "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>&1",
        _driver_fault,
        "run install-gpu-drivers.sh on this node, and reboot",
        (GPU_WORKER,),
    ),
)
