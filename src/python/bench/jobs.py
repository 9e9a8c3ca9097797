"""What the runner does: measure, judge, print, keep.  Input and output."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from bench.arm_metrics import DEFAULT_GOAL, Goal, windows_of
from bench.arms import Arm, check_installed, start_arms
from bench.comparison import Comparison, compare
from bench.crew import load_with_workers
from bench.factorial import CELLS, Effect, effects, effects_markdown
from bench.manifest import manifest
from bench.measures import summarize, totals
from bench.measuring import (
    Conditions,
    Measured,
    Target,
    compare_arms,
    keep_busy,
    replay_once,
)
from bench.output import Files, comparison_json, pretty, run_files
from bench.processes import stopped_at_the_end
from bench.progress import Shown
from bench.report import Evidence, report_html
from bench.results import new_run_folder, write_files
from bench.running import book_for, run_stoppable
from bench.saved import Saved, load_saved, together
from bench.schedule import Part, Schedule, Shape, write_schedule
from bench.snapshots import replica_loads, write_snapshots
from bench.tables import (
    SHOWN,
    client_line,
    comparison_table,
    run_table,
    summary_markdown,
    verdict_line,
)
from bench.validity import Validity, judge

# How long the last answers take after the last request, as the progress bar guesses it.
_LAST_ANSWERS_S = 12.0


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What every job is given.

    Attributes:
        options: what was asked on the command line, for the manifest.
        workers: processes that send the load, where it is for one upstream.
    """

    target: Target
    console: Any
    output_dir: Path
    options: dict[str, Any]
    goal: Goal = DEFAULT_GOAL
    workers: int = 1


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Two arms compared."""

    comparison: Comparison
    validity: Validity
    measured: Measured
    parts: tuple[Part, ...]


def compare_fleets(
    balancers: Sequence[str], fleet: str, schedule: Schedule, shape: Shape, setting: Setting
) -> Judged:
    """Start a simulated fleet behind each of *balancers*, compare them, leave nothing running."""
    check_installed(balancers)
    folder = _run_folder(setting.output_dir, balancers[-1])
    with fleets(balancers, fleet, folder / "logs", setting) as arms:
        return compare_urls(arms, schedule, shape, setting, folder=folder)


@contextmanager
def fleets(
    balancers: Sequence[str], fleet: str, logs: Path, setting: Setting
) -> Iterator[tuple[Arm, ...]]:
    """Give an arm for each of *balancers*, with a simulated fleet of its own, while the block
    lasts."""
    logs.mkdir(parents=True, exist_ok=True)
    with stopped_at_the_end() as programs:
        names = ", ".join(balancers)
        setting.console.print(f"starting fleet {fleet} {len(balancers)} times, behind {names}")
        yield start_arms(balancers, fleet, programs, logs)


def compare_urls(
    arms: Sequence[Arm],
    schedule: Schedule,
    shape: Shape,
    setting: Setting,
    *,
    folder: Path | None = None,
) -> Judged:
    """Replay *schedule* against two *arms*, print table and verdict, keep the results."""
    folder = folder or _run_folder(setting.output_dir, arms[-1].name)
    measured, parts = replay_arms(arms, schedule, shape, setting)
    judged = conclude([arm.name for arm in arms], measured, parts, schedule, setting.goal)
    about = _about(schedule, shape, measured, setting)
    print_comparison(judged, setting.console)
    keep_comparison(judged, schedule, setting, about, folder)
    return judged


def compare_saved(baseline: Saved, candidate: Saved, setting: Setting) -> Judged:
    """Compare two arms that were measured earlier, if they were asked the same."""
    names = _names(baseline, candidate)
    measured = together(baseline, candidate, names)
    schedule, shape = candidate.schedule, candidate.shape or Shape()
    judged = conclude(names, measured, shape.split(schedule)[1:], schedule, setting.goal)
    print_comparison(judged, setting.console)
    folder = _run_folder(setting.output_dir, f"{names[0]}-against-{names[1]}")
    about = _about(schedule, shape, measured, setting)
    write_files(folder, comparison_files(judged, schedule, setting.goal, about))
    setting.console.print(f"report: {folder}/report.html", soft_wrap=True, highlight=False)
    return judged


def report_again(folder: Path, setting: Setting) -> str:
    """Make the report of the comparison in *folder* anew; return its summary in Markdown."""
    candidate = load_saved(folder)
    about = msgspec.json.decode((folder / "comparison.json").read_bytes(), type=_Names)
    baseline = load_saved(folder.parent.parent / _slug(about.baseline) / folder.name)
    names = about.baseline, about.candidate
    measured = together(baseline, candidate, names)
    schedule, shape = candidate.schedule, candidate.shape or Shape()
    judged = conclude(names, measured, shape.split(schedule)[1:], schedule, setting.goal)
    manifest_then = msgspec.json.decode((folder / "manifest.json").read_bytes())
    files = comparison_files(judged, schedule, setting.goal, manifest_then)
    write_files(folder, files)
    return summary_markdown(judged.comparison, judged.validity, partial=measured.partial)


def measure_grid(
    arms: Sequence[Arm], schedule: Schedule, shape: Shape, setting: Setting
) -> list[Effect]:
    """Measure two engines times two load balancers; print and keep what each contributes."""
    folder = _run_folder(setting.output_dir, "grid")
    cells = [Arm(name=cell, url=arm.url) for cell, arm in zip(CELLS, arms, strict=True)]
    measured, parts = replay_arms(cells, schedule, shape, setting)
    found = effects(
        [measured.of(cell) for cell in CELLS],
        windows_of(parts),
        goal=setting.goal,
        seed=schedule.seed,
    )
    validity = judge(measured.records, measured.burden)
    text = effects_markdown(found, SHOWN)
    setting.console.print(text, soft_wrap=True, highlight=False)
    _print_client(validity, measured, setting.console)
    about = _about(schedule, shape, measured, setting)
    names = {cell: arm.name for cell, arm in zip(CELLS, arms, strict=True)}
    shown = {"cells": names, "effects": found, "validity": validity, "manifest": about}
    write_files(folder, {"grid.md": text, "grid.json": pretty(shown)})
    write_files(folder, run_files(measured.records, measured, about))
    write_files(folder, {"schedule.jsonl": write_schedule(schedule)})
    setting.console.print(f"results: {folder}", soft_wrap=True, highlight=False)
    return found


def replay_arms(
    arms: Sequence[Arm], schedule: Schedule, shape: Shape, setting: Setting
) -> tuple[Measured, tuple[Part, ...]]:
    """Replay *schedule* against *arms* in turns; return what came of it, and the parts."""
    warmup, *parts = shape.split(schedule)
    expected = len(arms) * sum(len(part.calls) for part in parts)
    length_s = shape.warmup_s + len(arms) * shape.parts * shape.part_s + _LAST_ANSWERS_S
    with Shown(setting.console, expected, length_s) as progress:
        measured = run_stoppable(
            lambda given: compare_arms(
                arms, warmup if warmup.calls else None, parts, given, drain=shape.drain
            ),
            book_for(schedule, setting.target),
            progress,
            setting.target,
        )
    return measured, tuple(parts)


def measure_one(
    arm: Arm, schedule: Schedule, concurrency: int | None, setting: Setting
) -> Measured:
    """Measure one upstream: a closed loop of *concurrency* users, or without it an open loop."""
    folder = _run_folder(setting.output_dir, arm.name)
    measured = load_one(arm, schedule, concurrency, setting)
    validity = judge(measured.records, measured.burden)
    console = setting.console
    console.print(run_table(summarize(measured.records), totals(measured.records)))
    _print_client(validity, measured, console)
    about = _about(schedule, None, measured, setting)
    write_files(folder, run_files(measured.records, measured, about))
    write_files(folder, {"schedule.jsonl": write_schedule(schedule)})
    console.print(f"results: {folder}", soft_wrap=True, highlight=False)
    return measured


def load_one(arm: Arm, schedule: Schedule, concurrency: int | None, setting: Setting) -> Measured:
    """Put the load of *schedule* on *arm* and return what came of it; nothing is kept."""
    if setting.workers > 1:
        return load_with_workers(arm, schedule, concurrency, setting.target, setting.workers)
    part = Part(0, 0.0, schedule.length_s, schedule.calls)

    async def work(given: Conditions) -> Measured:
        if concurrency is None:
            return await replay_once(arm, part, given)
        return await keep_busy(arm, schedule.calls, concurrency, given)

    book = book_for(schedule, setting.target)
    length_s = schedule.length_s if concurrency is None else None
    with Shown(setting.console, len(schedule.calls), length_s) as progress:
        return run_stoppable(work, book, progress, setting.target)


def conclude(
    arms: Sequence[str],
    measured: Measured,
    parts: Sequence[Part],
    schedule: Schedule,
    goal: Goal,
) -> Judged:
    """Return what *measured* says of the two *arms*, baseline first."""
    baseline, candidate = arms
    # Of an interrupted run only those parts count that both arms have been through to the end.
    done = {name: Counter(r.part for r in measured.of(name)) for name in arms}
    both = {p.number for p in parts if all(done[name][p.number] == len(p.calls) for name in arms)}
    kept = [part for part in parts if part.number in both]
    records = [record for record in measured.records if record.part in both]
    found = compare(
        [r for r in records if r.arm == baseline],
        [r for r in records if r.arm == candidate],
        windows_of(kept),
        goal=goal,
        seed=schedule.seed,
        names=(baseline, candidate),
    )
    validity = judge(measured.records, measured.burden)
    return Judged(comparison=found, validity=validity, measured=measured, parts=tuple(parts))


def print_comparison(judged: Judged, console: Console) -> None:
    """Print the table, what the client did to it, and the verdict."""
    found, validity = judged.comparison, judged.validity
    console.print()
    console.print(comparison_table(found))
    console.print()
    _print_client(validity, judged.measured, console)
    line = verdict_line(found, validity.reasons, partial=judged.measured.partial)
    console.print(f"[bold]{line}[/bold]", highlight=False, soft_wrap=True)


def _print_client(validity: Validity, measured: Measured, console: Console) -> None:
    console.print(client_line(validity), highlight=False, soft_wrap=True)
    for reason in validity.reasons:
        console.print(f"[bold red]invalid:[/bold red] {reason}", highlight=False, soft_wrap=True)
    if measured.partial:
        console.print("stopped early: what there is was kept and is marked partial")


def keep_comparison(
    judged: Judged, schedule: Schedule, setting: Setting, about: dict[str, Any], folder: Path
) -> None:
    """Keep the candidate's run and the comparison in *folder*, the baseline's beside it."""
    found, measured = judged.comparison, judged.measured
    shared = comparison_files(judged, schedule, setting.goal, about)
    other = setting.output_dir / _slug(found.baseline) / folder.name
    other.mkdir(parents=True, exist_ok=True)
    for arm, place in ((found.baseline, other), (found.candidate, folder)):
        write_files(place, {**run_files(measured.of(arm), measured, about), **shared})
    setting.console.print(f"report: {folder}/report.html", soft_wrap=True, highlight=False)


def comparison_files(
    judged: Judged, schedule: Schedule, goal: Goal, about: dict[str, Any]
) -> Files:
    """Return the files that say how two arms differ."""
    found, measured = judged.comparison, judged.measured
    evidence = Evidence(
        comparison=found,
        validity=judged.validity,
        baseline=measured.of(found.baseline),
        candidate=measured.of(found.candidate),
        parts=judged.parts,
        goal=goal,
        partial=measured.partial,
        manifest=about,
        replicas=replica_loads(measured.snapshots),
    )
    return {
        "comparison.json": comparison_json(
            found, judged.validity, partial=measured.partial, manifest=about
        ),
        "comparison.md": summary_markdown(found, judged.validity, partial=measured.partial),
        "report.html": report_html(evidence),
        "schedule.jsonl": write_schedule(schedule),
        "snapshots.jsonl": write_snapshots(measured.snapshots),
    }


class _Names(msgspec.Struct, frozen=True):
    baseline: str
    candidate: str


def _names(baseline: Saved, candidate: Saved) -> tuple[str, str]:
    """Name two saved arms by their folders: by environment, or if that is the same, by run."""
    one, other = baseline.folder.resolve(), candidate.folder.resolve()
    if one.parent.name != other.parent.name:
        return one.parent.name, other.parent.name
    return one.name, other.name


def _about(
    schedule: Schedule, shape: Shape | None, measured: Measured, setting: Setting
) -> dict[str, Any]:
    return {
        **manifest(schedule, setting.options),
        "shape": shape,
        "started": measured.started,
        "partial": measured.partial,
        "burden": measured.burden,
    }


def _run_folder(output_dir: Path, env: str) -> Path:
    return new_run_folder(output_dir, _slug(env), datetime.now())  # noqa: DTZ005


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
