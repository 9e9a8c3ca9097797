"""An explanation, and how often explanations were right, in Markdown.  Pure."""

from collections import Counter
from collections.abc import Sequence

from bench.report.tables import number
from bench.twin.causes import Cause, Explanation
from bench.twin.stages import StageTimes
from bench.twin.why_accuracy import FaultRuns

# Causes that change neither mean by so much are not worth a line.
_LEAST_WEIGHT = 0.02

_STAGES = (
    ("send", "client: until sent"),
    ("connect", "connecting"),
    ("balancer_queue", "load balancer's queue"),
    ("engine_queue", "engine queue"),
    ("prefill", "prefill"),
    ("decode", "decode"),
    ("path_first", "path, to the first token"),
    ("path_last", "path, to the last token"),
    ("ttft", "TTFT"),
    ("e2e", "E2E"),
)


def why_markdown(found: Explanation) -> str:
    """Return the causes, the heaviest first, and where the time of both arms went."""
    names = found.baseline, found.candidate
    shown = [cause for cause in found.causes if cause.weight >= _LEAST_WEIGHT]
    lines = [
        f"Why {found.candidate} differs from {found.baseline}: {_first(found)}.\n",
        "| cause | TTFT (ms) | E2E (ms) |\n| --- | ---: | ---: |",
        *(_cause(cause) for cause in shown),
        "",
        f"| mean per request (ms) | {names[0]} | {names[1]} |\n| --- | ---: | ---: |",
        *(_stage(label, *(getattr(arm, name) for arm in found.arms)) for name, label in _STAGES),
        _stage("prompt tokens in a prefix cache (%)", *map(_percent, found.arms)),
    ]
    return "\n".join(lines) + "\n"


def _cause(cause: Cause) -> str:
    return f"| {cause.name} | {number(cause.ttft, sign=True)} | {number(cause.e2e, sign=True)} |"


def _first(found: Explanation) -> str:
    cause = found.causes[0]
    return f"{cause.name} first" if cause.weight >= _LEAST_WEIGHT else "no cause stands out"


def _stage(label: str, baseline: float | None, candidate: float | None) -> str:
    return f"| {label} | {number(baseline)} | {number(candidate)} |"


def _percent(arm: StageTimes) -> float | None:
    return None if arm.hit_share is None else arm.hit_share * 100.0


def accuracy_markdown(found: Sequence[FaultRuns]) -> str:
    """Return a line per fault: how often its cause was named first, and what was named instead."""
    runs, right = sum(len(one.named) for one in found), sum(one.right for one in found)
    lines = [
        "| injected fault | right cause | runs | named first | instead |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for one in found:
        wrong = Counter(name for name in one.named if name != one.cause)
        instead = ", ".join(f"{name} ({n})" for name, n in wrong.most_common()) or "-"
        lines.append(f"| {one.fault} | {one.cause} | {len(one.named)} | {one.right} | {instead} |")
    share = right / runs if runs else 0.0
    return "\n".join(lines) + f"\n\nThe right cause is named first in {share:.0%} of {runs} runs.\n"
