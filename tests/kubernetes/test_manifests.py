"""The manifests: valid for Kubernetes, closed by default, and in step with what they name."""

import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from chat_backend.chat_settings import ChatSettings
from loadbalancer.membership.dns_source import DnsSource, read_source
from model_server.settings import ModelServerSettings
from servekit.settings.environment import read_settings
from tests.kubernetes.manifests import (
    KUBECTL_MISSING,
    PARTS,
    ROOT,
    Manifest,
    build,
    bytes_of,
    containers,
    manifests,
    pod_specs,
    read,
)

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason=KUBECTL_MISSING)

VALIDATE_MISSING = (
    "kubernetes-validate is not on the PATH, so no manifest was held to Kubernetes' schemas; "
    "`uv tool install kubernetes-validate`"
)

CHECKOV_MISSING = (
    "checkov is not on the PATH, so no policy was checked; `uv tool install checkov==3.3.30`"
)

needs_checkov = pytest.mark.skipif(shutil.which("checkov") is None, reason=CHECKOV_MISSING)


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def found(part: str) -> list[Manifest]:
    return manifests(part)


def one(found: list[Manifest], kind: str, name: str) -> Manifest:
    return next(m for m in found if m["kind"] == kind and m["metadata"]["name"] == name)


# The version that install-k8s.sh installs, and the newest that is known.
@pytest.mark.skipif(shutil.which("kubernetes-validate") is None, reason=VALIDATE_MISSING)
@pytest.mark.parametrize("version", ["1.36", "1.37"])
def test_every_manifest_fits_the_schema(part: str, version: str, tmp_path: Path) -> None:
    """Strictly: a field that Kubernetes does not know is a mistyped one."""
    built = tmp_path / "built.yaml"
    built.write_text(build(part))

    done = subprocess.run(  # noqa: S603
        ["kubernetes-validate", "--strict", "-k", version, built],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout + done.stderr


@needs_checkov
@pytest.mark.timeout(300)
def test_policies_hold(tmp_path: Path) -> None:
    """checkov's; each exception is written beside what it is about, with its reason."""
    for part in PARTS:
        (tmp_path / f"{part.replace('/', '-')}.yaml").write_text(build(part))

    done = checkov(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_checkov
@pytest.mark.timeout(300)
def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """What passes above passes because it is right, not because nothing looks."""
    closed = "allowPrivilegeEscalation: false"
    built = build("platform/single")
    assert closed in built
    (tmp_path / "built.yaml").write_text(built.replace(closed, "privileged: true", 1))

    done = checkov(tmp_path)

    assert done.returncode == 1
    assert "CKV_K8S_16" in done.stdout


def checkov(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = (
        f"checkov -d {folder} --framework kubernetes --compact --quiet --skip-download "
        f"--config-file {ROOT}/checkov.yaml"
    )
    return subprocess.run(  # noqa: S603
        command.split(), capture_output=True, text=True, check=False
    )


def test_images_have_a_version(found: list[Manifest]) -> None:
    """What runs must not depend on when it was started."""
    for name, container in containers(found):
        assert re.search(r":\d\S*$|:v\d\S*$|@sha256:", container["image"]), (
            name,
            container["image"],
        )


def test_containers_have_limits(found: list[Manifest]) -> None:
    """Requests and limits of CPU and memory, in this order of size."""
    for name, container in containers(found):
        resources = container["resources"]
        asked, most = resources["requests"], resources["limits"]
        assert {"cpu", "memory"} <= set(asked) & set(most), name
        assert bytes_of(asked["memory"]) <= bytes_of(most["memory"]), name


def test_containers_are_closed(found: list[Manifest]) -> None:
    """Read-only root, no new privileges, no capability that is not named."""
    for name, container in containers(found):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"]["drop"] == ["ALL"], name


def test_pods_know_nothing_they_need_not(found: list[Manifest]) -> None:
    """No token of the cluster (but for what writes a secret), no variables of other services."""
    for name, pod in pod_specs(found):
        assert pod["enableServiceLinks"] is False, name
        assert pod.get("automountServiceAccountToken") is (name == "ecr-credentials"), name
        if name != "dcgm-exporter":
            assert pod["securityContext"]["runAsNonRoot"] is True, name


def test_servers_are_probed(found: list[Manifest]) -> None:
    """Whoever gets traffic says when it can take some."""
    for manifest in found:
        if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_selectors_find_their_pods(found: list[Manifest]) -> None:
    """Services, budgets and policies name labels that some pod has."""
    labels = [
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in found
        if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet")
    ]
    for manifest in found:
        selector = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"].get("matchLabels", {}),
        }.get(manifest["kind"])
        if selector:
            wanted = selector(manifest["spec"]).items()
            assert any(wanted <= label.items() for label in labels), manifest["metadata"]["name"]


def test_volumes_that_are_mounted_exist(found: list[Manifest]) -> None:
    """A claim template counts as a volume."""
    for manifest in found:
        spec = manifest.get("spec", {})
        claimed = [c["metadata"]["name"] for c in spec.get("volumeClaimTemplates", [])]
        for name, pod in pod_specs([manifest]):
            known = {volume["name"] for volume in pod.get("volumes", [])} | set(claimed)
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
                assert mounted <= known, name


@pytest.mark.parametrize("part", ["platform/single", "platform/replicated"])
def test_a_model_server_can_start(found: list[Manifest]) -> None:
    """A GPU, host memory for the weights on their way, shared memory, and ten minutes."""
    pod = dict(pod_specs(found))["llama-model-server"]
    container = pod["containers"][0]

    gpus = [container["resources"][kind]["nvidia.com/gpu"] for kind in ("requests", "limits")]
    assert gpus == ["1", "1"]
    assert bytes_of(container["resources"]["requests"]["memory"]) >= bytes_of("8Gi")
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]  # noqa: S108
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600


def test_both_shapes_run_the_same_pod() -> None:
    """They differ in where the weights lie, and in nothing else."""
    single = dict(pod_specs(manifests("platform/single")))["llama-model-server"]
    replicated = dict(pod_specs(manifests("platform/replicated")))["llama-model-server"]
    volumes = [volume for volume in single["volumes"] if volume["name"] != "models"]

    assert {**single, "volumes": volumes} == replicated


def test_one_gpu_is_not_waited_for_by_two() -> None:
    """With a rolling update the new pod would wait for the old one's GPU for ever."""
    deployment = one(manifests("platform/single"), "Deployment", "llama-model-server")

    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["replicas"] == 1


def test_the_load_balancer_finds_every_pod_of_the_model_server() -> None:
    """By the headless Service of the StatefulSet, whose names lead to pods: at the pods' own port,
    and long before they are ready."""
    found = manifests("platform/replicated")
    pods = dict(pod_specs(found))
    option, source = pods["managed-lb"]["containers"][0]["args"]
    (port,) = pods["llama-model-server"]["containers"][0]["ports"]
    servers = one(found, "StatefulSet", "llama-model-server")["spec"]
    service = one(found, "Service", servers["serviceName"])["spec"]

    assert option == "--discover"
    assert read_source(source) == DnsSource(servers["serviceName"], port["containerPort"])
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"]
    assert service["selector"] == servers["template"]["metadata"]["labels"]


def test_autoscaling_is_bounded_by_itself_alone() -> None:
    """An apply sets no number of replicas; without metrics there are as many as may be."""
    found = manifests("platform/replicated")
    scaled = one(found, "ScaledObject", "llama-model-server")["spec"]
    servers = one(found, "StatefulSet", "llama-model-server")["spec"]

    assert "replicas" not in servers
    assert scaled["minReplicaCount"] <= scaled["maxReplicaCount"]
    assert scaled["fallback"]["replicas"] == scaled["maxReplicaCount"]
    assert scaled["triggers"][0]["metadata"]["ignoreNullValues"] == "false"


def test_the_backend_asks_the_load_balancer_where_there_is_one() -> None:
    """And the model server itself where there is not."""
    asked = []
    for part in ("platform/single", "platform/replicated"):
        pod = dict(pod_specs(manifests(part)))["chat-backend"]
        asked.append(pod["containers"][0]["env"][0])

    assert asked == [
        {"name": "ENGINE_URL", "value": "http://llama-model-server:8000"},
        {"name": "ENGINE_URL", "value": "http://managed-lb:8081"},
    ]


def test_settings_are_ones_that_the_programs_read() -> None:
    """A variable that nobody reads is a mistyped one; a value that cannot be read stops the pod."""
    found = manifests("platform/replicated")
    backend = dict(pod_specs(found))["chat-backend"]["containers"][0]
    plain = {given["name"]: given.get("value", "x") for given in backend["env"]}

    for given, kind in (
        (one(found, "ConfigMap", "model-server")["data"], ModelServerSettings),
        (plain, ChatSettings),
    ):
        known = {field.encode_name for field in msgspec.structs.fields(kind)}
        assert given.keys() <= known
        read_settings(kind, given, pytest.fail)


def test_browsers_reach_the_page_and_only_the_page_the_backend() -> None:
    """By the ingress, which names a service there is; the backend's is for this cluster alone."""
    found = manifests("platform/single")
    (rule,) = one(found, "Ingress", "chat")["spec"]["rules"]
    asked = rule["http"]["paths"][0]["backend"]["service"]
    page = dict(pod_specs(found))["chat"]["containers"][0]

    ports = one(found, "Service", asked["name"])["spec"]["ports"]
    assert asked["port"]["name"] in [port["name"] for port in ports]
    assert [m["metadata"]["name"] for m in found if m["kind"] == "Ingress"] == ["chat"]
    assert page["env"][0]["value"] == "http://chat-backend.llama-platform.svc.cluster.local:8080"
    policy = one(found, "NetworkPolicy", "chat-backend")["spec"]["ingress"][0]["from"]
    assert {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "chat"}}} in policy


def test_metrics_are_scraped_from_services_that_exist() -> None:
    """Each monitor finds a service of its label, with the port that it names."""
    services = [m for part in PARTS for m in manifests(part) if m["kind"] == "Service"]
    for monitor in [m for m in manifests("monitoring") if m["kind"] == "ServiceMonitor"]:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        ports = {
            port["name"]
            for service in services
            if wanted <= service["metadata"].get("labels", {}).items()
            for port in service["spec"]["ports"]
        }
        assert {end["port"] for end in monitor["spec"]["endpoints"]} <= ports, monitor["metadata"]


def test_no_secret_is_committed() -> None:
    """The example holds no token."""
    assert read("model_server/secret.example.yaml")["stringData"] == {"token": ""}
