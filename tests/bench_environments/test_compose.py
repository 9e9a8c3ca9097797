"""A deployment as a value, and as the Compose file that follows from it."""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_environments.compose import compose_file, compose_text
from bench_environments.deployment import BASELINE, MANAGED, EngineKind, FleetDeployment, Resources
from bench_environments.engines import without_fixed_cache
from bench_environments.generated import deployment_of
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import Fleet, FleetModel, FleetReplica

FLEETS = ("h100", "l4", "colocated", "cpu", "h200_shared", "h200_apart")
BOTH = (BASELINE, MANAGED)


def services(deployment: FleetDeployment) -> dict[str, Any]:
    found: dict[str, Any] = compose_file(deployment)["services"]
    return found


def pods(deployment: FleetDeployment) -> list[dict[str, Any]]:
    return [services(deployment)[pod.service] for pod in deployment.pods]


def balancer(deployment: FleetDeployment) -> dict[str, Any]:
    found: dict[str, Any] = services(deployment)[deployment.environment.balancer]
    return found


@pytest.mark.parametrize("environment", BOTH, ids=lambda one: one.name)
def test_endpoints_are_in_the_order_of_the_pods(environment: Any) -> None:
    """Two Llama, two Qwen, two Mixtral; the seed's managed list was in another order."""
    said = balancer(deployment_of(environment, "h100"))["environment"]["VLLM_ENDPOINTS"]

    names = ["llama-8b-1", "llama-8b-2", "qwen-7b-1", "qwen-7b-2", "mixtral-8x7b-1", "mixtral-8x7b-2"]  # fmt: skip # noqa: E501
    assert said == ",".join(f"http://vllm-{name}:8000" for name in names)


