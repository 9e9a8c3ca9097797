"""Results of earlier runs, read back.  Input and output."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record, read_records
from bench.loadgen.run_result import RunResult
from bench.loadgen.server_metrics import ServerSnapshot
from bench.workload.schedule import Part, PartLayout, read_schedule
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


def together(
    baseline: Sequence[RunResult], candidate: Sequence[RunResult], names: tuple[str, str]
) -> RunResult:
    """Return runs of one arm each as one run of two, with the arms called *names*.

    Raises:
        SettingInvalid: they did not replay the same schedule in the same parts.
    """
    called = [names[0]] * len(baseline) + [names[1]] * len(candidate)
    both = joined([*baseline, *candidate], called)
    return msgspec.structs.replace(both, interleaved=took_turns(baseline, candidate))


def took_turns(baseline: Sequence[RunResult], candidate: Sequence[RunResult]) -> bool:
    """Whether these are the two arms of one comparison, or one run against itself."""
    return len(baseline) == len(candidate) == 1 and baseline[0].started == candidate[0].started


def joined(runs: Sequence[RunResult], names: Sequence[str]) -> RunResult:
    """Return *runs* of one arm each as one run; *names* says for each what its arm is called.

    Raises:
        SettingInvalid: they did not replay the same schedule in the same parts.
    """
    first, last = runs[0], runs[-1]
    for other in runs[1:]:
        if first.schedule.digest != other.schedule.digest or _parts(first) != _parts(other):
            raise SettingInvalid(
                f"{first.folder} and {other.folder} replayed different schedules; run both with "
                "the same --workload, --seed, --rate and --parts, or with --workload schedule.jsonl"
            )
    named = list(zip(names, runs, strict=True))
    return RunResult(
        arms=tuple(dict.fromkeys(names)),
        records=[
            msgspec.structs.replace(record, arm=name)
            for name, one in named
            for record in one.records
        ],
        # What made one client slow makes the comparison doubtful.
        burden=max((one.burden for one in runs), key=lambda b: (b.cpu_share, b.lag_p99_ms or 0)),
        started=last.started,
        partial=any(one.partial for one in runs),
        snapshots=[
            msgspec.structs.replace(snapshot, arm=name)
            for name, one in named
            for snapshot in one.snapshots
            # A comparison keeps the snapshots of both arms with each.
            if snapshot.arm == one.arms[0]
        ],
        schedule=last.schedule,
        layout=layout_of(last),
        manifest=last.manifest,
        interleaved=len({one.started for one in runs}) == 1,
    )


def _parts(run: RunResult) -> tuple[float, ...] | None:
    """What of the schedule counts: the warm-up, and how long each part lasts after it."""
    return (run.layout.warmup_s, *run.layout.lengths_s) if run.layout else None


# The parts of a second start are numbered from here on; nobody measures so many in one.
_PARTS_OF_A_START = 1_000


def pooled(starts: Sequence[RunResult]) -> tuple[RunResult, list[list[Part]]]:
    """Return *starts*, each with the same arms, as one run, and the parts of each of them."""
    parts: list[list[Part]] = []
    records: list[Record] = []
    for number, one in enumerate(starts):
        shift = number * _PARTS_OF_A_START
        parts.append(
            [msgspec.structs.replace(part, number=part.number + shift) for part in one.parts]
        )
        records += [msgspec.structs.replace(r, part=r.part + shift) for r in one.records]
    first = starts[0]
    run = msgspec.structs.replace(
        first,
        records=records,
        partial=any(one.partial for one in starts),
        burden=max((one.burden for one in starts), key=lambda b: (b.cpu_share, b.lag_p99_ms or 0)),
        interleaved=all(one.interleaved for one in starts),
    )
    return run, parts
