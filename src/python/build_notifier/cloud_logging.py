"""Cloud Logging by its gRPC client."""

from collections.abc import Iterable
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.cloud.devtools.cloudbuild_v1 import Build
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import (
    LoggingServiceV2GrpcTransport,
)
from google.cloud.logging_v2.types import ListLogEntriesRequest, LogEntry

from build_notifier.report import Report

LOG_NAME = "build-notifications"

# The largest that the API takes.
PAGE_SIZE = 1000

TIMEOUT_S = 20.0

# google.logging.type.LogSeverity.
SEVERITY_ERROR = 500


def open_logging(endpoint: str) -> LoggingServiceV2Client:
    """Return a client of Google's service; of a stand-in on *endpoint*, if that is given."""
    if not endpoint:
        return LoggingServiceV2Client()
    channel = grpc.insecure_channel(endpoint)
    return LoggingServiceV2Client(transport=LoggingServiceV2GrpcTransport(channel=channel))


class CloudLogging:
    """The logs of builds, and our reports among them."""

    def __init__(self, client: LoggingServiceV2Client) -> None:
        self._client = client

    def lines(self, build: Build, limit: int) -> list[str]:
        """Return the last *limit* lines of the build's log, oldest first."""
        written = f'resource.type="build" AND resource.labels.build_id="{_quoted(build.id)}"'
        found: list[str] = []
        # Newest first, so that a long log costs no more than its end.
        for entry in self._entries(build.project_id, written, "timestamp desc", limit):
            found.append(_text(entry))
            if len(found) == limit:
                break
        return found[::-1]

    def has_report(self, project: str, key: str) -> bool:
        """Return whether a report of this key was written."""
        name = f"projects/{project}/logs/{LOG_NAME}"
        wanted = f'logName="{name}" AND insertId="{_quoted(key)}"'
        return any(True for _ in self._entries(project, wanted, "timestamp desc", 1))

    def write_report(self, report: Report) -> None:
        """Write it; Cloud Logging keeps one of several with the same insert id and time."""
        entry = LogEntry(
            log_name=f"projects/{report.project}/logs/{LOG_NAME}",
            resource={
                "type": "build",
                "labels": {"build_id": report.build_id, "project_id": report.project},
            },
            severity=SEVERITY_ERROR,
            insert_id=report.key,
            labels={"build_id": report.build_id, "status": report.status},
            json_payload=report.to_entry(),
        )
        self._client.write_log_entries(entries=[entry], timeout=TIMEOUT_S)

    def _entries(self, project: str, written: str, order: str, limit: int) -> Iterable[Any]:
        request = ListLogEntriesRequest(
            resource_names=[f"projects/{project}"],
            filter=written,
            order_by=order,
            page_size=min(limit, PAGE_SIZE),
        )
        return self._client.list_log_entries(request=request, timeout=TIMEOUT_S)


def _text(entry: Any) -> str:
    if entry.text_payload:
        return str(entry.text_payload)
    payload = entry.json_payload
    return str(payload.get("message", "")) if payload else ""


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
