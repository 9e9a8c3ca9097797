"""The directory of a run: what is written to it, and reports rebuilt from it.  Input and output."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from os.path import relpath
from pathlib import Path
from typing import TypeAlias

import msgspec

from bench.loadgen.record import Record
from bench.loadgen.run_result import RunResult
from bench.report.comparison_page import comparison_report
from bench.report.grid_page import grid_report
from bench.report.png import draw
from bench.report.run_page import run_report
from bench.report.sections import RenderedReport
from bench.results.comparison_json import comparison_json, export_files, grid_json, raw_files
from bench.results.context import RunContext
from bench.results.files import make_folder, new_run_folder, write_files
from bench.results.load import load_saved, together
from bench.results.parquet import records_parquet
from bench.stats.factorial import GridRun
from bench.stats.verdict import ComparedRun, conclude, conclude_apart
from servekit.errors.tree import SettingInvalid

Files: TypeAlias = Mapping[str, bytes | str]


class _Arms(msgspec.Struct, frozen=True):
    """The arms in comparison.json, and the directories of their runs as seen from its own; older
    versions had one run of each."""

    baseline: str
    candidate: str
    folders: tuple[list[str] | str, list[str] | str]
    min_effect: float = 0.0


def run_folder(output_dir: Path, env: str) -> Path:
    """Make and return the directory of a run of *env* that starts now."""
    return new_run_folder(output_dir, slug(env), datetime.now())  # noqa: DTZ005


def slug(name: str) -> str:
    """Return *name* as the name of a directory."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def keep_run(run: RunResult, folder: Path, context: RunContext) -> None:
    """Write a run of one arm to *folder*, what cannot be made again first."""
    if context.options.get("env"):
        link_as_genai_perf(folder)
    write_files(folder, raw_files(run))
    write_files(folder, {**export_files(run), **_parquet(run.records, context)})
    _keep_report(run_report(run, context.goal), {folder: {}}, context)


def link_as_genai_perf(folder: Path) -> None:
    """Let *folder* also be found as genai_perf_TIME, as the original scripts called it."""
    link = folder.parent / f"genai_perf_{folder.name}"
    # A file system without links has the folder under its own name.
    with suppress(OSError):
        link.symlink_to(folder.name, target_is_directory=True)


def keep_comparison(compared: ComparedRun, folder: Path, context: RunContext) -> None:
    """Write the candidate's run and the comparison to *folder*, the baseline's run beside it."""
    run = compared.run
    other = context.output_dir / slug(run.arms[0]) / folder.name
    make_folder(other)
    arms = [(run.only(arm), place) for arm, place in zip(run.arms, (other, folder), strict=True)]
    for one, place in arms:
        write_files(place, raw_files(one))
    for one, place in arms:
        write_files(place, {**export_files(one), **_parquet(one.records, context)})
    keep_verdict(compared, (other, folder), ([other], [folder]), context)


def keep_verdict(
    compared: ComparedRun,
    folders: Sequence[Path],
    arms: Sequence[Sequence[Path]],
    context: RunContext,
) -> str:
    """Write the comparison to each of *folders*; *arms* are those of each arm's runs.  Return its
    summary in Markdown."""
    report = comparison_report(compared)
    said = {folder: _verdict_files(compared, report, arms, folder) for folder in folders}
    return _keep_report(report, said, context)


def _verdict_files(
    compared: ComparedRun,
    report: RenderedReport,
    arms: Sequence[Sequence[Path]],
    folder: Path,
) -> Files:
    where = [[relpath(run, folder) for run in runs] for runs in arms]
    return {"comparison.json": comparison_json(compared, where), "comparison.md": report.markdown}


def keep_grid(grid: GridRun, folder: Path, context: RunContext) -> None:
    """Write a 2x2 design to *folder*."""
    report = grid_report(grid)
    write_files(folder, raw_files(grid.run))
    write_files(folder, {**export_files(grid.run), **_parquet(grid.run.records, context)})
    said: Files = {"grid.md": report.markdown, "grid.json": grid_json(grid)}
    _keep_report(report, {folder: said}, context)


def report_again(folder: Path, context: RunContext) -> str:
    """Rebuild the report of the run or comparison in *folder*; return its summary in Markdown.

    Raises:
        SettingInvalid: there is none.
    """
    if not (folder / "comparison.json").exists():
        run = load_saved(folder)
        write_files(folder, _parquet(run.records, context))
        return _keep_report(run_report(run, context.goal), {folder: {}}, context)
    try:
        known = msgspec.json.decode((folder / "comparison.json").read_bytes(), type=_Arms)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingInvalid(f"{folder} is not a saved comparison: {error}") from error
    named = [[one] if isinstance(one, str) else one for one in known.folders]
    arms = [[folder / name for name in names] for names in named]
    runs = [[load_saved(place) for place in places] for places in arms]
    for run, place in zip(chain(*runs), chain(*arms), strict=True):
        write_files(place, _parquet(run.records, context))
    both = together(runs[0], runs[1], (known.baseline, known.candidate))
    given = msgspec.structs.replace(context, min_effect=known.min_effect)
    return keep_verdict(conclude_saved(runs[0], runs[1], both, given), [folder], arms, given)


def conclude_saved(
    baseline: Sequence[RunResult],
    candidate: Sequence[RunResult],
    both: RunResult,
    context: RunContext,
) -> ComparedRun:
    """Return how arms differ that were saved, *both* being all of them as one run."""
    if both.interleaved:
        return conclude(both, context.goal, min_effect=context.min_effect)
    return conclude_apart(baseline, candidate, both, context.goal, min_effect=context.min_effect)


def _keep_report(report: RenderedReport, said: Mapping[Path, Files], context: RunContext) -> str:
    """Write the report to each folder of *said*, beside the files named there; then its pictures,
    for which a browser may be missing.  Return the summary in Markdown."""
    for folder, files in said.items():
        write_files(folder, {**files, "report.html": report.html})
    if context.browser:
        for plot, picture in draw(report.plots, report.legend, context.browser):
            for folder in said:
                write_files(folder, {f"{plot.name}.png": picture})
    return report.markdown


def _parquet(records: Sequence[Record], context: RunContext) -> Files:
    return {"records.parquet": records_parquet(records)} if context.parquet else {}
