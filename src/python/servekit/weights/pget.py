"""Download with pget, Replicate's parallel downloader, where it is installed."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from servekit.errors.tree import WeightsUnreachable
from servekit.secrets.urls import public_url
from servekit.weights.arrivals import Arrivals

# What pget is given to end by itself once it was asked to.
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class PgetDownload:
    """Runs *program*, the path of pget 0.8 or newer.

    It downloads only: `pget -x` would unpack whatever an archive holds, wherever it points.
    """

    program: str

    async def __call__(self, url: str, target: Path, arrivals: Arrivals | None = None) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            self.program, "--force", url, str(target), stdin=asyncio.subprocess.DEVNULL
        )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        if status != 0:
            raise WeightsUnreachable(
                f"pget ended with {status} while it fetched {public_url(url)}; its messages say why"
            )
        if arrivals is not None:
            arrivals.finish(await asyncio.to_thread(lambda: target.stat().st_size))


async def _stop(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
