"""How the worker ends."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.support.waiting import until

# What vLLM leaves to the end: a handler that takes its time, and a child that is waited for.
STUBBORN = """
import atexit, multiprocessing, signal, sys, time

from cog_predictor.engine.process import end_at_once_at_exit

def engine(ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(300)

if __name__ == "__main__":
    atexit.register(time.sleep, 300)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=engine, args=(ready,))
    child.start()
    ready.wait()
    end_at_once_at_exit()
    print(child.pid)
"""


def alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be noticed as dead does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_a_worker_that_is_over_does_not_wait_for_its_engine() -> None:
    """Neither for what was to be done at its exit nor for a child that will not go."""
    done = subprocess.run(  # noqa: ASYNC221, S603
        [sys.executable, "-c", STUBBORN],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    # A process that was killed takes a moment to be over.
    await until(lambda: not alive(int(done.stdout)))
