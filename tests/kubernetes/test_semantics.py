"""What a cluster would find wrong with the rendered whole, and what no schema does."""

import copy
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_backend.main import DRAIN_S
from model_server.settings import SHUTDOWN_GRACE_S
from tests.kubernetes.cluster_network import NAMESPACES
from tests.kubernetes.flows import ClusterNetwork
from tests.kubernetes.manifests import KUBECTL_MISSING, Manifest, manifests
from tests.kubernetes.needed_flows import needed_flows, pods_of
from tests.kubernetes.semantics import ClusterFacts, RenderedWhole, found_in
from tests.terraform.plan import Plan

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason=KUBECTL_MISSING)

SHAPES = ("platform/single", "platform/replicated")

GIB = 2**30

FACTS = ClusterFacts(
    served={
        "chat": ("/healthz", "/"),
        "chat-backend": ("/health", "/ready", "/metrics"),
        "managed-lb": ("/health", "/metrics"),
        "model-server": ("/health", "/metrics"),
        "dcgm-exporter": ("/health", "/metrics"),
    },
    drain_s={
        "chat-backend": DRAIN_S,
        "managed-lb": 30.0,
        "model-server": SHUTDOWN_GRACE_S,
        # nginx ends when its streams do, which the backend ends.
        "chat": DRAIN_S,
    },
    # t3.medium and g4dn.xlarge (variables.tf), less what the kubelet keeps for itself.
    nodes={"worker": (1.9, int(3.3 * GIB), 0), "gpu-worker": (3.9, int(14.2 * GIB), 1)},
)


def whole(shape: str) -> list[Manifest]:
    """Everything that is applied together, to be changed by a test."""
    parts = (shape, "ecr_credentials", "monitoring")
    return copy.deepcopy([it for part in parts for it in manifests(part)])


def faults(found: Sequence[Manifest]) -> list[str]:
    return [*RenderedWhole(found, FACTS).faults(), *refused_flows(found)]


