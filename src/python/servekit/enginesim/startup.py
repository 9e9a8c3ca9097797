"""How long an engine takes to start, stage by stage, and to sleep and wake.  Pure.

Asleep at level 0 an engine only schedules nothing; at level 1 its weights lie in the host's memory
and its KV cache is gone, at level 2 both are gone.  Requests that it holds are aborted
(vllm/v1/engine/core.py, `sleep` with its default mode).

Measured with vLLM 0.26.0 and an 8B model on one H200 (tests/golden/h200_vllm_0.26.0,
coldstart_phases.json and sleep.json); each start was run once, repeats differed by about 2 s.
"""

from dataclasses import dataclass
from typing import Literal

from servekit.errors.tree import SettingInvalid

Start = Literal["empty", "cold", "warm", "plan", "eager", "no-compile"]

STAGES = (
    "api import",
    "model inspection",
    "core start and import",
    "device",
    "weights",
    "compile",
    "profile and KV cache",
    "graph capture",
    "kernel warm-up",
    "api",
)

# Seconds of each of STAGES.  empty: every cache is empty.  cold: only the compile cache is.
# warm: as a second start.  plan: with VLLM_ENABLE_STARTUP_PLAN.  eager: --enforce-eager with empty
# caches.  no-compile: -O0, warm.
_SECONDS: dict[str, tuple[float, ...]] = {
    "empty": (12.7, 12.0, 11.0, 1.8, 1.0, 14.0, 1.9, 3.7, 10.3, 1.5),
    "cold": (14.4, 0.0, 12.6, 1.8, 1.0, 14.2, 2.0, 3.9, 10.3, 1.6),
    "warm": (13.4, 0.0, 12.0, 1.7, 0.9, 3.1, 0.9, 3.2, 0.5, 1.4),
    "plan": (12.0, 0.0, 11.4, 1.6, 0.9, 2.6, 0.6, 2.9, 0.4, 1.2),
    "eager": (16.2, 14.3, 12.9, 2.0, 1.0, 0.0, 3.1, 0.0, 10.5, 1.6),
    "no-compile": (12.5, 0.0, 11.6, 1.7, 0.8, 0.0, 1.5, 0.0, 0.3, 1.3),
}

# Bytes per second that 16 GB of real weights took from disk (8.0 s), and the seconds that dummy
# weights take in any case.
_DISK_BYTES_PER_S = 16.06e9 / (8.0 - 0.9)

# Seconds to fall asleep (but for the first time at level 1: 6.8) and to wake up again.
SLEEP_S = {0: 0.0, 1: 0.35, 2: 0.07}
WAKE_S = {0: 0.0, 1: 0.87, 2: 0.63}


@dataclass(frozen=True, slots=True)
class StartStage:
    """One stage of a start."""

    name: str
    seconds: float


def start_stages(start: Start, weight_bytes: float = 0.0) -> tuple[StartStage, ...]:
    """Return the stages of a start; *weight_bytes* are read from disk, not from the page cache.

    Raises:
        SettingInvalid: nobody measured such a start.
    """
    if start not in _SECONDS:
        raise SettingInvalid(f"start {start!r} is unknown; known are {', '.join(_SECONDS)}")
    return tuple(
        StartStage(name, seconds + (weight_bytes / _DISK_BYTES_PER_S if name == "weights" else 0))
        for name, seconds in zip(STAGES, _SECONDS[start], strict=True)
    )


def start_s(start: Start, weight_bytes: float = 0.0) -> float:
    """Return the seconds from exec to the first /health that answers."""
    return sum(stage.seconds for stage in start_stages(start, weight_bytes))
