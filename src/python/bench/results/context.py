"""What every experiment is given.  Pure."""

from typing import Any

import msgspec

from bench.loadgen.session import Endpoint
from bench.stats.windowed_metrics import DEFAULT_SLO, SloLimits


class RunContext(msgspec.Struct, frozen=True, kw_only=True):
    """How to send, where to print and keep, and what the command line said.

    Attributes:
        options: the command line's options, for the manifest.
        min_effect: share of the baseline below which a difference does not matter.
        warmup_requests: requests that are sent before a run, and excluded from its results.
        workers: load-generator processes, where there is one target.
        parquet: whether records are also kept as Parquet.
        browser: the program that draws plots as PNG; empty for none.
        reset_prefix_caches: whether each turn of an arm starts with empty prefix caches.
        engine_facts: what the engines of each arm were checked to be; empty without checks.
    """

    endpoint: Endpoint
    console: Any
    output_dir: Any
    options: dict[str, Any]
    goal: SloLimits = DEFAULT_SLO
    min_effect: float = 0.0
    warmup_requests: int = 0
    workers: int = 1
    parquet: bool = False
    browser: str = ""
    reset_prefix_caches: bool = False
    engine_facts: dict[str, Any] = {}
