"""When every single token of a replica came out, for those who want to see each.  Pure.

A decoding sequence gets one token from every step until it ends or is preempted: the times of the
steps, kept once, are those of all its tokens.
"""

from array import array

from servekit.enginesim.step import EngineStep, run_s


class TokenTimes:
    """The token times of one replica's requests, in seconds."""

    def __init__(self) -> None:
        self._ends: array[float] = array("d")
        self._since: dict[int, int] = {}
        self._seen: dict[int, array[float]] = {}

    def note(self, step: EngineStep, late_s: float) -> None:
        """Note a step that ended, whose last tokens came *late_s* later."""
        for sequence in step.preempted:
            self._close(sequence.request.id)
        for number in range(1, step.steps):
            self._ends.append(step.start_s + run_s(number, step.first_step_s, step.growth_s))
        self._ends.append(step.end_s + late_s)
        for sequence in step.sampled:
            self._since[sequence.request.id] = len(self._ends) - 1
        for sequence in step.finished:
            self._close(sequence.request.id)

    def take(self, request_id: int) -> "array[float]":
        """Return, once, when the tokens of a request came out that has ended."""
        return self._seen.pop(request_id)

    def _close(self, request_id: int) -> None:
        since = self._since.pop(request_id, None)
        if since is not None:
            seen = self._seen.setdefault(request_id, array("d"))
            seen.extend(self._ends[since:])
