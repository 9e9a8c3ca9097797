"""What the runner does: start what is to be measured, measure, judge, print, keep.  Input and
output."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.experiments.aiperf_run import measure_with_aiperf
from bench.loadgen.multiprocess import load_with_workers
from bench.loadgen.progress import ProgressDisplay
from bench.loadgen.session import (
    LoadResult,
    SessionInputs,
    book_for,
    compare_arms,
    keep_busy,
    replay_once,
    run_stoppable,
)
from bench.report.grid_page import GridEvidence
from bench.report.remarks import plateau_text
from bench.report.tables import SHOWN, effects_markdown, run_table
from bench.report.terminal import print_client, print_comparison
from bench.results.context import Setting
from bench.results.files import make_folder
from bench.results.load import Saved, as_saved
from bench.results.store import (
    about,
    judge_saved,
    keep_comparison,
    keep_grid,
    keep_run,
    keep_verdict,
    run_folder,
)
from bench.stats.factorial import CELLS, effects
from bench.stats.plateau import rates
from bench.stats.request_metrics import summarize, totals
from bench.stats.validity import judge
from bench.stats.verdict import Judged, conclude
from bench.stats.windowed_metrics import windows_of
from bench.target.arms import Arm, check_installed, start_arms
from bench.target.processes import stopped_at_the_end
from bench.workload.schedule import Part, PartLayout, Schedule, whole

# How long the last answers take after the last request, as the progress bar guesses it.
_LAST_ANSWERS_S = 12.0


def compare_fleets(
    balancers: Sequence[str], fleet: str, schedule: Schedule, shape: PartLayout, setting: Setting
) -> Judged:
    """Start a simulated fleet behind each of *balancers*, compare them, leave nothing running."""
    check_installed(balancers)
    folder = run_folder(setting.output_dir, balancers[-1])
    with fleets(balancers, fleet, folder / "logs", setting) as arms:
        return compare_urls(arms, schedule, shape, setting, folder=folder)


@contextmanager
def fleets(
    balancers: Sequence[str], fleet: str, logs: Path, setting: Setting
) -> Iterator[tuple[Arm, ...]]:
    """Give an arm for each of *balancers*, with a simulated fleet of its own, while the block
    lasts."""
    make_folder(logs)
    with stopped_at_the_end() as programs:
        names = " and ".join(balancers)
        setting.console.print(f"starting {len(balancers)} copies of fleet {fleet} behind {names}")
        yield start_arms(balancers, fleet, programs, logs)


def compare_urls(
    arms: Sequence[Arm],
    schedule: Schedule,
    shape: PartLayout,
    setting: Setting,
    *,
    folder: Path | None = None,
) -> Judged:
    """Replay *schedule* against two *arms*, print table and verdict, keep the results."""
    folder = folder or run_folder(setting.output_dir, arms[-1].name)
    measured, parts = replay_arms(arms, schedule, shape, setting)
    if schedule.dropped:
        setting.console.print(str(schedule.dropped), highlight=False, soft_wrap=True)
    judged = conclude([arm.name for arm in arms], measured, parts, schedule, setting.goal)
    print_comparison(judged, setting.console)
    keep_comparison(judged, setting, about(schedule, shape, measured, setting), folder)
    setting.console.print(f"report: {folder}/report.html", soft_wrap=True, highlight=False)
    return judged


def compare_saved(baseline: Saved, candidate: Saved, setting: Setting) -> Judged:
    """Compare two arms that were measured earlier, if they were asked the same."""
    names = _names(baseline, candidate)
    judged = judge_saved(baseline, candidate, names, setting)
    print_comparison(judged, setting.console)
    folder = run_folder(setting.output_dir, f"{names[0]}-against-{names[1]}")
    said = about(judged.schedule, candidate.shape, judged.measured, setting)
    keep_verdict(judged, said, [folder], (baseline.folder, candidate.folder), setting)
    setting.console.print(f"report: {folder}/report.html", soft_wrap=True, highlight=False)
    return judged


def measure_like(saved: Saved, arm: Arm, setting: Setting) -> Saved:
    """Replay against *arm* what *saved* was asked, keep it, and return it as if it were saved.

    Raises:
        SettingInvalid: what was saved was a closed loop.
    """
    shape = saved.parts_of_it()
    folder = run_folder(setting.output_dir, arm.name)
    measured, _ = replay_arms([arm], saved.schedule, shape, setting)
    said = about(saved.schedule, shape, measured, setting)
    keep_run(arm.name, measured.records, measured, saved.schedule, said, folder, setting)
    return as_saved(folder, measured, saved.schedule, shape)


def _names(baseline: Saved, candidate: Saved) -> tuple[str, str]:
    """Name two saved arms as they were called; if that is the same, by folder as well."""
    if baseline.name != candidate.name:
        return baseline.name, candidate.name
    one, other = baseline.folder.resolve(), candidate.folder.resolve()
    if one.name != other.name:
        return f"{baseline.name} {one.name}", f"{candidate.name} {other.name}"
    return f"{baseline.name} 1", f"{candidate.name} 2"


def measure_grid(
    arms: Sequence[Arm], schedule: Schedule, shape: PartLayout, setting: Setting
) -> LoadResult:
    """Measure two engines times two load balancers; print and keep what each contributes."""
    folder = run_folder(setting.output_dir, "grid")
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
    print_client(validity, measured, setting.console)
    evidence = GridEvidence(
        arms=[arm.name for arm in arms],
        effects=found,
        validity=validity,
        measured=measured,
        parts=parts,
        goal=setting.goal,
        manifest=about(schedule, shape, measured, setting),
    )
    keep_grid(evidence, text, schedule, folder, setting)
    setting.console.print(f"report: {folder}/report.html", soft_wrap=True, highlight=False)
    return measured


def replay_arms(
    arms: Sequence[Arm], schedule: Schedule, shape: PartLayout, setting: Setting
) -> tuple[LoadResult, tuple[Part, ...]]:
    """Replay *schedule* against *arms* in turns; return what came of it, and the parts."""
    warmup, *parts = shape.split(schedule)
    expected = len(arms) * sum(len(part.calls) for part in parts)
    length_s = shape.warmup_s + len(arms) * shape.parts * shape.part_s + _LAST_ANSWERS_S
    with ProgressDisplay(setting.console, expected, length_s) as progress:
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
) -> LoadResult:
    """Measure one upstream: a closed loop of *concurrency* users, or without it an open loop."""
    folder = run_folder(setting.output_dir, arm.name)
    measured = load_one(arm, schedule, concurrency, setting)
    _conclude_one(arm, schedule, concurrency, measured, folder, setting)
    return measured


def measure_by_aiperf(
    program: str, arm: Arm, schedule: Schedule, concurrency: int | None, setting: Setting
) -> LoadResult:
    """Let aiperf measure *arm*, and keep and print what it found as if it were our own."""
    folder = run_folder(setting.output_dir, arm.name)
    setting.console.print(f"aiperf sends {len(schedule.calls)} requests to {arm.url}")
    measured = measure_with_aiperf(program, arm, schedule, concurrency, setting, folder / "aiperf")
    _conclude_one(arm, schedule, concurrency, measured, folder, setting)
    return measured


def _conclude_one(
    arm: Arm,
    schedule: Schedule,
    concurrency: int | None,
    measured: LoadResult,
    folder: Path,
    setting: Setting,
) -> None:
    """Print and keep one arm's run."""
    records = measured.records
    rate = rates(records, map(setting.goal.met_by, records))
    setting.console.print(run_table(summarize(records), totals(records), rate))
    setting.console.print(plateau_text(rate), highlight=False, soft_wrap=True)
    if schedule.dropped:
        setting.console.print(str(schedule.dropped), highlight=False, soft_wrap=True)
    print_client(judge(measured.records, measured.burden), measured, setting.console)
    shape = whole(schedule) if concurrency is None else None
    said = about(schedule, shape, measured, setting)
    keep_run(arm.name, measured.records, measured, schedule, said, folder, setting)
    setting.console.print(f"report: {folder}/report.html", soft_wrap=True, highlight=False)


def load_one(arm: Arm, schedule: Schedule, concurrency: int | None, setting: Setting) -> LoadResult:
    """Put the load of *schedule* on *arm* and return what came of it; nothing is kept."""
    if setting.workers > 1:
        return load_with_workers(arm, schedule, concurrency, setting.target, setting.workers)
    _, part = whole(schedule).split(schedule)

    async def work(given: SessionInputs) -> LoadResult:
        if concurrency is None:
            return await replay_once(arm, part, given)
        return await keep_busy(arm, schedule.calls, concurrency, given)

    book = book_for(schedule, setting.target)
    length_s = schedule.length_s if concurrency is None else None
    with ProgressDisplay(setting.console, len(schedule.calls), length_s) as progress:
        return run_stoppable(work, book, progress, setting.target)
