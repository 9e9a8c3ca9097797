"""Post a report to a chat's webhook."""

import ssl
import threading
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import structlog

from build_notifier.chat import chat_message, encoded, format_of
from build_notifier.report import Report
from servekit.errors.tree import EngineRefused, EngineUnreachable
from servekit.secrets.secret import Secret

log = structlog.get_logger()


class HttpWebhook:
    """A webhook, by its URL.

    Redirects are not followed: a URL that was trusted with reports does not pass that on.
    """

    def __init__(self, url: Secret, shape: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        host = urlsplit(url.reveal()).hostname or ""
        self._shape = format_of(host) if shape == "auto" else shape

    def post(self, report: Report) -> None:
        """Post *report*; a refusal that would be repeated is logged, and nothing is raised.

        Raises:
            EngineRefused: the answer is 408, 425, 429 or 5xx.
            EngineUnreachable: there is no answer within the timeout.
        """
        body = encoded(chat_message(report, self._shape))
        try:
            status = self._send(body)
        except (OSError, HTTPException) as error:
            raise EngineUnreachable(
                f"the webhook cannot be reached ({type(error).__name__}); it is tried again"
            ) from None
        if status in (408, 425, 429) or status >= 500:
            raise EngineRefused(f"the webhook answers {status}; it is tried again", status=status)
        if status >= 300:
            log.error("webhook refused", status=status, key=report.key)

    def _send(self, body: bytes) -> int:
        """Return the status of the answer, in the timeout as a whole: a socket's is per byte."""
        connection, target = self._connection()
        deadline = threading.Timer(self._timeout_s, _cut, (connection,))
        deadline.daemon = True
        deadline.start()
        try:
            headers = {"Content-Type": "application/json; charset=UTF-8"}
            connection.request("POST", target, body, headers)
            return connection.getresponse().status
        finally:
            deadline.cancel()
            connection.close()

    def _connection(self) -> tuple[HTTPConnection, str]:
        url = urlsplit(self._url.reveal())
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        host = url.hostname or ""
        if url.scheme == "https":
            context = ssl.create_default_context()
            secure = HTTPSConnection(host, url.port, timeout=self._timeout_s, context=context)
            return secure, target
        return HTTPConnection(host, url.port, timeout=self._timeout_s), target


def _cut(connection: HTTPConnection) -> None:
    socket = connection.sock
    if socket is not None:
        try:
            socket.shutdown(2)
        except OSError:
            socket.close()
