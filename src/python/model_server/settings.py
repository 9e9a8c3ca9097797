"""What the model server reads from its environment."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from servekit.container.settings import ContainerSettings, read_container_settings
from servekit.errors.tree import SettingInvalid

# The seed's model, and the name that it served it by.
MODEL = "meta-llama/Llama-3.2-3B-Instruct"
SERVED_NAME = "llama-3.2-3b"

# The seed's context, where the model has as much.
MAX_MODEL_LEN = 4096

# The manifests' start-up probe gives up 600 s after the container was started; a start that has to
# download first is started again, and goes on.
STARTUP_TIMEOUT_S = 540.0

# The manifests' terminationGracePeriodSeconds is 60.
SHUTDOWN_GRACE_S = 50.0

# A Service goes on sending for as long as its endpoints take to reach every node: seconds.
SHUTDOWN_LINGER_S = 5.0


class ModelServerSettings(ContainerSettings, frozen=True):
    """Every variable of the container.  The README has the table."""

    retired: ClassVar = {
        "HUGGING_FACE_HUB_TOKEN": "HF_TOKEN",
        "HUGGINGFACE_HUB_TOKEN": "HF_TOKEN",
    }

    model_name: str = MODEL
    served_model_name: tuple[str, ...] = ()
    models_folder: Path = Path("/models")
    hf_home: Path = Path("/models/hf")
    hf_hub_offline: bool = False
    device: Literal["auto", "cuda", "cpu"] = "auto"
    gpu_memory_utilization: float = 0.8
    tensor_parallel_size: int = 1
    max_num_seqs: int = 64
    optimization_level: int | None = None
    vllm_cache_root: Path | None = None
    startup_timeout_s: float = STARTUP_TIMEOUT_S
    shutdown_grace_s: float = SHUTDOWN_GRACE_S
    shutdown_linger_s: float = SHUTDOWN_LINGER_S

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may call the model; the first is the one that answers and metrics carry."""
        first = self.served_model_name or ((SERVED_NAME,) if self.model_name == MODEL else ())
        name = self.public_model_name
        short = name.rstrip("/").rpartition("/")[2]
        return tuple(dict.fromkeys((*first, name, short)))

    @property
    def linger_s(self) -> float:
        return self.shutdown_linger_s


def read_model_server_settings(
    environ: Mapping[str, str], warn: Callable[[str], None]
) -> ModelServerSettings:
    """Return the settings in *environ*.

    Raises:
        SettingInvalid: a value cannot be used; said here, and not minutes later by the engine.
    """
    settings = read_container_settings(ModelServerSettings, environ, warn)
    if not settings.models_folder.is_absolute():
        raise SettingInvalid(f"MODELS_FOLDER is '{settings.models_folder}'; begin it with /")
    parallel = settings.tensor_parallel_size
    if parallel < 1:
        raise SettingInvalid(f"TENSOR_PARALLEL_SIZE is {parallel}; use 1 or more")
    if not 0 <= settings.shutdown_linger_s < settings.shutdown_grace_s:
        raise SettingInvalid(
            f"SHUTDOWN_LINGER_S is {settings.shutdown_linger_s:g}; it is part of SHUTDOWN_GRACE_S "
            f"({settings.shutdown_grace_s:g}), so use less"
        )
    return settings
