"""What output means: each fault is named, and what is right passes."""

import pytest

from cluster_check.checks import GPU_WORKER, WORKER, Check, ClusterNode, Output, checks_for

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
    assert len(names) == 6


def test_a_node_need_not_reach_itself() -> None:
    """Every other node is pinged, and nobody where there is no other."""
    assert "10.10.0.2" in check("network").command
    assert "10.10.0.1" not in check("network").command
    assert "network" not in [check.name for check in checks_for(NODE, [NODE])]
