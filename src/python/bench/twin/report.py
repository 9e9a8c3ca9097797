"""The files of a simulation: those of a real run.  Output only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.loadgen.run_result import LoadResult, RunResult
from bench.results.context import RunContext
from bench.results.files import make_folder
from bench.results.manifest import run_result
from bench.results.store import keep_run, keep_verdict, slug
from bench.stats.comparison import ComparedMetric, Comparison
from bench.stats.verdict import conclude
from bench.stats.windowed_metrics import WINDOW_S, windows_of
from bench.workload.schedule import Part, Schedule

# A trace of an hour is compared in windows of two minutes, not in 1,200 of three seconds.
MAX_WINDOWS = 30

# The client of a simulation takes no time.
NO_BURDEN = ClientLoad(wall_s=1.0, cpu_s=0.0, cores=1, lag_p50_ms=0.0, lag_p99_ms=0.0)


@dataclass(frozen=True, slots=True)
class SimulationStore:
    """Keeps the runs of one simulation, each policy's in its own directory."""

    folder: Path
    started: datetime
    schedule: Schedule
    context: RunContext
    simulated: dict[str, Any]

    def keep(self, policy: str, records: list[Record]) -> RunResult:
        """Keep one policy's run."""
        folder = self.folder / slug(policy)
        make_folder(folder)
        run = self._run([policy], records)
        keep_run(run, folder, self.context)
        return msgspec.structs.replace(run, folder=folder)

    def compare(self, baseline: RunResult, candidate: RunResult) -> Comparison:
        """Keep, in the candidate's directory, how it differs from the baseline; return it."""
        assert baseline.folder is not None
        assert candidate.folder is not None
        both = [*baseline.arms, *candidate.arms]
        all_calls = Part(0, 0.0, self.schedule.length_s, self.schedule.calls)
        compared = conclude(
            self._run(both, [*baseline.records, *candidate.records]),
            self.context.goal,
            parts=(all_calls,),
            # In virtual time no machine drifts: stretches of one replay are as good as turns.
            turns=windows_of((all_calls,), max(WINDOW_S, all_calls.length_s / MAX_WINDOWS)),
        )
        arms = [baseline.folder], [candidate.folder]
        keep_verdict(compared, [candidate.folder], arms, self.context)
        return compared.comparison

    def _run(self, arms: Sequence[str], records: list[Record]) -> RunResult:
        measured = LoadResult(
            records=records, burden=NO_BURDEN, started=self.started, partial=False
        )
        return run_result(
            arms, measured, self.schedule, None, self.context, simulated=self.simulated
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
