"""Report a failed build: its log entry, then the webhook, each once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog
from google.api_core.exceptions import Aborted, Cancelled, ClientError, TooManyRequests
from google.cloud.devtools.cloudbuild_v1 import Build

from build_notifier.claims import Claims
from build_notifier.message import FAILURES
from build_notifier.report import Report, key_of, report_of
from servekit.secrets.masking import masked, masked_lines

log = structlog.get_logger()

# How many builds an instance remembers; the log remembers the rest.
REMEMBERED = 1000

# A client's errors by their number, and none that a second attempt would repeat.
_TRANSIENT = (TooManyRequests, Aborted, Cancelled)


class BuildLogs(Protocol):
    """Cloud Logging, as far as we need it.  Blocks; raises google.api_core's errors."""

    def lines(self, build: Build, limit: int) -> list[str]:
        """Return the last *limit* lines of the build's log, oldest first."""

    def has_report(self, project: str, key: str) -> bool:
        """Return whether a report of this key was written."""

    def write_report(self, report: Report) -> None:
        """Write it; a second one of the same key replaces the first."""


class Webhook(Protocol):
    """A chat that reports are posted to."""

    def post(self, report: Report) -> None:
        """Post *report*.

        Raises:
            EngineError's kind: it was not taken, and may be later.
        """


class Analyst(Protocol):
    """A model that reads logs."""

    def explain(self, report: Report) -> str:
        """Return cause and fix; a sentence on why not where there is none.  Never raises."""


@dataclass(slots=True)
class _Progress:
    """How far the report of one build is; kept when an attempt fails.

    Attributes:
        report: with its analysis, which is paid for once.
        is_written: whether its log entry is, or cannot be.
    """

    report: Report | None = None
    is_written: bool = False


@dataclass(slots=True)
class Notifier:
    """Handles messages, in any number of threads.

    Attributes:
        wait_s: most seconds to wait for a log that lags.
        look_every_s: seconds between two looks; a log that has not grown meanwhile is whole.
        sleep: lets seconds pass.
    """

    logs: BuildLogs
    analyst: Analyst | None
    webhook: Webhook | None
    max_lines: int
    wait_s: float
    look_every_s: float
    sleep: Callable[[float], None]
    _claims: Claims[_Progress] = field(default_factory=lambda: Claims(_Progress, REMEMBERED))

    def handle(self, build: Build) -> bool:
        """Report *build* if it failed and was not reported; return whether that was done.

        Equal messages at once are one report: the others wait for it and share its outcome.

        Raises:
            GoogleAPICallError: a transient fault of Google's; have the message delivered again.
            EngineError: likewise, of the webhook's.
        """
        if build.status not in FAILURES:
            return False
        return self._claims.once(key_of(build), lambda progress: self._advance(build, progress))

    def _advance(self, build: Build, progress: _Progress) -> bool:
        if progress.report is None:
            if self._was_reported(build, key_of(build)):
                log.info("reported before", build=build.id, status=Build.Status(build.status).name)
                return False
            progress.report = self._report(build)
        if not progress.is_written:
            self._write(progress.report)
            progress.is_written = True
        if self.webhook is not None:
            self.webhook.post(progress.report)
        return True

    def _write(self, report: Report) -> None:
        """Write the log entry; where Cloud Logging refuses it, into the function's own log."""
        try:
            self.logs.write_report(report)
        except ClientError as error:
            _raise_if_transient(error)
            entry = {name: value for name, value in report.to_entry().items() if name != "event"}
            log.error("log entry refused", reason=error.message, **entry)

    def _was_reported(self, build: Build, key: str) -> bool:
        try:
            return self.logs.has_report(build.project_id, key)
        except ClientError as error:
            _raise_if_transient(error)
            # Without permission to look, twice is better than never.
            return False

    def _report(self, build: Build) -> Report:
        lines, note = self._lines(build)
        report = report_of(build, masked_lines(lines), note)
        report = replace(
            report,
            step=masked(report.step),
            detail=masked(report.detail),
            note=masked(report.note),
        )
        if self.analyst is None:
            return report
        return replace(report, analysis=masked(self.analyst.explain(report)))

    def _lines(self, build: Build) -> tuple[list[str], str]:
        """Return the log, and a note on what is missing of it."""
        waited_s = 0.0
        try:
            lines = self.logs.lines(build, self.max_lines)
            while waited_s < self.wait_s:
                self.sleep(self.look_every_s)
                waited_s += self.look_every_s
                before, lines = lines, self.logs.lines(build, self.max_lines)
                if lines and lines == before:
                    return lines, ""
        except ClientError as error:
            _raise_if_transient(error)
            return [], f"The log could not be read: {error.message}"
        note = "" if lines else f"The log was still empty {waited_s:.0f} s after the message."
        return lines, note


def _raise_if_transient(error: ClientError) -> None:
    if isinstance(error, _TRANSIENT):
        raise error
