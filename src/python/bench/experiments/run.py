"""What the commands do: start the targets, measure, compare, print, keep.  Input and output."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.experiments.aiperf_run import measure_with_aiperf
from bench.experiments.why import show_why
from bench.loadgen.multiprocess import load_with_workers
from bench.loadgen.progress import ProgressDisplay
from bench.loadgen.record import Record
from bench.loadgen.run_result import LoadResult, RunResult
from bench.loadgen.session import (
    EarlyEnd,
    SessionInputs,
    book_for,
    compare_arms,
    keep_busy,
    replay_once,
    run_stoppable,
)
from bench.report.terminal import (
    print_client,
    print_comparison,
    print_dropped,
    print_grid,
    print_report,
    print_run,
)
from bench.results.context import RunContext
from bench.results.files import make_folder
from bench.results.load import joined, layout_of, load_saved, pooled, together
from bench.results.manifest import manifest_of, run_result
from bench.results.store import (
    conclude_saved,
    keep_comparison,
    keep_grid,
    keep_run,
    keep_verdict,
    run_folder,
)
from bench.stats.factorial import CELLS, GridRun, grid_run
from bench.stats.verdict import ComparedRun, conclude, is_sure
from bench.target.arms import Arm, check_installed, reset_prefix_caches, start_arms
from bench.target.processes import stopped_at_the_end
from bench.workload.schedule import Part, PartLayout, Schedule, whole

# Concurrent requests of a warm-up.
_WARMUP_USERS = 4

# Estimated time until the last response, for the progress bar.
_LAST_RESPONSES_S = 12.0


def compare_fleets(
    balancers: Sequence[str],
    fleet: str,
    schedule: Schedule,
    layout: PartLayout,
    context: RunContext,
) -> ComparedRun:
    """Start a simulated fleet behind each of *balancers*, compare them, leave nothing running."""
    check_installed(balancers)
    folder = run_folder(context.output_dir, balancers[-1])
    with fleets(balancers, fleet, folder / "logs", context) as arms:
        return compare_urls(arms, schedule, layout, context, folder=folder)


@contextmanager
def fleets(
    balancers: Sequence[str], fleet: str, logs: Path, context: RunContext
) -> Iterator[tuple[Arm, ...]]:
    """Give an arm for each of *balancers*, with its own simulated fleet, while the block lasts."""
    make_folder(logs)
    with stopped_at_the_end() as programs:
        names = " and ".join(balancers)
        context.console.print(f"starting {len(balancers)} copies of fleet {fleet} behind {names}")
        yield start_arms(balancers, fleet, programs, logs)


def compare_urls(
    arms: Sequence[Arm],
    schedule: Schedule,
    layout: PartLayout,
    context: RunContext,
    *,
    folder: Path | None = None,
) -> ComparedRun:
    """Replay *schedule* against two *arms*; print and keep how they differ."""
    folder = folder or run_folder(context.output_dir, arms[-1].name)
    run = replay_arms(arms, schedule, layout, context)
    compared = conclude(run, context.goal, min_effect=context.min_effect)
    print_dropped(schedule, context.console)
    print_comparison(compared, context.console)
    keep_comparison(compared, folder, context)
    if compared.validity.valid and compared.comparison.verdict in ("better", "worse", "mixed"):
        show_why(compared.run, context.options.get("fleet", "h100"), folder, context.console)
    print_report(folder, context.console)
    return compared


def compare_saved(
    baseline: Sequence[RunResult], candidate: Sequence[RunResult], context: RunContext
) -> ComparedRun:
    """Compare saved runs of one schedule, one or several of each arm; print and keep how the arms
    differ.

    The two arms of one comparison took turns; all others are runs of their own.
    """
    names = _names(baseline, candidate)
    both = together(baseline, candidate, names)
    said = manifest_of(both, both.schedule, both.layout, context)
    both = msgspec.structs.replace(both, manifest=said)
    compared = conclude_saved(baseline, candidate, both, context)
    print_comparison(compared, context.console)
    folder = run_folder(context.output_dir, f"{names[0]}-against-{names[1]}")
    arms = [[run.folder or Path() for run in runs] for runs in (baseline, candidate)]
    keep_verdict(compared, [folder], arms, context)
    print_report(folder, context.console)
    return compared


def measure_like(saved: Sequence[RunResult], arm: Arm, context: RunContext) -> list[RunResult]:
    """Replay against *arm* the schedule of *saved*, once for each of them; keep and return the
    runs.

    Raises:
        SettingInvalid: *saved* is a closed loop.
    """
    layout, schedule = layout_of(saved[0]), saved[0].schedule
    runs = []
    for _ in saved:
        folder = run_folder(context.output_dir, arm.name)
        run = replay_arms([arm], schedule, layout, context)
        keep_run(run, folder, context)
        runs.append(msgspec.structs.replace(run, folder=folder))
        if run.partial:
            break
    return runs


def _names(baseline: Sequence[RunResult], candidate: Sequence[RunResult]) -> tuple[str, str]:
    """Name two saved arms as they were called; if that is the same, by directory as well."""
    (one,), (other,) = baseline[0].arms, candidate[0].arms
    if one != other:
        return one, other
    first, second = ((runs[0].folder or Path()).resolve().name for runs in (baseline, candidate))
    if first != second:
        return f"{one} {first}", f"{other} {second}"
    return f"{one} 1", f"{other} 2"


def measure_grid(
    arms: Sequence[Arm], schedule: Schedule, layout: PartLayout, context: RunContext
) -> RunResult:
    """Measure two engines times two load balancers; print and keep their effects."""
    folder = run_folder(context.output_dir, "grid")
    cells = [msgspec.structs.replace(arm, name=cell) for cell, arm in zip(CELLS, arms, strict=True)]
    run = replay_arms(cells, schedule, layout, context)
    grid = grid_run(run, [arm.name for arm in arms], context.goal)
    print_grid(grid, context.console)
    keep_grid(grid, folder, context)
    print_report(folder, context.console)
    return run


def grid_of_saved(folders: Sequence[Path], context: RunContext) -> GridRun:
    """Return, print and keep the effects that saved runs show: four cells, or four of each start.

    Raises:
        SettingInvalid: a directory holds no run, or the cells of a start replayed different loads.
    """
    runs = [load_saved(folder) for folder in folders]
    fours = [runs[n : n + len(CELLS)] for n in range(0, len(runs), len(CELLS))]
    run, starts = pooled([joined(four, CELLS) for four in fours])
    said = manifest_of(run, run.schedule, run.layout, context)
    about = {**said, "folders": [str(folder) for folder in folders]}
    run = msgspec.structs.replace(run, manifest=about)
    grid = grid_run(run, [one.arms[0] for one in fours[0]], context.goal, starts)
    print_grid(grid, context.console)
    folder = run_folder(context.output_dir, "grid")
    keep_grid(grid, folder, context)
    print_report(folder, context.console)
    return grid


def replay_arms(
    arms: Sequence[Arm], schedule: Schedule, layout: PartLayout, context: RunContext
) -> RunResult:
    """Replay *schedule* against *arms* in turns."""
    warmup, *parts = layout.split(schedule)
    expected = len(arms) * sum(len(part.calls) for part in parts)
    length_s = len(arms) * layout.length_s + _LAST_RESPONSES_S
    names = [arm.name for arm in arms]
    early = _early_end(names, parts, layout, context)
    with ProgressDisplay(context.console, expected, length_s) as progress:
        measured = run_stoppable(
            lambda given: compare_arms(
                arms,
                warmup if warmup.calls else None,
                parts,
                given,
                drain=layout.drain,
                prepare=reset_prefix_caches if context.reset_prefix_caches else None,
                # Not from the seed: each run of one schedule has turns in an order of its own.
                rng=random.Random(),
                early=early,
            ),
            book_for(schedule, context.endpoint),
            progress,
            context.endpoint,
        )
    return run_result(names, measured, schedule, layout, context)


def _early_end(
    arms: Sequence[str],
    parts: Sequence[Part],
    layout: PartLayout,
    context: RunContext,
) -> EarlyEnd:
    """Return when a run of *arms* may end before the last of *parts*: never, without looks."""
    if not layout.looks:
        return EarlyEnd()

    def sure(records: Sequence[Record], done: int) -> bool:
        return is_sure(
            records,
            arms,
            parts[:done],
            context.goal,
            looks=layout.looks,
            min_effect=context.min_effect,
        )

    return EarlyEnd(layout.looks, sure, len(arms) * sum(layout.lengths_s))


def measure_one(
    arm: Arm, schedule: Schedule, concurrency: int | None, context: RunContext
) -> RunResult:
    """Measure one target: a closed loop of *concurrency* requests, or without it an open loop."""
    folder = run_folder(context.output_dir, arm.name)
    warm_up(arm, schedule, context)
    measured = load_one(arm, schedule, concurrency, context)
    return _finish(arm, schedule, concurrency, measured, folder, context)


def measure_by_aiperf(
    program: str, arm: Arm, schedule: Schedule, concurrency: int | None, context: RunContext
) -> RunResult:
    """Let aiperf measure *arm*; print and keep its result like one of this client."""
    folder = run_folder(context.output_dir, arm.name)
    context.console.print(f"aiperf sends {len(schedule.calls)} requests to {arm.url}")
    measured = measure_with_aiperf(program, arm, schedule, concurrency, context, folder / "aiperf")
    return _finish(arm, schedule, concurrency, measured, folder, context)


def _finish(
    arm: Arm,
    schedule: Schedule,
    concurrency: int | None,
    measured: LoadResult,
    folder: Path,
    context: RunContext,
) -> RunResult:
    """Print and keep the run of one arm."""
    layout = whole(schedule) if concurrency is None else None
    run = run_result([arm.name], measured, schedule, layout, context)
    print_run(run, context.goal, context.console)
    print_dropped(schedule, context.console)
    print_client(run, context.console)
    keep_run(run, folder, context)
    print_report(folder, context.console)
    return run


def warm_up(arm: Arm, schedule: Schedule, context: RunContext) -> None:
    """Send the first requests of *schedule*, as many as are asked for, and forget the answers.

    Their prompts are others of the same lengths: no prefix cache knows the real ones afterwards.
    """
    calls = schedule.calls[: context.warmup_requests]
    if not calls:
        return
    others = msgspec.structs.replace(schedule, seed=schedule.seed + 1)
    with ProgressDisplay(context.console, len(calls), None) as progress:
        run_stoppable(
            lambda given: keep_busy(arm, calls, _WARMUP_USERS, given),
            book_for(others, context.endpoint),
            progress,
            context.endpoint,
        )


def load_one(
    arm: Arm, schedule: Schedule, concurrency: int | None, context: RunContext
) -> LoadResult:
    """Put the load of *schedule* on *arm* and return what came of it; nothing is kept."""
    if context.workers > 1:
        return load_with_workers(arm, schedule, concurrency, context.endpoint, context.workers)
    _, part = whole(schedule).split(schedule)

    async def work(given: SessionInputs) -> LoadResult:
        if concurrency is None:
            return await replay_once(arm, part, given)
        return await keep_busy(arm, schedule.calls, concurrency, given)

    book = book_for(schedule, context.endpoint)
    length_s = schedule.length_s if concurrency is None else None
    with ProgressDisplay(context.console, len(schedule.calls), length_s) as progress:
        return run_stoppable(work, book, progress, context.endpoint)