@pytest.mark.parametrize("environment", BOTH, ids=lambda one: one.name)
def test_ports_and_gpus_are_those_of_the_seed(environment: Any) -> None:
    """8001 to 8006 on eight GPUs, Mixtral over two of them, and 8080 or 8081 for the rest."""
    deployment = deployment_of(environment, "h100")

    published = [pod["ports"][0].rsplit(":", 2)[1] for pod in pods(deployment)]
    devices = [
        pod["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for pod in pods(deployment)
    ]
    assert published == ["8001", "8002", "8003", "8004", "8005", "8006"]
    assert devices == [["0"], ["1"], ["2"], ["3"], ["4", "5"], ["6", "7"]]
    port = environment.port
    assert balancer(deployment)["ports"] == [f"${{BIND_ADDRESS:-127.0.0.1}}:{port}:{port}"]


@pytest.mark.parametrize("fleet", FLEETS)
def test_engines_of_both_arms_are_asked_the_same(fleet: str) -> None:
    """The arms differ in KVCached and the load balancer; the seed's did in prefix caching too."""
    asked = [[pod["command"] for pod in pods(deployment_of(one, fleet))] for one in BOTH]

    if fleet in ("colocated", "h200_shared"):
        asked = [[without_share(command) for command in arm] for arm in asked]
    assert asked[0] == asked[1]
    assert all("--enable-prefix-caching" in command for command in asked[0])


def without_share(command: list[str]) -> list[str]:
    at = command.index("--gpu-memory-utilization")
    return [word for n, word in enumerate(without_fixed_cache(command)) if n not in (at, at + 1)]


@pytest.mark.parametrize("fleet", ["colocated", "h200_shared"])
def test_a_share_of_a_gpu_is_not_an_engines_own_with_kvcached(fleet: str) -> None:
    """The share is KVCached's upper limit too: with 0.31 it could lend nothing."""
    baseline, managed = (pods(deployment_of(one, fleet)) for one in BOTH)

    for one, other in zip(baseline, managed, strict=True):
        assert float(share_of(one["command"])) <= 0.31
        assert share_of(other["command"]) == "0.92"
        assert "--kv-cache-memory-bytes" not in other["command"]


def share_of(command: list[str]) -> str:
    return command[command.index("--gpu-memory-utilization") + 1]


def test_a_fixed_cache_is_left_out_in_both_spellings() -> None:
    """What stands around it stays, also at the end."""
    words = ["--a", "--kv-cache-memory-bytes", "9G", "--b", "--kv-cache-memory-bytes=9", "c"]

    assert without_fixed_cache(words) == ("--a", "--b", "c")
    assert without_fixed_cache(["--kv-cache-memory-bytes"]) == ()


def test_kvcached_is_on_in_its_arm_alone() -> None:
    """Switched on, with a segment of its own for each engine, where kvctl of the host sees it."""
    baseline, managed = (pods(deployment_of(one, "colocated")) for one in BOTH)

    segments = {pod["environment"]["KVCACHED_IPC_NAME"] for pod in managed}
    assert len(segments) == len(managed)
    assert all(pod["environment"]["ENABLE_KVCACHED"] == "true" for pod in managed)
    assert all(pod["ipc"] == "host" for pod in managed)
    # Its image asks for proof before it says that it is healthy.
    assert all("entrypoint" not in pod for pod in managed)
    assert all("9410/health" in pod["healthcheck"]["test"][-1] for pod in managed)
    assert not any("KVCACHED" in str(pod) for pod in baseline)


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("environment", BOTH, ids=lambda one: one.name)
def test_every_container_is_checked_and_given_time(environment: Any, fleet: str) -> None:
    """A check that counts from the first second calls every engine sick that still loads."""
    for service in services(deployment_of(environment, fleet)).values():
        assert service["healthcheck"]["start_period"].endswith(("m", "s"))
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("environment", BOTH, ids=lambda one: one.name)
def test_images_of_others_are_pinned(environment: Any, fleet: str) -> None:
    """Those without an owner are built here, from this commit."""
    for service in services(deployment_of(environment, fleet)).values():
        image = service["image"].partition(":-")[2].removesuffix("}")
        name, _, tag = image.partition(":")
        assert "/" not in name or tag.startswith("v0.")


def test_no_secret_is_in_the_file() -> None:
    """The token is a variable, and comes from .env."""
    text = compose_text(deployment_of(BASELINE, "h100"))

    assert "HF_TOKEN: ${HF_TOKEN:-}" in text
    assert "hf_" not in text


def test_engines_on_the_cpu_reserve_no_gpu() -> None:
    """And fetch nothing: their model is a folder."""
    for pod in pods(deployment_of(BASELINE, "cpu")):
        assert "deploy" not in pod
        assert pod["volumes"] == ["${MODELS:-/mnt/model-cache/models}:/models:ro"]
        assert "HF_TOKEN" not in pod["environment"]


def test_simulated_arms_have_nothing_in_common() -> None:
    """Both can be up at once; on GPUs they cannot."""
    both = [deployment_of(one, "h100", EngineKind.simulator).resources for one in BOTH]
    on_gpus = [deployment_of(one, "h100").resources for one in BOTH]

    assert both[0].shared_with(both[1]) == ""
    assert on_gpus[0].shared_with(on_gpus[1]) == (
        "GPUs 0, 1, 2, 3, 4, 5, 6, 7 and ports 8001, 8002, 8003, 8004, 8005, 8006"
    )


def test_kvcached_without_a_gpu_is_refused() -> None:
    """It manages the memory of GPUs."""
    with pytest.raises(SettingInvalid, match="kvcached needs a GPU"):
        deployment_of(MANAGED, "cpu", EngineKind.kvcached)


def test_a_port_for_two_is_refused() -> None:
    """The load balancer's must be nobody else's."""
    with pytest.raises(
        SettingInvalid, match="port 8001 is used by a replica and by the load balancer"
    ):
        deployment_of(BASELINE, "h100", port=8001)


def test_a_model_with_a_policy_is_refused() -> None:
    """An environment compares the policies of load balancers."""
    model = FleetModel(name="m", short_name="m", policy="random")
    fleet = Fleet(models=(model,), replicas=(FleetReplica(name="r", model="m", gpus=(), port=1),))

    with pytest.raises(SettingInvalid, match="'m' has a policy"):
        FleetDeployment(BASELINE, "mine", fleet, EngineKind.vllm, 8080)


@st.composite
def shared_fleets(draw: st.DrawFn) -> Fleet:
    """One model, replicas that share GPUs in any way that fits."""
    gpus = draw(st.lists(st.integers(0, 3), min_size=1, max_size=10))
    model = FleetModel(name="m", short_name="m", gpu_memory_utilization=0.1)
    replicas = [
        FleetReplica(name=f"r{number}", model="m", gpus=(gpu,), port=9000 + number)
        for number, gpu in enumerate(gpus)
    ]
    return Fleet(models=(model,), replicas=tuple(replicas))


@given(fleet=shared_fleets())
def test_stages_start_each_pod_once_and_one_of_a_gpu_at_a_time(fleet: Fleet) -> None:
    """None is lost, and no two that measure the same GPU's memory start together."""
    deployment = FleetDeployment(BASELINE, "mine", fleet, EngineKind.vllm, 8080)

    stages = deployment.stages
    assert sorted(pod.service for stage in stages for pod in stage) == sorted(
        pod.service for pod in deployment.pods
    )
    for stage in stages:
        for one, other in combinations(stage, 2):
            assert not set(one.replica.gpus) & set(other.replica.gpus)


_RESOURCES = st.builds(
    Resources, st.frozensets(st.integers(1, 5)), st.frozensets(st.integers(0, 5))
)


@given(one=_RESOURCES, other=_RESOURCES)
def test_sharing_is_mutual(one: Resources, other: Resources) -> None:
    """Whoever is asked, the answer is the same; nothing is shared where nothing is said."""
    assert one.shared_with(other) == other.shared_with(one)
    assert bool(one.shared_with(other)) == bool(one.ports & other.ports or one.gpus & other.gpus)
