"""Post a report to whoever takes Slack's messages."""

import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import structlog

from build_notifier.report import Report
from servekit.errors.tree import EngineRefused, EngineUnreachable

log = structlog.get_logger()

TIMEOUT_S = 10.0


class HttpWebhook:
    """A URL; it is a secret, and never shown."""

    def __init__(self, url: str) -> None:
        self._url = url

    def post(self, report: Report) -> None:
        """Tell them; a refusal that would be repeated is logged and left.

        Raises:
            EngineRefused: they answer 429 or 5xx.
            EngineUnreachable: they cannot be reached.
        """
        request = Request(  # noqa: S310  (the scheme is checked with the settings)
            self._url,
            data=json.dumps(report.to_webhook()).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
                return
        except HTTPError as refusal:
            if refusal.code == 429 or refusal.code >= 500:
                raise EngineRefused(
                    f"the webhook answers {refusal.code}; it is tried again", status=refusal.code
                ) from None
            log.error("webhook refused", status=refusal.code, key=report.key)
        except OSError as error:
            raise EngineUnreachable(
                f"the webhook cannot be reached ({type(error).__name__}); it is tried again"
            ) from None
