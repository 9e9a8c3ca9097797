"""What the container reads from its environment."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from servekit.container.settings import ContainerSettings, read_container_settings
from servekit.errors.tree import SettingInvalid

# Cloud Run gives up on a start-up probe after 60 x 10 s; we say why before that.
STARTUP_TIMEOUT_S = 570.0

# Cloud Run sends SIGKILL 10 s after SIGTERM (https://cloud.google.com/run/docs/container-contract).
SHUTDOWN_GRACE_S = 10.0


class CloudRunSettings(ContainerSettings, frozen=True):
    """Every variable of the container.  The README has the table."""

    retired: ClassVar = {"VLLM_TORCH_COMPILE_LEVEL": "OPTIMIZATION_LEVEL"}

    model_name: str = "google/gemma-3-1b-it"
    hf_home: Path = Path("/model-cache")
    hf_hub_offline: bool = True
    torch_cuda_arch_list: str = ""
    optimization_level: int = 0
    max_num_seqs: int = 8
    gpu_memory_utilization: float = 0.95
    vllm_cache_root: Path = Path("/var/cache/vllm")
    compile_cache: str = "/compile-cache"
    compile_cache_capture: str = ""
    startup_timeout_s: float = STARTUP_TIMEOUT_S
    shutdown_grace_s: float = SHUTDOWN_GRACE_S


def read_cloudrun_settings(
    environ: Mapping[str, str], warn: Callable[[str], None]
) -> CloudRunSettings:
    """Return the settings in *environ*.

    Raises:
        SettingInvalid: a value cannot be used; said here, and not minutes later by the engine.
    """
    settings = read_container_settings(CloudRunSettings, environ, warn)
    if settings.optimization_level not in range(4):
        name = _named(environ, "OPTIMIZATION_LEVEL", "VLLM_TORCH_COMPILE_LEVEL")
        raise SettingInvalid(f"{name} is {settings.optimization_level}; use 0, 1, 2 or 3")
    return settings


def _named(environ: Mapping[str, str], name: str, old: str) -> str:
    return name if environ.get(name) else old
