"""What a run leaves behind, and the reports that are made of it again.  Input and output."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.loadgen.record import Record
from bench.loadgen.session import LoadResult
from bench.report.charts import Plot, PlotLine
from bench.report.comparison_page import Evidence, key_plots, report_html
from bench.report.grid_page import GridEvidence, grid_html, grid_plots
from bench.report.png import draw
from bench.report.run_page import RunEvidence, run_html, run_plots
from bench.report.sections import legend
from bench.report.tables import run_markdown, summary_markdown
from bench.results.comparison_json import Files, comparison_json, pretty, raw_files, run_files
from bench.results.context import Setting
from bench.results.files import make_folder, new_run_folder, write_file, write_files
from bench.results.load import Saved, load_saved, together
from bench.results.manifest import manifest
from bench.results.parquet import records_parquet
from bench.stats.factorial import CELLS
from bench.stats.validity import judge
from bench.stats.verdict import Judged, conclude
from bench.workload.schedule import PartLayout, Schedule
from servekit.errors.tree import SettingInvalid


class _Named(msgspec.Struct, frozen=True):
    """What comparison.json says of where its arms are, from its own folder."""

    baseline: str
    candidate: str
    folders: tuple[str, str]


def run_folder(output_dir: Path, env: str) -> Path:
    """Make and return the folder of a run of *env* that starts now."""
    return new_run_folder(output_dir, slug(env), datetime.now())  # noqa: DTZ005


def slug(name: str) -> str:
    """Return *name* as a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def about(
    schedule: Schedule, shape: PartLayout | None, measured: LoadResult, setting: Setting
) -> dict[str, Any]:
    """Return the manifest of a run."""
    return {
        **manifest(schedule, setting.options),
        "shape": shape,
        "started": measured.started,
        "partial": measured.partial,
        "burden": measured.burden,
        "engines": setting.proven,
    }


def keep_run(
    name: str,
    records: Sequence[Record],
    measured: LoadResult,
    schedule: Schedule,
    said: dict[str, Any],
    folder: Path,
    setting: Setting,
) -> None:
    """Keep one arm's run in *folder*, what cannot be made again first."""
    write_files(folder, raw_files(records, schedule, measured.snapshots, said))
    write_files(folder, run_files(records, measured, said))
    evidence = RunEvidence(
        name=name,
        validity=judge(records, measured.burden),
        records=records,
        partial=measured.partial,
        manifest=said,
        snapshots=measured.snapshots,
        goal=setting.goal,
    )
    write_file(folder / "report.html", run_html(evidence))
    _keep_parquet(records, folder, setting)
    _keep_pictures(run_plots(evidence), [evidence.line], [folder], setting)


def keep_comparison(judged: Judged, setting: Setting, said: dict[str, Any], folder: Path) -> None:
    """Keep the candidate's run and the comparison in *folder*, the baseline's beside it."""
    found, measured = judged.comparison, judged.measured
    other = setting.output_dir / slug(found.baseline) / folder.name
    make_folder(other)
    places = {found.baseline: other, found.candidate: folder}
    for arm, place in places.items():
        raw = raw_files(measured.of(arm), judged.schedule, measured.snapshots, said)
        write_files(place, raw)
    for arm, place in places.items():
        write_files(place, run_files(measured.of(arm), measured, said))
        _keep_parquet(measured.of(arm), place, setting)
    keep_verdict(judged, said, (other, folder), (other, folder), setting)


def keep_verdict(
    judged: Judged,
    said: dict[str, Any],
    folders: Sequence[Path],
    arms: tuple[Path, Path],
    setting: Setting,
) -> None:
    """Keep in each of *folders* how the arms differ, whose own folders are *arms*, and the
    plots."""
    evidence = _evidence(judged, said)
    for folder in folders:
        where = [os.path.relpath(arm, folder) for arm in arms]
        write_files(folder, _verdict_files(evidence, where))
    _keep_pictures(key_plots(evidence), evidence.lines, folders, setting)


