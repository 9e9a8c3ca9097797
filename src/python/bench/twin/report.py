"""What a simulation leaves behind: the files of a real run.  Output only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.loadgen.session import LoadResult
from bench.results.context import Setting
from bench.results.files import make_folder
from bench.results.store import about, keep_run, keep_verdict, slug
from bench.stats.comparison import ComparedMetric, Comparison, compare
from bench.stats.validity import judge
from bench.stats.verdict import Judged
from bench.stats.windowed_metrics import WINDOW_S, windows_of
from bench.workload.schedule import Part, Schedule

# A trace of an hour is resampled in windows of two minutes, not in 1,200 of three seconds.
MOST_WINDOWS = 30

# The client of a simulation takes no time.
NO_BURDEN = ClientLoad(wall_s=1.0, cpu_s=0.0, cores=1, lag_p50_ms=0.0, lag_p99_ms=0.0)


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """One policy's run, and where its files are."""

    policy: str
    records: list[Record]
    folder: Path


@dataclass(frozen=True, slots=True)
class SimulationStore:
    """Keeps what one simulation brings, every policy in a folder of its own."""

    folder: Path
    started: datetime
    schedule: Schedule
    setting: Setting
    simulated: dict[str, Any]

    def keep(self, policy: str, records: list[Record]) -> SimulatedRun:
        """Keep one policy's run."""
        run = SimulatedRun(policy, records, self.folder / slug(policy))
        measured = _measured(records, self)
        make_folder(run.folder)
        said = self._about(measured)
        keep_run(policy, records, measured, self.schedule, said, run.folder, self.setting)
        return run

    def compare(self, baseline: SimulatedRun, candidate: SimulatedRun) -> Comparison:
        """Keep, in the candidate's folder, how it differs from the baseline, and return it."""
        whole = Part(0, 0.0, self.schedule.length_s, self.schedule.calls)
        window_s = max(WINDOW_S, whole.length_s / MOST_WINDOWS)
        found = compare(
            baseline.records,
            candidate.records,
            windows_of((whole,), window_s),
            goal=self.setting.goal,
            seed=self.schedule.seed,
            names=(baseline.policy, candidate.policy),
        )
        measured = _measured([*baseline.records, *candidate.records], self)
        judged = Judged(
            comparison=found,
            validity=judge(measured.records, measured.burden),
            measured=measured,
            parts=(whole,),
            schedule=self.schedule,
            goal=self.setting.goal,
        )
        arms = baseline.folder, candidate.folder
        keep_verdict(judged, self._about(measured), [candidate.folder], arms, self.setting)
        return found

    def _about(self, measured: LoadResult) -> dict[str, Any]:
        return {**about(self.schedule, None, measured, self.setting), "simulated": self.simulated}


def _measured(records: list[Record], keeper: SimulationStore) -> LoadResult:
    return LoadResult(
        records=records,
        burden=NO_BURDEN,
        started=keeper.started,
        partial=False,
    )


def changes(found: Comparison, keys: Sequence[str]) -> list[str]:
    """Return the change of each metric in *keys* with its interval, for people."""
    return [_change(found.row(key)) for key in keys]


def _change(row: ComparedMetric) -> str:
    if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
        return "-"
    colour = {"better": "green", "worse": "red"}.get(row.verdict, "default")
    low, high = row.ratio_low - 1.0, row.ratio_high - 1.0
    return f"[{colour}]{row.ratio - 1.0:+.1%}[/{colour}] ({low:+.1%} to {high:+.1%})"
