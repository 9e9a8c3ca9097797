"""End what is left of a Cog server when a part of it was killed.  Runs processes.

    python -m cog_predictor.engine.guardian SERVER WORKER

coglet does not replace a worker that died, and goes on answering 200 for predictions that failed;
and a server that is killed leaves its worker's engine behind.  This is a process of its own, since
no other one sees both deaths: if the worker ends, the server is asked to end; if the server ends,
the worker is killed; and with either of them every process of the engine.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

from servekit.launch.keeper import descendants

# Processes of the engine are looked for so often: a core lives for hours.
LOOK_S = 2.0

# What the server is given to fail its predictions and to end.
GRACE_S = 3.0


def start_guardian(server: int) -> None:
    """Watch over the server, the process *server*, and us, its worker."""
    command = (sys.executable, "-m", __name__, str(server), str(os.getpid()))
    # No more than it needs: what runs beside an engine holds no token.
    environ = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # A group of its own: what is sent to the server's group must not end it first.
    subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603


def guard(server: int, worker: int) -> None:
    """Return once both are gone, and the engine with them."""
    try:
        watched = {os.pidfd_open(pid): pid for pid in (server, worker)}
    except ProcessLookupError:
        watched = {}
    engine: set[int] = set()
    poller = select.poll()
    for descriptor in watched:
        poller.register(descriptor, select.POLLIN)
    while watched and not poller.poll(LOOK_S * 1000):
        engine = set(descendants(worker)) - {os.getpid()}
    _send(signal.SIGTERM, [server])
    _send(signal.SIGKILL, [worker, *engine])
    end_s = time.monotonic() + GRACE_S
    while time.monotonic() < end_s and _is_alive(server):
        time.sleep(0.05)
    _send(signal.SIGKILL, [server])


def _send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    guard(int(sys.argv[1]), int(sys.argv[2]))
