"""Where the seconds of a cold start go: the snapshot made, restored, the first embedding.  Pure.

A container knows its own stages; how long Modal took to place and restore it, only the caller can
tell: it is what remains of the call.
"""

from collections.abc import Sequence

import msgspec

from servekit.timing.timeline import Stage, Timeline


class TimedStage(msgspec.Struct, frozen=True):
    name: str
    seconds: float


class ColdStart(msgspec.Struct, frozen=True):
    """What a container tells of its start.

    Attributes:
        made: stages before the snapshot; they cost nothing to a container that was restored.
        woken: stages after it.
        first_embedding_s: the first request that it answered; None before there was one.
    """

    made: tuple[TimedStage, ...]
    woken: tuple[TimedStage, ...]
    first_embedding_s: float | None = None

    @property
    def woken_s(self) -> float:
        return sum(stage.seconds for stage in self.woken)


def timed_stages(timeline: Timeline) -> tuple[TimedStage, ...]:
    """Return the stages of *timeline* for a report."""
    return tuple(TimedStage(stage.name, stage.seconds) for stage in timeline.stages)


def report(start: ColdStart, first_call_s: float | None = None) -> str:
    """Return the start as a timeline in text.

    Args:
        first_call_s: seconds that the caller waited for the answer that started the container.
    """
    rows = [*_lines("snapshot made", start.made), *_lines("woken", start.woken)]
    if start.first_embedding_s is not None:
        rows.extend(_lines("first embedding", [TimedStage("", start.first_embedding_s)]))
    if first_call_s is not None:
        known = start.woken_s + (start.first_embedding_s or 0.0)
        restored = TimedStage("placed, restored, network", max(0.0, first_call_s - known))
        rows.extend(_lines("caller", [restored, TimedStage("first call in all", first_call_s)]))
    return "\n".join(rows)


def _lines(phase: str, stages: Sequence[TimedStage | Stage]) -> list[str]:
    return [f"{phase:<16} {stage.name:<28} {stage.seconds:8.2f} s" for stage in stages]
