"""What the model server reads from its environment."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from servekit.errors.tree import SettingInvalid
from servekit.settings.environment import Settings, read_settings

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

DEVICES = ("auto", "cuda", "cpu")

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})


class ModelServerSettings(Settings, frozen=True):
    """Every variable of the container.  The README has the table."""

    retired: ClassVar = {
        "HUGGING_FACE_HUB_TOKEN": "HF_TOKEN",
        "HUGGINGFACE_HUB_TOKEN": "HF_TOKEN",
    }

    model_name: str = MODEL
    model_revision: str = ""
    served_model_name: tuple[str, ...] = ()
    models_folder: str = "/models"
    hf_home: str = "/models/hf"
    hf_token: str = ""
    hf_hub_offline: str = "0"
    hf_endpoint: str = ""
    # A container's port is reached from outside it.
    listen_host: str = "0.0.0.0"  # noqa: S104
    port: int = 8000
    device: str = "auto"
    dtype: str = ""
    gpu_memory_utilization: float = 0.8
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    max_num_seqs: int = 64
    optimization_level: int | None = None
    load_format: str = ""
    skip_prewarm: str = ""
    engine_args: str = ""
    engine_command: str = "vllm"
    engine_python: str = "python3"
    vllm_api_key: str = ""
    vllm_cache_root: str = ""
    startup_timeout_s: float = STARTUP_TIMEOUT_S
    shutdown_grace_s: float = SHUTDOWN_GRACE_S
    shutdown_linger_s: float = SHUTDOWN_LINGER_S
    timeline_file: str = "/tmp/startup.json"  # noqa: S108  (in the container, where only we write)

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may call the model; the first is the one that answers and metrics carry."""
        first = self.served_model_name or ((SERVED_NAME,) if self.model_name == MODEL else ())
        short = self.model_name.rstrip("/").rpartition("/")[2]
        return tuple(dict.fromkeys((*first, self.model_name, short)))

    @property
    def store(self) -> Path:
        return Path(self.models_folder)

    @property
    def offline(self) -> bool:
        return _switch("HF_HUB_OFFLINE", self.hf_hub_offline)

    @property
    def prewarms(self) -> bool:
        return not _switch("SKIP_PREWARM", self.skip_prewarm)

    @property
    def extra_args(self) -> tuple[str, ...]:
        return _words("ENGINE_ARGS", self.engine_args)

    @property
    def engine_words(self) -> tuple[str, ...]:
        return _words("ENGINE_COMMAND", self.engine_command)

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(secret for secret in (self.hf_token, self.vllm_api_key) if secret)


def read_model_server_settings(
    environ: Mapping[str, str], warn: Callable[[str], None]
) -> ModelServerSettings:
    """Return the settings in *environ*.

    Raises:
        SettingInvalid: a value cannot be used; said here, and not minutes later by the engine.
    """
    settings = read_settings(ModelServerSettings, environ, warn)
    if not 0 <= settings.port < 65536:
        raise SettingInvalid(f"PORT is {settings.port}; use 1 to 65535, or 0 for a free one")
    if settings.device not in DEVICES:
        raise SettingInvalid(f"DEVICE is {settings.device!r}; use {', '.join(DEVICES)}")
    if not Path(settings.models_folder).is_absolute():
        raise SettingInvalid(f"MODELS_FOLDER is {settings.models_folder!r}; begin it with /")
    parallel = settings.tensor_parallel_size
    if parallel < 1:
        raise SettingInvalid(f"TENSOR_PARALLEL_SIZE is {parallel}; use 1 or more")
    if settings.shutdown_grace_s <= 0 or settings.startup_timeout_s <= 0:
        raise SettingInvalid("SHUTDOWN_GRACE_S and STARTUP_TIMEOUT_S are seconds above 0")
    if not 0 <= settings.shutdown_linger_s < settings.shutdown_grace_s:
        raise SettingInvalid(
            f"SHUTDOWN_LINGER_S is {settings.shutdown_linger_s:g}; it is part of SHUTDOWN_GRACE_S "
            f"({settings.shutdown_grace_s:g}), so use less"
        )
    # Read once here, so that a typo ends the start and not a later stage of it.
    _ = (settings.offline, settings.prewarms, settings.extra_args, settings.engine_words)
    return settings


def _switch(name: str, value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() in _NO:
        return False
    raise SettingInvalid(f"{name} is {value!r}; use 1 or 0")


def _words(name: str, value: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise SettingInvalid(f"{name} is {value!r}: {error}; close the quotes") from error
