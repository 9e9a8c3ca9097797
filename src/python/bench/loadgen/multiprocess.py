"""Deal one run's load to several worker processes and merge what they bring.  Input and output."""

import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import merged
from bench.loadgen.replay import by_conversation
from bench.loadgen.run_result import LoadResult
from bench.loadgen.session import Endpoint
from bench.loadgen.worker import WorkerJob
from bench.target.arms import Arm
from bench.target.processes import Program, stopped_at_the_end
from bench.workload.schedule import Call, Schedule
from servekit.errors.tree import EngineExited

# The workers have been started by then and have read their jobs.
_LEAD_S = 0.5


def load_with_workers(
    arm: Arm, schedule: Schedule, users: int | None, endpoint: Endpoint, workers: int
) -> LoadResult:
    """Put the load of *schedule* on *arm* from so many processes, as `load_one` does from one.

    Requests are dealt in turn; an open loop keeps the times of the whole.

    Raises:
        EngineExited: a worker failed.
    """
    with tempfile.TemporaryDirectory() as folder, stopped_at_the_end() as programs:
        started = datetime.now(UTC)
        start_s = time.monotonic() + _LEAD_S + 0.5 * workers
        hands = [
            WorkerJob(
                arm=arm,
                schedule=msgspec.structs.replace(schedule, calls=calls),
                length_s=schedule.length_s,
                users=own,
                start_s=start_s,
                endpoint=endpoint,
            )
            for calls, own in zip(
                deal(schedule.calls, workers), deal_users(users, workers), strict=True
            )
        ]
        results = []
        for number, job in enumerate(hands):
            job_file = Path(folder) / f"{number}.job"
            results.append(Path(folder) / f"{number}.result")
            job_file.write_bytes(msgspec.msgpack.encode(job))
            argv = ["bench.loadgen.worker", str(job_file), str(results[-1])]
            programs.append(Program(f"worker {number}", argv, log=job_file.with_suffix(".log")))
        stopped = False
        try:
            for program in programs:
                program.wait()
        except KeyboardInterrupt:
            stopped = True
            for program in programs:
                program.stop(timeout_s=10.0)
        shares = [_share(path) for path in results]
    return together(shares, started, stopped=stopped)


def deal(calls: Sequence[Call], workers: int) -> list[tuple[Call, ...]]:
    """Return each worker's calls: every n-th conversation, so that a burst is shared by all."""
    conversations = by_conversation(calls)
    return [
        tuple(call for turns in conversations[number::workers] for call in turns)
        for number in range(workers)
    ]


def deal_users(users: int | None, workers: int) -> list[int | None]:
    """Return each worker's users; they differ by one at most."""
    if users is None:
        return [None] * workers
    return [users // workers + (number < users % workers) for number in range(workers)]


def together(shares: Sequence[LoadResult], started: datetime, *, stopped: bool) -> LoadResult:
    """Return the results of all workers as one."""
    burdens = [share.burden for share in shares]
    return LoadResult(
        records=merged(share.records for share in shares),
        burden=ClientLoad(
            wall_s=max(b.wall_s for b in burdens),
            cpu_s=sum(b.cpu_s for b in burdens),
            cores=len(burdens),
            lag_p50_ms=max(b.lag_p50_ms or 0.0 for b in burdens),
            lag_p99_ms=max(b.lag_p99_ms or 0.0 for b in burdens),
            machine_load=max((b.machine_load for b in burdens if b.machine_load), default=None),
        ),
        started=started,
        partial=stopped or any(share.partial for share in shares),
    )


def _share(path: Path) -> LoadResult:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=LoadResult)
    except (OSError, msgspec.DecodeError) as error:
        raise EngineExited(
            f"a worker process exited without a result: {error}; try --workers 1"
        ) from error
