"""What every job is given.  Pure."""

from typing import Any

import msgspec

from bench.loadgen.session import Endpoint
from bench.stats.windowed_metrics import DEFAULT_SLO, SloLimits


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """How to send, where to print and keep, what was asked.

    Attributes:
        options: what was asked on the command line, for the manifest.
        workers: processes that send the load, where it is for one upstream.
        parquet: whether records are kept as Parquet as well.
        browser: the program that draws plots as PNG; empty where none are wanted.
        proven: what the engines of each arm proved to be; empty where nobody asked.
    """

    target: Endpoint
    console: Any
    output_dir: Any
    options: dict[str, Any]
    goal: SloLimits = DEFAULT_SLO
    workers: int = 1
    parquet: bool = False
    browser: str = ""
    proven: dict[str, Any] = {}
