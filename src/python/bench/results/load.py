"""Results of earlier runs, read back.  Input and output."""

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import read_records
from bench.loadgen.run_result import RunResult
from bench.loadgen.server_metrics import ServerSnapshot
from bench.workload.schedule import PartLayout, read_schedule
from servekit.errors.tree import SettingInvalid, WorkloadInvalid


class _Manifest(msgspec.Struct, frozen=True):
    started: datetime
    partial: bool
    burden: ClientLoad
    shape: PartLayout | None = None


def load_saved(folder: Path) -> RunResult:
    """Return the run in *folder*, which has one arm.

    Raises:
        SettingInvalid: it is not a directory of a run, or a file of it cannot be read.
    """
    try:
        records = read_records((folder / "records.msgpack").read_bytes(), str(folder))
        schedule = read_schedule((folder / "schedule.jsonl").read_bytes(), str(folder))
        snapshots = _snapshots(folder / "snapshots.jsonl")
        text = (folder / "manifest.json").read_bytes()
        about = msgspec.json.decode(text, type=_Manifest)
        manifest = msgspec.json.decode(text, type=dict[str, Any])
    except (OSError, WorkloadInvalid, msgspec.DecodeError) as error:
        raise SettingInvalid(f"{folder} is not a saved run: {error}") from error
    return RunResult(
        arms=(records[0].arm if records else folder.resolve().parent.name,),
        records=records,
        schedule=schedule,
        layout=about.shape,
        burden=about.burden,
        started=about.started,
        partial=about.partial,
        snapshots=snapshots,
        manifest=manifest,
        folder=folder,
    )


def _snapshots(path: Path) -> list[ServerSnapshot]:
    """Runs of older versions have none."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=ServerSnapshot) for line in lines]


def layout_of(saved: RunResult) -> PartLayout:
    """Return the parts in which *saved* was measured.

    Raises:
        SettingInvalid: it has none.
    """
    if saved.layout is None:
        raise SettingInvalid(
            f"{saved.folder} is a closed-loop run, which has no schedule to replay; use a run "
            "with --rate, or an arm of a comparison"
        )
    return saved.layout


def together(baseline: RunResult, candidate: RunResult, names: tuple[str, str]) -> RunResult:
    """Return two runs of one arm as one run, with the arms called *names*.

    Raises:
        SettingInvalid: they did not replay the same schedule in the same parts.
    """
    if baseline.schedule.digest != candidate.schedule.digest or baseline.layout != candidate.layout:
        raise SettingInvalid(
            f"{baseline.folder} and {candidate.folder} replayed different schedules; run both with "
            "the same --workload, --seed, --rate and --parts, or with --workload schedule.jsonl"
        )
    both = list(zip(names, (baseline, candidate), strict=True))
    return RunResult(
        arms=names,
        records=[
            msgspec.structs.replace(record, arm=name)
            for name, one in both
            for record in one.records
        ],
        # What made one client slow makes the comparison doubtful.
        burden=max((one.burden for _, one in both), key=lambda b: (b.cpu_share, b.lag_p99_ms or 0)),
        started=candidate.started,
        partial=baseline.partial or candidate.partial,
        snapshots=[
            msgspec.structs.replace(snapshot, arm=name)
            for name, one in both
            for snapshot in one.snapshots
            # A comparison keeps the snapshots of both arms with each.
            if snapshot.arm == one.arms[0]
        ],
        schedule=candidate.schedule,
        layout=layout_of(candidate),
        manifest=candidate.manifest,
        interleaved=baseline.started == candidate.started,
    )
