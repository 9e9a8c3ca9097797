"""A server, its worker and an engine: if one is killed, none is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from servekit.launch.keeper import descendants, read_stat
from tests.support.waiting import until

# A server that starts a worker, which starts an engine in a session of its own and a guardian.
WORKER = """
import os, subprocess, sys, time
from cog_predictor.engine.guardian import start_guardian
engine = subprocess.Popen(["sleep", "60"], start_new_session=True)
start_guardian(os.getppid())
print(os.getpid(), engine.pid, flush=True)
time.sleep(60)
"""
SERVER = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {WORKER!r}])
time.sleep(60)
"""


@pytest.fixture(name="family")
def _family() -> Iterator[tuple[int, int, int]]:
    """The processes of server, worker and engine."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    server = subprocess.Popen(  # noqa: S603
        (sys.executable, "-c", SERVER), stdout=subprocess.PIPE, env=environ, text=True
    )
    with server:
        assert server.stdout is not None
        worker, engine = map(int, server.stdout.readline().split())
        yield server.pid, worker, engine
        for pid in (server.pid, *descendants(server.pid), worker, engine):
            if _lives(pid):
                os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat[0] != "Z"


@pytest.mark.parametrize("killed", [0, 1])
async def test_none_is_left(family: tuple[int, int, int], killed: int) -> None:
    """Whether the server was killed or its worker; the engine had left their group."""
    time.sleep(2.5)  # noqa: ASYNC251  # the guardian looks for the engine every two seconds
    os.kill(family[killed], signal.SIGKILL)

    await until(lambda: not any(map(_lives, family)), timeout_s=20.0)
