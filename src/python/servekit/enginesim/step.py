"""What an engine does at once: a step, or a run of like decode steps.  Pure values."""

from dataclasses import dataclass, replace
from math import sqrt

from servekit.enginesim.sequence import Sequence


@dataclass(frozen=True, slots=True)
class EngineStep:
    """A step, or a run of like decode steps, from `start_s` to `end_s`.

    Attributes:
        steps: how many; above 1 only where all are decode steps of the same sequences.
        first_step_s: seconds of the first of them.
        growth_s: by how much each is longer than the one before.
        decoded: sequences that decoded, one token each and step.
        sampled: sequences whose prompt was finished by it: their next token came out at its end.
        finished: sequences whose last token came out at its end.
        preempted: sequences that lost their place when it was scheduled.
    """

    start_s: float
    end_s: float
    steps: int
    first_step_s: float
    growth_s: float
    prefill_tokens: int
    decoded: int
    sampled: tuple[Sequence, ...]
    finished: tuple[Sequence, ...]
    preempted: tuple[Sequence, ...]

    def done_by(self, now: float) -> int:
        """Return how many steps of a run have ended by *now*."""
        if self.steps == 1:
            return 0
        passed = now - self.start_s
        first, growth = self.first_step_s, self.growth_s
        if passed < first:
            return 0
        # passed = n * first + growth * n * (n - 1) / 2, solved for n.
        half = first - growth / 2
        root = sqrt(half * half + 2 * growth * passed)
        done = int(2 * passed / (half + root))
        while run_s(done, first, growth) > passed:
            done -= 1
        while done < self.steps and run_s(done + 1, first, growth) <= passed:
            done += 1
        return done

    def first_of(self, steps: int) -> "EngineStep":
        """Return the first *steps* of a longer run, in which no sequence finishes."""
        end_s = self.start_s + run_s(steps, self.first_step_s, self.growth_s)
        return replace(self, steps=steps, end_s=end_s, finished=())


def run_s(steps: int, first_s: float, growth_s: float) -> float:
    """Return the seconds of *steps*, each longer by *growth_s* than the one before."""
    return steps * first_s + growth_s * (steps * (steps - 1) / 2)


@dataclass(slots=True)
class Counters:
    """What an engine has done since its start.

    Attributes:
        prompt_tokens: of requests whose first token came out, cached ones included, as in vLLM.
        computed_tokens: prompt tokens that went through the model, again where preempted.
    """

    prompt_tokens: int = 0
    computed_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    refused: int = 0
    steps: int = 0
    finished: int = 0
    aborted: int = 0
