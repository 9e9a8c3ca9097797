"""What a download of weights reads from the environment, whichever program asks.  Pure."""

from collections.abc import Mapping

from servekit.errors.tree import SettingInvalid
from servekit.settings.environment import Settings, read_settings


class WeightsSettings(Settings, frozen=True):
    """The variables.

    Attributes:
        allow_pickle: whether weights may run code as they are loaded.
        weights_max_gb: the most that kept models take together; None for what the volume holds.
    """

    allow_pickle: bool = False
    weights_max_gb: float | None = None

    @property
    def max_cache_bytes(self) -> int | None:
        return None if self.weights_max_gb is None else int(self.weights_max_gb * 1e9)


def read_weights_settings(environ: Mapping[str, str]) -> WeightsSettings:
    """Return the settings in *environ*.

    Raises:
        SettingInvalid: a value cannot be used.
    """
    settings = read_settings(WeightsSettings, environ, lambda _: None)
    if settings.weights_max_gb is not None and not 0 < settings.weights_max_gb < float("inf"):
        raise SettingInvalid(f"WEIGHTS_MAX_GB is {settings.weights_max_gb}; it is above 0")
    return settings
