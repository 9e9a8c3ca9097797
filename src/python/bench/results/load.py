"""Results of earlier runs, read back.  Input and output."""

from datetime import datetime
from pathlib import Path

import msgspec

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record, read_records
from bench.loadgen.server_metrics import ServerSnapshot
from bench.loadgen.session import LoadResult
from bench.workload.schedule import PartLayout, Schedule, read_schedule
from servekit.errors.tree import SettingInvalid, WorkloadInvalid


class _Manifest(msgspec.Struct, frozen=True):
    started: datetime
    partial: bool
    burden: ClientLoad
    shape: PartLayout | None = None


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of an earlier run."""

    folder: Path
    records: list[Record]
    schedule: Schedule
    shape: PartLayout | None
    burden: ClientLoad
    started: datetime
    partial: bool
    snapshots: list[ServerSnapshot]

    @property
    def name(self) -> str:
        """What the arm was called when it was measured."""
        return self.records[0].arm if self.records else self.folder.resolve().parent.name

    def parts_of_it(self) -> PartLayout:
        """Return the parts that it was measured in.

        Raises:
            SettingInvalid: it has none.
        """
        if self.shape is None:
            raise SettingInvalid(
                f"{self.folder} is a closed-loop run, which has no schedule to replay; use a run "
                "with --rate, or an arm of a comparison"
            )
        return self.shape

    def snapshots_as(self, name: str) -> list[ServerSnapshot]:
        """Return its own snapshots under another name: a comparison keeps those of both arms."""
        own = (one for one in self.snapshots if one.arm == self.name)
        return [msgspec.structs.replace(one, arm=name) for one in own]


def load_saved(folder: Path) -> Saved:
    """Return the run in *folder*.

    Raises:
        SettingInvalid: it is no folder of ours, or a file of it cannot be read.
    """
    try:
        records = read_records((folder / "records.msgpack").read_bytes(), str(folder))
        schedule = read_schedule((folder / "schedule.jsonl").read_bytes(), str(folder))
        snapshots = _snapshots(folder / "snapshots.jsonl")
        about = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, WorkloadInvalid, msgspec.DecodeError) as error:
        raise SettingInvalid(f"{folder} is not a saved run: {error}") from error
    return Saved(
        folder=folder,
        records=records,
        schedule=schedule,
        shape=about.shape,
        burden=about.burden,
        started=about.started,
        partial=about.partial,
        snapshots=snapshots,
    )


def as_saved(folder: Path, measured: LoadResult, schedule: Schedule, shape: PartLayout) -> Saved:
    """Return what was just measured as `load_saved` would."""
    return Saved(
        folder=folder,
        records=measured.records,
        schedule=schedule,
        shape=shape,
        burden=measured.burden,
        started=measured.started,
        partial=measured.partial,
        snapshots=measured.snapshots,
    )


def _snapshots(path: Path) -> list[ServerSnapshot]:
    """A run of one upstream has none."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=ServerSnapshot) for line in lines]


def together(baseline: Saved, candidate: Saved, names: tuple[str, str]) -> LoadResult:
    """Return two saved arms as if one run had made them.

    Raises:
        SettingInvalid: they were not asked the same, part by part.
    """
    if baseline.schedule.digest != candidate.schedule.digest or baseline.shape != candidate.shape:
        raise SettingInvalid(
            f"{baseline.folder} and {candidate.folder} replayed different schedules; run both with "
            "the same --workload, --seed, --rate and --parts, or with --workload schedule.jsonl"
        )
    candidate.parts_of_it()
    records = [
        msgspec.structs.replace(record, arm=name)
        for name, saved in zip(names, (baseline, candidate), strict=True)
        for record in saved.records
    ]
    heavier = max(
        (baseline.burden, candidate.burden), key=lambda b: (b.cpu_share, b.lag_p99_ms or 0)
    )
    return LoadResult(
        records=records,
        burden=heavier,
        started=candidate.started,
        partial=baseline.partial or candidate.partial,
        snapshots=[*baseline.snapshots_as(names[0]), *candidate.snapshots_as(names[1])],
    )
