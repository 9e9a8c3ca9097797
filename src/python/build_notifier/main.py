"""The Cloud Function: a message of the topic `cloud-builds` in, a notification out.

Deployed with this file as its source; `handle_build_notification` takes CloudEvents, and
`handle_background_event` what 1st-generation functions were given.
"""

import os
import threading
import time
from functools import cache
from typing import Any

import functions_framework
import structlog
from cloudevents.http import CloudEvent

from build_notifier.cloud_logging import CloudLogging, open_logging
from build_notifier.gemini import Gemini
from build_notifier.message import read_event
from build_notifier.notifier import Notifier
from build_notifier.settings import NotifierSettings, read_notifier_settings
from build_notifier.shared_claims import BucketClaims
from build_notifier.webhook import HttpWebhook
from servekit.cli.logs import configure_logs
from servekit.errors.tree import RequestInvalid
from servekit.secrets.masking import masked

log = structlog.get_logger()

_BUILDING = threading.Lock()


@functions_framework.cloud_event
def handle_build_notification(event: CloudEvent) -> None:
    """Report a failed build.  Returning acknowledges the message; raising has it sent again."""
    _handle(event.data)


def handle_background_event(event: dict[str, Any], context: object) -> None:  # noqa: ARG001
    """The same for `--signature-type event`, under the seed's signature."""
    _handle(event)


def _handle(data: object) -> None:
    try:
        build = read_event(data)
    except RequestInvalid as error:
        log.error("message acknowledged, not understood", reason=masked(str(error)))
        return
    if _notifier().handle(build):
        log.info("build reported", build=build.id)


def _webhook(settings: NotifierSettings) -> HttpWebhook | None:
    if not settings.webhook_url:
        return None
    return HttpWebhook(settings.webhook_url, settings.webhook_format, settings.webhook_timeout_s)


def _shared(settings: NotifierSettings) -> BucketClaims | None:
    if not settings.claim_bucket:
        return None
    return BucketClaims(settings.claim_bucket, os.environ, time.time)


def _notifier() -> Notifier:
    """Return the one for all messages of an instance: it remembers what it has reported."""
    # Without the lock, first messages that arrive together would each build one.
    with _BUILDING:
        return _only_notifier()


@cache
def _only_notifier() -> Notifier:
    configure_logs()
    settings = read_notifier_settings(os.environ, log.warning)
    return Notifier(
        logs=CloudLogging(open_logging(settings.logging_endpoint)),
        analyst=Gemini(settings) if settings.analyze else None,
        webhook=_webhook(settings),
        max_lines=settings.max_log_lines,
        wait_s=settings.log_wait_s,
        look_every_s=settings.log_look_every_s,
        sleep=time.sleep,
        shared=_shared(settings),
    )
