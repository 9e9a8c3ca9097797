"""Were the answers what was asked for, and do two arms' answers compare?  Pure.

A latency is that of some work.  Where one arm was given longer prompts, or stops earlier, its
latencies are those of other work, and no verdict can rest on them.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from bench.loadgen.record import Record

# Arms whose mean lengths differ by more than this did different work.
COMPARABLE = 0.05

# Mean lengths further than this from what was asked are said, if they are so many tokens off: the
# template of a chat takes some.
_SAID = 0.1
_SAID_TOKENS = 48


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of one arm's whole answers, per request; None where some were not counted.

    Attributes:
        asked_prompt, asked_output: what the schedule asks for.
        prompt, output: what the upstream counted.
        early: share of answers with fewer output tokens than asked.
    """

    asked_prompt: float
    asked_output: float
    prompt: float | None
    output: float | None
    early: float | None


def lengths_of(records: Sequence[Record]) -> Lengths | None:
    """Return the lengths of *records*' whole answers; None where there is no whole answer."""
    done = [one for one in records if one.ok]
    if not done:
        return None
    counted = [one for one in done if one.completion_tokens is not None]
    early = [(one.completion_tokens or 0) < one.asked_output_tokens for one in counted]
    return Lengths(
        asked_prompt=fmean(one.asked_prompt_tokens for one in done),
        asked_output=fmean(one.asked_output_tokens for one in done),
        prompt=_mean(done, lambda one: one.prompt_tokens),
        output=_mean(done, lambda one: one.completion_tokens),
        early=fmean(early) if len(counted) == len(done) else None,
    )


def _mean(records: Sequence[Record], count: Callable[[Record], int | None]) -> float | None:
    counts = [count(one) for one in records]
    return None if None in counts else fmean(n for n in counts if n is not None)


def off_what_was_asked(found: Lengths) -> list[str]:
    """Return in what way answers and prompts were not what was asked for."""
    said = []
    if found.output is not None and found.early and found.output < found.asked_output * 0.99:
        said.append(
            f"{found.early:.0%} of answers stopped early: {found.output:,.0f} output tokens on "
            f"average, {found.asked_output:,.0f} were asked for"
        )
    if found.output is not None and found.output > found.asked_output * 1.01:
        said.append(
            f"answers are longer than asked: {found.output:,.0f} output tokens on average, "
            f"{found.asked_output:,.0f} were asked for"
        )
    if found.prompt is not None and _is_far(found.prompt, found.asked_prompt):
        word = "longer" if found.prompt > found.asked_prompt else "shorter"
        said.append(
            f"prompts were {word} than asked: {found.prompt:,.0f} tokens on average by the "
            f"upstream's count, {found.asked_prompt:,.0f} were asked for"
        )
    return said


def _is_far(got: float, asked: float) -> bool:
    return abs(got - asked) > max(_SAID * asked, _SAID_TOKENS)


def why_incomparable(arms: Sequence[Sequence[Record]], names: Sequence[str]) -> str:
    """Return why latencies of *arms* are those of different work; empty where they compare.

    Where an arm does not count its tokens, what it did cannot be known, and nothing is held
    against it.
    """
    found = [lengths_of(records) for records in arms]
    for label in ("output", "prompt"):
        means = [None if one is None else getattr(one, label) for one in found]
        known = [(name, mean) for name, mean in zip(names, means, strict=True) if mean]
        if not known:
            continue
        low, high = min(known, key=_second), max(known, key=_second)
        if high[1] > low[1] * (1.0 + COMPARABLE):
            return (
                f"{label} tokens per request differ: {high[1]:,.0f} of {high[0]}, "
                f"{low[1]:,.0f} of {low[0]}"
            )
    return ""


def _second(pair: tuple[str, float]) -> float:
    return pair[1]
