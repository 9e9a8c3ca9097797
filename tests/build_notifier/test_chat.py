"""A report in the shapes of Slack, Google Chat and Teams."""

import html
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_notifier.chat import SECTION_CHARS, chat_message, encoded, fitted, format_of
from build_notifier.report import Report

SHAPES = ("slack", "google_chat", "teams")
HOSTILE = (
    "<!channel> <!here> <@U012AB3CD> <#C1|x> <users/all> <at>all</at> <https://evil.test|log> "
    "[click](https://evil.test) <a href='https://evil.test'>x</a> ``` *b* ```` & &lt;!channel&gt;"
)


def _report(**fields: Any) -> Report:
    given_fields = {
        "key": "0a1b-FAILURE",
        "build_id": "0a1b",
        "project": "acme",
        "status": "FAILURE",
        "step": "build",
        "detail": "",
        "log_url": "https://console.cloud.google.com/cloud-build/builds/0a1b?project=1",
        "lines": ("first", "last"),
        **fields,
    }
    return Report(**given_fields)


@pytest.mark.parametrize(
    ("host", "shape"),
    [
        ("hooks.slack.com", "slack"),
        ("chat.googleapis.com", "google_chat"),
        ("acme.webhook.office.com", "teams"),
        ("prod-01.westus.logic.azure.com", "teams"),
        ("x.environment.api.powerplatform.com", "teams"),
        ("mattermost.acme.test", "slack"),
        ("evilwebhook.office.com.test", "slack"),
    ],
)
def test_the_shape_is_told_by_the_host(host: str, shape: str) -> None:
    """Whatever else takes Slack's."""
    assert format_of(host) == shape


def test_slack_gets_sections() -> None:
    """https://docs.slack.dev/reference/block-kit/blocks/section-block."""
    message = chat_message(_report(analysis="The disk is full."), "slack")

    assert message["text"].startswith("Build 0a1b in acme: FAILURE")
    assert {block["type"] for block in message["blocks"]} == {"section"}
    assert all(block["text"]["type"] == "mrkdwn" for block in message["blocks"])
    assert message["blocks"][-1]["text"]["text"].endswith("|Open the log>")


def test_google_chat_gets_a_card() -> None:
    """https://developers.google.com/workspace/chat/api/reference/rest/v1/cards."""
    message = chat_message(_report(), "google_chat")

    (card,) = message["cardsV2"]
    assert set(card) == {"cardId", "card"}
    *paragraphs, buttons = card["card"]["sections"][0]["widgets"]
    assert all("textParagraph" in widget for widget in paragraphs)
    assert buttons["buttonList"]["buttons"][0]["onClick"]["openLink"]["url"].startswith("https://")


def test_teams_gets_an_adaptive_card() -> None:
    """https://adaptivecards.io/explorer: version 1.4, text runs that know no Markdown."""
    message = chat_message(_report(), "teams")

    (attachment,) = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert {part["type"] for part in attachment["content"]["body"]} == {"RichTextBlock"}
    assert attachment["content"]["actions"][0]["type"] == "Action.OpenUrl"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("field", ["lines", "analysis", "detail", "note", "step", "project"])
def test_foreign_text_is_dead_text(shape: str, field: str) -> None:
    """No mention, no link and no fence of a log, a build or a model works."""
    value: Any = (HOSTILE,) if field == "lines" else HOSTILE
    texts = list(_texts(chat_message(_report(**{field: value, "log_url": ""}), shape)))

    assert any("evil.test" in text for text in texts)
    for text in texts:
        assert "<" not in text.removeprefix("<")
        assert not text.startswith("<")
        if shape == "teams":
            assert "](" not in text
        if shape == "slack" and field in ("lines", "analysis"):
            assert "```" not in text.removeprefix("```").removesuffix("```")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "https://x.test/|a>b",
        "http://x.test",
        "https://x.test/ <!channel>",
        "",
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_link_that_is_none_is_left_out(url: str, shape: str) -> None:
    """Only an https address without marks of any format becomes a link."""
    assert "Open the log" not in json.dumps(chat_message(_report(log_url=url), shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("piece", ["x", "<", "&", "`", "\U0001f525", '"', "\n"])
@pytest.mark.parametrize("size", [10, 5_000, 200_000])
def test_a_message_is_one_that_is_taken(shape: str, piece: str, size: int) -> None:
    """No section and no message above the limits, whatever the log holds; its end is kept."""
    report = _report(lines=(piece * size, "the last line"), analysis=piece * size, detail=piece)

    message = chat_message(report, shape)

    assert len(encoded(message)) < 28_000
    assert all(0 < len(text) <= SECTION_CHARS + 100 for text in _texts(message))
    assert any("the last line" in text for text in _texts(message))


@given(text=st.text(), limit=st.integers(0, 50), keep_end=st.booleans())
def test_escapes_are_not_cut(text: str, limit: int, keep_end: bool) -> None:
    """What is left is an end of the text, escaped whole."""
    cut = fitted(text, limit, lambda piece: html.escape(piece, quote=False), keep_end=keep_end)

    assert len(cut) <= limit
    whole = html.unescape(re.sub(r"&(?!amp;|lt;|gt;)", "&amp;", cut))
    assert text.endswith(whole) if keep_end else text.startswith(whole)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [
            text
            for key, part in value.items()
            if key not in ("$schema", "url", "contentType", "type", "cardId")
            for text in _texts(part)
        ]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) and value else []