def keep_grid(
    evidence: GridEvidence, summary: str, schedule: Schedule, folder: Path, setting: Setting
) -> None:
    """Keep a 2x2 in *folder*; *summary* is its table in Markdown."""
    measured, said = evidence.measured, dict(evidence.manifest)
    write_files(folder, raw_files(measured.records, schedule, measured.snapshots, said))
    shown = {
        "cells": dict(zip(CELLS, evidence.arms, strict=True)),
        "effects": evidence.effects,
        "validity": evidence.validity,
        "manifest": said,
    }
    write_files(folder, {"grid.md": summary, "grid.json": pretty(shown)})
    write_files(folder, run_files(measured.records, measured, said))
    write_file(folder / "report.html", grid_html(evidence))
    _keep_parquet(measured.records, folder, setting)
    _keep_pictures(grid_plots(evidence), evidence.lines, [folder], setting)


def _keep_pictures(
    plots: Sequence[Plot], lines: Sequence[PlotLine], folders: Sequence[Path], setting: Setting
) -> None:
    if setting.browser:
        for plot, picture in draw(plots, legend(lines), setting.browser):
            for folder in folders:
                write_file(folder / f"{plot.name}.png", picture)


def _keep_parquet(records: Sequence[Record], folder: Path, setting: Setting) -> None:
    if setting.parquet:
        write_file(folder / "records.parquet", records_parquet(records))


def _evidence(judged: Judged, said: dict[str, Any]) -> Evidence:
    found, measured = judged.comparison, judged.measured
    return Evidence(
        comparison=found,
        validity=judged.validity,
        baseline=measured.of(found.baseline),
        candidate=measured.of(found.candidate),
        parts=judged.parts,
        goal=judged.goal,
        partial=measured.partial,
        manifest=said,
        snapshots=measured.snapshots,
        apart=judged.apart,
    )


def _verdict_files(evidence: Evidence, folders: Sequence[str]) -> Files:
    found, validity, partial = evidence.comparison, evidence.validity, evidence.partial
    return {
        "comparison.json": comparison_json(
            found,
            validity,
            partial=partial,
            apart=evidence.apart,
            folders=folders,
            manifest=evidence.manifest,
        ),
        "comparison.md": summary_markdown(found, validity, partial=partial),
        "report.html": report_html(evidence),
    }


def report_again(folder: Path, setting: Setting) -> str:
    """Make the report of what is kept in *folder* anew; return its summary in Markdown.

    Raises:
        SettingInvalid: nothing of ours is kept there.
    """
    if not (folder / "comparison.json").exists():
        return _run_again(folder, setting)
    try:
        about_arms = msgspec.json.decode((folder / "comparison.json").read_bytes(), type=_Named)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingInvalid(f"{folder} is not a saved comparison: {error}") from error
    arms = folder / about_arms.folders[0], folder / about_arms.folders[1]
    judged = judge_saved(
        load_saved(arms[0]),
        load_saved(arms[1]),
        (about_arms.baseline, about_arms.candidate),
        setting,
    )
    keep_verdict(judged, _manifest_in(arms[1]), [folder], arms, setting)
    _parquet_again(arms, setting)
    return summary_markdown(judged.comparison, judged.validity, partial=judged.measured.partial)


def judge_saved(
    baseline: Saved, candidate: Saved, names: tuple[str, str], setting: Setting
) -> Judged:
    """Return what two saved arms say, under *names*."""
    measured = together(baseline, candidate, names)
    shape = candidate.shape or PartLayout()
    return conclude(
        names,
        measured,
        shape.split(candidate.schedule)[1:],
        candidate.schedule,
        setting.goal,
        apart=baseline.started != candidate.started,
    )


def _run_again(folder: Path, setting: Setting) -> str:
    saved = load_saved(folder)
    evidence = RunEvidence(
        name=saved.name,
        validity=judge(saved.records, saved.burden),
        records=saved.records,
        partial=saved.partial,
        manifest=_manifest_in(folder),
        snapshots=saved.snapshots,
        goal=setting.goal,
    )
    write_file(folder / "report.html", run_html(evidence))
    _keep_parquet(saved.records, folder, setting)
    _keep_pictures(run_plots(evidence), [evidence.line], [folder], setting)
    return run_markdown(saved.name, saved.records, evidence.validity, evidence.rates)


def _parquet_again(folders: Sequence[Path], setting: Setting) -> None:
    for folder in folders:
        _keep_parquet(load_saved(folder).records, folder, setting)


def _manifest_in(folder: Path) -> dict[str, Any]:
    return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=dict[str, Any])
