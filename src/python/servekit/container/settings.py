"""What every container with one engine reads from its environment.  Pure: that is an argument."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from servekit.engine.extra_arguments import ExtraArguments
from servekit.errors.tree import SettingInvalid
from servekit.launch.watchdog import SILENCE_TIMEOUT_S
from servekit.secrets.secret import Secret
from servekit.secrets.urls import public_url
from servekit.settings.environment import Settings, ShellWords, read_settings


class ContainerSettings(Settings, frozen=True, kw_only=True):
    """The variables that containers share; a deployable adds its own, and sets what has no default.

    Attributes:
        startup_timeout_s: the platform's patience, or less, so that we say why before it ends us.
        shutdown_grace_s: from SIGTERM to the end.
        timeline_file: where the start is kept as JSON.
        engine_silence_timeout_s: for how long the engine may compute without a sign of progress.
        engine_secrets: variables that hold a secret, and reach the engine all the same.
        extra_routes: `METHOD /path` that clients may use besides those of `container.routes`.
    """

    # vLLM, torch and the hub's library read them too.
    shared: ClassVar = frozenset(
        {"HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TORCH_CUDA_ARCH_LIST", "VLLM_CACHE_ROOT"}
    )

    model_name: str
    model_revision: str = ""
    hf_home: Path
    hf_token: Secret = Secret()
    hf_hub_offline: bool
    hf_endpoint: str = ""
    # Weights that are pickles can run code as they are loaded.
    allow_pickle: bool = False
    # A container's port is reached from outside it.
    listen_host: str = "0.0.0.0"  # noqa: S104
    port: int = 8000
    max_model_len: int | None = None
    max_num_seqs: int
    gpu_memory_utilization: float
    dtype: str = ""
    load_format: str = ""
    skip_prewarm: bool = False
    engine_args: ExtraArguments = ExtraArguments()
    engine_secrets: tuple[str, ...] = ()
    engine_command: ShellWords = ("vllm",)
    engine_python: str = "python3"
    vllm_api_key: Secret = Secret()
    vllm_cache_root: Path | None
    extra_routes: tuple[str, ...] = ()
    startup_timeout_s: float
    shutdown_grace_s: float
    engine_silence_timeout_s: float = SILENCE_TIMEOUT_S
    # In the container, where only we write.
    timeline_file: Path = Path("/tmp/startup.json")  # noqa: S108

    @property
    def linger_s(self) -> float:
        """Seconds of the grace in which new connections are still taken: until the platform's own
        routing has heard that we leave."""
        return 0.0

    @property
    def public_model_name(self) -> str:
        """MODEL_NAME without a URL's user and signature: what is served, listed and logged."""
        return public_url(self.model_name)

    @property
    def api_keys(self) -> tuple[Secret, ...]:
        """What clients must present, any of them; empty lets everybody in."""
        own = (self.vllm_api_key,) if self.vllm_api_key else ()
        return (*own, *self.engine_args.api_keys)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What is never to be seen in a log."""
        return (*((self.hf_token,) if self.hf_token else ()), *self.api_keys)


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
    if settings.engine_silence_timeout_s <= 0:
        raise SettingInvalid("ENGINE_SILENCE_TIMEOUT_S is seconds above 0")
    return settings
