"""One of several processes that send the load of one run.  Input and output.

`python -m bench.loadgen.worker JOB RESULT` reads its job from a file, keeps to the clock that all
processes of a machine share, and writes its records, which merge without loss.  SIGTERM ends it
with what it has.
"""

import sys
from pathlib import Path

import msgspec

from bench.loadgen.progress import NoProgress
from bench.loadgen.run_result import LoadResult
from bench.loadgen.session import (
    Endpoint,
    SessionInputs,
    book_for,
    keep_busy,
    replay_once,
    run_stoppable,
)
from bench.target.arms import Arm
from bench.workload.schedule import Part, Schedule
from servekit.cli.logs import announce


class WorkerJob(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's share of a run.

    Attributes:
        users: of the closed loop; None for an open loop.
        start_s: the run's zero, on the machine's monotonic clock.
    """

    arm: Arm
    schedule: Schedule
    length_s: float
    users: int | None
    start_s: float
    endpoint: Endpoint


def work(job: WorkerJob) -> LoadResult:
    """Do *job* and return what it measured."""
    # The part that a whole schedule is, as where one process sends it.
    part = Part(1, 0.0, job.length_s, job.schedule.calls)

    async def run(given: SessionInputs) -> LoadResult:
        if job.users is None:
            return await replay_once(job.arm, part, given, start_s=job.start_s)
        await given.clock.sleep(job.start_s - given.clock.now())
        return await keep_busy(job.arm, job.schedule.calls, job.users, given, start_s=job.start_s)

    return run_stoppable(run, book_for(job.schedule, job.endpoint), NoProgress(), job.endpoint)


def main() -> None:
    job_file, result_file = (Path(name) for name in sys.argv[1:3])
    job = msgspec.msgpack.decode(job_file.read_bytes(), type=WorkerJob)
    announce("ready")
    result_file.write_bytes(msgspec.msgpack.encode(work(job)))


if __name__ == "__main__":
    main()
