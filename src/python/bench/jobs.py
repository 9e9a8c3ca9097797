"""What the runner does: measure, judge, print, keep.  Input and output."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.console import Console

from bench.arms import Arm, check_installed, start_arms
from bench.comparison import DEFAULT_GOAL, Comparison, Goal, compare, windows_of
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
from bench.output import Files, comparison_json, run_files
from bench.processes import stopped_at_the_end
from bench.progress import Progress, Shown
from bench.prompts import PromptBook
from bench.report import Evidence, report_html
from bench.results import new_run_folder, write_files
from bench.schedule import Part, Schedule, split, write_schedule
from bench.tables import client_line, comparison_markdown, comparison_table, run_table, verdict_line
from bench.validity import Validity, judge
from servekit.client.client import CHAT
from servekit.timing.clock import SystemClock

# How long the last answers take after the last request, as the progress bar guesses it.
_LAST_ANSWERS_S = 12.0


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How a comparison is laid out in time.

    Attributes:
        parts, part_s: how many parts each arm replays, and how long one lasts.
        warmup_s: replayed by both arms before anything counts.
        drain: whether an arm's turn waits for the other's last answer.
    """

    parts: int = 4
    part_s: float = 15.0
    warmup_s: float = 10.0
    drain: bool = False

    @property
    def length_s(self) -> float:
        """Seconds of schedule that it uses."""
        return self.warmup_s + self.parts * self.part_s


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Two arms compared."""

    comparison: Comparison
    validity: Validity
    measured: Measured
    parts: tuple[Part, ...]


def compare_fleets(
    balancers: Sequence[str], fleet: str, schedule: Schedule, shape: Shape, **settings: Any
) -> Judged:
    """Start a simulated fleet behind each of *balancers*, compare them, leave nothing running.

    *settings* are those of `compare_urls`.
    """
    check_installed(balancers)
    folder = _run_folder(settings["output_dir"], balancers[-1])
    logs = folder / "logs"
    logs.mkdir()
    with stopped_at_the_end() as programs:
        settings["console"].print(f"starting fleet {fleet} twice, behind {' and '.join(balancers)}")
        arms = start_arms(balancers, fleet, programs, logs)
        return compare_urls(arms, schedule, shape, folder=folder, **settings)


def compare_urls(
    arms: Sequence[Arm],
    schedule: Schedule,
    shape: Shape,
    *,
    target: Target,
    console: Console,
    output_dir: Path,
    options: dict[str, Any],
    goal: Goal = DEFAULT_GOAL,
    folder: Path | None = None,
) -> Judged:
    """Replay *schedule* against two *arms*, print table and verdict, keep the results."""
    about = manifest(schedule, options)
    folder = folder or _run_folder(output_dir, arms[-1].name)
    warmup, *parts = split(schedule, [shape.warmup_s, *[shape.part_s] * shape.parts])
    book = _book(schedule, target)
    expected = len(arms) * sum(len(part.calls) for part in parts)
    length_s = shape.warmup_s + len(arms) * shape.parts * shape.part_s + _LAST_ANSWERS_S
    with Shown(console, expected, length_s) as progress:
        measured = run_stoppable(
            lambda given: compare_arms(
                arms, warmup if warmup.calls else None, parts, given, drain=shape.drain
            ),
            book,
            progress,
            target,
        )
    judged = _judge(arms, measured, tuple(parts), schedule, goal)
    _print_comparison(judged, console)
    _keep_comparison(judged, schedule, goal, about, folder, output_dir)
    console.print(f"results: {folder}", soft_wrap=True, highlight=False)
    return judged


def measure_one(
    arm: Arm,
    schedule: Schedule,
    concurrency: int | None,
    *,
    target: Target,
    console: Console,
    output_dir: Path,
    options: dict[str, Any],
) -> Measured:
    """Measure one upstream: a closed loop of *concurrency* users, or without it an open loop."""
    about = manifest(schedule, options)
    folder = _run_folder(output_dir, arm.name)
    book = _book(schedule, target)
    part = Part(0, 0.0, schedule.length_s, schedule.calls)

    async def work(given: Conditions) -> Measured:
        if concurrency is None:
            return await replay_once(arm, part, given)
        return await keep_busy(arm, schedule.calls, concurrency, given)

    with Shown(console, len(schedule.calls), schedule.length_s) as progress:
        measured = run_stoppable(work, book, progress, target)
    validity = judge(measured.records, measured.burden)
    console.print(run_table(summarize(measured.records), totals(measured.records)))
    _print_client(validity, measured, console)
    write_files(folder, run_files(measured.records, measured, about))
    write_files(folder, {"schedule.jsonl": write_schedule(schedule)})
    console.print(f"results: {folder}", soft_wrap=True, highlight=False)
    return measured


def run_stoppable(
    work: Callable[[Conditions], Awaitable[Measured]],
    book: PromptBook,
    progress: Progress,
    target: Target,
) -> Measured:
    """Run *work*, which Ctrl-C and SIGTERM ask to stop; a second Ctrl-C ends it hard."""

    async def run() -> Measured:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask_to_stop(number: signal.Signals) -> None:
            stop.set()
            loop.remove_signal_handler(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask_to_stop, number)
        return await work(Conditions(book.body, SystemClock(), progress, target, stop))

    return uvloop.run(run())


def _judge(
    arms: Sequence[Arm],
    measured: Measured,
    parts: tuple[Part, ...],
    schedule: Schedule,
    goal: Goal,
) -> Judged:
    baseline, candidate = (arm.name for arm in arms)
    # Of an interrupted run only those parts count that both arms have been through.
    reached = {name: {r.part for r in measured.of(name)} for name in (baseline, candidate)}
    both = reached[baseline] & reached[candidate]
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
    return Judged(comparison=found, validity=validity, measured=measured, parts=parts)


def _print_comparison(judged: Judged, console: Console) -> None:
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


def _keep_comparison(
    judged: Judged,
    schedule: Schedule,
    goal: Goal,
    about: dict[str, Any],
    folder: Path,
    output_dir: Path,
) -> None:
    """Keep the candidate's run and the comparison in *folder*, the baseline's beside it."""
    found, measured = judged.comparison, judged.measured
    shared: Files = {
        "comparison.json": comparison_json(
            found, judged.validity, partial=measured.partial, manifest=about
        ),
        "comparison.md": comparison_markdown(found),
        "report.html": report_html(
            Evidence(
                comparison=found,
                validity=judged.validity,
                baseline=measured.of(found.baseline),
                candidate=measured.of(found.candidate),
                parts=judged.parts,
                goal=goal,
                partial=measured.partial,
                manifest=about,
            )
        ),
        "schedule.jsonl": write_schedule(schedule),
    }
    other = output_dir / _slug(found.baseline) / folder.name
    other.mkdir(parents=True, exist_ok=True)
    for arm, place in ((found.baseline, other), (found.candidate, folder)):
        write_files(place, {**run_files(measured.of(arm), measured, about), **shared})


def _book(schedule: Schedule, target: Target) -> PromptBook:
    return PromptBook(schedule.seed, chat=target.path == CHAT, stream=target.stream)


def _run_folder(output_dir: Path, env: str) -> Path:
    return new_run_folder(output_dir, _slug(env), datetime.now())  # noqa: DTZ005


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
