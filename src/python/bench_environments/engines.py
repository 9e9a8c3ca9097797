"""How a replica is started in a container, for each kind of engine.  Pure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_environments.deployment import ENGINE_PORT, EngineKind, FleetDeployment, Pod
from servekit.engine.arguments import EngineArguments

# Both arms run one version, or a comparison of them would compare versions: one that was measured
# with KVCached.  src/docker/kvcached is built from the same image.
VLLM_VERSION = "v0.26.0"

# vLLM's own image for machines without a GPU; KVCached has no part there.
CPU_VERSION = "v0.32.0"

IMAGES = {
    EngineKind.vllm: ("ENGINE_IMAGE", f"vllm/vllm-openai:{VLLM_VERSION}"),
    EngineKind.kvcached: ("KVCACHED_IMAGE", "kvcached:latest"),
    EngineKind.simulator: ("SIMULATOR_IMAGE", "simulator:latest"),
}
CPU_IMAGE = ("CPU_ENGINE_IMAGE", f"vllm/vllm-openai-cpu:{CPU_VERSION}")

CACHE = "${MODEL_CACHE:-/mnt/model-cache/huggingface}"
MODELS = "${MODELS:-/mnt/model-cache/models}"
FLEET_IN_CONTAINER = "/etc/servekit/fleet.yaml"

# With KVCached this is only the most that an engine may take while the others leave it: the whole
# card, but for what is no KV cache.  A fixed share here would be a static split again.
KVCACHED_UTILIZATION = 0.92
_FIXED_CACHE = "--kv-cache-memory-bytes"

# Workers of a replica exchange tensors there; Docker's own 64 MB are too few.
_SHARED_MEMORY = "8gb"

# Where the KVCached image says whether KVCached has a part in its engine.
_PROOF_PORT = 9410

# Mixtral's 93 GB take a quarter of an hour to download, and minutes to load; the rest is room.
_START_PERIOD = "40m"


def start_of(deployment: FleetDeployment, pod: Pod) -> dict[str, Any]:
    """Return the part of a Compose service that says what runs in it, and on what."""
    if deployment.engine is EngineKind.simulator:
        return _simulated(deployment, pod)
    parts = {"image": _image(deployment, pod), **_serving(deployment, pod)}
    if deployment.engine is EngineKind.kvcached:
        # Segments of all engines of a GPU, for each other and for kvctl on the host.
        return {**parts, "ipc": "host"}
    return {**parts, "shm_size": _SHARED_MEMORY}


def needs_token(deployment: FleetDeployment) -> bool:
    """Whether weights come from Hugging Face."""
    if deployment.engine is EngineKind.simulator:
        return False
    return any(_folder(pod) is None for pod in deployment.pods)


def arguments_of(deployment: FleetDeployment, pod: Pod) -> EngineArguments:
    """Return the `vllm serve` of *pod*, on the port of its container."""
    model = pod.model
    gpus = bool(pod.replica.gpus)
    share, extra = model.gpu_memory_utilization, model.engine_args
    if deployment.engine is EngineKind.kvcached and deployment.shares_gpu(pod):
        share, extra = KVCACHED_UTILIZATION, without_fixed_cache(extra)
    return EngineArguments(
        model=model.weights or model.name,
        served_model_names=(model.name,) if model.weights else (),
        # A container has its own loopback, which is not reachable from outside.
        host="0.0.0.0",  # noqa: S104
        port=ENGINE_PORT,
        max_model_len=model.max_model_len,
        gpu_memory_utilization=share if gpus else None,
        tensor_parallel_size=model.tensor_parallel_size if gpus else None,
        # In both arms: where only one has it, two things are compared at once.
        enable_prefix_caching=True,
        extra=extra,
    )


def without_fixed_cache(words: Sequence[str]) -> tuple[str, ...]:
    """Return arguments of `vllm serve` without --kv-cache-memory-bytes: a share of the card that
    is an engine's own is what KVCached is to do without."""
    kept: list[str] = []
    ahead = iter(words)
    for word in ahead:
        if word == _FIXED_CACHE:
            next(ahead, None)
        elif not word.startswith(f"{_FIXED_CACHE}="):
            kept.append(word)
    return tuple(kept)


