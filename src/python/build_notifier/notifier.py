"""Decide what becomes of a build's message, and do it once."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog
from google.api_core.exceptions import ClientError, GoogleAPICallError, TooManyRequests
from google.cloud.devtools.cloudbuild_v1 import Build

from build_notifier.message import FAILURES
from build_notifier.report import Report, key_of, report_of
from servekit.secrets.masking import masked, masked_lines

log = structlog.get_logger()

# How many builds an instance remembers; the log remembers the rest.
REMEMBERED = 1000


class BuildLogs(Protocol):
    """Cloud Logging, as far as we need it.  Blocks; raises google.api_core's errors."""

    def lines(self, build: Build, limit: int) -> list[str]:
        """Return the last *limit* lines of the build's log, oldest first."""

    def has_report(self, project: str, key: str) -> bool:
        """Return whether a report of this key was written."""

    def write_report(self, report: Report) -> None:
        """Write it; a second one of the same key replaces the first."""


class Webhook(Protocol):
    """Somebody who wants to know."""

    def post(self, report: Report) -> None:
        """Tell them.

        Raises:
            EngineError's kind: they did not take it, and may later.
        """


class Analyst(Protocol):
    """Somebody who reads logs."""

    def explain(self, report: Report) -> str:
        """Return cause and fix; a sentence on why not where there is none.  Never raises."""


@dataclass(slots=True)
class Notifier:
    """Handles messages, in any thread.

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
    _told: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def handle(self, build: Build) -> bool:
        """Report *build* if it failed and nobody has reported it; return whether that was done.

        Raises:
            GoogleAPICallError: a fault of Google's that will pass; have it delivered again.
            EngineError: likewise, of the webhook's.
        """
        key = key_of(build)
        if build.status not in FAILURES:
            return False
        if key in self._told or self._was_reported(build, key):
            log.info("reported before", build=build.id, status=Build.Status(build.status).name)
            return False
        report = self._report(build)
        if self.webhook is not None:
            self.webhook.post(report)
        # Remembered before the entry is written: if that fails, the webhook was told all the same.
        self._remember(key)
        self.logs.write_report(report)
        return True

    def _was_reported(self, build: Build, key: str) -> bool:
        try:
            return self.logs.has_report(build.project_id, key)
        except ClientError as error:
            _raise_if_passing(error)
            # Without permission to look, twice is better than never.
            return False

    def _report(self, build: Build) -> Report:
        lines, note = self._lines(build)
        report = report_of(build, masked_lines(lines), note)
        report = replace(report, detail=masked(report.detail))
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
            _raise_if_passing(error)
            return [], f"The log could not be read: {error.message}"
        note = "" if lines else f"The log was still empty {waited_s:.0f} s after the message."
        return lines, note

    def _remember(self, key: str) -> None:
        self._told[key] = None
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)


def _raise_if_passing(error: GoogleAPICallError) -> None:
    if isinstance(error, TooManyRequests):
        raise error
