"""What the driver says of this node."""

from pathlib import Path

import pytest

from model_server.gpus import look_for_gpus, read_gpus
from servekit.engine.dtype import GpuArch
from tests.model_server.node import H200, T4, write_program

TWO = f"{T4}\n{H200.replace('0, GPU', '1, GPU')}"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["Tesla T4", "NVIDIA H200"]),
        ("0,1", ["Tesla T4", "NVIDIA H200"]),
        ("1", ["NVIDIA H200"]),
        ("GPU-bb", ["NVIDIA H200"]),
        ("1, 0", ["NVIDIA H200", "Tesla T4"]),
        ("0,-1,1", ["Tesla T4"]),
        ("MIG-1234", ["Tesla T4"]),
        ("", []),
        ("7", []),
    ],
)
async def test_what_is_hidden_is_not_seen(
    tmp_path: Path, visible: str | None, names: list[str]
) -> None:
    """CUDA_VISIBLE_DEVICES decides, in its order, by number or by name, as CUDA reads it."""
    command = (str(write_program(tmp_path / "nvidia-smi", TWO)),)
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    node = await look_for_gpus(environ, command)

    assert [gpu.name for gpu in node.gpus] == names
    assert bool(node.why_none) is not bool(names)


async def test_driver_that_fails_is_quoted(tmp_path: Path) -> None:
    """Its first line says more than that there is no GPU."""
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\nmore"
    command = (str(write_program(tmp_path / "nvidia-smi", said, 9)),)

    node = await look_for_gpus({}, command)

    assert node.gpus == ()
    assert "couldn't communicate with the NVIDIA driver" in node.why_none


@pytest.mark.parametrize("mounted", [True, False])
async def test_missing_driver_is_told_from_a_missing_gpu(tmp_path: Path, mounted: bool) -> None:
    """A GPU that is mounted without its driver's programs is another mistake than none."""
    device = tmp_path / "nvidiactl"
    if mounted:
        device.touch()

    node = await look_for_gpus({}, ("no-such-program",), device)

    assert node.gpus == ()
    assert ("though a GPU is mounted" in node.why_none) is mounted


@pytest.mark.parametrize(
    ("line", "arch", "memory_mib"),
    [
        (T4, GpuArch(7, 5), 15360),
        ("0, GPU-c, NVIDIA GB10, [N/A], 12.1", GpuArch(12, 1), 0),
        ("0, GPU-d, Tesla K80, 11441, [N/A]", None, 11441),
    ],
)
def test_what_the_driver_does_not_know_is_left_open(
    line: str, arch: GpuArch | None, memory_mib: int
) -> None:
    """Shared memory has no size of its own, and an old driver no word for the architecture."""
    (gpu,) = read_gpus(line)

    assert (gpu.arch, gpu.memory_mib) == (arch, memory_mib)


def test_anything_else_is_no_gpu() -> None:
    """Warnings of the driver come on the same stream."""
    assert read_gpus("WARNING: infoROM is corrupted\n\nNo devices were found\n") == ()
