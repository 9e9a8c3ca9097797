"""What the notifier reads from its environment."""

from collections.abc import Callable, Mapping

from servekit.errors.tree import SettingInvalid
from servekit.settings.environment import Settings, read_settings


class NotifierSettings(Settings, frozen=True):
    """Every variable of the function.  The README has the table."""

    max_log_lines: int = 200
    log_wait_s: float = 30.0
    log_look_every_s: float = 3.0
    analyze: str = "0"
    gemini_api_key: str = ""
    gemini_model: str = "gemini-2.5-flash"
    gemini_base_url: str = ""
    gemini_location: str = "us-central1"
    webhook_url: str = ""
    logging_endpoint: str = ""

    @property
    def analyzes(self) -> bool:
        return self.analyze.lower() in ("1", "true", "yes")


def read_notifier_settings(
    environ: Mapping[str, str], warn: Callable[[str], None]
) -> NotifierSettings:
    """Return the settings in *environ*.

    Raises:
        SettingInvalid: a value cannot be used.
    """
    settings = read_settings(NotifierSettings, environ, warn)
    if settings.max_log_lines < 1:
        raise SettingInvalid(f"MAX_LOG_LINES is {settings.max_log_lines}; it is 1 or more")
    if settings.log_wait_s < 0 or settings.log_look_every_s <= 0:
        raise SettingInvalid("LOG_WAIT_S is 0 or more seconds, LOG_LOOK_EVERY_S above 0")
    if settings.webhook_url and not settings.webhook_url.startswith(("https://", "http://")):
        raise SettingInvalid("WEBHOOK_URL is no http(s) URL; correct or unset it")
    return settings
