"""GPU, CPU, or a refusal that says what to do."""

import pytest

from model_server.device import Device, choose_device
from model_server.gpus import NvidiaGpu, VisibleGpus
from servekit.container.engine_versions import EngineVersions
from servekit.engine.dtype import GpuArch
from servekit.errors.tree import DeviceMissing

FOR_CUDA = EngineVersions("0.33.0", "2.14.0+cu130")
FOR_CPU = EngineVersions("0.32.0+cpu", "2.13.0+cpu")

NO_GPU = VisibleGpus((), "nvidia-smi is not here")
T4 = NvidiaGpu("0", "GPU-a", "Tesla T4", 15360, GpuArch(7, 5))
ONE_T4 = VisibleGpus((T4,))


@pytest.mark.parametrize("asked", ["auto", "cuda"])
@pytest.mark.parametrize("versions", [FOR_CUDA, None])
def test_gpu_is_used_where_there_is_one(asked: str, versions: EngineVersions | None) -> None:
    """An engine that does not say what it was built for is taken for one for CUDA."""
    assert choose_device(asked, ONE_T4, versions, parallel=1, warn=pytest.fail) == Device((T4,))


@pytest.mark.parametrize("node", [NO_GPU, ONE_T4])
def test_engine_for_the_cpu_falls_back_to_it(node: VisibleGpus) -> None:
    """With a warning that says why, and how slow that is."""
    warnings: list[str] = []

    device = choose_device("auto", node, FOR_CPU, parallel=1, warn=warnings.append)

    assert device.kind == "cpu"
    assert len(warnings) == 1
    assert ("nvidia-smi is not here" in warnings[0]) is (node is NO_GPU)


def test_cpu_that_was_asked_for_is_no_surprise() -> None:
    """No warning."""
    assert choose_device("cpu", NO_GPU, FOR_CPU, parallel=1, warn=pytest.fail) == Device()


@pytest.mark.parametrize("versions", [FOR_CUDA, None])
def test_node_without_a_gpu_is_refused(versions: EngineVersions | None) -> None:
    """With the driver's reason, and both ways out."""
    with pytest.raises(DeviceMissing) as refusal:
        choose_device("auto", NO_GPU, versions, parallel=1, warn=pytest.fail)

    said = str(refusal.value)
    assert "no GPU on this node (nvidia-smi is not here)" in said
    assert "nvidia.com/gpu: 1" in said
    assert "BASE_IMAGE" in said


def test_engine_of_the_wrong_build_is_refused() -> None:
    """What was asked for by name is not quietly something else."""
    with pytest.raises(DeviceMissing, match=r"DEVICE is cpu, and vLLM 0\.33\.0 is built for CUDA"):
        choose_device("cpu", ONE_T4, FOR_CUDA, parallel=1, warn=pytest.fail)
    with pytest.raises(DeviceMissing, match=r"DEVICE is cuda, and vLLM 0\.32\.0\+cpu"):
        choose_device("cuda", ONE_T4, FOR_CPU, parallel=1, warn=pytest.fail)


def test_more_parts_than_gpus_are_refused() -> None:
    """vLLM would say so after the download."""
    with pytest.raises(DeviceMissing, match="TENSOR_PARALLEL_SIZE is 2, and 1 GPU is visible"):
        choose_device("auto", ONE_T4, FOR_CUDA, parallel=2, warn=pytest.fail)


def test_torch_gives_the_build_away() -> None:
    """The community's build for the CPU is called 0.32.0, as the other one."""
    versions = EngineVersions("0.32.0", "2.13.0+cpu")

    device = choose_device("auto", NO_GPU, versions, parallel=1, warn=lambda _: None)

    assert device.kind == "cpu"
