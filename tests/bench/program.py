"""The bench as it is called: `python -m bench.runner`."""

import os
import subprocess
import sys
from pathlib import Path


def runner(folder: Path, *argv: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "bench.runner", *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
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
