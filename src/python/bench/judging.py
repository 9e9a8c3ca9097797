"""What was measured -> what it says of two arms, and that for people.  Pure but for printing."""

from collections import Counter
from collections.abc import Sequence

import msgspec
from rich.console import Console

from bench.arm_metrics import Goal, windows_of
from bench.comparison import Comparison, compare
from bench.measuring import Measured
from bench.schedule import Part, Schedule
from bench.tables import client_line, comparison_table, verdict_line
from bench.validity import Validity, judge


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Two arms compared.

    Attributes:
        apart: they were measured in runs of their own, not in turns.
    """

    comparison: Comparison
    validity: Validity
    measured: Measured
    parts: tuple[Part, ...]
    schedule: Schedule
    goal: Goal
    apart: bool = False


def conclude(
    arms: Sequence[str],
    measured: Measured,
    parts: Sequence[Part],
    schedule: Schedule,
    goal: Goal,
    *,
    apart: bool = False,
) -> Judged:
    """Return what *measured* says of the two *arms*, baseline first."""
    baseline, candidate = arms
    kept = _through(arms, measured, parts)
    numbers = {part.number for part in kept}
    records = [record for record in measured.records if record.part in numbers]
    found = compare(
        [r for r in records if r.arm == baseline],
        [r for r in records if r.arm == candidate],
        windows_of(kept),
        goal=goal,
        seed=schedule.seed,
        names=(baseline, candidate),
    )
    return Judged(
        comparison=found,
        validity=judge(measured.records, measured.burden),
        measured=measured,
        parts=tuple(parts),
        schedule=schedule,
        goal=goal,
        apart=apart,
    )


def _through(arms: Sequence[str], measured: Measured, parts: Sequence[Part]) -> list[Part]:
    """Return the parts that every arm has been through to the end: of an interrupted run only
    these count."""
    done = {name: Counter(r.part for r in measured.of(name)) for name in arms}
    return [p for p in parts if all(done[name][p.number] == len(p.calls) for name in arms)]


def print_comparison(judged: Judged, console: Console) -> None:
    """Print the table, what the client did to it, and the verdict."""
    found, validity = judged.comparison, judged.validity
    console.print()
    console.print(comparison_table(found))
    console.print()
    print_client(validity, judged.measured, console)
    if judged.apart:
        console.print("measured apart: what changed between the two runs is in the difference")
    line = verdict_line(found, validity.reasons, partial=judged.measured.partial)
    console.print(f"[bold]{line}[/bold]", highlight=False, soft_wrap=True)


def print_client(validity: Validity, measured: Measured, console: Console) -> None:
    """Print what the client did to its own measurement."""
    console.print(client_line(validity), highlight=False, soft_wrap=True)
    for reason in validity.reasons:
        console.print(f"[bold red]invalid:[/bold red] {reason}", highlight=False, soft_wrap=True)
    if measured.partial:
        console.print("stopped early: what there is was kept and is marked partial")
