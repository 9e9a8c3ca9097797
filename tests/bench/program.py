"""The bench as it is called: `python -m bench.runner`."""

import subprocess
import sys
from pathlib import Path

from tests.support.programs import environ


def runner(folder: Path, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "bench.runner", *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ(),
    )


def processes_in(folder: Path) -> list[str]:
    """Return the commands of running processes whose working directory is *folder*."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
