"""Say how far a long transfer is, now and then.  Pure but for the clock."""

from typing import Protocol

from servekit.timing.clock import Clock

# Often enough to see that it moves, seldom enough to read the log of an hour.
INTERVAL_S = 5.0


class ProgressReporter(Protocol):
    """Takes an event and its fields, as a structured logger's `info` does."""

    def __call__(self, event: str, **fields: object) -> object:
        """Take note of *event*."""


class DownloadProgress:
    """Bytes done of *total*, which may be unknown.  Not for several threads at once."""

    def __init__(
        self, event: str, total: int | None, *, report: ProgressReporter, clock: Clock
    ) -> None:
        self._event = event
        self._total = total
        self._report = report
        self._clock = clock
        self._done = 0
        self._resumed = 0
        self._since = clock.now()
        self._reported = self._since

    @property
    def done(self) -> int:
        return self._done

    def resume(self, count: int) -> None:
        """Count *count* bytes that an earlier process brought; they say nothing about speed."""
        self._done = self._resumed = count

    def add(self, count: int) -> None:
        """Count *count* bytes more."""
        self._done += count
        now = self._clock.now()
        if now - self._reported >= INTERVAL_S:
            self._reported = now
            self._report(self._event, done_bytes=self._done, total_bytes=self._total)

    def finish(self) -> None:
        """ProgressReporter the whole, and how fast it went."""
        seconds = max(self._clock.now() - self._since, 1e-9)
        self._report(
            f"{self._event}: done",
            total_bytes=self._done,
            after_s=round(seconds, 2),
            bytes_per_s=round((self._done - self._resumed) / seconds),
        )
