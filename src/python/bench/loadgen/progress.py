"""What is told while a run is under way: a line that moves on a terminal, plain lines elsewhere."""

import time
from collections import deque
from statistics import median
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from bench.loadgen.record import Record

# Of the last requests: what is shown is how it goes now, not how it went at first.
_RECENT = 200
_PLAIN_EVERY_S = 10.0


class RunProgress(Protocol):
    """Told what happens; shows it or does not."""

    def phase(self, name: str) -> None: ...

    def count(self, record: Record) -> None: ...


class NoProgress:
    """Shows nothing."""

    def phase(self, name: str) -> None:
        """Do nothing."""

    def count(self, record: Record) -> None:
        """Do nothing."""


class ProgressDisplay:
    """Shows phase, requests, TTFT, errors and the time left on *console*.

    *total* requests are expected; *length_s* is how long the run should take, None where that is
    for the upstream to decide.
    """

    def __init__(self, console: Console, total: int, length_s: float | None) -> None:
        self._console = console
        self._total = max(1, total)
        self._length_s = length_s
        self._phase = ""
        self._ended = 0
        self._errors = 0
        self._ttft_ms: deque[float] = deque(maxlen=_RECENT)
        self._ended_s: deque[float] = deque(maxlen=_RECENT)
        self._next_plain_s = 0.0
        self._start_s = time.monotonic()
        # Two pictures a second: drawing costs the client processor time that it measures with.
        self._live = Live(
            console=console, refresh_per_second=2, get_renderable=self._line, transient=True
        )

    def __enter__(self) -> Self:
        self._start_s = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def phase(self, name: str) -> None:
        self._phase = name
        if not self._console.is_terminal:
            self._console.print(self._text(), highlight=False, soft_wrap=True)
            self._next_plain_s = time.monotonic() + _PLAIN_EVERY_S

    def count(self, record: Record) -> None:
        self._ended += 1
        self._errors += not record.ok
        self._ended_s.append(record.end_s)
        if record.ttft_s is not None:
            self._ttft_ms.append(record.ttft_s * 1e3)
        now_s = time.monotonic()
        if not self._console.is_terminal and now_s >= self._next_plain_s:
            self._next_plain_s = now_s + _PLAIN_EVERY_S
            self._console.print(self._text(), highlight=False, soft_wrap=True)

    def _line(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            ProgressBar(self._total, min(self._ended, self._total), width=30), self._text()
        )
        return grid

    def _text(self) -> str:
        ttft = f"TTFT p50 {median(self._ttft_ms):.0f} ms" if self._ttft_ms else "TTFT -"
        return (
            f"{self._phase:<26} {self._ended}/{self._total} requests, "
            f"{self._rate():.1f}/s, {ttft}, "
            f"{self._errors} errors, {self._left()}"
        )

    def _left(self) -> str:
        passed_s = time.monotonic() - self._start_s
        if self._length_s is not None:
            return f"{max(0.0, self._length_s - passed_s):.0f} s left"
        if not self._ended:
            return "time left unknown"
        return f"{(self._total - self._ended) * passed_s / self._ended:.0f} s left"

    def _rate(self) -> float:
        if len(self._ended_s) < 2:
            return 0.0
        span_s = max(self._ended_s) - min(self._ended_s)
        return (len(self._ended_s) - 1) / span_s if span_s > 0 else 0.0