def refused_flows(found: Sequence[Manifest]) -> list[str]:
    """Flows that a NetworkPolicy does not pass; the wire is asked in tests/terraform."""
    policies = [it for it in found if it["kind"] == "NetworkPolicy"]
    namespaces = {name: {"kubernetes.io/metadata.name": name} for name in NAMESPACES}
    network = ClusterNetwork(Plan({}, {}), {}, policies, namespaces)
    flows = needed_flows(pods_of(found, "llama-platform"), "10.10.0.0/16")
    return [fault for flow in flows for fault in network.policy_faults(flow)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_holds_together(shape: str) -> None:
    """Every name, port, label, path and number that refers to another."""
    assert faults(whole(shape)) == []


def container(found: list[Manifest], kind: str, name: str) -> Any:
    return found_in(found, kind, name)["spec"]["template"]["spec"]["containers"][0]


def pod(found: list[Manifest], kind: str, name: str) -> Any:
    return found_in(found, kind, name)["spec"]["template"]["spec"]


def spec(found: list[Manifest], kind: str, name: str) -> Any:
    return found_in(found, kind, name)["spec"]


def route(found: list[Manifest]) -> Any:
    return spec(found, "Ingress", "chat")["rules"][0]["http"]["paths"][0]


Change = Callable[[list[Manifest]], Any]


def setting(find: Callable[[list[Manifest]], Any], name: Any, value: Any) -> Change:
    def change(found: list[Manifest]) -> None:
        find(found)[name] = value

    return change


def removing(find: Callable[[list[Manifest]], Any], name: Any) -> Change:
    return lambda found: find(found).pop(name)


def without(kind: str, name: str) -> Change:
    return lambda found: found.remove(found_in(found, kind, name))


SERVER = ("StatefulSet", "llama-model-server")
BACKEND = ("Deployment", "chat-backend")

# What is changed, and words of the fault that must be found.
PLANTED: dict[str, tuple[Change, str]] = {
    "a service of no pod": (
        setting(
            lambda f: spec(f, "Service", "chat-backend")["selector"], "app.kubernetes.io/name", "x"
        ),
        "Service chat-backend has no pods",
    ),
    "a selector of other labels": (
        setting(
            lambda f: spec(f, *BACKEND)["selector"]["matchLabels"], "app.kubernetes.io/name", "x"
        ),
        "does not select its own pods",
    ),
    "a port by another name": (
        setting(lambda f: spec(f, "Service", "managed-lb")["ports"][0], "targetPort", "web"),
        "leads to port 'web'",
    ),
    "an ingress to another port": (
        setting(
            lambda f: spec(f, "Ingress", "chat")["rules"][0]["http"]["paths"][0]["backend"][
                "service"
            ]["port"],
            "name",
            "web",
        ),
        "Ingress chat leads to chat:web",
    ),
    "a ConfigMap that does not exist": (
        setting(lambda f: container(f, *SERVER)["envFrom"][0]["configMapRef"], "name", "gone"),
        "reads ConfigMap gone",
    ),
    "a key that does not exist": (
        removing(lambda f: found_in(f, "ConfigMap", "model-server")["data"], "SERVED_MODEL_NAME"),
        "reads model-server/SERVED_MODEL_NAME",
    ),
    "an account that does not exist": (
        without("ServiceAccount", "ecr-credentials"),
        "runs as ecr-credentials, which does not exist",
    ),
    "a mount without a volume": (
        setting(lambda f: container(f, *SERVER)["volumeMounts"][1], "name", "gone"),
        "mounts gone",
    ),
    "a claim without a class": (
        without("StorageClass", "models"),
        "has no StorageClass",
    ),
    "a volume too few": (
        without("PersistentVolume", "models-replicated-1"),
        "the claim models-llama-model-server-1 has no volume",
    ),
    "a volume too small": (
        setting(
            lambda f: spec(f, "PersistentVolume", "models-replicated-0")["capacity"],
            "storage",
            "10Gi",
        ),
        "the claim models-llama-model-server-0 has no volume",
    ),
    "more replicas than volumes": (
        setting(lambda f: spec(f, "ScaledObject", "llama-model-server"), "maxReplicaCount", 3),
        "the claim models-llama-model-server-2 has no volume",
    ),
    "a probe of another path": (
        setting(lambda f: container(f, *SERVER)["readinessProbe"]["httpGet"], "path", "/healthz"),
        "asks /healthz, not served",
    ),
    "a probe of another port": (
        setting(lambda f: container(f, *BACKEND)["livenessProbe"]["httpGet"], "port", 8081),
        "livenessProbe asks port 8081",
    ),
    "a role of nobody": (
        without("Role", "ecr-credentials"),
        "for a role that does not exist",
    ),
    "a role that may not create": (
        lambda f: found_in(f, "Role", "ecr-credentials")["rules"].pop(1),
        "may not create the Secret ecr-secret",
    ),
    "a role for another secret": (
        setting(
            lambda f: found_in(f, "Role", "ecr-credentials")["rules"][0], "resourceNames", ["other"]
        ),
        "may not get, patch",
    ),
    "a budget that lets nothing go": (
        setting(lambda f: spec(f, "PodDisruptionBudget", "chat"), "maxUnavailable", 0),
        "lets no node be drained",
    ),
    "scaling of what does not exist": (
        setting(
            lambda f: spec(f, "ScaledObject", "llama-model-server")["scaleTargetRef"],
            "kind",
            "Deployment",
        ),
        "scales llama-model-server, which does not exist",
    ),
    "an apply that resets the scaling": (
        setting(lambda f: spec(f, *SERVER), "replicas", 1),
        "every apply resets its scaling",
    ),
    "a monitor of another port": (
        setting(lambda f: spec(f, "ServiceMonitor", "managed-lb")["endpoints"][0], "port", "web"),
        "asks a port that its Service does not have",
    ),
    "an end that is cut": (
        setting(lambda f: pod(f, *SERVER), "terminationGracePeriodSeconds", 30),
        "is killed after 30 s",
    ),
    "a pause that is not in the grace": (
        setting(
            lambda f: container(f, "Deployment", "managed-lb")["lifecycle"]["preStop"]["sleep"],
            "seconds",
            40,
        ),
        "Deployment managed-lb is killed",
    ),
    "more CPUs than a node has": (
        setting(lambda f: container(f, *SERVER)["resources"]["requests"], "cpu", "4"),
        "more CPUs than a node has",
    ),
    "more GPUs than a node has": (
        setting(lambda f: container(f, *SERVER)["resources"]["requests"], "nvidia.com/gpu", "2"),
        "asks for 2 GPUs",
    ),
    "a taint that is not tolerated": (
        removing(lambda f: pod(f, *SERVER), "tolerations"),
        "does not tolerate the taint",
    ),
    "a pod that its namespace refuses": (
        setting(lambda f: pod(f, *BACKEND), "hostNetwork", True),
        "refused by the namespace's Pod Security level",
    ),
    "an address of no service": (
        setting(lambda f: container(f, *BACKEND)["env"][0], "value", "http://managed:8081"),
        "asks managed, which does not exist",
    ),
    "an address of another port": (
        setting(lambda f: container(f, *BACKEND)["env"][0], "value", "http://managed-lb:8080"),
        "asks managed-lb:8080",
    ),
    "a namespace that nothing makes": (
        without("Namespace", "ecr-credentials"),
        "in a namespace that nothing makes",
    ),
    "a set without names": (
        removing(lambda f: spec(f, "Service", "llama-model-server-pods"), "clusterIP"),
        "has no headless Service",
    ),
    "a policy that refuses Prometheus": (
        lambda f: spec(f, "NetworkPolicy", "managed-lb")["ingress"][0]["from"].pop(1),
        "prometheus -> managed-lb tcp/8081",
    ),
    "a policy that refuses names": (
        lambda f: spec(f, "NetworkPolicy", "model-server")["egress"].pop(0),
        "llama-model-server -> coredns udp/53",
    ),
    "a policy of another port": (
        setting(
            lambda f: spec(f, "NetworkPolicy", "chat-backend")["ingress"][0]["ports"][0], "port", 80
        ),
        "chat -> chat-backend tcp/8080",
    ),
    "a policy of no pod": (
        setting(
            lambda f: spec(f, "NetworkPolicy", "chat")["podSelector"]["matchLabels"],
            "app.kubernetes.io/name",
            "page",
        ),
        "NetworkPolicy chat is about no pod",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str) -> None:
    """In the shape of several replicas, which has everything."""
    found = whole("platform/replicated")
    change, expected = PLANTED[fault]

    change(found)

    said = faults(found)
    assert any(expected in it for it in said), said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    shutil.which("kubernetes-validate") is None,
    reason="kubernetes-validate is not on the PATH; uv tool install kubernetes-validate",
)
def test_schemas_see_none_of_them(tmp_path: Path) -> None:
    """Which is why they are looked for here."""
    for fault, (change, _) in PLANTED.items():
        found = whole("platform/replicated")
        change(found)
        (tmp_path / f"{fault.replace(' ', '-')}.yaml").write_text(yaml.safe_dump_all(found))

    done = subprocess.run(  # noqa: S603
        ["kubernetes-validate", "--strict", "-k", "1.36", *tmp_path.iterdir()],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
