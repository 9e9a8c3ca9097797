"""Whether the engine runs on GPUs or on the CPU, and whether it can.  Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from model_server.gpus import NvidiaGpu, VisibleGpus
from servekit.container.engine_versions import EngineVersions
from servekit.errors.tree import DeviceMissing

_OTHER_IMAGE = "build the image with BASE_IMAGE set to a CPU build of vLLM"


@dataclass(frozen=True, slots=True)
class Device:
    """What the engine runs on.

    Attributes:
        gpus: one for each part of the model; none for the CPU.
    """

    gpus: tuple[NvidiaGpu, ...] = ()

    @property
    def kind(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        if not self.gpus:
            return "CPU"
        first = self.gpus[0]
        return (
            f"{len(self.gpus)} x {first.name} ({first.arch or 'unknown'}, {first.memory_mib} MiB)"
        )


def choose_device(
    asked: str,
    node: VisibleGpus,
    versions: EngineVersions | None,
    *,
    parallel: int,
    warn: Callable[[str], None],
) -> Device:
    """Return what to run on; *asked* is auto, cuda or cpu, *parallel* how many GPUs are wanted.

    An engine of unknown build is taken for one that was built for CUDA.

    Raises:
        DeviceMissing: what is asked for is not here, or not what this engine was built for.
    """
    for_cpu = versions is not None and is_cpu_build(versions)
    if asked == "cpu" and not for_cpu:
        raise DeviceMissing(
            f"DEVICE is cpu, and {_engine(versions)} is built for CUDA; {_OTHER_IMAGE}"
        )
    if asked == "cpu":
        return Device()
    if for_cpu:
        return _cpu(asked, node, versions, warn)
    if len(node.gpus) < parallel:
        raise DeviceMissing(_too_few(node, versions, parallel))
    return Device(node.gpus[:parallel])


def is_cpu_build(versions: EngineVersions) -> bool:
    """Return whether this vLLM, or the torch that it was built with, is for the CPU."""
    return "+cpu" in versions.vllm or "+cpu" in versions.torch


def _cpu(
    asked: str, node: VisibleGpus, versions: EngineVersions | None, warn: Callable[[str], None]
) -> Device:
    if asked == "cuda":
        raise DeviceMissing(
            f"DEVICE is cuda, and {_engine(versions)} is built for the CPU; build the image with "
            "BASE_IMAGE=vllm/vllm-openai, or unset DEVICE"
        )
    found = f"{node.gpus[0].name} is not used" if node.gpus else f"no GPU: {node.why_none}"
    warn(f"{found}; {_engine(versions)} runs on the CPU, tens of times slower than a GPU")
    return Device()


def _too_few(node: VisibleGpus, versions: EngineVersions | None, parallel: int) -> str:
    if node.gpus:
        return (
            f"TENSOR_PARALLEL_SIZE is {parallel}, and {len(node.gpus)} GPU is visible; ask for as "
            f"many: limits nvidia.com/gpu: {parallel}"
        )
    return (
        f"no GPU on this node ({node.why_none}), and {_engine(versions)} is built for CUDA; give "
        f"the container one (limits nvidia.com/gpu: {parallel}, docker run --gpus all), or "
        f"{_OTHER_IMAGE}"
    )


def _engine(versions: EngineVersions | None) -> str:
    return f"vLLM {versions.vllm}" if versions else "this vLLM"
