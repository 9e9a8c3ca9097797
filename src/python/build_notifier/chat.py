"""A report -> the message of Slack, Google Chat or Teams.  Pure.

What comes from a log, a build or a model is dead text in all of them: no mention, no link, no way
out of its fence.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from build_notifier.report import SHOWN_LINES, Report

# Slack refuses a section above 3,000 characters (https://docs.slack.dev/reference/block-kit/blocks).
SECTION_CHARS = 2900
# Google Chat refuses a message above 32,000 bytes, Teams one above 28 kB.
MAX_BYTES = 24_000

_LOG_URL = re.compile(r"https://[^\s<>|\"'`()\[\]{}\\^]+")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LOOK_ALIKES = {"<": "\u2039", ">": "\u203a", "[": "\uff3b", "]": "\uff3d", "`": "\u02cb"}


def format_of(host: str) -> str:
    """Return the format that the webhook on *host* takes; Slack's where it is none of the known."""
    if host == "chat.googleapis.com":
        return "google_chat"
    teams = (".webhook.office.com", ".logic.azure.com", ".api.powerplatform.com")
    return "teams" if f".{host}".endswith(teams) else "slack"


def chat_message(report: Report, shape: str) -> dict[str, Any]:
    """Return the body to post in *shape*: `slack`, `google_chat` or `teams`."""
    make = {"slack": _slack, "google_chat": _google_chat, "teams": _teams}[shape]
    for limit in (SECTION_CHARS, SECTION_CHARS // 4):
        message = make(report, limit)
        if len(encoded(message)) <= MAX_BYTES:
            break
    return message


def encoded(message: dict[str, Any]) -> bytes:
    """Return *message* as it is sent."""
    return json.dumps(message, ensure_ascii=False).encode(errors="replace")


def _slack(report: Report, limit: int) -> dict[str, Any]:
    # https://docs.slack.dev/messaging/formatting-message-text: these three are escaped, and
    # `verbatim` leaves addresses and names unlinked.
    log = fitted(
        _unfenced("\n".join(report.lines[-SHOWN_LINES:])), limit - 6, _escaped, keep_end=True
    )
    title = fitted(report.title, limit, _escaped)
    texts = [
        title,
        fitted(report.detail, limit, _escaped),
        fitted(report.note, limit, _escaped),
        f"```{log}```" if log else "",
        fitted(_unfenced(report.analysis), limit, _escaped),
    ]
    if _LOG_URL.fullmatch(report.log_url):
        texts.append(f"<{_escaped(report.log_url)}|Open the log>")
    blocks = [
        {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}
        for text in texts
        if text.strip()
    ]
    return {"text": title, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


def _google_chat(report: Report, limit: int) -> dict[str, Any]:
    # https://developers.google.com/workspace/chat/api/reference/rest/v1/cards: paragraphs are HTML
    # of a few tags, a header is plain text.
    paragraphs = [
        fitted(report.title, limit, _escaped),
        *(fitted(text, limit, _escaped) for text in (report.detail, report.note)),
        fitted("\n".join(report.lines[-SHOWN_LINES:]), limit, _escaped, keep_end=True),
        fitted(report.analysis, limit, _escaped),
    ]
    widgets: list[dict[str, Any]] = [
        {"textParagraph": {"text": text}} for text in paragraphs if text.strip()
    ]
    if _LOG_URL.fullmatch(report.log_url):
        button = {"text": "Open the log", "onClick": {"openLink": {"url": report.log_url}}}
        widgets.append({"buttonList": {"buttons": [button]}})
    header = {"title": f"Build {report.status}", "subtitle": _plain(report.project)}
    card = {"header": header, "sections": [{"widgets": widgets}]}
    return {"cardsV2": [{"cardId": report.key[:64], "card": card}]}


def _teams(report: Report, limit: int) -> dict[str, Any]:
    # https://learn.microsoft.com/adaptive-cards: a TextRun knows no Markdown, a TextBlock does.
    texts = [(report.title, "Default"), (report.detail, "Default"), (report.note, "Default")]
    texts += [("\n".join(report.lines[-SHOWN_LINES:]), "Monospace"), (report.analysis, "Default")]
    body = [
        {
            "type": "RichTextBlock",
            "inlines": [
                {
                    "type": "TextRun",
                    "text": fitted(text, limit, _plain, keep_end=font == "Monospace"),
                    "fontType": font,
                }
            ],
        }
        for text, font in texts
        if text.strip()
    ]
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": body,
    }
    if _LOG_URL.fullmatch(report.log_url):
        open_log = {"type": "Action.OpenUrl", "title": "Open the log", "url": report.log_url}
        card["actions"] = [open_log]
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


def fitted(text: str, limit: int, escape: Callable[[str], str], *, keep_end: bool = False) -> str:
    """Return *text* escaped and at most *limit* characters long, without half an escape."""
    pieces = [escape(character) for character in (reversed(text) if keep_end else text)]
    kept: list[str] = []
    for piece in pieces:
        limit -= len(piece)
        if limit < 0:
            break
        kept.append(piece)
    return "".join(reversed(kept) if keep_end else kept)


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _plain(text: str) -> str:
    """Return *text* with characters that look like those of tags, links and fences."""
    return "".join(_LOOK_ALIKES.get(character, character) for character in text)


def _unfenced(text: str) -> str:
    # A blank of no width between them: three in a row would close the fence.
    return text.replace("``", "`\u200b`").replace("``", "`\u200b`")
