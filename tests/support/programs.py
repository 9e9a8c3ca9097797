"""Our own programs as processes, as users start them.  Runs processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def program(module: str, *arguments: str, **variables: str) -> Iterator[dict[str, Any]]:
    """Run a module of ours until the end of the block; give what it announces when it is ready."""
    with subprocess.Popen(  # noqa: S603
        (sys.executable, "-m", module, *arguments),
        env={**environ(), **variables},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"{module} ended with code {process.wait(5)} before it was ready"
            announced: dict[str, Any] = json.loads(line)
            yield announced
        finally:
            process.terminate()


def run(module: str, *arguments: str) -> str:
    """Run a module of ours to its end, which must be a good one; return what it wrote to stdout."""
    done = subprocess.run(  # noqa: S603
        (sys.executable, "-m", module, *arguments),
        env=environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environ() -> dict[str, str]:
    """Ours, in which the child finds our modules where we found them."""
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path}
