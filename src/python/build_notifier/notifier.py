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
from build_notifier.shared_claims import ReportProgress
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


class SharedClaims(Protocol):
    """What instances know of one another's work.  Raises EngineError's kind: try it again."""

    def claim(self, key: str) -> ReportProgress:
        """Return how far a report is; from now on it is ours."""

    def save(self, key: str, progress: ReportProgress, *, gives_up: bool = False) -> None:
        """Keep it; *gives_up* if another instance may go on."""


@dataclass(slots=True)
class Notifier:
    """Handles messages, in any number of threads.

    Attributes:
        wait_s: most seconds to wait for a log that lags.
        look_every_s: seconds between two looks; a log that has not grown meanwhile is whole.
        sleep: lets seconds pass.
        shared: claims of all instances; without them, there must be one instance.
    """

    logs: BuildLogs
    analyst: Analyst | None
    webhook: Webhook | None
    max_lines: int
    wait_s: float
    look_every_s: float
    sleep: Callable[[float], None]
    shared: SharedClaims | None = None
    _claims: Claims[ReportProgress] = field(
        default_factory=lambda: Claims(ReportProgress, REMEMBERED)
    )

    def handle(self, build: Build) -> bool:
        """Report *build* if it failed and was not reported; return whether that was done.

        Equal messages at once are one report: the others wait for it and share its outcome.

        Raises:
            GoogleAPICallError: a transient fault of Google's; have the message delivered again.
            EngineError: likewise, of the webhook's.
        """
        if build.status not in FAILURES:
            return False
        key = key_of(build)
        if self.shared is None:
            return self._claims.once(key, lambda progress: self._advance(build, progress, _keep))
        return self._claims.once(key, lambda _: self._advance_shared(build, key))

    def _advance_shared(self, build: Build, key: str) -> bool:
        assert self.shared is not None
        shared = self.shared
        progress = shared.claim(key)
        if progress.is_done:
            return False
        try:
            done = self._advance(build, progress, lambda progress: shared.save(key, progress))
        except Exception:
            shared.save(key, progress, gives_up=True)
            raise
        progress.is_done = True
        shared.save(key, progress)
        return done

    def _advance(
        self, build: Build, progress: ReportProgress, keep: Callable[[ReportProgress], None]
    ) -> bool:
        if progress.report is None:
            if self._was_reported(build, key_of(build)):
                log.info("reported before", build=build.id, status=Build.Status(build.status).name)
                return False
            progress.report = self._report(build)
            keep(progress)
        if not progress.is_written:
            self._write(progress.report)
            progress.is_written = True
            keep(progress)
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


def _keep(_: ReportProgress) -> None:
    """The instance's own memory has it already."""


def _raise_if_transient(error: ClientError) -> None:
    if isinstance(error, _TRANSIENT):
        raise error
