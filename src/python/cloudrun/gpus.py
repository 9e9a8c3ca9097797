"""The GPUs that Cloud Run has, and what goes with each.  Pure.

One table for the manifest, the Terraform module and the architecture that kernels are compiled for.
Least CPUs and memory: https://cloud.google.com/run/docs/configuring/services/gpu
Architectures: https://developer.nvidia.com/cuda-gpus
"""

from dataclasses import dataclass

from servekit.engine.dtype import GpuArch
from servekit.errors.tree import SettingInvalid


@dataclass(frozen=True, slots=True)
class CloudRunGpu:
    """One type.

    Attributes:
        name: as `run.googleapis.com/accelerator` takes it.
        vram_gib: of the GPU.
        arch: compute capability.
        cpu: that an instance is given (count).
        memory_gib: likewise.
        min_cpu: that Cloud Run insists on; so min_memory_gib.
    """

    name: str
    vram_gib: int
    arch: GpuArch
    cpu: int
    memory_gib: int
    min_cpu: int
    min_memory_gib: int

    def check(self, cpu: int | None, memory_gib: int | None) -> None:
        """Refuse what Cloud Run would refuse.

        Raises:
            SettingInvalid: fewer processors, or less memory, than the GPU needs.
        """
        for what, value, least in (
            ("cpu", cpu, self.min_cpu),
            ("memory-gib", memory_gib, self.min_memory_gib),
        ):
            if value is not None and value < least:
                raise SettingInvalid(f"--{what} is {value}; {self.name} needs {least} or more")


GPUS = {
    gpu.name: gpu
    for gpu in (
        CloudRunGpu("nvidia-l4", 24, GpuArch(8, 9), 8, 32, 4, 16),
        CloudRunGpu("nvidia-rtx-pro-6000", 96, GpuArch(12, 0), 20, 80, 20, 80),
    )
}


def find_gpu(name: str) -> CloudRunGpu:
    """Return the GPU called *name*.

    Raises:
        SettingInvalid: Cloud Run has none of this name.
    """
    if name not in GPUS:
        raise SettingInvalid(f"--gpu {name!r} is unknown on Cloud Run; use {', '.join(GPUS)}")
    return GPUS[name]
