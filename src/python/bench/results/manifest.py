"""What a run was made of, so that it can be made again.  Looks at the machine."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from bench.loadgen.run_result import LoadResult, RunResult
from bench.results.context import RunContext
from bench.workload.schedule import PartLayout, Schedule

_PACKAGES = ("servekit-bench", "uvloop", "httptools", "msgspec", "numpy")


def manifest(schedule: Schedule | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return versions, machine, git commit, arguments and schedule hash."""
    return {
        "argv": without_keys(sys.argv[1:]),
        "options": options,
        "schedule": _about(schedule),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _git(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "load_1min": os.getloadavg()[0],
        },
    }


def run_result(
    arms: Sequence[str],
    measured: LoadResult,
    schedule: Schedule,
    layout: PartLayout | None,
    context: RunContext,
    **about: object,
) -> RunResult:
    """Return *measured* with its schedule and its manifest, to which *about* is added."""
    return RunResult(
        **msgspec.structs.asdict(measured),
        arms=tuple(arms),
        schedule=schedule,
        layout=layout,
        manifest={**manifest_of(measured, schedule, layout, context), **about},
    )


def manifest_of(
    measured: LoadResult, schedule: Schedule, layout: PartLayout | None, context: RunContext
) -> dict[str, Any]:
    """Return the content of manifest.json."""
    return {
        **manifest(schedule, context.options),
        "shape": layout,
        "started": measured.started,
        "partial": measured.partial,
        "burden": measured.burden,
        "engines": context.engine_facts,
    }


# Options whose values may be keys.
_SECRET = ("--api-key", "--header", "-H")


def without_keys(argv: Sequence[str]) -> list[str]:
    """Return *argv* without the keys and headers in it: results are passed on."""
    pairs = pairwise(["", *argv])
    return ["…" if before in _SECRET else _without_value(word) for before, word in pairs]


def _without_value(word: str) -> str:
    for name in _SECRET:
        if word.startswith(f"{name}=") or (name == "-H" and word.startswith(name) and word != name):
            return f"{name}=…"
    return word


def _about(schedule: Schedule | None) -> dict[str, Any] | None:
    if schedule is None:
        return None
    return {
        "workload": schedule.name,
        "seed": schedule.seed,
        "requests": len(schedule.calls),
        "length_s": schedule.length_s,
        "sha256": schedule.digest,
        "dropped": str(schedule.dropped) if schedule.dropped else None,
        "notes": list(schedule.notes),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """The commit of the working directory; None outside a repository or without git."""
    try:
        commit = _run("git", "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_run("git", "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=5)  # noqa: S603
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
