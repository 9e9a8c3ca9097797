#!/usr/bin/env python3
"""Measure an environment: `python3 benchmark/run.py --env baseline --concurrency 10`.

The options are those of the runner's command `run` (`--help` lists them); results are below
results/ENV, also as genai_perf_TIME.  Needs no package: the repository's own Pants brings them.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ("run", "src/python/bench:runner", "--", "run")


def main() -> None:
    os.chdir(ROOT)
    os.execv(ROOT / "pants", ["pants", *RUN, *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
