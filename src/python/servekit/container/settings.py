"""What every container with one engine reads from its environment.  Pure: that is an argument."""

import shlex
from collections.abc import Callable, Mapping
from typing import TypeVar

from servekit.errors.tree import SettingInvalid
from servekit.settings.environment import Settings, read_settings

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})


class ContainerSettings(Settings, frozen=True, kw_only=True):
    """The variables that containers share; a deployable adds its own, and sets what has no default.

    Attributes:
        startup_timeout_s: the platform's patience, or less, so that we say why before it ends us.
        shutdown_grace_s: from SIGTERM to the end.
        timeline_file: where the start is kept as JSON.
    """

    model_name: str
    model_revision: str = ""
    hf_home: str
    hf_token: str = ""
    hf_hub_offline: str
    hf_endpoint: str = ""
    # A container's port is reached from outside it.
    listen_host: str = "0.0.0.0"  # noqa: S104
    port: int = 8000
    max_model_len: int | None = None
    max_num_seqs: int
    gpu_memory_utilization: float
    dtype: str = ""
    load_format: str = ""
    skip_prewarm: str = ""
    engine_args: str = ""
    engine_command: str = "vllm"
    engine_python: str = "python3"
    vllm_api_key: str = ""
    vllm_cache_root: str
    startup_timeout_s: float
    shutdown_grace_s: float
    timeline_file: str = "/tmp/startup.json"  # noqa: S108  (in the container, where only we write)

    @property
    def linger_s(self) -> float:
        """Seconds of the grace in which new connections are still taken: until the platform's own
        routing has heard that we leave."""
        return 0.0

    @property
    def offline(self) -> bool:
        return _switch("HF_HUB_OFFLINE", self.hf_hub_offline)

    @property
    def prewarms(self) -> bool:
        """Whether the engine is sent requests before anybody else may send any."""
        return not _switch("SKIP_PREWARM", self.skip_prewarm)

    @property
    def extra_args(self) -> tuple[str, ...]:
        return _words("ENGINE_ARGS", self.engine_args)

    @property
    def engine_words(self) -> tuple[str, ...]:
        return _words("ENGINE_COMMAND", self.engine_command)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What is never to be seen in a log."""
        return tuple(secret for secret in (self.hf_token, self.vllm_api_key) if secret)


ContainerSettingsT = TypeVar("ContainerSettingsT", bound=ContainerSettings)


def read_container_settings(
    kind: type[ContainerSettingsT], environ: Mapping[str, str], warn: Callable[[str], None]
) -> ContainerSettingsT:
    """Return *kind* as *environ* sets it.

    Raises:
        SettingInvalid: a value cannot be used; said here, and not minutes later by the engine.
    """
    settings = read_settings(kind, environ, warn)
    if not 0 <= settings.port < 65536:
        raise SettingInvalid(f"PORT is {settings.port}; use 1 to 65535, or 0 for a free one")
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


def _words(name: str, value: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise SettingInvalid(f"{name} is {value!r}: {error}; close the quotes") from error
