"""What one run measured, and on which schedule: the value that results and reports are made of.
Pure."""

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.loadgen.server_metrics import ServerSnapshot
from bench.workload.schedule import Part, PartLayout, Schedule


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a load generator measured.

    Attributes:
        started: time of the run's zero.
        partial: it was stopped before the end of its schedule.
    """

    records: list[Record]
    burden: ClientLoad
    started: datetime
    partial: bool
    snapshots: list[ServerSnapshot] = []

    def of(self, arm: str) -> list[Record]:
        return [record for record in self.records if record.arm == arm]


class RunResult(LoadResult, frozen=True, kw_only=True):
    """What was measured, with everything that it can be judged and repeated by.

    Attributes:
        arms: their names, baseline first.
        layout: the parts that each arm replayed; None for a closed loop, which has none.
        manifest: versions, machine, arguments: the content of manifest.json.
        folder: the directory of a saved run.
        interleaved: the arms took turns in one run; False where two runs were joined.
    """

    arms: tuple[str, ...]
    schedule: Schedule
    layout: PartLayout | None
    manifest: dict[str, Any]
    folder: Path | None = None
    interleaved: bool = True

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that count: those after the warm-up; none for a closed loop."""
        return tuple(self.layout.split(self.schedule)[1:]) if self.layout else ()

    @property
    def finished_parts(self) -> tuple[Part, ...]:
        """The parts that count and that every arm replayed to the end."""
        done = {arm: Counter(one.part for one in self.of(arm)) for arm in self.arms}
        return tuple(
            part
            for part in self.parts
            if all(done[arm][part.number] == len(part.calls) for arm in self.arms)
        )

    def only(self, arm: str) -> "RunResult":
        """The same run with the records of one arm."""
        return msgspec.structs.replace(self, arms=(arm,), records=self.of(arm))
