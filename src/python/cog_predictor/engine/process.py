"""End the server whose worker we are, and end this worker without waiting."""

import asyncio
import atexit
import multiprocessing
import os
import signal
import sys

# Long enough for the answer that says why to leave the process.
_GRACE_S = 1.0


def end_server_soon(parent: int) -> None:
    """End this worker and its server, the process *parent*, once the last answer is out.

    coglet does not replace a worker that died: it would stay up, unhealthy, for ever.
    """
    asyncio.get_running_loop().call_later(_GRACE_S, _end, parent)


def end_at_once_at_exit() -> None:
    """From now on, this process ends its engine by a kill when it is over itself.

    Whoever stops the server has waited for the predictions.  What is left would be vLLM's own
    farewell, which takes seconds (7.5 s on two cores) of the ten that Docker gives, and saves
    nothing.  To be called when the engine runs: what was registered last is done first.
    """
    atexit.register(_end_at_once)


def _end_at_once() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end(parent: int) -> None:
    os.kill(parent, signal.SIGTERM)
    os._exit(1)
