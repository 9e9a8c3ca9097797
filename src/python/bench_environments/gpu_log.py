"""What the GPUs of a machine do over time.  Runs nvidia-smi."""

import asyncio
import shlex
from pathlib import Path

from servekit.timing.clock import Clock

GPU_LOG_COMMAND = (
    "nvidia-smi --query-gpu=index,memory.used,memory.total,utilization.gpu,power.draw,clocks.sm "
    "--format=csv,noheader,nounits"
)
HEAD = "at_s,gpu,used_mib,total_mib,busy_percent,power_w,clock_mhz\n"
_EVERY_S = 1.0


async def read_gpus(command: str) -> list[list[str]]:
    """Return a row of words for each GPU; none where there is no nvidia-smi."""
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return []
    out, _ = await process.communicate()
    rows = [[word.strip() for word in line.split(",")] for line in out.decode().splitlines()]
    return [row for row in rows if len(row) >= 3 and row[0].isdigit() and row[1].isdigit()]


async def log_gpus(command: str, file: Path, clock: Clock, start_s: float) -> None:
    """Append a line for each GPU every second, until cancelled."""
    with file.open("a", encoding="utf-8") as lines:
        if lines.tell() == 0:
            lines.write(HEAD)
        while True:
            at_s = clock.now() - start_s
            for row in await read_gpus(command):
                lines.write(f"{at_s:.2f},{','.join(row)}\n")
            lines.flush()
            await clock.sleep(_EVERY_S)
