"""What the notifier reads from its environment."""

import re
from collections.abc import Callable, Mapping
from typing import Literal
from urllib.parse import urlsplit

from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret
from servekit.settings.environment import Settings, read_settings

# Where a stand-in may be reached without TLS.
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[\w./-]*)?")


class NotifierSettings(Settings, frozen=True):
    """Every variable of the function.  The README has the table."""

    max_log_lines: int = 200
    log_wait_s: float = 30.0
    log_look_every_s: float = 3.0
    analyze: bool = False
    gemini_api_key: Secret = Secret()
    gemini_model: str = "gemini-3.8-flash"
    gemini_base_url: str = ""
    # Gemini 3 is served by Vertex AI's global endpoint.
    gemini_location: str = "global"
    webhook_url: Secret = Secret()
    webhook_format: Literal["auto", "slack", "google_chat", "teams"] = "auto"
    webhook_timeout_s: float = 10.0
    logging_endpoint: str = ""
    claim_bucket: str = ""


def read_notifier_settings(
    environ: Mapping[str, str], warn: Callable[[str], None]
) -> NotifierSettings:
    """Return the settings in *environ*.

    Raises:
        SettingInvalid: a value cannot be used.
    """
    analyze = environ.get("ANALYZE", "").lower()
    given = {**environ, "ANALYZE": {"yes": "true", "no": "false"}.get(analyze, analyze)}
    settings = read_settings(NotifierSettings, given, warn)
    if settings.max_log_lines < 1:
        raise SettingInvalid(f"MAX_LOG_LINES is {settings.max_log_lines}; it is 1 or more")
    if settings.log_wait_s < 0 or settings.log_look_every_s <= 0:
        raise SettingInvalid("LOG_WAIT_S is 0 or more seconds, LOG_LOOK_EVERY_S above 0")
    if settings.webhook_timeout_s <= 0:
        raise SettingInvalid(f"WEBHOOK_TIMEOUT_S is {settings.webhook_timeout_s}; it is above 0 s")
    if settings.claim_bucket and not _BUCKET.fullmatch(settings.claim_bucket):
        raise SettingInvalid(
            f"CLAIM_BUCKET is {settings.claim_bucket!r}; it is the name of a bucket, or NAME/PREFIX"
        )
    if settings.webhook_url and not _is_usable(settings.webhook_url):
        raise SettingInvalid("WEBHOOK_URL is no https URL with a host; correct or unset it")
    return settings


def _is_usable(url: Secret) -> bool:
    try:
        split = urlsplit(url.reveal())
        _ = split.port
    except ValueError:
        return False
    is_stand_in = split.scheme == "http" and split.hostname in _LOOPBACK
    return bool(split.hostname) and (split.scheme == "https" or is_stand_in)
