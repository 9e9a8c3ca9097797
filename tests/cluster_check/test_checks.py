"""What output means: each fault is named, and what is right passes."""

import socket

import pytest

from cluster_check.checks import GPU_WORKER, WORKER, Check, ClusterNode, Output, checks_for
from cluster_check.reach import start_process
from servekit.launch.port import free_port

NODE = ClusterNode("gpu", GPU_WORKER, "i-1", "10.10.0.1")
OTHER = ClusterNode("other", WORKER, "i-2", "10.10.0.2")


def check(name: str) -> Check:
    return next(check for check in checks_for(NODE, [NODE, OTHER]) if check.name == name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("user data", "prepare-node: done\n"),
        ("swap", ""),
        ("kernel modules", "overlay\nbr_netfilter\n"),
        ("packet forwarding", "1\n1\n"),
        ("services", "active\nactive\n"),
        ("gpu", "Tesla T4, 580.65.06\n"),
        ("network", ""),
        ("pod network", ""),
        ("node ports", ""),
    ],
)
def test_a_node_that_is_ready_passes(name: str, text: str) -> None:
    """What a good node answers is a pass, without a remedy."""
    finding = check(name).judge(NODE, Output(0, text))

    assert (finding.passed, finding.remedy) == (True, "")


@pytest.mark.parametrize(
    ("name", "text", "detail"),
    [
        ("user data", "", "user data has left no log"),
        ("user data", "E: Unable to locate\n", "user data ended with 'E: Unable to locate'"),
        ("swap", "/dev/sda2\n", "swap on /dev/sda2"),
        ("kernel modules", "overlay\n", "missing: br_netfilter"),
        ("packet forwarding", "1\n0\n", "forwarding and bridging are ['1', '0']"),
        ("services", "active\ninactive\n", "kubelet is inactive"),
        ("services", "", "containerd is absent, kubelet is absent"),
        ("gpu", "sh: 1: nvidia-smi: not found", "no GPU: sh: 1: nvidia-smi: not found"),
        ("gpu", "Tesla T4, 535.216.03", "Tesla T4 has driver 535.216.03; vLLM needs 580 or newer"),
        ("network", "10.10.0.2\n", "cannot reach 10.10.0.2"),
        ("pod network", "try 2\ntry 5\n", "the cluster's DNS does not answer: try 2, try 5"),
        ("node ports", "10.10.0.2/10250\n", "cannot connect to 10.10.0.2/10250"),
    ],
)
def test_a_fault_is_named_with_its_remedy(name: str, text: str, detail: str) -> None:
    """The fact is in the detail, and what to do beside it."""
    finding = check(name).judge(NODE, Output(0, text))

    assert (finding.passed, finding.detail) == (False, detail)
    assert finding.remedy


def test_a_node_out_of_reach_has_not_passed() -> None:
    """An empty answer would mean "no swap"; no answer at all does not."""
    finding = check("swap").judge(NODE, Output(None, "InvalidInstanceId"))

    assert (finding.passed, finding.detail) == (False, "InvalidInstanceId")


def test_only_a_gpu_worker_is_asked_for_its_gpu() -> None:
    """A worker without one is right."""
    names = [check.name for check in checks_for(OTHER, [NODE, OTHER])]

    assert "gpu" not in names
    assert len(names) == 8


def test_a_node_need_not_reach_itself() -> None:
    """Every other node is pinged, and nobody where there is no other."""
    assert "10.10.0.2" in check("network").command
    assert "10.10.0.1" not in check("network").command
    assert "network" not in [check.name for check in checks_for(NODE, [NODE])]


def test_ports_are_tried_with_real_packets() -> None:
    """One that listens is reached; one that does not is named, and no other."""
    listening = socket.create_server(("127.0.0.1", 0))
    open_port, closed_port = listening.getsockname()[1], free_port()
    other = ClusterNode("other", WORKER, "i-2", "127.0.0.1")
    command = next(it for it in checks_for(NODE, [NODE, other]) if it.name == "node ports").command

    said = []
    for port in (open_port, closed_port):
        tried = command.replace("/10250", f"/{port}")
        said.append(start_process(["/bin/sh", "-c", tried]).text)
    listening.close()

    assert said == ["", f"127.0.0.1/{closed_port}\n"]
