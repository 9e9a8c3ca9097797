"""End the server whose worker we are."""

import asyncio
import os
import signal

# Long enough for the answer that says why to leave the process.
_GRACE_S = 1.0


def end_server_soon(parent: int) -> None:
    """End this worker and its server, the process *parent*, once the last answer is out.

    coglet does not replace a worker that died: it would stay up, unhealthy, for ever.
    """
    asyncio.get_running_loop().call_later(_GRACE_S, _end, parent)


def _end(parent: int) -> None:
    os.kill(parent, signal.SIGTERM)
    os._exit(1)
