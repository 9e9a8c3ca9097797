"""A start-up as named stages, to be printed, exported and compared.  Pure but for the clock."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from servekit.timing.clock import Clock


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a start.

    Attributes:
        start_s: seconds from the timeline's start to the stage's.
        end_s: seconds from the timeline's start to the stage's end.
    """

    name: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


class Timeline:
    """The stages of one start, in the order in which they ended."""

    def __init__(self, clock: Clock, *, started_s: float | None = None) -> None:
        """*started_s* is when it all began, in the clock's seconds; now, unless it is given."""
        self._clock = clock
        self._origin = clock.now() if started_s is None else started_s
        self._stages: list[Stage] = []

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(self._stages)

    @property
    def total_s(self) -> float:
        """Seconds from the timeline's start to the end of its last stage; 0.0 without one."""
        return max((stage.end_s for stage in self._stages), default=0.0)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the timeline's start."""
        return self._clock.now() - self._origin

    def record(self, stage: Stage) -> None:
        """Add a stage that was timed elsewhere."""
        self._stages.append(stage)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as a stage, also when it raises."""
        start = self.elapsed_s
        try:
            yield
        finally:
            self.record(Stage(name, start, self.elapsed_s))

    def to_json(self) -> str:
        """Return `{"total_s": …, "stages": [{"name", "start_s", "end_s"}, …]}`."""
        stages = [{"name": s.name, "start_s": s.start_s, "end_s": s.end_s} for s in self._stages]
        return json.dumps({"total_s": self.total_s, "stages": stages})

    def to_text(self) -> str:
        """Return one line per stage, with its seconds and the total so far."""
        return "\n".join(
            f"{stage.name:<40} {stage.seconds:8.2f}s (total {stage.end_s:8.2f}s)"
            for stage in self._stages
        )
