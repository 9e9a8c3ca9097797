"""What the notifier reads from its environment."""

import pytest

from build_notifier.settings import read_notifier_settings
from servekit.errors.tree import SettingInvalid


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.test/canary",
        "hooks.slack.com/services/canary",
        "https:///canary",
        "https://host:port/canary",
        "ftp://host/canary",
        "file:///canary",
        "http://127.0.0.1.example.test/canary",
    ],
)
def test_a_webhook_without_tls_is_refused(url: str) -> None:
    """The URL is a secret, and so are reports; the message does not show it."""
    with pytest.raises(SettingInvalid, match="WEBHOOK_URL") as refusal:
        read_notifier_settings({"WEBHOOK_URL": url}, print)

    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("url", ["https://hooks.slack.com/services/a", "http://127.0.0.1:80/hook"])
def test_a_webhook_is_https_or_a_stand_in_on_this_machine(url: str) -> None:
    """Tests need no certificate."""
    settings = read_notifier_settings({"WEBHOOK_URL": url}, print)

    assert settings.webhook_url.reveal() == url
    assert url not in repr(settings)


@pytest.mark.parametrize(("value", "on"), [("1", True), ("Yes", True), ("0", False), ("", False)])
def test_analyze_is_a_switch(value: str, on: bool) -> None:
    """As it was written before."""
    assert read_notifier_settings({"ANALYZE": value}, print).analyze is on


@pytest.mark.parametrize(
    "environ",
    [
        {"WEBHOOK_FORMAT": "irc"},
        {"MAX_LOG_LINES": "0"},
        {"WEBHOOK_TIMEOUT_S": "0"},
        {"ANALYZE": "x"},
    ],
)
def test_a_bad_value_is_refused(environ: dict[str, str]) -> None:
    """By its name."""
    with pytest.raises(SettingInvalid, match=next(iter(environ))):
        read_notifier_settings(environ, print)
