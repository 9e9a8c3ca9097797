"""What the container reads from its environment."""

import shlex
from collections.abc import Callable, Mapping
from typing import ClassVar

from servekit.errors.tree import SettingInvalid
from servekit.settings.environment import Settings, read_settings

# Cloud Run gives up on a start-up probe after 60 x 10 s; we say why before that.
STARTUP_TIMEOUT_S = 570.0

# Cloud Run sends SIGKILL 10 s after SIGTERM (https://cloud.google.com/run/docs/container-contract).
SHUTDOWN_GRACE_S = 10.0

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})


class CloudRunSettings(Settings, frozen=True):
    """Every variable of the container.  The README has the table."""

    retired: ClassVar = {"VLLM_TORCH_COMPILE_LEVEL": "OPTIMIZATION_LEVEL"}

    model_name: str = "google/gemma-3-1b-it"
    model_revision: str = ""
    hf_home: str = "/model-cache"
    hf_token: str = ""
    hf_hub_offline: str = "1"
    hf_endpoint: str = ""
    # A container's port is reached from outside it.
    listen_host: str = "0.0.0.0"  # noqa: S104
    port: int = 8000
    max_model_len: int | None = None
    torch_cuda_arch_list: str = ""
    optimization_level: int = 0
    skip_prewarm: str = ""
    max_num_seqs: int = 8
    gpu_memory_utilization: float = 0.95
    dtype: str = ""
    load_format: str = ""
    engine_args: str = ""
    engine_command: str = "vllm"
    engine_python: str = "python3"
    vllm_api_key: str = ""
    vllm_cache_root: str = "/var/cache/vllm"
    compile_cache: str = "/compile-cache"
    compile_cache_capture: str = ""
    startup_timeout_s: float = STARTUP_TIMEOUT_S
    shutdown_grace_s: float = SHUTDOWN_GRACE_S
    timeline_file: str = "/tmp/startup.json"  # noqa: S108  (in the container, where only we write)

    @property
    def offline(self) -> bool:
        return _switch("HF_HUB_OFFLINE", self.hf_hub_offline)

    @property
    def prewarms(self) -> bool:
        return not _switch("SKIP_PREWARM", self.skip_prewarm)

    @property
    def extra_args(self) -> tuple[str, ...]:
        return tuple(_words("ENGINE_ARGS", self.engine_args))

    @property
    def engine_words(self) -> tuple[str, ...]:
        return tuple(_words("ENGINE_COMMAND", self.engine_command))


def read_cloudrun_settings(
    environ: Mapping[str, str], warn: Callable[[str], None]
) -> CloudRunSettings:
    """Return the settings in *environ*.

    Raises:
        SettingInvalid: a value cannot be used; said here, and not minutes later by the engine.
    """
    settings = read_settings(CloudRunSettings, environ, warn)
    if not 0 <= settings.port < 65536:
        raise SettingInvalid(f"PORT is {settings.port}; use 1 to 65535, or 0 for a free one")
    if settings.optimization_level not in range(4):
        name = _named(environ, "OPTIMIZATION_LEVEL", "VLLM_TORCH_COMPILE_LEVEL")
        raise SettingInvalid(f"{name} is {settings.optimization_level}; use 0, 1, 2 or 3")
    if settings.shutdown_grace_s <= 0 or settings.startup_timeout_s <= 0:
        raise SettingInvalid("SHUTDOWN_GRACE_S and STARTUP_TIMEOUT_S are seconds above 0")
    # Read once here, so that a typo ends the start and not a later stage of it.
    _ = (settings.offline, settings.prewarms, settings.extra_args, settings.engine_words)
    return settings


def _switch(name: str, value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() in _NO:
        return False
    raise SettingInvalid(f"{name} is {value!r}; use 1 or 0")


def _words(name: str, value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise SettingInvalid(f"{name} is {value!r}: {error}; close the quotes") from error


def _named(environ: Mapping[str, str], name: str, old: str) -> str:
    return name if environ.get(name) else old