def _serving(deployment: FleetDeployment, pod: Pod) -> dict[str, Any]:
    proves = deployment.engine is EngineKind.kvcached
    health = f"http://127.0.0.1:{_PROOF_PORT}/health" if proves else _health(pod)
    parts: dict[str, Any] = {
        # KVCached's image starts vLLM itself, to see that it was patched.
        **({} if proves else {"entrypoint": ["vllm"]}),
        "command": list(arguments_of(deployment, pod).argv()),
        "environment": _variables(deployment, pod),
        "volumes": [_mount(pod)],
        "healthcheck": _check(["curl", "-fsS", health], _START_PERIOD),
    }
    if pod.replica.gpus:
        parts["deploy"] = {"resources": {"reservations": {"devices": [_gpus(pod)]}}}
    return parts


def _image(deployment: FleetDeployment, pod: Pod) -> str:
    variable, image = IMAGES[deployment.engine] if pod.replica.gpus else CPU_IMAGE
    return f"${{{variable}:-{image}}}"


def _variables(deployment: FleetDeployment, pod: Pod) -> dict[str, str]:
    said = {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
    if _folder(pod) is None:
        said |= {"HF_TOKEN": "${HF_TOKEN:-}"}
    else:
        said["HF_HUB_OFFLINE"] = "1"
    if not pod.replica.gpus:
        # GiB; vLLM would take 4 for itself.
        said["VLLM_CPU_KVCACHE_SPACE"] = "1"
    if pod.replica.gpus:
        # The one that KVCached 0.1.6 supports in this version, in both arms.
        said["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if deployment.engine is EngineKind.kvcached:
        said |= {
            "ENABLE_KVCACHED": "true",
            "KVCACHED_AUTOPATCH": "1",
            # A segment for each engine, by a name that says whose it is.
            "KVCACHED_IPC_NAME": f"kvcached_{pod.replica.name}",
        }
    return said


def _folder(pod: Pod) -> Path | None:
    """The folder in the container that the weights are in; None where they are downloaded."""
    weights = pod.model.weights
    return Path(weights) if weights and weights.startswith("/") else None


def _mount(pod: Pod) -> str:
    folder = _folder(pod)
    if folder is None:
        return f"{CACHE}:/root/.cache/huggingface"
    return f"{MODELS}:{folder.parent}:ro"


def _gpus(pod: Pod) -> dict[str, Any]:
    ids = [str(gpu) for gpu in pod.replica.gpus]
    return {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}


def _simulated(deployment: FleetDeployment, pod: Pod) -> dict[str, Any]:
    variable, image = IMAGES[EngineKind.simulator]
    path = Path(deployment.fleet_name)
    own = path.is_file()
    look = f"import urllib.request as r; r.urlopen('{_health(pod)}', timeout=2)"
    mounts = {"volumes": [f"{path.resolve()}:{FLEET_IN_CONTAINER}:ro"]} if own else {}
    return {
        "image": f"${{{variable}:-{image}}}",
        "command": [
            *("--fleet", FLEET_IN_CONTAINER if own else deployment.fleet_name),
            *("--only", pod.replica.name),
        ],
        **mounts,
        "read_only": True,
        "healthcheck": _check(["/app/bin/python", "-c", look], "60s"),
    }


def _health(pod: Pod) -> str:
    return f"http://127.0.0.1:{pod.listens}/health"


def _check(command: list[str], start_period: str) -> dict[str, Any]:
    return {
        "test": ["CMD", *command],
        "interval": "5s",
        "timeout": "5s",
        "retries": 3,
        "start_period": start_period,
    }
