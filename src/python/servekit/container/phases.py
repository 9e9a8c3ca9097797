"""vLLM's own phases of a start, read from its log.  Pure.

vLLM logs what it has done, not what it begins: a phase is what passed between two lines.  A line
that a release drops merges its phase into the next one; none gets lost, and the sum stays right.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from servekit.timing.timeline import Stage


@dataclass(frozen=True, slots=True)
class Milestone:
    """A line that ends a phase."""

    phase: str
    line: re.Pattern[str]


def _milestone(phase: str, *lines: str) -> Milestone:
    return Milestone(phase, re.compile("|".join(lines)))


# In the order in which they come.  Wording of vLLM 0.26 on CUDA and 0.32 on CPU; the second of a
# pair is the CPU's, or that of eager mode.
MILESTONES = (
    _milestone("imports", r"vLLM server version", r"non-default args"),
    _milestone("model inspection", r"Resolved architecture"),
    _milestone("engine core start", r"Initializing a V1 LLM engine"),
    _milestone("device", r"Loading model from scratch", r"Starting to load model"),
    _milestone("weights", r"Loading weights took", r"Model loading took"),
    _milestone("model set-up", r"Model loading took"),
    _milestone("compile", r"torch\.compile took .* in total", r"torch\.compile takes .* in total"),
    _milestone("KV profile", r"GPU KV cache size", r"CPU KV cache size"),
    _milestone("graph capture", r"Graph capturing finished"),
    _milestone("Triton", r"Kernel JIT monitor activated", r"init engine \(.*\) took"),
    _milestone("API server", r"Starting vLLM server on", r"Starting vLLM API server"),
)


class PhaseReader:
    """Log lines in, finished phases out.  A phase is told once, and only forwards."""

    def __init__(self, started_s: float, milestones: Sequence[Milestone] = MILESTONES) -> None:
        """*started_s* is when the engine's process was started."""
        self._since_s = started_s
        self._ahead = tuple(milestones)

    @property
    def current(self) -> str:
        """The phase under way, as far as the log says; empty after the last."""
        return self._ahead[0].phase if self._ahead else ""

    def read(self, line: str, at_s: float) -> Stage | None:
        """Return the phase that *line*, logged at *at_s*, ends; None for any other line."""
        for position, milestone in enumerate(self._ahead):
            if milestone.line.search(line):
                stage = Stage(milestone.phase, self._since_s, at_s)
                self._ahead = self._ahead[position + 1 :]
                self._since_s = at_s
                return stage
        return None
